//! Results on stdout (tables for people, JSON for programs), notes and progress on stderr.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::args::Output;

/// Writes one line to stdout.
pub(crate) fn line(text: impl std::fmt::Display) -> anyhow::Result<()> {
    writeln!(io::stdout().lock(), "{text}").context("write to stdout")
}

/// Writes one line to stderr; nothing there is part of a result, so nothing fails with it.
pub(crate) fn note(text: impl std::fmt::Display) {
    writeln!(io::stderr().lock(), "{text}").ok();
}

/// Writes a JSON document.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("write the result as JSON")?;
    line(text)
}

/// Writes rows as a table with these headings, or as JSON.
pub(crate) fn rows<T: Serialize>(
    output: Output,
    rows: &[T],
    headings: &[&str],
    cells: impl Fn(&T) -> Vec<String>,
) -> anyhow::Result<()> {
    if output == Output::Json {
        return json(&rows);
    }
    let mut table = Table::new();
    // Columns and nothing else: it can be cut by other programs.
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.to_vec());
    for row in rows {
        table.add_row(cells(row));
    }
    for text in table.to_string().lines() {
        line(text.trim())?;
    }
    Ok(())
}

/// Something that takes a while: a moving line when stderr is a terminal, nothing otherwise.
/// Gone when dropped.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn start(what: impl Into<String>) -> Self {
        if !io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(what.into());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Bytes that come in: a bar when stderr is a terminal, nothing otherwise. Gone when dropped.
#[derive(Debug)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn bytes(what: impl Into<String>) -> Self {
        if !io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}: {bytes} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(what.into());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    /// So many bytes are expected.
    pub(crate) fn length(&self, bytes: u64) {
        let template = "{spinner} {msg}: {bytes} of {total_bytes} [{bar:30}] ({elapsed})";
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.0.set_style(style);
        }
        self.0.set_length(bytes);
    }

    /// So many bytes are there.
    pub(crate) fn position(&self, bytes: u64) {
        if self.0.length().is_some_and(|length| length < bytes) {
            // The estimate was too small.
            self.0.set_length(bytes);
        }
        self.0.set_position(bytes);
    }

    /// What goes on now.
    pub(crate) fn message(&self, what: impl Into<String>) {
        self.0.set_message(what.into());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// How long ago, in one unit: `3m`.
pub(crate) fn age(created_at: i64, now: i64) -> String {
    let seconds = now.saturating_sub(created_at).max(0) / 1_000_000_000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

/// Microseconds in the unit that reads best.
pub(crate) fn micros(micros: u64) -> String {
    match micros {
        0..1000 => format!("{micros} µs"),
        1000..1_000_000 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        _ => format!("{}.{:02} s", micros / 1_000_000, micros % 1_000_000 / 10_000),
    }
}

/// The beginning of an id, enough for people.
pub(crate) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_in_one_unit() {
        let second = 1_000_000_000;
        assert_eq!(age(0, 59 * second), "59s");
        assert_eq!(age(0, 60 * second), "1m");
        assert_eq!(age(0, 3 * 86400 * second), "3d");
        assert_eq!(age(second, 0), "0s");
        assert_eq!(micros(950), "950 µs");
        assert_eq!(micros(1250), "1.2 ms");
        assert_eq!(micros(2_340_000), "2.34 s");
    }
}
