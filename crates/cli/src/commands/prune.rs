//! `prune`: deletes what limits do not keep, as `serve` does by itself.

use std::path::PathBuf;

use anyhow::{Context, bail};
use cryopod_kubelet::retention::{Blocked, Doomed, Pruned, Retention};
use cryopod_kubelet::{Keeper, Store};
use serde::Serialize;

use super::archives_folder;
use crate::args::{LimitArgs, Output, PruneArgs};
use crate::print;
use crate::quantity::bytes_text;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    archive: PathBuf,
    bytes: u64,
    why: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    dry_run: bool,
    /// What went; with a dry run: would go.
    deleted: Vec<Row>,
    /// What is being read: the next prune deletes it.
    in_use: Vec<Row>,
    failed: Vec<Row>,
    /// Limits that pins prevent from being kept.
    blocked: Vec<Block>,
    /// Files that cannot be read as archives.
    left_alone: Vec<Row>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Block {
    limit: String,
    pinned: Vec<String>,
}

pub(super) async fn run(args: &PruneArgs) -> anyhow::Result<()> {
    let retention = retention(&args.limits)?;
    let folder = archives_folder(&args.connection, args.dir.as_deref()).await?;
    if retention.drops_orphans() {
        print::note("note: retainOrphan is left to `cryopod serve`, who knows what still exists");
    }
    let store = Store::at(folder)?;
    let pruned = Keeper::new(store.clone(), retention, None).prune(args.dry_run).await?;
    let report = report(&store, args.dry_run, pruned);
    let failed = report.failed.len();
    show(args, report)?;
    if failed > 0 {
        bail!("{failed} archives could not be deleted");
    }
    Ok(())
}

/// The file's policies, and over them what is given.
fn retention(limits: &LimitArgs) -> anyhow::Result<Retention> {
    let mut retention = match &limits.policy {
        Some(path) => Retention::from_file(path).context("--policy")?,
        None => Retention::default(),
    };
    fn given<T: Copy>(place: &mut Option<T>, value: Option<T>) {
        *place = value.or(*place);
    }
    let global = &mut retention.global_policy;
    given(&mut global.max_checkpoints_per_container, limits.keep_per_container);
    given(&mut global.max_checkpoints_per_pod, limits.keep_per_pod);
    given(&mut global.max_checkpoints_per_namespace, limits.keep_per_namespace);
    let node = &mut retention.node_policy;
    given(&mut node.max_checkpoints, limits.keep);
    given(&mut node.max_checkpoint_size, limits.max_size);
    given(&mut node.max_total_size, limits.max_total_size);
    given(&mut node.max_age, limits.max_age);
    given(&mut node.min_free, limits.min_free);
    Ok(retention)
}

fn report(store: &Store, dry_run: bool, pruned: Pruned) -> Report {
    let row = |doomed: Doomed| Row {
        archive: store.path(&doomed.name),
        bytes: doomed.bytes,
        why: doomed.why.to_string(),
        error: None,
    };
    let failed = pruned.failed.into_iter().map(|failed| Row {
        error: Some(format!("{:#}", anyhow::Error::new(failed.error))),
        ..row(failed.doomed)
    });
    let blocked = pruned
        .blocked
        .into_iter()
        .map(|Blocked { limit, pinned }| Block { limit: limit.to_string(), pinned });
    let left_alone = pruned.unreadable.into_iter().map(|one| Row {
        archive: one.path,
        bytes: one.bytes,
        why: one.unreadable.unwrap_or_default(),
        error: None,
    });
    Report {
        dry_run,
        failed: failed.collect(),
        blocked: blocked.collect(),
        left_alone: left_alone.collect(),
        deleted: pruned.deleted.into_iter().map(row).collect(),
        in_use: pruned.waiting.into_iter().map(row).collect(),
    }
}

fn show(args: &PruneArgs, report: Report) -> anyhow::Result<()> {
    if args.result.output == Output::Json {
        return print::json(&report);
    }
    print::rows(Output::Table, &report.deleted, &["SIZE", "ARCHIVE", "WHY"], |row| {
        vec![bytes_text(row.bytes), row.archive.display().to_string(), row.why.clone()]
    })?;
    for row in &report.in_use {
        print::note(format_args!("in use, to be deleted later: {}", row.archive.display()));
    }
    for row in &report.failed {
        let error = row.error.as_deref().unwrap_or_default();
        print::note(format_args!("not deleted: {error}"));
    }
    for one in &report.blocked {
        let pinned = match one.pinned.as_slice() {
            [] => "nothing more can be deleted".to_owned(),
            names => format!("what is left is pinned: {}", names.join(", ")),
        };
        print::note(format_args!("{}, but {pinned}", one.limit));
    }
    for row in &report.left_alone {
        print::note(format_args!("left alone: {}", row.why));
    }
    let bytes = report.deleted.iter().map(|row| row.bytes).sum();
    let done = if report.dry_run { "would be deleted" } else { "deleted" };
    print::note(format_args!("{} {done}, {}", report.deleted.len(), bytes_text(bytes)));
    Ok(())
}
