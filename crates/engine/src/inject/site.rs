//! Room in the target for what the engine needs while it makes remote calls: arguments, results and
//! two signal frames.
//!
//! It lies at the low end of the main stack. Nothing is mapped, so an engine that is killed leaves
//! the address space as it was. Pages that were never touched are free for certain; those of a deep
//! stack are free below the stack pointer, as for the kernel's own signal frames (the red zone and
//! more stays clear). A program that has moved its first thread to another stack may still have
//! data there, so touched pages are then refused, unless they are all zero or hold the mark of an
//! engine that died.

use std::io;
use std::os::unix::fs::FileExt;

use cryopod_sys::process;

use super::calls::Scratch;
use super::{Space, frame};
use crate::areas::PAGE;
use crate::proc::maps::{self, Area};
use crate::proc::stat;

/// First bytes of a site in use.
const MARK: &[u8; 16] = b"cryopod frame 1\0";
/// Arguments and results of one call.
const ARGUMENTS: u64 = 1024;
/// What stays free below the lowest stack pointer: the red zone of 128 bytes and a frame of slack.
const CLEAR: u64 = 4096;

/// Free memory at the low end of a process's main stack.
#[derive(Debug)]
pub struct Site {
    /// Arguments and results.
    pub scratch: Scratch,
    /// Where the frame of the first thread lies.
    pub first: u64,
    /// Where the frame of one other thread lies.
    pub other: u64,
    start: u64,
    saved: Vec<u8>,
}

/// The pages from `start` to `end` are neither present nor swapped (pagemap of proc(5)).
fn untouched(pid: i32, start: u64, end: u64) -> io::Result<bool> {
    const TOUCHED: u64 = 0b11 << 62;
    let pagemap = std::fs::File::open(format!("/proc/{pid}/pagemap"))?;
    let first = start / PAGE;
    let mut entries = vec![0; ((end.div_ceil(PAGE) - first) * 8) as usize];
    pagemap.read_exact_at(&mut entries, first * 8)?;
    Ok(entries.as_chunks::<8>().0.iter().all(|e| u64::from_le_bytes(*e) & TOUCHED == 0))
}

/// How far below its beginning a main stack may reach, in bytes; other stacks are further away
/// (mmap_base() of the kernel leaves at least this).
const REACH: u64 = 128 << 20;

/// Whether a stopped process has its first thread on another stack and data at the low end of its main
/// one, so that no site can be taken: the child of a fork(2) by a thread, until it has another program.
///
/// # Errors
/// Those of reading its state.
pub fn is_in_use(pid: i32) -> io::Result<bool> {
    let sp = cryopod_sys::ptrace::registers(pid)?.rsp;
    let top = stat::of(pid, pid).map_err(io::Error::other)?.start_stack;
    // On its main stack, for which nothing has to be read.
    if sp <= top && top - sp < REACH {
        return Ok(false);
    }
    let areas = maps::of(pid).map_err(io::Error::other)?;
    let Some(stack) = areas.iter().find(|a| a.special() == Some("[stack]")) else {
        return Ok(false);
    };
    let room = (frame::size(cryopod_sys::ptrace::xstate(pid)?.len()) as u64).next_multiple_of(64);
    let start = stack.start.next_multiple_of(64);
    let end = (start + 64 + ARGUMENTS + 2 * room).min(stack.end);
    if (stack.start..=stack.end).contains(&sp) || untouched(pid, start, end)? {
        return Ok(false);
    }
    let mut there = vec![0; (end - start) as usize];
    process::open_proc(pid, "mem")?.read_exact_at(&mut there, start)?;
    Ok(!there.starts_with(MARK) && there.iter().any(|byte| *byte != 0))
}

impl Site {
    /// Finds a site and takes it; `stack_pointers` are those of all threads, the first thread's
    /// first, and `xstate` is the size of the XSAVE area.
    ///
    /// # Errors
    /// `Unsupported` when there is no `[stack]` area or no room in it, and those of reading and
    /// writing the process's memory.
    pub fn take(
        space: &Space,
        areas: &[Area],
        stack_pointers: &[u64],
        xstate: usize,
    ) -> io::Result<Self> {
        let unsupported = |what: &'static str| io::Error::new(io::ErrorKind::Unsupported, what);
        let stack = areas
            .iter()
            .find(|a| a.special() == Some("[stack]"))
            .ok_or_else(|| unsupported("the process has no main stack"))?;
        let start = stack.start.next_multiple_of(64);
        let scratch = Scratch { at: start + 64, len: ARGUMENTS };
        let first = scratch.at + scratch.len;
        let room = (frame::size(xstate) as u64).next_multiple_of(64);
        let other = first + room;
        let end = other + room;
        let within = |sp: &u64| (stack.start..=stack.end).contains(sp);
        let lowest = stack_pointers.iter().copied().filter(within).min();
        if end + CLEAR > lowest.unwrap_or(stack.end) {
            return Err(unsupported("the main stack is used up to its end"));
        }
        let mut saved = vec![0; (end - start) as usize];
        if !untouched(space.pid, start, end)? {
            space.read(start, &mut saved)?;
            if saved.starts_with(MARK) {
                saved.fill(0);
            }
            let on_it = stack_pointers.first().is_some_and(within);
            if !on_it && saved.iter().any(|b| *b != 0) {
                return Err(unsupported(
                    "the first thread runs on a stack of its own and the main stack is in use",
                ));
            }
        }
        space.write(start, MARK)?;
        Ok(Self { scratch, first, other, start, saved })
    }

    /// Puts back what was there. No thread may have its frame here any more.
    ///
    /// # Errors
    /// Those of writing the process's memory.
    pub fn give_back(self, space: &Space) -> io::Result<()> {
        space.write(self.start, &self.saved)
    }
}
