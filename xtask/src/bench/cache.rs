//! What is known of a file without the disk: made warm, made cold.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{Advice, fadvise};

/// Whether a file's bytes are in memory when it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cache {
    Warm,
    Cold,
}

impl Cache {
    pub(super) fn name(self) -> &'static str {
        match self {
            Cache::Warm => "warm",
            Cache::Cold => "cold",
        }
    }

    /// Makes it so for this file: read once, or written out and dropped, by itself and with all that the kernel lets go.
    pub(super) fn prepare(self, path: &Path) -> Result<()> {
        let mut file = File::open(path).with_context(|| path.display().to_string())?;
        match self {
            Cache::Warm => {
                let mut block = vec![0; 1 << 20];
                while file.read(&mut block)? > 0 {}
            }
            Cache::Cold => {
                file.sync_all()?;
                fadvise(&file, 0, None, Advice::DontNeed).context("drop the archive's pages")?;
                // Where it is not allowed, the file's own pages are gone all the same.
                let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
            }
        }
        Ok(())
    }
}
