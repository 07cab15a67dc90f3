//! How much of an archive is written: by looking at the folder, once a second at most however many
//! ask, so that watching a checkpoint costs it nothing.
//!
//! A runtime of others writes in place; ours writes under a hidden name that does not say for which
//! checkpoint. Where two of those could be meant, nothing is told rather than something wrong.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cryopod_archive::is_partial;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::progress::{Board, Phase, Progress};

/// How long what was seen is still told.
const FRESH: Duration = Duration::from_millis(900);
/// File systems keep time by the kernel's tick: a file can look a little older than it is.
const TICK: Duration = Duration::from_millis(20);

/// Looks at one folder. Clones share what was seen.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    board: Board,
    folder: PathBuf,
    sample: Arc<Mutex<Sample>>,
}

#[derive(Debug, Default)]
struct Sample {
    taken: Option<Instant>,
    /// Bytes by the checkpoint's id.
    written: HashMap<String, u64>,
}

/// An archive on its way.
#[derive(Clone, Debug)]
struct Partial {
    made: SystemTime,
    bytes: u64,
}

impl Meter {
    pub(super) fn new(board: Board, folder: PathBuf) -> Self {
        Self { board, folder, sample: Arc::default() }
    }

    /// Bytes written for a checkpoint that runs, if that can be told.
    pub(super) async fn written(&self, id: &str) -> Option<u64> {
        let mut sample = self.sample.lock().await;
        if sample.taken.is_none_or(|taken| taken.elapsed() >= FRESH) {
            let running: Vec<Progress> = self
                .board
                .list()
                .into_iter()
                .filter(|progress| progress.phase == Phase::Running)
                .collect();
            let folder = self.folder.clone();
            let look = tokio::task::spawn_blocking(move || measure(&folder, &running));
            sample.written = look.await.unwrap_or_default();
            sample.taken = Some(Instant::now());
        }
        sample.written.get(id).copied()
    }
}

/// Bytes by id, of those that can be told.
fn measure(folder: &Path, running: &[Progress]) -> HashMap<String, u64> {
    let mut written = HashMap::new();
    let mut hidden = Vec::new();
    for progress in running {
        let in_place = progress
            .location
            .as_deref()
            .and_then(|path| std::fs::symlink_metadata(path).ok())
            .filter(std::fs::Metadata::is_file);
        match in_place {
            Some(meta) => {
                written.insert(progress.id.clone(), meta.len());
            }
            None => hidden.push(progress),
        }
    }
    if !hidden.is_empty() {
        for (id, bytes) in match_up(partials(folder), &hidden) {
            written.insert(id, bytes);
        }
    }
    written
}

/// A folder that cannot be read shows none.
fn partials(folder: &Path) -> Vec<Partial> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| is_partial(&entry.file_name()))
        .filter_map(|entry| {
            let meta = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
            Some(Partial { made: meta.created().ok()?, bytes: meta.len() })
        })
        .collect()
}

/// A file belongs to the one checkpoint that was asked for before the file was made and has none
/// yet; where there are several, to nobody.
fn match_up(mut partials: Vec<Partial>, running: &[&Progress]) -> Vec<(String, u64)> {
    partials.sort_by_key(|partial| partial.made);
    let mut free: Vec<&Progress> = running.to_vec();
    let mut matched = Vec::new();
    for partial in partials {
        let fits = |progress: &&Progress| {
            SystemTime::from(progress.started)
                .checked_sub(TICK)
                .is_some_and(|begun| begun <= partial.made)
        };
        let mut fitting = free.iter().enumerate().filter(|(_, progress)| fits(progress));
        if let (Some((at, _)), None) = (fitting.next(), fitting.next()) {
            matched.push((free.swap_remove(at).id.clone(), partial.bytes));
        }
    }
    matched
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::checkpoint::Target;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn progress(id: &str, started: i64) -> Progress {
        Progress {
            id: id.into(),
            namespace: "n".into(),
            pod: "p".into(),
            container: "c".into(),
            phase: Phase::Running,
            started: second(started),
            ended: None,
            location: Some("/nowhere/a.tar".into()),
            estimated_bytes: None,
            error: None,
        }
    }

    fn partial(made: i64, bytes: u64) -> Partial {
        Partial { made: second(made).into(), bytes }
    }

    fn matched(partials: &[(i64, u64)], running: &[Progress]) -> Vec<(String, u64)> {
        let partials = partials.iter().map(|(made, bytes)| partial(*made, *bytes)).collect();
        let mut found = match_up(partials, &running.iter().collect::<Vec<_>>());
        found.sort();
        found
    }

    #[test]
    fn a_file_is_counted_for_the_checkpoint_it_must_belong_to() {
        let pair = |id: &str, bytes| (id.to_owned(), bytes);
        assert_eq!(matched(&[(5, 7)], &[progress("a", 5)]), [pair("a", 7)]);
        // Left over from before.
        assert_eq!(matched(&[(1, 9), (5, 7)], &[progress("a", 5)]), [pair("a", 7)]);
        // One after the other.
        let two = [progress("a", 5), progress("b", 8)];
        assert_eq!(matched(&[(6, 1), (9, 2)], &two), [pair("a", 1), pair("b", 2)]);
        assert_eq!(matched(&[(6, 1)], &two), [pair("a", 1)]);
        // Either's.
        assert_eq!(matched(&[(9, 1)], &two), []);
        assert_eq!(matched(&[(9, 1), (10, 2)], &two), []);
    }

    #[tokio::test]
    async fn both_ways_of_writing_are_seen_and_the_folder_is_looked_at_once_for_all() {
        let folder = tempfile::tempdir().unwrap();
        let board = Board::default();
        let target = Target { namespace: "n".into(), pod: "p".into(), container: "c".into() };
        let meter = Meter::new(board.clone(), folder.path().to_owned());
        let ticket = board.begin(&target);
        let location = folder.path().join("a.tar");
        ticket.running(location.to_str().unwrap(), None);
        std::fs::write(folder.path().join(".cryopod-1.partial"), b"1234567").unwrap();
        assert_eq!(meter.written(&ticket.id()).await, Some(7));
        std::fs::write(&location, b"12").unwrap();
        // What was seen just now is told again.
        tokio::time::pause();
        meter.sample.lock().await.taken = Some(Instant::now());
        assert_eq!(meter.clone().written(&ticket.id()).await, Some(7));
        meter.sample.lock().await.taken = None;
        assert_eq!(meter.written(&ticket.id()).await, Some(2));
        assert_eq!(meter.written("other").await, None);
    }
}
