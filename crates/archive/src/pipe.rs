//! Data of a big entry on its way to the file: digests are made and bytes are written by threads, while
//! the caller reads what comes next.
//!
//! The caller fills buffers of one [`CHUNK`] each; one thread hashes them in order, the next writes them
//! and gives them back. There are few, so they stay in the processor's cache, and whoever is ahead waits.
//! Bytes go through the page cache, and the kernel is told to begin with the disk every [`AHEAD`] bytes
//! (sync_file_range(2)), so that little is left for the fsync(2) at the end; that was faster here than
//! O_DIRECT in any depth of queue, and what is changed or read again afterwards is still in memory.
//!
//! The threads are there only while an entry is written: a process that has threads cannot be copied
//! (clone(2) of a helper). They take no signals. [`Pipe`] ends them in every way that it can end, and
//! waits until the kernel does not count them any more.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use blake3::Hash;
use cryopod_sys::signal::Blocked;
use cryopod_sys::writeback;

use crate::digests::CHUNK;

/// Buffers at most.
const BUFFERS: usize = 16;
/// Bytes after which the disk is to begin.
const AHEAD: u64 = 8 << 20;
/// Of a thread, in bytes; BLAKE3 of a chunk takes some KiB.
const STACK: usize = 256 << 10;

/// Bytes that belong at `at`.
#[derive(Debug)]
struct Part {
    at: u64,
    bytes: Vec<u8>,
}

/// A part that is in the file, or the reason why no more come.
type Done = io::Result<(Vec<u8>, Hash)>;

/// The way to the file, from some place on.
#[derive(Debug)]
pub(crate) struct Pipe {
    parts: Option<Sender<Part>>,
    done: Receiver<Done>,
    stop: Arc<AtomicBool>,
    threads: Vec<(JoinHandle<()>, i32)>,
    /// Being filled; without capacity when it is still to be got.
    filling: Vec<u8>,
    /// Where that belongs.
    at: u64,
    made: usize,
    /// Parts that have not come back.
    out: usize,
    hashes: Vec<Hash>,
}

impl Pipe {
    /// Begins at `at`, where nobody else may write.
    ///
    /// # Errors
    /// When threads cannot be made.
    pub(crate) fn start(file: &Arc<File>, at: u64) -> io::Result<Self> {
        let (parts, to_hash) = channel::<Part>();
        let (hashed, to_write) = channel::<(Part, Hash)>();
        let (back, done) = channel::<Done>();
        let stop = Arc::new(AtomicBool::new(false));
        let mut this = Self {
            parts: Some(parts),
            done,
            stop: stop.clone(),
            threads: Vec::with_capacity(2),
            filling: Vec::new(),
            at,
            made: 0,
            out: 0,
            hashes: Vec::new(),
        };
        let stopped = stop.clone();
        this.spawn("archive-hash", move || {
            for part in to_hash {
                let hash = blake3::hash(&part.bytes);
                if stopped.load(Ordering::Relaxed) || hashed.send((part, hash)).is_err() {
                    break;
                }
            }
        })?;
        let file = file.clone();
        this.spawn("archive-write", move || {
            let mut begun = at;
            for (part, hash) in to_write {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let written = write(&file, &part, &mut begun);
                let failed = written.is_err();
                if back.send(written.map(|()| (part.bytes, hash))).is_err() || failed {
                    break;
                }
            }
        })?;
        Ok(this)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let (tell, told) = channel();
        let _blocked = Blocked::all()?;
        let thread = Builder::new().name(name.into()).stack_size(STACK).spawn(move || {
            let told = tell.send(rustix::thread::gettid().as_raw_nonzero().get());
            drop(tell);
            if told.is_ok() {
                run();
            }
        })?;
        let tid = told.recv().unwrap_or(0);
        self.threads.push((thread, tid));
        Ok(())
    }

