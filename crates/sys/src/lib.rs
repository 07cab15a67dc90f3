//! The kernel: system calls, ioctls, ptrace requests and netlink dumps.
//!
//! This crate is the home of `unsafe`: every wrapper here is a thin, typed, safe function over one
//! kernel interface, without policy. Errors are [`std::io::Error`] values that carry the errno; the
//! caller knows the pid or path and adds it. Where rustix has a wrapper the callers use rustix
//! itself; what it lacks is here.
#![allow(unsafe_code, reason = "the one crate that talks to the kernel directly")]

pub mod bpf;
pub mod diag;
pub mod events;
pub mod fcntl;
pub mod filter;
pub mod handle;
pub mod message;
pub mod missing;
pub mod mount;
pub mod namespace;
pub mod pagemap;
pub mod process;
pub mod ptrace;
pub mod revise;
pub mod sched;
pub mod shared;
pub mod signal;
pub mod socket;
pub mod spawn;
pub mod userfaultfd;
pub mod wait;
pub mod writeback;

use std::io;

/// Turns the return value of a libc call into a result: -1 becomes `errno`.
pub(crate) fn check(ret: i64) -> io::Result<i64> {
    if ret == -1 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}
