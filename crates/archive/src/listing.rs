//! The archives of a checkpoint directory.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::metadata::{MetadataError, Summary};
use crate::reader::Archive;

/// One archive.
#[derive(Debug)]
pub struct Listed {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// When it was last written.
    pub modified: SystemTime,
    /// What it says about itself, or why it cannot be read.
    pub summary: Result<Summary, MetadataError>,
}

/// The regular files of `dir` whose names end in `.tar`, by name. Headers and the small entries are
/// read, no data. One that cannot be read is listed with the reason.
///
/// # Errors
/// When the directory cannot be read.
pub fn list_dir(dir: &Path) -> io::Result<Vec<Listed>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if path.extension().is_none_or(|ext| ext != "tar") {
            continue;
        }
        // Does not follow links; gone since is as good as never there.
        let Ok(stat) = entry.metadata() else { continue };
        if !stat.is_file() {
            continue;
        }
        let summary =
            Archive::open(&path).map_err(Into::into).and_then(|archive| archive.summary());
        let modified = stat.modified()?;
        out.push(Listed { path, size: stat.len(), modified, summary });
    }
    out.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(out)
}
