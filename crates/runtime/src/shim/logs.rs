//! Logs in CRI's format: `<RFC 3339 time> <stream> <F|P> <line>`.
//!
//! A line longer than 16 KiB is written in parts tagged `P`, the last of them `F`. What a container
//! wrote without a newline is kept until the newline comes, or the end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::lock;

/// Longest line written in one part.
const LINE_MAX: usize = 16 << 10;

/// What was read of a line that has no end yet, by stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Partial {
    #[serde(with = "crate::wire::hexadecimal")]
    pub(crate) stdout: Vec<u8>,
    #[serde(with = "crate::wire::hexadecimal")]
    pub(crate) stderr: Vec<u8>,
}

/// A log as it was when all that the container had written was in it.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// The file and how long it was; `None`: the container has no log.
    pub(super) file: Option<(File, u64)>,
    pub(super) partial: Partial,
}

/// The log of one container.
#[derive(Debug)]
pub(super) struct Logs {
    path: PathBuf,
    file: Mutex<Option<File>>,
    streams: Vec<Arc<Stream>>,
}

#[derive(Debug)]
struct Stream {
    name: &'static str,
    fd: OwnedFd,
    /// Taken before the pipe is read: what was read is in the log or in here once it is free again.
    line: Mutex<Vec<u8>>,
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)
}

