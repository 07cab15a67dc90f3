//! Verification by several threads: chunks are read and digested side by side.

use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::digests::CHUNK;
use crate::reader::{Archive, Entry, ReadError, Verified};

/// Chunks that one thread takes at a time: neighbours, so that the disk is read forward.
const TAKEN: usize = 4;

impl Archive {
    /// As [`Archive::verify`], of the entries that `wanted` chooses, by `threads` threads. Which of
    /// several damaged stretches is named is not said.
    ///
    /// # Errors
    /// As [`Archive::verify`].
    pub fn verify_chosen(
        &self,
        threads: usize,
        wanted: &dyn Fn(&Entry) -> bool,
    ) -> Result<Verified, ReadError> {
        if self.id().is_none() {
            return Ok(Verified::default());
        }
        let entries: Vec<&Entry> = self.entries().iter().filter(|entry| wanted(entry)).collect();
        // The table of digests has none of itself; it was checked at the opening.
        let own = |entry: &&&Entry| entry.name != crate::digests::DIGESTS_NAME;
        let mut work = Vec::new();
        let mut done = Verified::default();
        for entry in entries.iter().filter(own) {
            let chunks = self.chunk_count(entry);
            work.extend((0..chunks).step_by(TAKEN).map(|first| (*entry, first, chunks)));
            self.check_padding(entry)?;
            done.entries += 1;
            done.bytes += entry.size;
        }
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let run = || {
            let mut buffer = vec![0; CHUNK as usize];
            while let Some((entry, first, chunks)) = work.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let range = *first..(*first + TAKEN).min(*chunks);
                let outcome = { range }.try_for_each(|at| self.check_chunk(entry, at, &mut buffer));
                if let Err(error) = outcome {
                    next.store(work.len(), Ordering::Relaxed);
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads.min(work.len()) {
                // Without another thread it only takes longer.
                let _ = std::thread::Builder::new().name("verify".into()).spawn_scoped(scope, run);
            }
            run();
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(done),
        }
    }

    fn check_chunk(&self, entry: &Entry, index: usize, buffer: &mut [u8]) -> Result<(), ReadError> {
        let range = self.chunk(entry, index);
        let bytes = &mut buffer[..(range.end - range.start) as usize];
        self.file()
            .read_exact_at(bytes, entry.offset + range.start)
            .map_err(|source| ReadError::Io { path: self.path().into(), action: "read", source })?;
        self.check(entry, index, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::ArchiveWriter;
    use std::path::{Path, PathBuf};

    fn archive(folder: &Path) -> PathBuf {
        let mut writer = ArchiveWriter::create(folder).unwrap();
        for (name, len) in [("small", 100), ("large", 7 * CHUNK as usize + 5), ("other", 0)] {
            let bytes: Vec<u8> = (0..len).map(|n| (n % 253) as u8).collect();
            writer.put(name, &bytes, 0o600).unwrap();
        }
        writer.finish("a.tar".as_ref()).unwrap().path
    }

    #[test]
    fn threads_see_what_one_sees() {
        let folder = tempfile::tempdir().unwrap();
        let path = archive(folder.path());
        let opened = Archive::open(&path).unwrap();
        let alone = opened.verify(&mut |_| {}).unwrap();
        for threads in [1, 2, 5] {
            assert_eq!(opened.verify_chosen(threads, &|_| true).unwrap(), alone);
        }
        let large = opened.entry("large").unwrap().clone();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"!", large.offset + 5 * CHUNK + 17).unwrap();
        for threads in [1, 2, 5] {
            let error = opened.verify_chosen(threads, &|_| true).unwrap_err().to_string();
            assert!(error.contains("\"large\" is damaged"), "{error}");
            assert!(error.contains(&(large.offset + 5 * CHUNK).to_string()), "{error}");
            opened.verify_chosen(threads, &|entry| entry.name != "large").unwrap();
        }
    }
}
