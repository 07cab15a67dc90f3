//! Where the files of an image come from: a folder, a tar, a checkpoint archive.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cryopod_archive::Archive;
use flate2::bufread::MultiGzDecoder;

use super::{ImageError, failed};
use crate::window::Window;

/// Files of an image by their names.
pub(crate) trait Files {
    /// What errors call it.
    fn path(&self) -> &Path;

    /// Opens a file; `None`: there is none.
    fn open(&self, name: &str) -> Result<Option<Box<dyn Read + '_>>, ImageError>;
}

/// An image in a folder.
#[derive(Debug)]
pub(super) struct Folder(pub(super) PathBuf);

impl Files for Folder {
    fn path(&self) -> &Path {
        &self.0
    }

    fn open(&self, name: &str) -> Result<Option<Box<dyn Read + '_>>, ImageError> {
        let path = self.0.join(name);
        let dir = File::open(&self.0).map_err(failed("open", &self.0))?;
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
        match crate::tree::open(&dir, Path::new(name), flags, rustix::fs::Mode::empty()) {
            Ok(fd) => Ok(Some(Box::new(File::from(fd)))),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
            Err(e) => Err(failed("open", path)(e)),
        }
    }
}

/// An image in a tar file that is not compressed.
#[derive(Debug)]
pub(super) struct Tar {
    path: PathBuf,
    file: Arc<File>,
    entries: HashMap<String, Place>,
}

#[derive(Debug, Clone)]
enum Place {
    At {
        offset: u64,
        size: u64,
    },
    /// docker has layers that are links to others.
    Link(String),
}

impl Tar {
    pub(super) fn open(path: &Path) -> Result<Self, ImageError> {
        let mut file = File::open(path).map_err(failed("open", path))?;
        let mut magic = [0; 2];
        let count = file.read_at(&mut magic, 0).map_err(failed("read", path))?;
        if magic[..count] == [0x1f, 0x8b] {
            let mut plain = unnamed()?;
            let mut source = MultiGzDecoder::new(io::BufReader::new(&mut file));
            io::copy(&mut source, &mut plain).map_err(failed("decompress", path))?;
            file = plain;
        }
        let mut entries = HashMap::new();
        let file = Arc::new(file);
        let mut archive = tar::Archive::new(Window { file: file.clone(), at: 0, end: u64::MAX });
        let not_tar = |_| ImageError::NotAnImage { path: path.into() };
        for entry in archive.entries().map_err(not_tar)? {
            let entry = entry.map_err(not_tar)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
            let place = if entry.header().entry_type().is_file() {
                Place::At { offset: entry.raw_file_position(), size: entry.size() }
            } else if let Some(link) = entry.link_name_bytes() {
                let link = String::from_utf8_lossy(&link).into_owned();
                Place::Link(beside(&name, &link))
            } else {
                continue;
            };
            entries.insert(name, place);
        }
        Ok(Self { path: path.into(), file, entries })
    }
}

/// The name a relative link in a file of this name means.
fn beside(name: &str, link: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

impl Files for Tar {
    fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self, name: &str) -> Result<Option<Box<dyn Read + '_>>, ImageError> {
        let mut place = self.entries.get(name);
        for _ in 0..8 {
            match place {
                Some(Place::At { offset, size }) => {
                    let file = self.file.clone();
                    return Ok(Some(Box::new(Window { file, at: *offset, end: offset + size })));
                }
                Some(Place::Link(target)) => place = self.entries.get(target),
                None => return Ok(None),
            }
        }
        Ok(None)
    }
}

/// The image embedded in a checkpoint, whose digests were verified.
#[derive(Debug)]
pub(crate) struct Embedded<'a>(pub(crate) &'a Archive);

impl Files for Embedded<'_> {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn open(&self, name: &str) -> Result<Option<Box<dyn Read + '_>>, ImageError> {
        let name = format!("{}/{name}", crate::manifest::IMAGE_DIR);
        match self.0.entry(&name) {
            Some(entry) if !entry.directory => {
                let stream = self.0.stream(&name);
                let stream =
                    stream.map_err(|e| failed("read", self.0.path())(io::Error::other(e)))?;
                Ok(Some(Box::new(stream)))
            }
            _ => Ok(None),
        }
    }
}

fn unnamed() -> Result<File, ImageError> {
    let dir = std::env::temp_dir();
    let flags =
        rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(&dir, flags, rustix::fs::Mode::from(0o600))
        .map(File::from)
        .map_err(failed("make a file in", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_a_docker_archive_are_relative_to_their_folder() {
        assert_eq!(beside("b/layer.tar", "../a/layer.tar"), "a/layer.tar");
    }
}
