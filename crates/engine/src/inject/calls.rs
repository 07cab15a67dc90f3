//! System calls of the target that the engine needs, typed.

use std::io;

use super::{Remote, Space};

/// Memory in the target that belongs to the engine: arguments, results and frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scratch {
    /// First address.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Remote {
    /// mmap(2).
    ///
    /// # Errors
    /// The call's.
    pub fn mmap(
        &mut self,
        at: u64,
        len: u64,
        prot: i32,
        flags: i32,
        fd: i32,
        offset: u64,
    ) -> io::Result<u64> {
        self.call(
            libc::SYS_mmap,
            [at, len, prot as u64, flags as u64, i64::from(fd) as u64, offset],
        )
    }

    /// munmap(2).
    ///
    /// # Errors
    /// The call's.
    pub fn munmap(&mut self, at: u64, len: u64) -> io::Result<()> {
        self.call(libc::SYS_munmap, [at, len, 0, 0, 0, 0]).map(drop)
    }

    /// mprotect(2).
    ///
    /// # Errors
    /// The call's.
    pub fn mprotect(&mut self, at: u64, len: u64, prot: u32) -> io::Result<()> {
        self.call(libc::SYS_mprotect, [at, len, u64::from(prot), 0, 0, 0]).map(drop)
    }

    /// madvise(2).
    ///
    /// # Errors
    /// The call's.
    pub fn madvise(&mut self, at: u64, len: u64, advice: i32) -> io::Result<()> {
        self.call(libc::SYS_madvise, [at, len, advice as u64, 0, 0, 0]).map(drop)
    }

    /// mremap(2) to a fixed place.
    ///
    /// # Errors
    /// The call's.
    pub fn move_mapping(&mut self, from: u64, len: u64, to: u64) -> io::Result<()> {
        let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
        self.call(libc::SYS_mremap, [from, len, len, flags, to, 0]).map(drop)
    }

    /// prctl(2) with plain arguments.
    ///
    /// # Errors
    /// The call's.
    pub fn prctl(&mut self, option: i32, args: [u64; 4]) -> io::Result<u64> {
        self.call(libc::SYS_prctl, [option as u64, args[0], args[1], args[2], args[3], 0])
    }

    /// close(2).
    ///
    /// # Errors
    /// The call's.
    pub fn close(&mut self, fd: i32) -> io::Result<()> {
        self.call(libc::SYS_close, [fd as u64, 0, 0, 0, 0, 0]).map(drop)
    }

    /// dup3(2).
    ///
    /// # Errors
    /// The call's.
    pub fn dup(&mut self, from: i32, to: i32, flags: i32) -> io::Result<()> {
        self.call(libc::SYS_dup3, [from as u64, to as u64, flags as u64, 0, 0, 0]).map(drop)
    }

    /// Runs a call whose result is `N` bytes written at the start of `scratch`; the scratch address
    /// takes the place of argument `slot`.
    ///
    /// # Errors
    /// The call's.
    pub fn call_out<const N: usize>(
        &mut self,
        space: &Space,
        scratch: Scratch,
        number: i64,
        mut args: [u64; 6],
        slot: usize,
    ) -> io::Result<[u8; N]> {
        args[slot] = scratch.at;
        self.call(number, args)?;
        let mut out = [0; N];
        space.read(scratch.at, &mut out)?;
        Ok(out)
    }

    /// Runs a call that reads `bytes`, put at the start of `scratch`; the scratch address takes the
    /// place of argument `slot`.
    ///
    /// # Errors
    /// The call's.
    pub fn call_in(
        &mut self,
        space: &Space,
        scratch: Scratch,
        number: i64,
        mut args: [u64; 6],
        slot: usize,
        bytes: &[u8],
    ) -> io::Result<u64> {
        if bytes.len() as u64 > scratch.len {
            return Err(io::Error::other("argument larger than the engine's scratch memory"));
        }
        space.write(scratch.at, bytes)?;
        args[slot] = scratch.at;
        self.call(number, args)
    }
}
