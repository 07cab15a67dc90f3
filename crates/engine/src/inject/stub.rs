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

/// Distance of the code from the end of the vDSO.
const FROM_END: u64 = 16;

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

/// Takes the stub away again.
///
/// # Errors
/// Those of writing to the process's memory.
pub fn remove(mem: &File, at: u64) -> io::Result<()> {
    mem.write_all_at(&[0; CODE.len()], at)
}
