//! Signals: actions, masks, alternate stacks, what is pending.
//!
//! Pending signals are copied with PTRACE_PEEKSIGINFO, without taking them. At restore they are
//! queued again by the task itself: only a process may send itself any siginfo (rt_sigqueueinfo(2)).

use std::io;

use cryopod_images::msg;
use cryopod_sys::ptrace::{self, SigInfo};

use crate::inject::calls::Scratch;
use crate::inject::{Remote, Space};

/// Highest signal number.
const SIGNALS: i32 = 64;
/// Size of the kernel's signal set in bytes.
const SET: u64 = 8;

fn has_action(signal: i32) -> bool {
    signal != libc::SIGKILL && signal != libc::SIGSTOP
}

/// Signal actions of the task, in the image's order: 1..=64 without SIGKILL and SIGSTOP. `caught`
/// and `ignored` are the sets of /proc/PID/status; an action in neither may still carry flags, so
/// every one is asked for.
///
/// # Errors
/// Those of the remote calls.
pub fn dump_actions(
    remote: &mut Remote,
    space: &Space,
    scratch: Scratch,
) -> io::Result<Vec<msg::SaEntry>> {
    let mut actions = Vec::with_capacity(62);
    for signal in (1..=SIGNALS).filter(|s| has_action(*s)) {
        let out: [u8; 32] = remote.call_out(
            space,
            scratch,
            libc::SYS_rt_sigaction,
            [signal as u64, 0, 0, SET, 0, 0],
            2,
        )?;
        let word = |at: usize| out[at * 8..at * 8 + 8].try_into().map_or(0, u64::from_le_bytes);
        actions.push(msg::SaEntry {
            sigaction: word(0),
            flags: word(1),
            restorer: word(2),
            mask: word(3),
            compat_sigaction: Some(false),
            mask_extended: None,
        });
    }
    Ok(actions)
}

/// Sets all signal actions of the task.
///
/// # Errors
/// Those of the remote calls.
pub fn restore_actions(
    actions: &[msg::SaEntry],
    remote: &mut Remote,
    space: &Space,
    scratch: Scratch,
) -> io::Result<()> {
    for (signal, action) in (1..=SIGNALS).filter(|s| has_action(*s)).zip(actions) {
        let mut bytes = [0u8; 32];
        let words = [action.sigaction, action.flags, action.restorer, action.mask];
        for (at, word) in words.into_iter().enumerate() {
            bytes[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        remote.call_in(
            space,
            scratch,
            libc::SYS_rt_sigaction,
            [signal as u64, 0, 0, SET, 0, 0],
            1,
            &bytes,
        )?;
    }
    Ok(())
}

/// The alternate signal stack of a thread.
///
/// # Errors
/// Those of the remote call.
pub fn dump_alternate_stack(
    remote: &mut Remote,
    space: &Space,
    scratch: Scratch,
) -> io::Result<msg::ThreadSasEntry> {
    let out: [u8; 24] =
        remote.call_out(space, scratch, libc::SYS_sigaltstack, [0, 0, 0, 0, 0, 0], 1)?;
    let word = |at: usize| out[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    Ok(msg::ThreadSasEntry { ss_sp: word(0), ss_flags: word(8) as u32, ss_size: word(16) })
}

/// Sets the alternate signal stack of a thread. A thread that was running on it is not on it
/// during the remote call, so the setting is always accepted.
///
/// # Errors
/// Those of the remote call.
pub fn restore_alternate_stack(
    sas: &msg::ThreadSasEntry,
    remote: &mut Remote,
    space: &Space,
    scratch: Scratch,
) -> io::Result<()> {
    let mut bytes = [0u8; 24];
    bytes[0..8].copy_from_slice(&sas.ss_sp.to_le_bytes());
    // SS_ONSTACK is a report, not a setting.
    let flags = sas.ss_flags & !(libc::SS_ONSTACK as u32);
    bytes[8..12].copy_from_slice(&flags.to_le_bytes());
    bytes[16..24].copy_from_slice(&sas.ss_size.to_le_bytes());
    remote.call_in(space, scratch, libc::SYS_sigaltstack, [0, 0, 0, 0, 0, 0], 0, &bytes).map(drop)
}

/// Pending signals of a thread, or of its process when `shared`.
///
/// # Errors
/// Those of ptrace.
pub fn dump_pending(tid: i32, shared: bool) -> io::Result<msg::SignalQueueEntry> {
    let signals = ptrace::pending_signals(tid, shared)?
        .iter()
        .map(|info| msg::SiginfoEntry { siginfo: info.to_vec() })
        .collect();
    Ok(msg::SignalQueueEntry { signals })
}

/// Queues pending signals again, by the thread itself. `own` is its pid and, for a thread's own
/// queue, its tid, both as the thread sees them.
///
/// # Errors
/// Those of the remote call; a siginfo of the wrong size.
pub fn restore_pending(
    queue: &msg::SignalQueueEntry,
    own: (i32, Option<i32>),
    remote: &mut Remote,
    space: &Space,
    scratch: Scratch,
) -> io::Result<()> {
    for entry in &queue.signals {
        let info: &SigInfo =
            entry.siginfo.as_slice().try_into().map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidData, "siginfo is not 128 bytes")
            })?;
        let signal = i32::from_le_bytes([info[0], info[1], info[2], info[3]]) as u64;
        let (pid, tid) = own;
        match tid {
            None => remote.call_in(
                space,
                scratch,
                libc::SYS_rt_sigqueueinfo,
                [pid as u64, signal, 0, 0, 0, 0],
                2,
                info,
            )?,
            Some(tid) => remote.call_in(
                space,
                scratch,
                libc::SYS_rt_tgsigqueueinfo,
                [pid as u64, tid as u64, signal, 0, 0, 0],
                3,
                info,
            )?,
        };
    }
    Ok(())
}
