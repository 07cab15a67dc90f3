//! `list`: checkpoint archives of a folder.

use std::path::PathBuf;

use cryopod_archive::{Archive, Engine};
use cryopod_kubelet::Store;
use cryopod_kubelet::store::Stored;
use jiff::Timestamp;
use serde::Serialize;

use super::archives_folder;
use crate::args::ListArgs;
use crate::print;
use crate::quantity::bytes_text;

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
    engine: Option<Engine>,
}

pub(super) async fn run(args: &ListArgs) -> anyhow::Result<()> {
    let folder = archives_folder(&args.connection, args.dir.as_deref()).await?;
    // Newest first. What is no archive is named on stderr and left out.
    let (good, bad): (Vec<Stored>, Vec<Stored>) =
        Store::at(folder)?.list().await?.into_iter().partition(|one| one.unreadable.is_none());
    for one in bad {
        print::note(format_args!("left out: {}", one.unreadable.unwrap_or_default()));
    }
    let rows: Vec<Row> = good.into_iter().map(row).collect();
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
        engine: one.engine,
    }
}
