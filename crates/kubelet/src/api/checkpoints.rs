//! Checkpoints under way: list, describe, and events to the end.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::meter::Meter;
use super::problem::Problem;
use super::stream::{self, Sender};
use crate::progress::{Board, Phase, Progress};
use crate::reply::Reply;

/// Between looks at what is written.
const LOOK: Duration = Duration::from_secs(1);
/// Silence after which a comment is sent, so that nobody on the way takes the connection for dead.
const SILENCE: Duration = Duration::from_secs(15);

/// The answer to a list.
#[derive(Debug, Serialize)]
pub(super) struct CheckpointList {
    items: Vec<Checkpoint>,
}

/// One checkpoint.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Checkpoint {
    #[serde(flatten)]
    progress: Progress,
    /// Bytes written so far, while it runs and where that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_written: Option<u64>,
}

/// The event between phases.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    bytes_written: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_bytes: Option<u64>,
}

/// All that are on the board.
pub(super) async fn list(board: &Board, meter: &Meter) -> CheckpointList {
    let mut items = Vec::new();
    for progress in board.list() {
        items.push(measured(progress, meter).await);
    }
    CheckpointList { items }
}

/// One of them.
pub(super) async fn describe(
    board: &Board,
    meter: &Meter,
    id: &str,
) -> Result<Checkpoint, Problem> {
    let progress = watch(board, id)?.borrow().clone();
    Ok(measured(progress, meter).await)
}

/// Events to the checkpoint's end, or until `stopped` says that the server ends.
pub(super) fn events(
    board: &Board,
    meter: &Meter,
    stopped: watch::Receiver<()>,
    id: &str,
) -> Result<Reply, Problem> {
    let watched = watch(board, id)?;
    let (sender, body) = stream::body(None);
    tokio::spawn(tell(watched, meter.clone(), stopped, sender));
    let mut reply = Response::new(body);
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(reply)
}

fn watch(board: &Board, id: &str) -> Result<watch::Receiver<Progress>, Problem> {
    board.watch(id).ok_or_else(|| {
        Problem::not_found(format!("no checkpoint {id} is under way or ended a short while ago"))
    })
}

async fn measured(progress: Progress, meter: &Meter) -> Checkpoint {
    let bytes_written = match progress.phase {
        Phase::Running => meter.written(&progress.id).await,
        Phase::Waiting | Phase::Done | Phase::Failed => None,
    };
    Checkpoint { progress, bytes_written }
}

/// Writes events until the checkpoint, the server or the client is done.
async fn tell(
    watched: watch::Receiver<Progress>,
    meter: Meter,
    mut stopped: watch::Receiver<()>,
    sender: Sender,
) {
    tokio::select! {
        () = follow(watched, meter, &sender) => {}
        () = sender.closed() => {}
        // Nothing is ever sent: the sender is dropped.
        _ = stopped.changed() => {}
    }
}

async fn follow(mut watched: watch::Receiver<Progress>, meter: Meter, sender: &Sender) {
    let mut looks = interval_at(Instant::now() + LOOK, LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let progress = watched.borrow_and_update().clone();
        let (phase, estimated_bytes) = (progress.phase, progress.estimated_bytes);
        let id = progress.id.clone();
        let now = Checkpoint { progress, bytes_written: None };
        if sender.send(event("phase", &now)).await.is_err() || phase.is_end() {
            return;
        }
        let mut told = None;
        let mut spoken = Instant::now();
        loop {
            tokio::select! {
                changed = watched.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                _ = looks.tick() => {}
            }
            let bytes = if phase == Phase::Running { meter.written(&id).await } else { None };
            let line = match bytes {
                Some(bytes_written) if told != bytes => {
                    told = bytes;
                    event("bytes", &Written { bytes_written, estimated_bytes })
                }
                _ if spoken.elapsed() >= SILENCE => Bytes::from_static(b": still at work\n\n"),
                _ => continue,
            };
            if sender.send(line).await.is_err() {
                return;
            }
            spoken = Instant::now();
        }
    }
}

