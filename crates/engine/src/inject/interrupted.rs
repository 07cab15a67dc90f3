//! Interrupted system calls and restartable sequences: what a stopped thread was in the middle of.
//!
//! A thread stopped in a blocking call has `orig_rax >= 0` and one of the kernel's internal restart
//! codes in %rax. The kernel turns it into a restart or EINTR when the thread goes on, but only
//! from the registers, so whoever moves registers elsewhere (a signal frame, an image) has to do
//! that turn himself. Rules: arch_do_signal_or_restart() of arch/x86/kernel/signal.c.

use std::io;

use cryopod_sys::ptrace::{self, Registers};

use super::Space;

const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;

/// Length of the `syscall` instruction, by which %rip goes back for a restart.
const SYSCALL_LEN: u64 = 2;

/// Calls that answer EINTR to a stop although nothing has happened.
const WAITS: &[i64] = &[
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_accept,
    libc::SYS_accept4,
];

/// FUTEX_WAIT_BITSET and its flag for the clock; their time-out is absolute.
const FUTEX_WAIT_BITSET: u64 = 9;
const FUTEX_LOCK_PI: u64 = 6;
const FUTEX_WAIT_REQUEUE_PI: u64 = 11;
const FUTEX_COMMAND: u64 = 0x7f;

/// How an interrupted call was resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// The thread was not in a call that wants a restart.
    None,
    /// The call begins again with the same arguments, which is what the kernel would do.
    Restarted,
    /// The call ends with EINTR: its remaining time is known to the kernel only.
    Interrupted,
}

/// Turns the restart code of an interrupted call into registers that need no kernel state.
///
/// A call with an absolute time-out (futex) begins again even where the kernel would use its
/// restart block: the effect is the same. clock_nanosleep with TIMER_ABSTIME never uses one.
pub fn resolve(regs: &mut Registers) -> Resolution {
    if (regs.orig_rax as i64) < 0 {
        return Resolution::None;
    }
    let restart = |regs: &mut Registers| {
        regs.rax = regs.orig_rax;
        regs.rip -= SYSCALL_LEN;
        Resolution::Restarted
    };
    let resolution = match regs.rax as i64 {
        ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND => restart(regs),
        ERESTART_RESTARTBLOCK if absolute_timeout(regs) => restart(regs),
        ERESTART_RESTARTBLOCK => {
            regs.rax = -i64::from(libc::EINTR) as u64;
            Resolution::Interrupted
        }
        _ => Resolution::None,
    };
    regs.orig_rax = u64::MAX;
    resolution
}

/// A call that begins again with the same effect: its time-out is absolute, or it has none.
fn absolute_timeout(regs: &Registers) -> bool {
    match regs.orig_rax as i64 {
        libc::SYS_futex => matches!(
            regs.rsi & FUTEX_COMMAND,
            FUTEX_WAIT_BITSET | FUTEX_LOCK_PI | FUTEX_WAIT_REQUEUE_PI
        ),
        // poll(2): a negative number of milliseconds.
        libc::SYS_poll => (regs.rdx as i32) < 0,
        _ => false,
    }
}

/// Keeps a stop of ours from ending a wait: epoll_wait(2), sigwaitinfo(2), semop(2) and sockets with
/// a time-out answer EINTR to any stop (signal(7)), which a program without signal handlers does not
/// expect. With the kernel's own restart code in its place the call begins again, its time-out anew,
/// or ends with EINTR should a handler run first. Only calls that have done nothing when they answer
/// EINTR. To be used on a thread in PTRACE_EVENT_STOP, before it has dealt with any signal.
pub fn undisturb(regs: &mut Registers) {
    if regs.rax as i64 == -i64::from(libc::EINTR) && WAITS.contains(&(regs.orig_rax as i64)) {
        regs.rax = ERESTARTNOHAND as u64;
    }
}

/// Whether %rax holds one of the kernel's restart codes.
#[must_use]
pub fn is_restartable(regs: &Registers) -> bool {
    (regs.orig_rax as i64) >= 0
        && matches!(
            regs.rax as i64,
            ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND | ERESTART_RESTARTBLOCK
        )
}