    /// Takes bytes. It waits when too many are on their way.
    ///
    /// # Errors
    /// The first of writing any of what came before; nothing can be added after that.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.filling.capacity() == 0 {
                self.filling = self.buffer()?;
            }
            let room = CHUNK as usize - self.filling.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.filling.extend_from_slice(now);
            if now.len() == room {
                self.send()?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Waits until everything is in the file; the answer are the digests of the chunks.
    ///
    /// # Errors
    /// The first of writing any of it.
    pub(crate) fn finish(mut self) -> io::Result<Vec<Hash>> {
        if !self.filling.is_empty() {
            self.send()?;
        }
        while self.out > 0 {
            self.receive()?;
        }
        Ok(std::mem::take(&mut self.hashes))
    }

    /// A buffer that came back if there is one: it is still in the processor's cache.
    fn buffer(&mut self) -> io::Result<Vec<u8>> {
        if let Ok(done) = self.done.try_recv() {
            return self.take(done);
        }
        if self.made < BUFFERS {
            self.made += 1;
            return Ok(Vec::with_capacity(CHUNK as usize));
        }
        self.receive()
    }

    fn send(&mut self) -> io::Result<()> {
        let part = Part { at: self.at, bytes: std::mem::take(&mut self.filling) };
        self.at += part.bytes.len() as u64;
        self.out += 1;
        if self.parts.as_ref().is_some_and(|parts| parts.send(part).is_ok()) {
            return Ok(());
        }
        // The threads are gone; the reason is the last thing that they said.
        loop {
            self.receive()?;
        }
    }

    fn receive(&mut self) -> io::Result<Vec<u8>> {
        match self.done.recv() {
            Ok(done) => self.take(done),
            Err(_) => Err(io::Error::other("a thread that writes the archive has ended")),
        }
    }

    fn take(&mut self, done: Done) -> io::Result<Vec<u8>> {
        let (mut bytes, hash) = done?;
        self.out -= 1;
        self.hashes.push(hash);
        bytes.clear();
        Ok(bytes)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // After the last part came back this stops nothing.
        self.stop.store(true, Ordering::Relaxed);
        self.parts = None;
        for (thread, tid) in self.threads.drain(..) {
            // A panic has been told as an end that came too early.
            let _ = thread.join();
            // The kernel lets go of a thread a moment after it lets others know of its end.
            for _ in 0..2000 {
                if !std::fs::exists(format!("/proc/self/task/{tid}")).unwrap_or(false) {
                    break;
                }
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }
}

fn write(file: &File, part: &Part, begun: &mut u64) -> io::Result<()> {
    file.write_all_at(&part.bytes, part.at)?;
    let end = part.at + part.bytes.len() as u64;
    if end - *begun >= AHEAD {
        // Only an advice: whatever keeps the pages from the disk is told by fsync.
        let _ = writeback::start(file.as_fd(), *begun, end - *begun);
        *begun = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n / 4093 + n % 251) as u8).collect()
    }

    #[test]
    fn odd_pieces_arrive_in_order_with_the_digests_of_chunks() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let data = bytes(40 * CHUNK as usize + 12_345);
        let mut pipe = Pipe::start(&file, 4096).unwrap();
        let mut rest = data.as_slice();
        for len in [1, 4095, CHUNK as usize, 3 * CHUNK as usize + 7, 777_777].iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min(*len));
            pipe.push(now).unwrap();
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        assert!(pipe.made <= BUFFERS);
        let want: Vec<Hash> = data.chunks(CHUNK as usize).map(blake3::hash).collect();
        assert_eq!(pipe.finish().unwrap(), want);
        let mut found = vec![0; data.len()];
        file.read_exact_at(&mut found, 4096).unwrap();
        assert!(found == data);
        assert_eq!(file.metadata().unwrap().len(), 4096 + data.len() as u64);
    }

    #[test]
    fn threads_take_no_signals_and_are_gone_when_the_pipe_is() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        for finish in [true, false] {
            let mut pipe = Pipe::start(&file, 0).unwrap();
            let tids: Vec<i32> = pipe.threads.iter().map(|(_, tid)| *tid).collect();
            assert_eq!(tids.len(), 2);
            for tid in &tids {
                let status = std::fs::read_to_string(format!("/proc/self/task/{tid}/status"));
                let status = status.unwrap();
                // SIGTERM, which a program is most likely to handle.
                let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
                let mask = u64::from_str_radix(line.trim(), 16).unwrap();
                assert_ne!(mask & 1 << 14, 0, "{line}");
            }
            pipe.push(&bytes(5 * CHUNK as usize + 1)).unwrap();
            if finish {
                pipe.finish().unwrap();
            } else {
                drop(pipe);
            }
            for tid in tids {
                assert!(!std::fs::exists(format!("/proc/self/task/{tid}")).unwrap());
            }
            assert_eq!(Arc::strong_count(&file), 1);
        }
    }

    #[test]
    fn an_error_of_writing_comes_back_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("read-only");
        std::fs::write(&path, b"").unwrap();
        let file = Arc::new(File::open(&path).unwrap());
        let mut pipe = Pipe::start(&file, 0).unwrap();
        let data = bytes(CHUNK as usize);
        // More than there are buffers for.
        let errors: Vec<io::Error> =
            (0..3 * BUFFERS).filter_map(|_| pipe.push(&data).err()).collect();
        assert_eq!(errors[0].raw_os_error(), Some(rustix::io::Errno::BADF.raw_os_error()));
        assert!(pipe.finish().is_err());
    }
}