/// One event in the form of the WHATWG's standard. JSON has no line breaks of its own.
fn event(kind: &str, data: &impl Serialize) -> Bytes {
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {kind}\ndata: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::checkpoint::Target;
    use crate::progress::Ticket;
    use crate::reply::Body;

    struct Scene {
        folder: tempfile::TempDir,
        board: Board,
        meter: Meter,
        stop: watch::Sender<()>,
    }

    fn scene() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let board = Board::default();
        let meter = Meter::new(board.clone(), folder.path().to_owned());
        Scene { folder, board, meter, stop: watch::channel(()).0 }
    }

    impl Scene {
        fn begin(&self) -> Ticket {
            self.board.begin(&Target {
                namespace: "n".into(),
                pod: "p".into(),
                container: "c".into(),
            })
        }

        fn watch(&self, id: &str) -> Body {
            let reply = events(&self.board, &self.meter, self.stop.subscribe(), id).unwrap();
            assert_eq!(reply.headers()[CONTENT_TYPE], "text/event-stream");
            reply.into_body()
        }
    }

    /// The next event: its kind and its data; a comment has no kind.
    async fn next(body: &mut Body) -> Option<(String, serde_json::Value)> {
        let frame = body.frame().await?.unwrap().into_data().unwrap();
        let text = std::str::from_utf8(&frame).unwrap().strip_suffix("\n\n").unwrap().to_owned();
        let Some((kind, data)) = text.split_once('\n') else {
            assert!(text.starts_with(':'), "{text}");
            return Some((String::new(), serde_json::Value::Null));
        };
        let kind = kind.strip_prefix("event: ").unwrap().to_owned();
        Some((kind, serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_is_told_phases_and_bytes_and_the_end() {
        let scene = scene();
        let ticket = scene.begin();
        let mut body = scene.watch(&ticket.id());
        let (kind, data) = next(&mut body).await.unwrap();
        assert_eq!((&*kind, data["phase"].as_str()), ("phase", Some("waiting")));
        // Nothing to tell: the connection is kept alive.
        assert_eq!(next(&mut body).await.unwrap().0, "");
        let location = scene.folder.path().join("a.tar");
        std::fs::write(&location, b"12345").unwrap();
        ticket.running(location.to_str().unwrap(), Some(10));
        let (kind, data) = next(&mut body).await.unwrap();
        assert_eq!((&*kind, data["phase"].as_str()), ("phase", Some("running")));
        let (kind, data) = next(&mut body).await.unwrap();
        assert_eq!(kind, "bytes");
        assert_eq!(data, serde_json::json!({ "bytesWritten": 5, "estimatedBytes": 10 }));
        ticket.ended(Ok(()));
        let (kind, data) = next(&mut body).await.unwrap();
        assert_eq!((&*kind, data["phase"].as_str()), ("phase", Some("done")));
        assert!(next(&mut body).await.is_none());
    }

    #[tokio::test]
    async fn who_comes_after_the_end_is_told_the_end() {
        let scene = scene();
        let ticket = scene.begin();
        let id = ticket.id();
        ticket.ended(Err("no".into()));
        let mut body = scene.watch(&id);
        let (_, data) = next(&mut body).await.unwrap();
        assert_eq!((data["phase"].as_str(), data["error"].as_str()), (Some("failed"), Some("no")));
        assert!(next(&mut body).await.is_none());
        assert_eq!(describe(&scene.board, &scene.meter, &id).await.unwrap().progress.id, id);
        assert_eq!(list(&scene.board, &scene.meter).await.items.len(), 1);
    }

    #[tokio::test]
    async fn a_server_that_stops_ends_the_events() {
        let scene = scene();
        let ticket = scene.begin();
        let mut body = scene.watch(&ticket.id());
        next(&mut body).await.unwrap();
        drop(scene.stop);
        assert!(next(&mut body).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn many_watchers_and_one_that_reads_nothing_hold_up_nobody() {
        let scene = scene();
        let ticket = scene.begin();
        let asleep = scene.watch(&ticket.id());
        let mut awake: Vec<Body> = (0..200).map(|_| scene.watch(&ticket.id())).collect();
        ticket.running("/nowhere/a.tar", None);
        ticket.ended(Ok(()));
        for body in &mut awake {
            let mut last = None;
            while let Some((_, data)) = next(body).await {
                last = Some(data);
            }
            assert_eq!(last.unwrap()["phase"], "done");
        }
        drop(asleep);
    }

    #[test]
    fn an_unknown_checkpoint_is_not_found() {
        let scene = scene();
        let stopped = scene.stop.subscribe();
        let problem = events(&scene.board, &scene.meter, stopped, "7").unwrap_err();
        assert_eq!(problem.status, 404);
        assert!(problem.detail.contains("checkpoint 7"), "{}", problem.detail);
    }
}
