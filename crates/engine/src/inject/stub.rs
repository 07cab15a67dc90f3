//! Nine bytes of code in the target: `syscall; mov $15,%eax; syscall`.
//!
//! They lie in the zero tail of the last page of the vDSO, written through /proc/PID/mem (the
//! kernel makes a private copy of the page). A thread parked on the first instruction has 15, the
//! number of rt_sigreturn, in %rax: whenever the tracer disappears, it restores itself from its
//! frame. The vDSO's own `syscall` instructions would not do: none is followed by a way back.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::proc::maps::Area;

/// The code: `0f 05` syscall, `b8 0f 00 00 00` mov $15,%eax, `0f 05` syscall.
pub const CODE: [u8; 9] = [0x0f, 0x05, 0xb8, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05];

/// Length of the first instruction.
pub const SYSCALL_LEN: u64 = 2;

/// Code for a call that gives a descriptor, which nobody must be left with: `0f 05` syscall, `89 c7`
/// mov %eax,%edi, `b8 03 00 00 00` mov $3 (close),%eax, `0f 05` syscall, and back as [`CODE`].
pub const CLOSING: [u8; 18] = [
    0x0f, 0x05, 0x89, 0xc7, 0xb8, 0x03, 0x00, 0x00, 0x00, 0x0f, 0x05, 0xb8, 0x0f, 0x00, 0x00, 0x00,
    0x0f, 0x05,
];

/// Where the address after the second system call of [`CLOSING`] lies in it.
pub const CLOSED_AT: u64 = 11;

/// Distance of [`CLOSING`] before [`CODE`].
const CLOSING_BEFORE: u64 = 32;

/// Distance of the code from the end of the vDSO.
const FROM_END: u64 = 16;

/// Whether an address lies in one of the two pieces of code, of which [`CODE`] is at `at`.
#[must_use]
pub fn contains(at: u64, address: u64) -> bool {
    address.wrapping_sub(at) < CODE.len() as u64
        || address.wrapping_sub(closing(at)) < CLOSING.len() as u64
}

/// Where [`CLOSING`] lies when [`CODE`] is at `at`.
#[must_use]
pub fn closing(at: u64) -> u64 {
    at - CLOSING_BEFORE
}

/// Where the stub lies or would lie in this address space.
///
/// # Errors
/// `Unsupported` when the process has no vDSO.
pub fn place(areas: &[Area]) -> io::Result<u64> {
    areas
        .iter()
        .find(|a| a.special() == Some("[vdso]"))
        .map(|vdso| vdso.end - FROM_END)
        .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "the process has no vDSO"))
}

/// Writes the stub at `at`, unless it is there already.
///
/// # Errors
/// `Unsupported` when the place is not free.
pub fn install(mem: &File, at: u64) -> io::Result<()> {
    let mut tail = [0u8; FROM_END as usize];
    mem.read_exact_at(&mut tail, at)?;
    if tail[..CODE.len()] == CODE {
        return Ok(());
    }
    if tail.iter().any(|b| *b != 0) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the last bytes of the vDSO are in use",
        ));
    }
    mem.write_all_at(&CODE, at)
}

/// Writes [`CLOSING`] before the code at `at`, unless it is there already.
///
/// # Errors
/// `Unsupported` when the place is not free.
pub fn install_closing(mem: &File, at: u64) -> io::Result<()> {
    let mut place = [0u8; CLOSING_BEFORE as usize];
    mem.read_exact_at(&mut place, closing(at))?;
    if place[..CLOSING.len()] == CLOSING {
        return Ok(());
    }
    if place.iter().any(|b| *b != 0) {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the end of the vDSO is in use"));
    }
    mem.write_all_at(&CLOSING, closing(at))
}

/// Takes the code away again.
///
/// # Errors
/// Those of reading and writing the process's memory.
pub fn remove(mem: &File, at: u64) -> io::Result<()> {
    let mut place = [0u8; CLOSING.len()];
    mem.read_exact_at(&mut place, closing(at))?;
    if place == CLOSING {
        mem.write_all_at(&[0; CLOSING.len()], closing(at))?;
    }
    mem.write_all_at(&[0; CODE.len()], at)
}
