//! The archive's path: `<root-dir>/checkpoints/checkpoint-<pod>_<namespace>-<container>-<time>.tar`.
//!
//! The time is local, RFC 3339, to the second, as the kubelet writes it. Where the kubelet lets
//! two archives of one second, or of two containers whose names run together (`a`/`b-c` and
//! `a-b`/`c`), share one path, the later one here gets `-1`, `-2`, … before `.tar`: a path is
//! given out once, to a file that is not there yet. The folder belongs to this process, so a set
//! in memory and a look at the folder are enough; the file itself is made by the runtime.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Zoned;

use crate::store::Writing;

/// The folder could not be looked at.
#[derive(Debug, thiserror::Error)]
#[error("cannot look for an archive at {path}: {source}")]
pub struct LocationError {
    path: String,
    source: io::Error,
}

/// Gives out paths in one folder.
#[derive(Clone, Debug)]
pub(crate) struct Locations {
    folder: PathBuf,
    taken: Arc<Mutex<HashSet<String>>>,
}

/// A path nobody else gets while this lives.
#[derive(Debug)]
pub(crate) struct Location {
    path: String,
    taken: Arc<Mutex<HashSet<String>>>,
    /// Keeps what is being written there from being seen as an archive.
    _hidden: Option<Writing>,
}

impl Locations {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), taken: Arc::default() }
    }

    /// The path for a checkpoint begun at `time`.
    pub(crate) async fn reserve(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        time: &Zoned,
    ) -> Result<Location, LocationError> {
        let stem = format!("checkpoint-{pod}_{namespace}-{container}-{}", rfc3339(time));
        let mut suffix = String::new();
        for attempt in 1u64.. {
            let path = self.folder.join(format!("{stem}{suffix}.tar"));
            let path = path.to_string_lossy().into_owned();
            let fresh = lock(&self.taken).insert(path.clone());
            if fresh {
                // From here the drop of `location` gives the path back.
                let location = Location { path, taken: Arc::clone(&self.taken), _hidden: None };
                match tokio::fs::symlink_metadata(&location.path).await {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(location),
                    Err(source) => {
                        return Err(LocationError { path: location.path.clone(), source });
                    }
                }
            }
            suffix = format!("-{attempt}");
        }
        unreachable!("u64 attempts")
    }
}

impl Location {
    /// For as long as this lives.
    pub(crate) fn hide(&mut self, writing: Writing) {
        self._hidden = Some(writing);
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

impl Drop for Location {
    fn drop(&mut self) {
        lock(&self.taken).remove(&self.path);
    }
}

fn lock(taken: &Mutex<HashSet<String>>) -> std::sync::MutexGuard<'_, HashSet<String>> {
    // A set of strings is whole after any panic.
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Go's `time.RFC3339`: `Z` when the offset is zero, whatever the zone's name.
fn rfc3339(time: &Zoned) -> String {
    let local = time.strftime("%Y-%m-%dT%H:%M:%S");
    if time.offset().seconds() == 0 {
        format!("{local}Z")
    } else {
        format!("{local}{}", time.strftime("%:z"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Zoned {
        text.parse().unwrap()
    }

    #[test]
    fn time_is_printed_as_go_prints_it() {
        assert_eq!(rfc3339(&at("2025-11-27T13:50:33.987[UTC]")), "2025-11-27T13:50:33Z");
        assert_eq!(rfc3339(&at("2025-01-02T03:04:05+01:00[+01:00]")), "2025-01-02T03:04:05+01:00");
        assert_eq!(rfc3339(&at("2025-01-02T03:04:05-03:30[-03:30]")), "2025-01-02T03:04:05-03:30");
    }

    #[tokio::test]
    async fn one_second_gives_different_paths() {
        let folder = tempfile::tempdir().unwrap();
        let locations = Locations::new(folder.path());
        let time = at("2025-11-27T13:50:33[UTC]");
        let name = |location: &Location| {
            Path::new(location.path()).file_name().unwrap().to_str().unwrap().to_owned()
        };
        let first = locations.reserve("default-app", "counter", "c", &time).await.unwrap();
        assert_eq!(name(&first), "checkpoint-counter_default-app-c-2025-11-27T13:50:33Z.tar");
        // Other names, same path in the kubelet.
        let second = locations.reserve("default", "counter", "app-c", &time).await.unwrap();
        assert_eq!(name(&second), "checkpoint-counter_default-app-c-2025-11-27T13:50:33Z-1.tar");
        // A finished archive keeps its name, a failed one gives it back.
        std::fs::write(first.path(), b"archive").unwrap();
        drop(first);
        drop(second);
        let third = locations.reserve("default-app", "counter", "c", &time).await.unwrap();
        assert_eq!(name(&third), "checkpoint-counter_default-app-c-2025-11-27T13:50:33Z-1.tar");
        // A link to nothing is in the way, too.
        std::os::unix::fs::symlink("nowhere", third.path()).unwrap();
        drop(third);
        let fourth = locations.reserve("default-app", "counter", "c", &time).await.unwrap();
        assert_eq!(name(&fourth), "checkpoint-counter_default-app-c-2025-11-27T13:50:33Z-2.tar");
    }

    #[tokio::test]
    async fn a_missing_folder_is_no_obstacle_but_a_name_too_long_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let locations = Locations::new(&folder.path().join("missing"));
        let time = at("2025-11-27T13:50:33[UTC]");
        assert!(locations.reserve("ns", "pod", "c", &time).await.is_ok());
        let locations = Locations::new(folder.path());
        let error = locations.reserve("ns", &"p".repeat(253), "c", &time).await.unwrap_err();
        assert!(error.to_string().contains("cannot look for an archive at "), "{error}");
    }
}
