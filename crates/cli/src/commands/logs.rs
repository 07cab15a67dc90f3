//! `logs`: what a container wrote, from the file the runtime keeps in the CRI format:
//! `<time> stdout|stderr F|P <text>`, where P says that the line goes on in the next entry.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use cryopod_cri::v1::ContainerState;

use super::connect;
use crate::args::LogsArgs;
use crate::exit::Refused;
use crate::target::Inventory;

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(200);

pub(super) async fn run(args: &LogsArgs) -> anyhow::Result<()> {
    let client = connect(&args.connection).await?;
    let all = Inventory::load(&client).await?;
    let one = all.container(&args.target)?;
    let status = client
        .container_status(&one.id, false)
        .await
        .with_context(|| format!("ask for the log of {}", one.path()))?
        .status
        .unwrap_or_default();
    if status.log_path.is_empty() {
        return Err(Refused { reason: format!("container {} keeps no log", one.path()) }.into());
    }
    let path = Path::new(&status.log_path);
    let mut reader = open(path)?;
    if let Some(lines) = args.tail {
        skip_to_tail(&mut reader, lines).with_context(|| format!("read {}", path.display()))?;
    }
    let mut ended = false;
    loop {
        let got = copy(&mut reader, args.timestamps)?;
        if !args.follow || (ended && !got) {
            return Ok(());
        }
        // Asked before the next look, so that what was written until the end is still seen.
        let state = client.container_status(&one.id, false).await.ok().and_then(|a| a.status);
        ended = state.is_none_or(|status| status.state() == ContainerState::ContainerExited);
        if !got {
            reopen_after_rotation(&mut reader, path)?;
            if !ended {
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

/// Lines read so far but not ended yet stay in `partial`.
struct Reader {
    file: BufReader<File>,
    partial: Vec<u8>,
}

fn open(path: &Path) -> anyhow::Result<Reader> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    Ok(Reader { file: BufReader::new(file), partial: Vec::new() })
}

fn reopen_after_rotation(reader: &mut Reader, path: &Path) -> anyhow::Result<()> {
    let old = reader.file.get_ref().metadata().context("look at the log")?;
    // Between two files of a rotation there may be none.
    let Ok(new) = path.metadata() else { return Ok(()) };
    if (old.dev(), old.ino()) != (new.dev(), new.ino()) {
        *reader = open(path)?;
    }
    Ok(())
}

/// Leaves only the last lines to be read.
fn skip_to_tail(reader: &mut Reader, lines: usize) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    let mut starts = std::collections::VecDeque::new();
    let mut at = 0u64;
    let mut entry = Vec::new();
    let mut begins = true;
    loop {
        entry.clear();
        let read = reader.file.read_until(b'\n', &mut entry)?;
        if read == 0 {
            break;
        }
        if begins {
            starts.push_back(at);
            if starts.len() > lines {
                starts.pop_front();
            }
        }
        begins = parse(&entry).is_none_or(|entry| entry.full);
        at += read as u64;
    }
    let start = starts.front().copied().unwrap_or(at);
    reader.file.seek(SeekFrom::Start(start)).map(drop)
}

/// Prints what is there; whether anything was.
fn copy(reader: &mut Reader, timestamps: bool) -> anyhow::Result<bool> {
    let mut any = false;
    let (stdout, stderr) = (io::stdout(), io::stderr());
    let (mut stdout, mut stderr) = (stdout.lock(), stderr.lock());
    loop {
        if reader.file.read_until(b'\n', &mut reader.partial).context("read the log")? == 0
            || !reader.partial.ends_with(b"\n")
        {
            stdout.flush().context("write to stdout")?;
            return Ok(any);
        }
        any = true;
        let raw = std::mem::take(&mut reader.partial);
        // Another runtime's log may have another form: shown as it is.
        let entry = parse(&raw).unwrap_or(Entry {
            time: b"",
            stderr: false,
            full: true,
            text: raw.strip_suffix(b"\n").unwrap_or(&raw),
        });
        let out: &mut dyn Write = if entry.stderr { &mut stderr } else { &mut stdout };
        print(out, &entry, timestamps).context("write to stdout")?;
    }
}

fn print(out: &mut dyn Write, entry: &Entry<'_>, timestamps: bool) -> io::Result<()> {
    if timestamps {
        out.write_all(entry.time)?;
        out.write_all(b" ")?;
    }
    out.write_all(entry.text)?;
    // With times each entry is a line of its own; without, a long line is put together again.
    if entry.full || timestamps {
        out.write_all(b"\n")?;
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    time: &'a [u8],
    stderr: bool,
    full: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = parts.next()?;
    let stderr = match parts.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let full = match parts.next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Entry { time, stderr, full, text: parts.next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "t1 stdout F one\nt2 stdout P tw\nt3 stdout F o\nt4 stderr F  three\n";

    #[test]
    fn entries_keep_their_spaces() {
        let entry = parse(b"2025-01-01T00:00:00Z stderr F  a b \n").unwrap();
        assert!(entry.stderr && entry.full);
        assert_eq!(entry.text, b" a b ");
        assert_eq!(parse(b"t stdout F\n").unwrap().text, b"");
        assert_eq!(parse(b"plain text\n"), None);
    }

    #[test]
    fn a_line_in_parts_is_put_together() {
        let mut out = Vec::new();
        for line in LOG.lines() {
            print(&mut out, &parse(line.as_bytes()).unwrap(), false).unwrap();
        }
        assert_eq!(out, b"one\ntwo\n three\n");
    }

    #[test]
    fn the_tail_counts_whole_lines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), LOG).unwrap();
        let rest = |lines| {
            let mut reader = open(file.path()).unwrap();
            skip_to_tail(&mut reader, lines).unwrap();
            let mut text = String::new();
            io::Read::read_to_string(&mut reader.file, &mut text).unwrap();
            text
        };
        assert_eq!(rest(1), "t4 stderr F  three\n");
        assert!(rest(2).starts_with("t2 stdout P"));
        assert_eq!(rest(9), LOG);
        assert_eq!(rest(0), "");
    }
}
