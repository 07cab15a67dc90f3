//! What one node does at once, and what it has space for.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use cryopod_kubelet::checkpoint::{Checkpointer, Settings, Target};
use cryopod_kubelet::progress::Phase;
use tokio::sync::Notify;

use crate::stage::{Act, Played, Stage};

const COUNTER: &str = "/checkpoint/default/counter/counter";
const SECOND: &str = "/checkpoint/default/counter/second";

fn target(container: &str) -> Target {
    Target { namespace: "default".into(), pod: "counter".into(), container: container.into() }
}

/// A handler of its own, without a server before it.
fn handler(runtime: &Played, folder: &std::path::Path, at_once: usize) -> Arc<Checkpointer> {
    let at_once = NonZeroUsize::new(at_once).unwrap();
    let settings = Settings { at_once, ..Settings::default() };
    let timeout = Duration::from_secs(120);
    Arc::new(Checkpointer::new(Arc::new(runtime.clone()), None, folder, timeout, settings))
}

#[tokio::test]
async fn more_than_the_node_may_make_at_once_wait_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = Played::default();
    runtime.uses(1 << 20);
    let handler = handler(&runtime, folder.path(), 1);
    let go = Arc::new(Notify::new());
    runtime.next(Act::Wait(Arc::clone(&go)));
    let ask = |container: &str| {
        let (handler, target) = (Arc::clone(&handler), target(container));
        tokio::spawn(async move { handler.checkpoint(&target, None).await })
    };
    let first = ask("counter");
    runtime.called(1).await;
    let second = ask("second");
    while handler.board().list().len() < 2 {
        tokio::task::yield_now().await;
    }
    let board = handler.board().list();
    assert_eq!((board[0].phase, &*board[0].container), (Phase::Running, "counter"));
    assert!(board[0].location.is_some());
    assert!(board[0].estimated_bytes.is_some_and(|bytes| bytes > 1 << 20));
    assert_eq!((board[1].phase, &*board[1].container), (Phase::Waiting, "second"));
    assert_eq!(runtime.calls().len(), 1);
    go.notify_one();
    let paths = [first.await.unwrap().unwrap(), second.await.unwrap().unwrap()];
    assert_eq!(runtime.most_running(), 1);
    // The place is free a moment before the end is told: which of both is told first is open.
    let board = handler.board().list();
    assert_eq!(board.len(), 2);
    for path in paths {
        let mut ends = board.iter().filter(|one| one.location.as_deref() == Some(&*path));
        assert_eq!(ends.next().unwrap().phase, Phase::Done);
    }
}

#[tokio::test]
async fn a_failure_is_on_the_board_in_the_words_of_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = Played::default();
    let handler = handler(&runtime, folder.path(), 4);
    let error = handler.checkpoint(&target("done"), None).await.unwrap_err();
    let board = handler.board().list();
    assert_eq!(board[0].phase, Phase::Failed);
    assert_eq!(board[0].error, Some(error.to_string()));
    // What is no container at all is not a checkpoint.
    handler.checkpoint(&target("nope"), None).await.unwrap_err();
    assert_eq!(handler.board().list().len(), 1);
}

#[tokio::test]
async fn waiting_does_not_count_against_the_deadline() {
    let stage = Stage::with(|options| {
        options.checkpoints.at_once = NonZeroUsize::MIN;
        options.runtime_request_timeout = Duration::from_secs(1);
    })
    .await;
    stage.runtime.next(Act::Hang);
    let client = stage.client();
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.post(COUNTER).await }
    });
    stage.runtime.called(1).await;
    let second = tokio::spawn(async move { client.post(SECOND).await });
    // The first uses up its whole deadline, in which the second waits; it has one of its own.
    assert_eq!(first.await.unwrap().status, 500);
    assert_eq!(second.await.unwrap().status, 200);
    assert_eq!(stage.runtime.calls()[1].deadline, Duration::from_secs(1));
}

#[tokio::test]
async fn too_little_space_is_told_before_anything_begins() {
    let stage = Stage::new().await;
    stage.runtime.uses(u64::MAX / 2);
    let client = stage.client();
    let answer = client.post(COUNTER).await;
    assert_eq!(answer.status, 500);
    let folder = stage.checkpoints().display().to_string();
    let begin = format!(
        "checkpointing of default/counter/counter failed (not enough space in {folder}: needs about \
         8704.0 PiB, "
    );
    assert!(answer.body.starts_with(&begin), "{}", answer.body);
    assert!(answer.body.ends_with(" free of which 256.0 MiB are kept)"), "{}", answer.body);
    assert!(stage.runtime.calls().is_empty());
    stage.runtime.uses(1 << 20);
    assert_eq!(client.post(COUNTER).await.status, 200);
}
