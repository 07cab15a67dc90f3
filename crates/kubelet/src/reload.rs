//! Files that are read again when they change.
//!
//! Looked at by content, at an interval: this sees every way of replacing a file (rename,
//! rewriting in place, the double symlink of a mounted Secret), needs no descriptor, and costs
//! two small reads. A file that becomes unreadable or wrong leaves what was last good in force.

use std::io;
use std::path::PathBuf;

/// The content of some files as last seen.
#[derive(Debug)]
pub(crate) struct Watched {
    paths: Vec<PathBuf>,
    /// What was read last; `None` after a failure to read.
    seen: Option<Vec<Vec<u8>>>,
}

/// A file could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", path.display())]
pub struct ReadError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Watched {
    pub(crate) fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { paths: paths.into_iter().collect(), seen: None }
    }

    /// The contents, if they are not those of the last call. An unchanged failure to read is
    /// reported once.
    pub(crate) async fn changed(&mut self) -> Result<Option<Vec<Vec<u8>>>, ReadError> {
        let mut contents = Vec::with_capacity(self.paths.len());
        for path in &self.paths {
            match tokio::fs::read(path).await {
                Ok(content) => contents.push(content),
                Err(_) if self.seen.as_ref().is_some_and(Vec::is_empty) => return Ok(None),
                Err(source) => {
                    self.seen = Some(Vec::new());
                    return Err(ReadError { path: path.clone(), source });
                }
            }
        }
        if self.seen.as_ref() == Some(&contents) {
            return Ok(None);
        }
        self.seen = Some(contents.clone());
        Ok(Some(contents))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn content_is_given_once_per_change_and_a_failure_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut watched = Watched::new([path.clone()]);
        assert!(watched.changed().await.is_err());
        assert!(watched.changed().await.unwrap().is_none());
        std::fs::write(&path, b"one").unwrap();
        assert_eq!(watched.changed().await.unwrap().unwrap(), [b"one".to_vec()]);
        assert!(watched.changed().await.unwrap().is_none());
        std::fs::write(&path, b"two").unwrap();
        assert_eq!(watched.changed().await.unwrap().unwrap(), [b"two".to_vec()]);
        std::fs::remove_file(&path).unwrap();
        assert!(watched.changed().await.is_err());
        std::fs::write(&path, b"two").unwrap();
        assert_eq!(watched.changed().await.unwrap().unwrap(), [b"two".to_vec()]);
    }
}
