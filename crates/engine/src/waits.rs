//! Relative waits: nanosleep, clock_nanosleep, poll and futex with a time-out that runs.
//!
//! Interrupted, such a call leaves its end in the thread's restart block, which no interface shows.
//! Dump: the block is read from the kernel by a BPF iterator ([`cryopod_sys::bpf`]), at an offset from
//! the kernel's own type information; what remains of the time is kept. Restore: the thread makes the
//! call anew with that time and is interrupted at once, so that the kernel has a restart block for it;
//! with the program's registers back, the kernel takes it up as after any stop
//! (include/linux/restart_block.h, kernel/signal.c). Where the block cannot be read, such a call ends
//! with EINTR after a restore.

use std::io;
use std::sync::OnceLock;

use cryopod_images::msg;
use cryopod_sys::bpf::{Piece, Shown, TaskReader};
use cryopod_sys::ptrace::Registers;
use rustix::time::{ClockId, clock_gettime};

use crate::inject::calls::Scratch;
use crate::inject::{Remote, Space};
use crate::proc::{self, btf};

/// Inode of the initial time namespace (PROC_TIME_INIT_INO): restart blocks have its clocks.
const INITIAL_TIME: &str = "time:[4026531834]";
const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;
/// What an interrupted wait returns inside the kernel.
pub const ERESTART_RESTARTBLOCK: i64 = -516;

/// Where the members lie in `struct restart_block`.
#[derive(Debug, Clone, Copy)]
struct Layout {
    futex_time: usize,
    sleep_clock: usize,
    sleep_expires: usize,
    poll_limited: usize,
    poll_seconds: usize,
    poll_nanoseconds: usize,
}

/// Reads what remains of waits.
#[derive(Debug)]
pub struct Waits {
    reader: TaskReader,
    layout: Layout,
}

impl Waits {
    /// The reader of this process, prepared at the first call, which takes some milliseconds: for
    /// before the freeze. `None` where the kernel does not let us.
    #[must_use]
    pub fn prepared() -> Option<&'static Self> {
        static PREPARED: OnceLock<Option<Waits>> = OnceLock::new();
        PREPARED.get_or_init(Self::prepare).as_ref()
    }

    fn prepare() -> Option<Self> {
        // Seen from another time namespace the clocks have offsets.
        if proc::link("self/ns/time").ok()?.to_str()? != INITIAL_TIME {
            return None;
        }
        let btf = btf::kernel()?;
        let (_, task) = btf.structure("task_struct", 1)?;
        let (size, block) = btf.structure("restart_block", 3)?;
        let at = |names: &[&str]| {
            names.iter().find_map(|name| block.get(*name)).map(|offset| *offset as usize)
        };
        let layout = Layout {
            futex_time: at(&["futex.time"])?,
            sleep_clock: at(&["nanosleep.clockid"])?,
            sleep_expires: at(&["nanosleep.expires"])?,
            poll_limited: at(&["poll.has_timeout"])?,
            // In a structure of its own on newer kernels.
            poll_seconds: at(&["poll.tv_sec", "poll.end_time.tv_sec"])?,
            poll_nanoseconds: at(&["poll.tv_nsec", "poll.end_time.tv_nsec"])?,
        };
        let offset = *task.get("restart_block")?;
        let iterator = btf.function("bpf_iter_task")?;
        let piece = Piece { through: None, offset, len: size };
        let reader = TaskReader::load(Shown::Task, iterator, &[piece]).ok()?;
        Some(Self { reader, layout })
    }

    /// The restart block of a stopped thread, to be compared with a later one.
    #[must_use]
    pub fn block(&self, tid: i32) -> Option<Vec<u8>> {
        self.reader.read(tid).ok()
    }

    /// What remains of the relative wait a stopped thread was interrupted in; `None` for other calls.
    /// Of futex(2) only the waits with a relative time-out come here.
    #[must_use]
    pub fn remaining(&self, tid: i32, regs: &Registers) -> Option<msg::WaitEntry> {
        if regs.rax as i64 != ERESTART_RESTARTBLOCK {
            return None;
        }
        let block = self.reader.read(tid).ok()?;
        let layout = self.layout;
        let number = |at: usize| block.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let small = |at: usize| block.get(at..at + 4)?.try_into().ok().map(i32::from_le_bytes);
        let (clock, end) = match regs.orig_rax as i64 {
            libc::SYS_nanosleep | libc::SYS_clock_nanosleep => {
                (clock(small(layout.sleep_clock)?)?, number(layout.sleep_expires)?)
            }
            libc::SYS_poll if small(layout.poll_limited)? != 0 => {
                let seconds = number(layout.poll_seconds)?.checked_mul(SECOND)?;
                (ClockId::Monotonic, seconds.checked_add(number(layout.poll_nanoseconds)?)?)
            }
            libc::SYS_futex => (ClockId::Monotonic, number(layout.futex_time)?),
            _ => return None,
        };
        let now = clock_gettime(clock);
        let now = (now.tv_sec as u64) * SECOND + now.tv_nsec as u64;
        Some(msg::WaitEntry { call: regs.orig_rax as u32, left: end.saturating_sub(now) })
    }
}

fn clock(id: i32) -> Option<ClockId> {
    Some(match id {
        libc::CLOCK_REALTIME => ClockId::Realtime,
        libc::CLOCK_MONOTONIC => ClockId::Monotonic,
        libc::CLOCK_BOOTTIME => ClockId::Boottime,
        libc::CLOCK_TAI => ClockId::Tai,
        _ => return None,
    })
}

/// Brings a restored thread into its wait again; `None` when it was in none. The answer is what the
/// call returned inside the kernel, to be put into the program's registers by [`resume`]: nothing
/// else may use the restart block afterwards.
///
/// # Errors
/// Those of the remote call; `InvalidData` for a call that is no wait.
pub fn restore(
    entry: Option<&msg::WaitEntry>,
    regs: &Registers,
    remote: &mut Remote,
    space: &Space,
    scratch: Scratch,
) -> io::Result<Option<i64>> {
    let Some(entry) = entry else { return Ok(None) };
    let time = [entry.left / SECOND, entry.left % SECOND];
    let bytes: Vec<u8> = time.iter().flat_map(|part| part.to_le_bytes()).collect();
    space.write(scratch.at, &bytes)?;
    let call = i64::from(entry.call);
    let args = match call {
        libc::SYS_nanosleep => [scratch.at, regs.rsi, 0, 0, 0, 0],
        libc::SYS_clock_nanosleep => [regs.rdi, regs.rsi, scratch.at, regs.r10, 0, 0],
        libc::SYS_poll => {
            let whole = entry.left.div_ceil(MILLISECOND).min(i32::MAX as u64);
            [regs.rdi, regs.rsi, whole, 0, 0, 0]
        }
        libc::SYS_futex => [regs.rdi, regs.rsi, regs.rdx, scratch.at, regs.r8, regs.r9],
        _ => {
            let what = format!("system call {call} is no relative wait");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
    };
    remote.call_interrupted(call, args).map(Some)
}

/// Puts the answer of [`restore`] into the program's registers.
pub fn resume(entry: Option<&msg::WaitEntry>, answer: Option<i64>, regs: &mut Registers) {
    let (Some(entry), Some(answer)) = (entry, answer) else { return };
    regs.rax = answer as u64;
    // Only an interrupted call is taken up again by the kernel; any other has ended.
    regs.orig_rax = if answer == ERESTART_RESTARTBLOCK { u64::from(entry.call) } else { u64::MAX };
}
