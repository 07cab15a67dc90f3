//! `list`: checkpoint archives of a folder.

use std::path::PathBuf;

use cryopod_archive::{Archive, Engine};
use cryopod_kubelet::Store;
use cryopod_kubelet::store::Stored;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::archives_folder;
use crate::args::ListArgs;
use crate::print;
use crate::quantity::bytes_text;
use crate::remote::Remote;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    archive: PathBuf,
    namespace: String,
    pod: String,
    container: String,
    bytes: u64,
    /// Nanoseconds since the epoch at which it was finished.
    finished_at: i64,
    pinned: bool,
    /// Who made it.
    engine: Option<String>,
}

/// An archive as a node far away tells it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    path: PathBuf,
    bytes: u64,
    finished_at: Timestamp,
    identity: Option<ToldIdentity>,
    pinned: bool,
    engine: Option<String>,
    unreadable: Option<String>,
}

#[derive(Default, Deserialize)]
struct ToldIdentity {
    namespace: String,
    pod: String,
    container: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToldList {
    items: Vec<Told>,
    left_out: u64,
}

pub(super) async fn run(args: &ListArgs) -> anyhow::Result<()> {
    if let Some(remote) = Remote::open(&args.server)? {
        return show(args, far_away(&remote).await?);
    }
    let folder = archives_folder(&args.connection, args.dir.as_deref()).await?;
    // Newest first. What is no archive is named on stderr and left out.
    let (good, bad): (Vec<Stored>, Vec<Stored>) =
        Store::at(folder)?.list().await?.into_iter().partition(|one| one.unreadable.is_none());
    for one in bad {
        print::note(format_args!("left out: {}", one.unreadable.unwrap_or_default()));
    }
    show(args, good.into_iter().map(row).collect())
}

async fn far_away(remote: &Remote) -> anyhow::Result<Vec<Row>> {
    let list: ToldList = remote.get("/cryopod/v1/archives").await?;
    if list.left_out > 0 {
        print::note(format_args!("left out: {} older archives", list.left_out));
    }
    let mut rows = Vec::new();
    for one in list.items {
        if let Some(why) = one.unreadable {
            print::note(format_args!("left out: {why}"));
            continue;
        }
        let ToldIdentity { namespace, pod, container } = one.identity.unwrap_or_default();
        rows.push(Row {
            archive: one.path,
            namespace,
            pod,
            container,
            bytes: one.bytes,
            finished_at: i64::try_from(one.finished_at.as_nanosecond()).unwrap_or(0),
            pinned: one.pinned,
            engine: one.engine,
        });
    }
    Ok(rows)
}

fn show(args: &ListArgs, rows: Vec<Row>) -> anyhow::Result<()> {
    let now = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
    let headings = ["NAMESPACE", "POD", "CONTAINER", "AGE", "SIZE", "PINNED", "ARCHIVE"];
    print::rows(args.result.output, &rows, &headings, |row| {
        vec![
            row.namespace.clone(),
            row.pod.clone(),
            row.container.clone(),
            print::age(row.finished_at, now),
            bytes_text(row.bytes),
            if row.pinned { "yes" } else { "no" }.to_owned(),
            row.archive.display().to_string(),
        ]
    })
}

fn row(one: Stored) -> Row {
    let [namespace, pod, container] = match one.identity {
        Some(of) => [of.namespace, of.pod, of.container],
        // Of no pod: what it says of itself is for people.
        None => Archive::open(&one.path)
            .ok()
            .and_then(|archive| archive.identity().ok())
            .map(|of| [of.namespace, of.pod, of.container].map(Option::unwrap_or_default))
            .unwrap_or_default(),
    };
    Row {
        archive: one.path,
        namespace,
        pod,
        container,
        bytes: one.bytes,
        finished_at: i64::try_from(one.finished_at.as_nanosecond()).unwrap_or(0),
        pinned: one.pinned,
        engine: one.engine.and_then(name),
    }
}

/// An engine's name as JSON has it.
fn name(engine: Engine) -> Option<String> {
    serde_json::to_value(engine).ok()?.as_str().map(str::to_owned)
}
