//! Seccomp filters: seccomp(2), Linux 3.17.

use std::io;

use crate::check;

/// One instruction of a classic BPF program (struct sock_filter).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// How many instructions to skip when a comparison holds.
    pub jt: u8,
    /// How many when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Log every action other than allow.
pub const FLAG_LOG: u32 = 2;
/// Leave speculative store bypass as it is.
pub const FLAG_SPEC_ALLOW: u32 = 4;

/// Adds a filter to the calling thread, for good.
///
/// # Errors
/// EACCES without CAP_SYS_ADMIN and without no_new_privs, EINVAL for a program the kernel refuses.
pub fn install(program: &[Instruction], flags: u32) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: *const Instruction,
    }
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = Program { length, instructions: program.as_ptr() };
    // SAFETY: `program` has the layout of struct sock_fprog and points to `length` instructions
    // that live across the call.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    })
    .map(drop)
}