/// Moves a thread that is inside a restartable sequence to its abort handler, as the kernel does on
/// preemption: the sequence is lost once the thread runs anything else, and put back into it, it
/// would finish it unprotected. The pointer to the sequence is left to the kernel, which clears it
/// when the thread runs on: cleared here, it would be missing should the engine die before the
/// thread has its new %rip.
///
/// # Errors
/// Those of ptrace and of reading the sequence's descriptor.
pub fn abort_rseq(space: &Space, tid: i32, regs: &mut Registers) -> io::Result<()> {
    let rseq = match ptrace::rseq(tid) {
        Ok(rseq) => rseq,
        // A kernel without CONFIG_RSEQ or before 5.13.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EIO | libc::EINVAL)) => return Ok(()),
        Err(e) => return Err(e),
    };
    if rseq.address == 0 {
        return Ok(());
    }
    // struct rseq: cpu_id_start, cpu_id (4 bytes each), then the pointer to the descriptor.
    let descriptor = space.read_u64(rseq.address + 8)?;
    if descriptor == 0 {
        return Ok(());
    }
    // struct rseq_cs: version, flags (4 bytes each), start, length, abort.
    let start = space.read_u64(descriptor + 8)?;
    let length = space.read_u64(descriptor + 16)?;
    if regs.rip.wrapping_sub(start) < length {
        regs.rip = space.read_u64(descriptor + 24)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regs(nr: i64, ret: i64, rsi: u64) -> Registers {
        Registers {
            orig_rax: nr as u64,
            rax: ret as u64,
            rsi,
            rip: 0x1002,
            r15: 0,
            r14: 0,
            r13: 0,
            r12: 0,
            rbp: 0,
            rbx: 0,
            r11: 0,
            r10: 0,
            r9: 0,
            r8: 0,
            rcx: 0,
            rdx: 0,
            rdi: 0,
            cs: 0,
            eflags: 0,
            rsp: 0,
            ss: 0,
            fs_base: 0,
            gs_base: 0,
            ds: 0,
            es: 0,
            fs: 0,
            gs: 0,
        }
    }

    #[test]
    fn restartable_calls_begin_again() {
        let mut r = regs(libc::SYS_read, ERESTARTSYS, 0);
        assert_eq!(resolve(&mut r), Resolution::Restarted);
        assert_eq!((r.rip, r.rax as i64), (0x1000, libc::SYS_read));
    }

    #[test]
    fn relative_sleep_ends_with_eintr_and_absolute_wait_begins_again() {
        let mut r = regs(libc::SYS_nanosleep, ERESTART_RESTARTBLOCK, 0);
        assert_eq!(resolve(&mut r), Resolution::Interrupted);
        assert_eq!(r.rax as i64, -i64::from(libc::EINTR));
        let mut r = regs(libc::SYS_futex, ERESTART_RESTARTBLOCK, 0x80 | FUTEX_WAIT_BITSET);
        assert_eq!(resolve(&mut r), Resolution::Restarted);
    }

    #[test]
    fn a_stop_ends_no_wait_but_other_calls_keep_their_answer() {
        let eintr = -i64::from(libc::EINTR);
        let mut r = regs(libc::SYS_epoll_wait, eintr, 0);
        undisturb(&mut r);
        assert_eq!(r.rax as i64, ERESTARTNOHAND);
        for (call, answer) in [(libc::SYS_close, eintr), (libc::SYS_epoll_wait, 1)] {
            let mut r = regs(call, answer, 0);
            undisturb(&mut r);
            assert_eq!(r.rax as i64, answer);
        }
    }

    #[test]
    fn a_result_that_is_no_restart_code_stays() {
        let mut r = regs(libc::SYS_read, 17, 0);
        assert_eq!(resolve(&mut r), Resolution::None);
        assert_eq!((r.rip, r.rax), (0x1002, 17));
    }
}
