//! Archives of the node: list, describe, delete, pin.

use cryopod_archive::{Archive, MetadataError, names};
use serde::Serialize;

use super::problem::Problem;
use super::query::Query;
use super::table::MOST_LISTED;
use crate::store::{Store, StoreError, Stored};

/// Entries that a description names at most.
const MOST_ENTRIES: usize = 10_000;
/// Bytes of an engine's log that are read.
const LOG_BYTES: u64 = 1 << 20;

/// The answer to a list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ArchiveList {
    items: Vec<Stored>,
    /// Archives that fit and are beyond the limit.
    left_out: usize,
}

/// One archive with what is inside.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveDescription {
    #[serde(flatten)]
    stored: Stored,
    #[serde(flatten)]
    inside: Option<Inside>,
}

/// What is told from inside an archive.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Inside {
    /// When it was taken, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpointed_at: Option<String>,
    /// The container's image, as it was asked for.
    #[serde(skip_serializing_if = "String::is_empty")]
    image: String,
    /// Bytes of memory pages.
    memory_bytes: u64,
    /// Bytes of changes to the root filesystem.
    rootfs_bytes: u64,
    entries: Vec<EntryLine>,
    /// Entries that are beyond the limit.
    entries_left_out: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    dump: Option<Dump>,
}

/// One entry of the tar.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EntryLine {
    name: String,
    directory: bool,
    bytes: u64,
}

/// What our own engine noted when it made the archive.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Dump {
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tasks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<u64>,
    /// Pages of 4096 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pages_written: Option<u64>,
    /// Microseconds from the first task stopped to the last let go.
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen_micros: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_method: Option<String>,
    notes: Vec<String>,
}

/// The archives that fit a query, newest first.
pub(super) async fn list(store: &Store, query: &Query) -> Result<ArchiveList, Problem> {
    let wanted = ["namespace", "pod", "container"].map(|name| query.text(name));
    let mut items = store.list().await.map_err(|error| problem(&error))?;
    items.retain(|one| {
        let Some(identity) = &one.identity else { return wanted == [None; 3] };
        let has = [&identity.namespace, &identity.pod, &identity.container];
        wanted.iter().zip(has).all(|(wanted, has)| wanted.is_none_or(|wanted| wanted == has))
    });
    let limit = usize::try_from(query.number("limit").unwrap_or(MOST_LISTED)).unwrap_or(usize::MAX);
    let left_out = items.len().saturating_sub(limit);
    items.truncate(limit);
    Ok(ArchiveList { items, left_out })
}

/// One archive with what is inside. One that cannot be read says why, as in a list.
///
/// # Errors
/// As [`Store::find`] and [`Store::open`].
pub async fn describe(store: &Store, name: &str) -> Result<ArchiveDescription, StoreError> {
    let mut stored = store.find(name).await?;
    if stored.unreadable.is_some() {
        return Ok(ArchiveDescription { stored, inside: None });
    }
    let reading = store.open(name).await?;
    let path = stored.path.clone();
    let ours = stored.is_ours();
    let read = move || {
        let archive = Archive::from_file(reading.file().try_clone().map_err(text)?, &path);
        let archive = archive.map_err(text)?;
        // The lease goes last.
        let inside = look(&archive, ours).map_err(text);
        drop((archive, reading));
        inside
    };
    let inside = match tokio::task::spawn_blocking(read).await {
        Ok(Ok(inside)) => Some(inside),
        Ok(Err(why)) => {
            tracing::warn!(archive = name, why, "an archive cannot be described");
            stored.unreadable = Some(why);
            None
        }
        Err(error) => {
            tracing::error!(archive = name, %error, "reading an archive broke off");
            stored.unreadable = Some("reading it broke off".to_owned());
            None
        }
    };
    Ok(ArchiveDescription { stored, inside })
}

/// An error with its causes, on one line.
fn text(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

fn look(archive: &Archive, ours: bool) -> Result<Inside, MetadataError> {
    let summary = archive.summary()?;
    let log = if ours { archive.read_optional(names::DUMP_LOG, LOG_BYTES)? } else { None };
    let all = archive.entries();
    let entries = all.iter().take(MOST_ENTRIES).map(|entry| EntryLine {
        name: entry.name.clone(),
        directory: entry.directory,
        bytes: entry.size,
    });
    let config = summary.config;
    let taken = config.checkpointed_time;
    Ok(Inside {
        checkpointed_at: (taken != cryopod_archive::ZERO_TIME).then_some(taken),
        image: [config.rootfs_image, config.rootfs_image_name]
            .into_iter()
            .find(|name| !name.is_empty())
            .unwrap_or_default(),
        memory_bytes: summary.memory,
        rootfs_bytes: summary.rootfs_diff,
        entries: entries.collect(),
        entries_left_out: all.len().saturating_sub(MOST_ENTRIES),
        dump: log.map(|log| dump(&String::from_utf8_lossy(&log))),
    })
}

/// Reads our engine's log: a line for each figure, and lines that begin with `note: `.
fn dump(log: &str) -> Dump {
    let mut dump = Dump::default();
    for line in log.lines() {
        let number = |rest: &str| rest.trim_end_matches(" us").parse().ok();
        if let Some(note) = line.strip_prefix("note: ") {
            dump.notes.push(note.to_owned());
        } else if let Some(version) = line.strip_prefix("cryopod ") {
            version.clone_into(&mut dump.version);
        } else if let Some(rest) = line.strip_prefix("tasks ") {
            dump.tasks = number(rest);
        } else if let Some(rest) = line.strip_prefix("threads ") {
            dump.threads = number(rest);
        } else if let Some(rest) = line.strip_prefix("pages written ") {
            dump.pages_written = number(rest);
        } else if let Some(rest) = line.strip_prefix("frozen ") {
            dump.frozen_micros = number(rest);
        } else if let Some(method) = line.strip_prefix("memory ") {
            dump.memory_method = Some(method.to_owned());
        }
    }
    dump
}

/// A refusal of the store as an answer.
pub(super) fn problem(error: &StoreError) -> Problem {
    use http::StatusCode;
    match error {
        StoreError::Name { .. } | StoreError::Missing { .. } => {
            Problem::not_found(error.to_string())
        }
        StoreError::InUse { .. } | StoreError::Pinned { .. } | StoreError::PinnedBy { .. } => {
            Problem::new(StatusCode::CONFLICT, error.to_string())
        }
        StoreError::Folder { .. } | StoreError::Io { .. } => {
            tracing::error!(error = error as &dyn std::error::Error, "the store of archives");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_log_is_read_line_by_line() {
        let log = "cryopod 0.1.0\ntasks 2\nthreads 3\npages scanned 9\npages written 5\n\
                   frozen 1234 us\nmemory copied while running\nnote: a: b\nnote: c\nother\n";
        let expected = Dump {
            version: "0.1.0".into(),
            tasks: Some(2),
            threads: Some(3),
            pages_written: Some(5),
            frozen_micros: Some(1234),
            memory_method: Some("copied while running".into()),
            notes: vec!["a: b".into(), "c".into()],
        };
        assert_eq!(dump(log), expected);
        assert_eq!(dump("tasks many\nfrozen us\n"), Dump::default());
    }
}
