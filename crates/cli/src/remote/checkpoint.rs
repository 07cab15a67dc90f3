//! A checkpoint over HTTPS: the kubelet's own request, and beside it the events of a node that has
//! them. A node without them, such as a real kubelet, is asked all the same.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::BodyExt as _;
use serde::Deserialize;

use super::client::{Remote, RemoteError, segment};
use super::events::{Event, Parser};
use crate::print::Bar;

/// Between looks for the checkpoint among those under way.
const LOOK: Duration = Duration::from_millis(250);

/// Whose checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) container: String,
    /// Seconds.
    pub(crate) timeout: Option<u32>,
}

/// The kubelet's answer.
#[derive(Deserialize)]
struct Items {
    items: Vec<String>,
}

#[derive(Deserialize)]
struct UnderWay {
    items: Vec<Known>,
}

/// What matters of one under way.
#[derive(Deserialize)]
struct Known {
    id: String,
    namespace: String,
    pod: String,
    container: String,
}

/// Data of an event, of whatever kind.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    phase: Option<String>,
    estimated_bytes: Option<u64>,
    bytes_written: Option<u64>,
}

/// Takes a checkpoint; gives the archive's path on the node.
pub(crate) async fn take(remote: &Remote, wanted: &Wanted) -> anyhow::Result<String> {
    let Wanted { namespace, pod, container, timeout } = wanted;
    let mut path =
        format!("/checkpoint/{}/{}/{}", segment(namespace), segment(pod), segment(container));
    if let Some(seconds) = timeout {
        path.push_str(&format!("?timeout={seconds}"));
    }
    let bar = Bar::bytes(format!("taking a checkpoint of {namespace}/{pod}/{container}"));
    let before = under_way(remote).await.ok();
    let request = remote.post::<Items>(&path, Bytes::new());
    let answer = match before {
        Some(before) => {
            let known = before.items.into_iter().map(|one| one.id).collect();
            tokio::select! {
                answer = request => answer,
                never = show(remote, wanted, &known, &bar) => match never {},
            }
        }
        None => request.await,
    }?;
    match answer.items.into_iter().next() {
        Some(path) => Ok(path),
        None => anyhow::bail!("the node says that it is done, and names no archive"),
    }
}

async fn under_way(remote: &Remote) -> Result<UnderWay, RemoteError> {
    remote.get("/cryopod/v1/checkpoints").await
}

/// Moves the bar until it is dropped. What fails here is no failure of the checkpoint.
async fn show(
    remote: &Remote,
    wanted: &Wanted,
    known: &HashSet<String>,
    bar: &Bar,
) -> std::convert::Infallible {
    let ours = |one: &Known| {
        !known.contains(&one.id)
            && one.namespace == wanted.namespace
            && one.pod == wanted.pod
            && one.container == wanted.container
    };
    loop {
        tokio::time::sleep(LOOK).await;
        let Ok(now) = under_way(remote).await else { continue };
        if let Some(one) = now.items.iter().find(|one| ours(one)) {
            follow(remote, &one.id, bar).await.ok();
            return std::future::pending().await;
        }
    }
}

async fn follow(remote: &Remote, id: &str, bar: &Bar) -> Result<(), RemoteError> {
    let path = format!("/cryopod/v1/checkpoints/{}/events", segment(id));
    let answer = remote.send(Method::GET, &path, HeaderMap::new(), Bytes::new()).await?;
    let mut body = answer.into_body();
    let mut parser = Parser::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| remote.broken(error.into()))?;
        for Event { data, .. } in frame.data_ref().map(|data| parser.feed(data)).unwrap_or_default()
        {
            let Ok(told) = serde_json::from_str::<Told>(&data) else { continue };
            if told.phase.as_deref() == Some("waiting") {
                bar.message("waiting for another checkpoint to end");
            } else if told.phase.as_deref() == Some("running") {
                bar.message("taking the checkpoint");
            }
            if let Some(bytes) = told.estimated_bytes {
                bar.length(bytes);
            }
            if let Some(bytes) = told.bytes_written {
                bar.position(bytes);
            }
        }
    }
    Ok(())
}
