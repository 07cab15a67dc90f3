//! /proc/PID/stat: session, flags, layout of the address space.

use super::{malformed, read};
use crate::error::DumpError;

/// What the engine takes from a stat file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// State letter.
    pub state: u8,
    /// Parent's pid.
    pub ppid: i32,
    /// Process group, 0 when outside the reader's pid namespace.
    pub pgid: i32,
    /// Session, 0 when outside the reader's pid namespace.
    pub sid: i32,
    /// Device number of the controlling terminal; 0: none.
    pub tty: i32,
    /// PF_* flags.
    pub flags: u64,
    /// Nice value.
    pub nice: i32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
    /// Bounds of the program text.
    pub start_code: u64,
    /// Bounds of the program text.
    pub end_code: u64,
    /// Bottom of the stack.
    pub start_stack: u64,
    /// Wait status of a zombie, as wait(2) gives it.
    pub exit_code: i32,
    /// Signal sent to the parent at exit.
    pub exit_signal: i32,
    /// Bounds of initialised and uninitialised data.
    pub start_data: u64,
    /// Bounds of initialised and uninitialised data.
    pub end_data: u64,
    /// Start of the heap.
    pub start_brk: u64,
    /// Argument area.
    pub arg_start: u64,
    /// Argument area.
    pub arg_end: u64,
    /// Environment area.
    pub env_start: u64,
    /// Environment area.
    pub env_end: u64,
    /// Realtime priority.
    pub rt_priority: u32,
    /// SCHED_* policy.
    pub policy: u32,
}

fn parse(text: &[u8]) -> Option<Stat> {
    // comm may hold anything, parentheses and spaces included: the last one ends it.
    let close = text.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(text.get(close + 2..)?).ok()?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // proc(5) counts from 1; field 3 is the first after comm.
    let at = |n: usize| fields.get(n - 3).copied();
    let num = |n: usize| at(n)?.parse::<i64>().ok();
    // Addresses do not fit i64 in general.
    let addr = |n: usize| at(n)?.parse::<u64>().ok();
    Some(Stat {
        state: *at(3)?.as_bytes().first()?,
        ppid: i32::try_from(num(4)?).ok()?,
        pgid: i32::try_from(num(5)?).ok()?,
        sid: i32::try_from(num(6)?).ok()?,
        tty: i32::try_from(num(7)?).ok()?,
        flags: addr(9)?,
        nice: i32::try_from(num(19)?).ok()?,
        start_time: addr(22)?,
        start_code: addr(26)?,
        end_code: addr(27)?,
        start_stack: addr(28)?,
        exit_signal: i32::try_from(num(38)?).ok()?,
        rt_priority: u32::try_from(num(40)?).ok()?,
        policy: u32::try_from(num(41)?).ok()?,
        start_data: addr(45)?,
        end_data: addr(46)?,
        start_brk: addr(47)?,
        arg_start: addr(48)?,
        arg_end: addr(49)?,
        env_start: addr(50)?,
        env_end: addr(51)?,
        exit_code: i32::try_from(num(52)?).ok()?,
    })
}

/// Reads the stat of a thread.
///
/// # Errors
/// [`DumpError::Proc`].
pub fn of(pid: i32, tid: i32) -> Result<Stat, DumpError> {
    let name = format!("{pid}/task/{tid}/stat");
    parse(&read(&name)?).ok_or_else(|| malformed(&name, "a field is missing or malformed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comm_may_hold_parentheses() {
        let mut text = b"7 (a) b) S 1 7 7 0 -1 4194304 ".to_vec();
        text.extend(std::iter::repeat_n(&b"5 "[..], 43).flatten());
        let stat = parse(&text).unwrap();
        assert_eq!(stat.tty, 0);
        assert_eq!((stat.state, stat.ppid, stat.sid), (b'S', 1, 7));
    }

    #[test]
    fn reads_itself() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let stat = of(pid, pid).unwrap();
        assert!(stat.start_stack != 0 && stat.arg_start < stat.arg_end);
    }
}
