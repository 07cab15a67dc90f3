//! `list`: checkpoint archives of a folder.

use std::path::{Path, PathBuf};

use anyhow::Context;
use jiff::Timestamp;
use serde::Serialize;

use super::{connect, places};
use crate::args::ListArgs;
use crate::identity::{self, Identity};
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
}

pub(super) async fn run(args: &ListArgs) -> anyhow::Result<()> {
    let folder = match &args.dir {
        Some(folder) => folder.clone(),
        None => places(&connect(&args.connection).await?).await?.checkpoints_dir,
    };
    let rows = rows(&folder)?;
    let now = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
    let headings = ["NAMESPACE", "POD", "CONTAINER", "AGE", "SIZE", "ARCHIVE"];
    print::rows(args.result.output, &rows, &headings, |row| {
        vec![
            row.namespace.clone(),
            row.pod.clone(),
            row.container.clone(),
            print::age(row.finished_at, now),
            bytes_text(row.bytes),
            row.archive.display().to_string(),
        ]
    })
}

/// Archives, newest first. What is no archive is named on stderr and left out.
fn rows(folder: &Path) -> anyhow::Result<Vec<Row>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        // No checkpoint was taken yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("read folder {}", folder.display()));
        }
    };
    let mut rows = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("read folder {}", folder.display()))?.path();
        let Ok(meta) = path.symlink_metadata() else { continue };
        if !meta.is_file() || path.extension().is_none_or(|extension| extension != "tar") {
            continue;
        }
        let Identity { namespace, pod, container } = match identity::read(&path) {
            Ok(identity) => identity,
            Err(error) => {
                print::note(format_args!("left out: {:#}", anyhow::Error::new(error)));
                continue;
            }
        };
        let finished_at = meta
            .modified()
            .ok()
            .and_then(|time| Timestamp::try_from(time).ok())
            .and_then(|time| i64::try_from(time.as_nanosecond()).ok())
            .unwrap_or(0);
        rows.push(Row { archive: path, namespace, pod, container, bytes: meta.len(), finished_at });
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.finished_at));
    Ok(rows)
}