impl Logs {
    /// Opens the log (an empty path: none) and starts to read the streams.
    pub(super) fn start(
        path: &Path,
        streams: Vec<(&'static str, OwnedFd)>,
        partial: Partial,
    ) -> io::Result<(Arc<Self>, Vec<JoinHandle<()>>)> {
        let file = if path.as_os_str().is_empty() { None } else { Some(open(path)?) };
        let mut made = Vec::new();
        for (name, fd) in streams {
            // So that a reader that finds the pipe emptied by another one is not held up.
            let flags = rustix::fs::fcntl_getfl(&fd)?;
            rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
            let line = if name == "stdout" { &partial.stdout } else { &partial.stderr };
            made.push(Arc::new(Stream { name, fd, line: Mutex::new(line.clone()) }));
        }
        let logs = Arc::new(Self { path: path.into(), file: Mutex::new(file), streams: made });
        let mut threads = Vec::new();
        for stream in &logs.streams {
            let (logs, stream) = (logs.clone(), stream.clone());
            let name = format!("log {}", stream.name);
            threads.push(std::thread::Builder::new().name(name).spawn(move || {
                logs.follow(&stream);
            })?);
        }
        Ok((logs, threads))
    }

    fn follow(&self, stream: &Stream) {
        loop {
            let mut fds = [PollFd::new(&stream.fd, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
            let mut line = lock(&stream.line);
            match self.pump(stream, &mut line) {
                Pumped::Some | Pumped::Nothing => {}
                Pumped::End => break,
            }
        }
        let mut line = lock(&stream.line);
        if !line.is_empty() {
            let mut out = Vec::new();
            entry(&mut out, stream.name, 'F', &line);
            self.write(&out);
            line.clear();
        }
    }

    /// Reads once and writes what it gives.
    fn pump(&self, stream: &Stream, line: &mut Vec<u8>) -> Pumped {
        let mut buffer = [0u8; 64 << 10];
        match rustix::io::read(&stream.fd, &mut buffer) {
            Ok(0) => Pumped::End,
            Ok(count) => {
                let mut out = Vec::with_capacity(count + 256);
                split(&mut out, stream.name, line, &buffer[..count]);
                self.write(&out);
                Pumped::Some
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Pumped::Nothing,
            // EIO is how a terminal says that nobody has it open.
            Err(_) => Pumped::End,
        }
    }

    fn write(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut file = lock(&self.file);
        // A full disk must not stop the container: what cannot be written is lost.
        if let Some(file) = file.as_mut() {
            let _ = file.write_all(bytes);
        }
    }

    /// Opens the file anew, after it was renamed away.
    pub(super) fn reopen(&self) -> io::Result<()> {
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        let new = open(&self.path)?;
        *lock(&self.file) = Some(new);
        Ok(())
    }

    /// Reads all that is in the pipes, and says where the log then ends. Exact while the writers
    /// stand still.
    pub(super) fn drain(&self) -> io::Result<Snapshot> {
        let mut partial = Partial::default();
        for stream in &self.streams {
            let mut line = lock(&stream.line);
            while matches!(self.pump(stream, &mut line), Pumped::Some) {}
            let target =
                if stream.name == "stdout" { &mut partial.stdout } else { &mut partial.stderr };
            target.clone_from(&line);
        }
        let file = match lock(&self.file).as_ref() {
            Some(file) => Some((file.try_clone()?, file.metadata()?.len())),
            None => None,
        };
        Ok(Snapshot { file, partial })
    }

    /// The reading ends, as the machine names them (`pipe:[INODE]`), by stream.
    pub(super) fn descriptors(&self) -> Vec<(&'static str, String)> {
        self.streams
            .iter()
            .filter_map(|stream| {
                let stat = rustix::fs::fstat(stream.fd.as_fd()).ok()?;
                Some((stream.name, format!("pipe:[{}]", stat.st_ino)))
            })
            .collect()
    }
}

enum Pumped {
    Some,
    Nothing,
    End,
}

/// Appends to `line`, and moves what is complete of it to `out`.
fn split(out: &mut Vec<u8>, stream: &str, line: &mut Vec<u8>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let newline = bytes.iter().position(|b| *b == b'\n');
        let room = LINE_MAX - line.len().min(LINE_MAX);
        let take = newline.unwrap_or(bytes.len()).min(room);
        line.extend_from_slice(&bytes[..take]);
        bytes = &bytes[take..];
        if bytes.first() == Some(&b'\n') {
            entry(out, stream, 'F', line);
            line.clear();
            bytes = &bytes[1..];
        } else if line.len() >= LINE_MAX {
            entry(out, stream, 'P', line);
            line.clear();
        }
    }
}

fn entry(out: &mut Vec<u8>, stream: &str, tag: char, line: &[u8]) {
    let time = jiff::Timestamp::now();
    out.extend_from_slice(format!("{time:.9} {stream} {tag} ").as_bytes());
    out.extend_from_slice(line);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(chunks: &[&[u8]]) -> (Vec<(char, Vec<u8>)>, Vec<u8>) {
        let (mut out, mut line) = (Vec::new(), Vec::new());
        for chunk in chunks {
            split(&mut out, "stdout", &mut line, chunk);
        }
        let entries = out
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| {
                let fields: Vec<&[u8]> = l.splitn(4, |b| *b == b' ').collect();
                assert_eq!(fields[1], b"stdout");
                let time = std::str::from_utf8(fields[0]).unwrap();
                time.parse::<jiff::Timestamp>().unwrap();
                (char::from(fields[2][0]), fields[3].to_vec())
            })
            .collect();
        (entries, line)
    }

    #[test]
    fn a_line_is_written_when_it_ends_wherever_it_was_cut() {
        let (entries, rest) = parts(&[b"he", b"llo\nwor", b"ld\n", b"tail"]);
        assert_eq!(entries, [('F', b"hello".to_vec()), ('F', b"world".to_vec())]);
        assert_eq!(rest, b"tail");
    }

    #[test]
    fn a_long_line_is_written_in_parts() {
        let long = vec![b'x'; LINE_MAX * 2 + 3];
        let (entries, rest) = parts(&[&long, b"\n"]);
        let tags: Vec<(char, usize)> = entries.iter().map(|(t, l)| (*t, l.len())).collect();
        assert_eq!(tags, [('P', LINE_MAX), ('P', LINE_MAX), ('F', 3)]);
        assert!(rest.is_empty());
    }

    #[test]
    fn an_empty_line_stays_one() {
        assert_eq!(parts(&[b"\n"]).0, [('F', Vec::new())]);
    }
}
