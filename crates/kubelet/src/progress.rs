//! Checkpoints under way, and those that have just ended: what a watcher is told.
//!
//! The handler holds a [`Ticket`] for each request and says through it how far it is; the board keeps
//! the last word of each, the ended ones for a while, so that a watcher who comes a moment too late
//! still learns the end. A ticket that is dropped in the middle says that the request was cancelled.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;

use crate::checkpoint::Target;

/// How long an ended checkpoint stays on the board.
const KEPT: Duration = Duration::from_secs(600);
/// Ended checkpoints kept, at most.
const KEPT_COUNT: usize = 256;

/// Where a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Another checkpoint of the container, or too many of the node, are before it.
    Waiting,
    /// The runtime works on it.
    Running,
    /// The archive is there.
    Done,
    /// There is no archive.
    Failed,
}

impl Phase {
    /// Whether nothing comes after it.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

/// What is known of one checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Unique while this server runs.
    pub id: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name.
    pub container: String,
    /// Where it is.
    pub phase: Phase,
    /// When it was asked for.
    pub started: Timestamp,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// The archive's path, once it is known where it will be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Bytes the archive is expected to have, from the container's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_bytes: Option<u64>,
    /// Why there is no archive: the answer's body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// All checkpoints of this server. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Board {
    entries: Arc<Mutex<Entries>>,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    running: Vec<watch::Receiver<Progress>>,
    ended: VecDeque<(Instant, watch::Receiver<Progress>)>,
}

impl Board {
    /// A new checkpoint, waiting.
    #[must_use]
    pub fn begin(&self, target: &Target) -> Ticket {
        let mut entries = lock(&self.entries);
        entries.next += 1;
        let (sender, receiver) = watch::channel(Progress {
            id: entries.next.to_string(),
            namespace: target.namespace.clone(),
            pod: target.pod.clone(),
            container: target.container.clone(),
            phase: Phase::Waiting,
            started: Timestamp::now(),
            ended: None,
            location: None,
            estimated_bytes: None,
            error: None,
        });
        entries.running.push(receiver);
        drop(entries);
        Ticket { sender, entries: Arc::clone(&self.entries) }
    }

    /// Everything known now: those under way in the order they were asked for, then the ended ones.
    #[must_use]
    pub fn list(&self) -> Vec<Progress> {
        let mut entries = lock(&self.entries);
        entries.forget();
        let ended = entries.ended.iter().map(|(_, receiver)| receiver);
        entries.running.iter().chain(ended).map(|receiver| receiver.borrow().clone()).collect()
    }

    /// One of them, to be watched to its end.
    #[must_use]
    pub fn watch(&self, id: &str) -> Option<watch::Receiver<Progress>> {
        let mut entries = lock(&self.entries);
        entries.forget();
        let ended = entries.ended.iter().map(|(_, receiver)| receiver);
        entries.running.iter().chain(ended).find(|receiver| receiver.borrow().id == id).cloned()
    }
}

impl Entries {
    fn forget(&mut self) {
        while self.ended.len() > KEPT_COUNT
            || self.ended.front().is_some_and(|(since, _)| since.elapsed() > KEPT)
        {
            self.ended.pop_front();
        }
    }
}

fn lock(entries: &Mutex<Entries>) -> MutexGuard<'_, Entries> {
    // Lists of receivers are whole after any panic.
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The handler's end of one entry.
#[derive(Debug)]
pub struct Ticket {
    sender: watch::Sender<Progress>,
    entries: Arc<Mutex<Entries>>,
}

impl Ticket {
    /// The id on the board.
    #[must_use]
    pub fn id(&self) -> String {
        self.sender.borrow().id.clone()
    }

    /// The runtime begins; the archive will be at `location`.
    pub fn running(&self, location: &str, estimated_bytes: Option<u64>) {
        self.sender.send_modify(|progress| {
            progress.phase = Phase::Running;
            progress.location = Some(location.to_owned());
            progress.estimated_bytes = estimated_bytes;
        });
    }

    /// It ended: `Err` is the answer's body.
    pub fn ended(self, result: Result<(), String>) {
        self.end(match result {
            Ok(()) => (Phase::Done, None),
            Err(error) => (Phase::Failed, Some(error)),
        });
    }

    fn end(&self, (phase, error): (Phase, Option<String>)) {
        self.sender.send_modify(|progress| {
            progress.phase = phase;
            progress.ended = Some(Timestamp::now());
            progress.error = error;
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.sender.borrow().phase.is_end() {
            self.end((Phase::Failed, Some("the client hung up".to_owned())));
        }
        let id = self.id();
        let mut entries = lock(&self.entries);
        if let Some(at) = entries.running.iter().position(|receiver| receiver.borrow().id == id) {
            let receiver = entries.running.remove(at);
            entries.ended.push_back((Instant::now(), receiver));
        }
        entries.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target { namespace: "ns".into(), pod: "pod".into(), container: "ctr".into() }
    }

    #[tokio::test]
    async fn a_watcher_sees_every_phase_and_the_end_stays_for_a_while() {
        let board = Board::default();
        let ticket = board.begin(&target());
        let mut watched = board.watch(&ticket.id()).unwrap();
        assert_eq!(watched.borrow_and_update().phase, Phase::Waiting);
        ticket.running("/a.tar", Some(7));
        watched.changed().await.unwrap();
        let now = watched.borrow_and_update().clone();
        assert_eq!((now.phase, now.location.as_deref()), (Phase::Running, Some("/a.tar")));
        ticket.ended(Ok(()));
        watched.changed().await.unwrap();
        assert_eq!(watched.borrow_and_update().phase, Phase::Done);
        assert!(watched.changed().await.is_err());
        assert_eq!(board.list().len(), 1);
        assert!(board.watch("1").is_some());
        assert!(board.watch("2").is_none());
    }

    #[test]
    fn a_dropped_ticket_is_a_failure_and_ended_ones_are_bounded() {
        let board = Board::default();
        drop(board.begin(&target()));
        let all = board.list();
        assert_eq!(all[0].error.as_deref(), Some("the client hung up"));
        for _ in 0..KEPT_COUNT * 2 {
            board.begin(&target()).ended(Err("no".into()));
        }
        let last = board.begin(&target());
        let all = board.list();
        assert_eq!(all.len(), KEPT_COUNT + 1);
        assert_eq!(all[0].id, last.id());
    }
}
