//! Memory that outlives the process that writes it: an anonymous file (memfd_create(2)), mapped and
//! shared by copies of a process.
//!
//! What a process has put there, and what a system call has put there on its behalf, is seen by the
//! others even when it is killed right afterwards.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::check;

/// The mapping. Copies of the process have it as well.
#[derive(Debug)]
pub struct Shared {
    at: *mut u8,
    len: usize,
    _file: OwnedFd,
}

// SAFETY: all access is by atomic words, or by the kernel through read(2).
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Makes `len` bytes of zeros, a multiple of the page size. Memory is used as they are written.
    ///
    /// # Errors
    /// Those of memfd_create(2), ftruncate(2) and mmap(2).
    pub fn new(len: usize) -> io::Result<Self> {
        // SAFETY: the name is a literal that ends in NUL.
        let fd =
            check(unsafe { libc::memfd_create(c"filler".as_ptr(), libc::MFD_CLOEXEC) }.into())?;
        // SAFETY: `fd` was just returned by the kernel and nobody else owns it.
        let file = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        // SAFETY: plain numbers.
        check(unsafe { libc::ftruncate(file.as_raw_fd(), len as libc::off_t) }.into())?;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let at = unsafe {
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { at: at.cast(), len, _file: file })
    }

    /// Words of 64 bits in it.
    #[must_use]
    pub fn words(&self) -> usize {
        self.len / 8
    }

    /// A word.
    ///
    /// # Panics
    /// When there is no such word.
    #[must_use]
    pub fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.words(), "word {index} of {}", self.words());
        // SAFETY: inside the mapping, which lives as long as `self`; aligned; only used atomically.
        unsafe { AtomicU64::from_ptr(self.at.cast::<u64>().add(index)) }
    }

    /// Reads from a descriptor straight into the words from `index` on. Either nothing is read, or
    /// what was read is there, however soon the process is killed; the page is written to before, so
    /// that the kernel need not fetch it with the message in its hands.
    ///
    /// # Errors
    /// Those of read(2).
    ///
    /// # Panics
    /// When there are not so many words.
    pub fn read(&self, from: BorrowedFd<'_>, index: usize, bytes: usize) -> io::Result<usize> {
        assert!(index * 8 + bytes <= self.len, "{bytes} bytes at word {index}");
        for touched in [index, (index * 8 + bytes - 1) / 8] {
            self.word(touched).fetch_or(0, Ordering::SeqCst);
        }
        // SAFETY: the bytes are inside the mapping.
        let got = check(unsafe {
            libc::read(from.as_raw_fd(), self.at.add(index * 8).cast(), bytes) as i64
        })?;
        Ok(got as usize)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nothing borrowed from it is left.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_read_lands_in_the_words() {
        let shared = Shared::new(4096).unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&write, &7u64.to_le_bytes()).unwrap();
        assert_eq!(shared.read(read.as_fd(), 3, 8).unwrap(), 8);
        assert_eq!(shared.word(3).load(Ordering::SeqCst), 7);
        assert_eq!(shared.word(4).load(Ordering::SeqCst), 0);
    }
}
