//! Timers of a process: setitimer(2) and timer_create(2).
//!
//! Times left are read inside the freeze and armed again at restore just before the release. Timer
//! ids are kept: with PR_TIMER_CREATE_RESTORE_IDS (Linux 6.16), or by making and deleting timers up
//! to the wanted id.

use std::io;

use cryopod_images::msg;

use crate::inject::calls::Scratch;
use crate::inject::{Remote, Space};
use crate::proc;

/// prctl(2) option of Linux 6.16: the next timer_create takes the id it is given.
const PR_TIMER_CREATE_RESTORE_IDS: i32 = 77;
/// Timer ids tried before giving up where the kernel cannot be told the id.
const TRIES: u32 = 100_000;
/// si_code of a timer's signal (sigaction(2)).
const SI_TIMER: i32 = -2;
const SECOND: i128 = 1_000_000_000;

fn longs<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut out = [0; N];
    for (value, chunk) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *value = u64::from_le_bytes(*chunk);
    }
    out
}

fn bytes_of(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn dump_interval(
    which: u64,
    remote: &mut Remote,
    space: &Space,
    scratch: Scratch,
) -> io::Result<msg::ItimerEntry> {
    let out: [u8; 32] =
        remote.call_out(space, scratch, libc::SYS_getitimer, [which, 0, 0, 0, 0, 0], 1)?;
    let [isec, iusec, vsec, vusec] = longs(&out);
    Ok(msg::ItimerEntry { isec, iusec, vsec, vusec })
}

/// One timer of /proc/PID/timers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Described {
    id: u32,
    signal: u32,
    value: u64,
    notify: u32,
    thread: i32,
    clock: u32,
}

/// Parses /proc/PID/timers (CONFIG_CHECKPOINT_RESTORE).
fn parse(text: &str) -> Option<Vec<Described>> {
    let mut timers = Vec::new();
    for line in text.lines() {
        let (key, value) = line.split_once(':')?;
        let value = value.trim();
        if key == "ID" {
            timers.push(Described {
                id: value.parse().ok()?,
                signal: 0,
                value: 0,
                notify: 0,
                thread: 0,
                clock: 0,
            });
            continue;
        }
        let timer = timers.last_mut()?;
        match key {
            "signal" => {
                let (signal, pointer) = value.split_once('/')?;
                timer.signal = signal.parse().ok()?;
                timer.value = u64::from_str_radix(pointer.trim_start_matches("0x"), 16)
                    .ok()
                    .or_else(|| (pointer == "(null)").then_some(0))?;
            }
            "notify" => {
                let (kind, target) = value.split_once('/')?;
                timer.notify = match kind {
                    "signal" => 0,
                    "none" => 1,
                    "thread" => 2,
                    _ => return None,
                };
                if let Some(tid) = target.strip_prefix("tid.") {
                    timer.notify |= 4;
                    timer.thread = tid.parse().ok()?;
                }
            }
            // Signed in the kernel: per-thread CPU clocks are negative.
            "ClockID" => timer.clock = value.parse::<i32>().ok()? as u32,
            _ => {}
        }
    }
    Some(timers)
}

/// All timers of a process; `inside` turns a host tid into the container's.
///
/// # Errors
/// Those of the remote calls and of reading /proc.
pub fn dump(
    remote: &mut Remote,
    space: &Space,
    scratch: Scratch,
    inside: &dyn Fn(i32) -> i32,
) -> io::Result<msg::TaskTimersEntry> {
    let name = format!("{}/timers", space.pid);
    let text = proc::read(&name).map_err(io::Error::other)?;
    let described = parse(&String::from_utf8_lossy(&text))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/timers"))?;
    let mut posix = Vec::with_capacity(described.len());
    for timer in described {
        let id = u64::from(timer.id);
        let out: [u8; 32] =
            remote.call_out(space, scratch, libc::SYS_timer_gettime, [id, 0, 0, 0, 0, 0], 1)?;
        let [isec, insec, vsec, vnsec] = longs(&out);
        let overrun = remote.call_raw(libc::SYS_timer_getoverrun, [id, 0, 0, 0, 0, 0])?;
        posix.push(msg::PosixTimerEntry {
            it_id: timer.id,
            clock_id: timer.clock,
            si_signo: timer.signal,
            it_sigev_notify: timer.notify,
            sival_ptr: timer.value,
            overrun: u32::try_from(overrun).unwrap_or(0),
            isec,
            insec,
            vsec,
            vnsec,
            notify_thread_id: (timer.notify & 4 != 0).then(|| inside(timer.thread)),
        });
    }
    Ok(msg::TaskTimersEntry {
        real: dump_interval(0, remote, space, scratch)?,
        virt: dump_interval(1, remote, space, scratch)?,
        prof: dump_interval(2, remote, space, scratch)?,
        posix,
    })
}

/// Makes the timers, unarmed.
///
/// # Errors
/// Those of the remote calls.
pub fn create(
    timers: &msg::TaskTimersEntry,
    remote: &mut Remote,
    space: &Space,
    scratch: Scratch,
) -> io::Result<()> {
    let chosen =
        !timers.posix.is_empty() && remote.prctl(PR_TIMER_CREATE_RESTORE_IDS, [1, 0, 0, 0]).is_ok();
    for timer in &timers.posix {
        // struct sigevent: value, signal, notify, thread id; then where the id goes.
        let mut bytes = vec![0u8; 64];
        bytes[0..8].copy_from_slice(&timer.sival_ptr.to_le_bytes());
        bytes[8..12].copy_from_slice(&timer.si_signo.to_le_bytes());
        bytes[12..16].copy_from_slice(&timer.it_sigev_notify.to_le_bytes());
        bytes[16..20].copy_from_slice(&timer.notify_thread_id.unwrap_or(0).to_le_bytes());
        bytes.extend(timer.it_id.to_le_bytes());
        let clock = i64::from(timer.clock_id as i32) as u64;
        for _ in 0..TRIES {
            space.write(scratch.at, &bytes)?;
            remote.call(libc::SYS_timer_create, [clock, scratch.at, scratch.at + 64, 0, 0, 0])?;
            let mut id = [0u8; 4];
            space.read(scratch.at + 64, &mut id)?;
            let id = u32::from_le_bytes(id);
            if id == timer.it_id {
                break;
            }
            remote.call(libc::SYS_timer_delete, [u64::from(id), 0, 0, 0, 0, 0])?;
            if chosen || id > timer.it_id {
                return Err(io::Error::other(format!(
                    "timer id {} cannot be had, the kernel gave {id}",
                    timer.it_id
                )));
            }
        }
    }
    if chosen {
        remote.prctl(PR_TIMER_CREATE_RESTORE_IDS, [0, 0, 0, 0])?;
    }
    Ok(())
}

/// The interval timer whose expiry this pending signal tells of, when arming it can bring the
/// signal back: with the siginfo and the overrun count of the kernel's own.
fn told_by<'t>(
    signal: &msg::SiginfoEntry,
    timers: &'t msg::TaskTimersEntry,
) -> Option<&'t msg::PosixTimerEntry> {
    let word = |at: usize| signal.siginfo.get(at..at + 4)?.try_into().ok().map(i32::from_le_bytes);
    if word(8)? != SI_TIMER {
        return None;
    }
    let (number, id) = (word(0)? as u32, word(16)? as u32);
    timers.posix.iter().find(|t| {
        let (interval, left) = ((t.isec, t.insec), (t.vsec, t.vnsec));
        t.it_id == id && t.si_signo == number && interval != (0, 0) && left <= interval
    })
}

/// Leaves out the pending signals that [`arm`] brings back.
#[must_use]
pub fn without_own(
    queue: &msg::SignalQueueEntry,
    timers: Option<&msg::TaskTimersEntry>,
) -> msg::SignalQueueEntry {
    let keeps = |signal: &&msg::SiginfoEntry| timers.and_then(|t| told_by(signal, t)).is_none();
    msg::SignalQueueEntry { signals: queue.signals.iter().filter(keeps).cloned().collect() }
}

/// Arms a timer that had expired so that it expires at once and goes on in step: its last expiry
/// was one interval before the next.
fn arm_expired(
    timer: &msg::PosixTimerEntry,
    remote: &mut Remote,
    space: &Space,
    scratch: Scratch,
) -> io::Result<()> {
    const ABSOLUTE: u64 = 1;
    let clock = i64::from(timer.clock_id as i32) as u64;
    let args = [clock, 0, 0, 0, 0, 0];
    let now: [u8; 16] = remote.call_out(space, scratch, libc::SYS_clock_gettime, args, 1)?;
    let [sec, nsec] = longs(&now);
    let nanos = |sec: u64, nsec: u64| i128::from(sec) * SECOND + i128::from(nsec);
    let last = nanos(sec, nsec) + nanos(timer.vsec, timer.vnsec) - nanos(timer.isec, timer.insec);
    // A value of zero would disarm it.
    let last = last.max(1);
    let values = [timer.isec, timer.insec, (last / SECOND) as u64, (last % SECOND) as u64];
    let args = [u64::from(timer.it_id), ABSOLUTE, 0, 0, 0, 0];
    let bytes = bytes_of(&values);
    remote.call_in(space, scratch, libc::SYS_timer_settime, args, 2, &bytes).map(drop)
}

/// Arms the timers with the time they had left. `pending` are the signals of the process and its
/// threads.
///
/// # Errors
/// Those of the remote calls.
pub fn arm(
    timers: &msg::TaskTimersEntry,
    pending: &[&msg::SignalQueueEntry],
    remote: &mut Remote,
    space: &Space,
    scratch: Scratch,
) -> io::Result<()> {
    let expired: Vec<u32> = pending
        .iter()
        .flat_map(|queue| &queue.signals)
        .filter_map(|signal| told_by(signal, timers).map(|timer| timer.it_id))
        .collect();
    for (which, timer) in [(0, &timers.real), (1, &timers.virt), (2, &timers.prof)] {
        let mut values = [timer.isec, timer.iusec, timer.vsec, timer.vusec];
        // Expired, its signal still pending: the kernel would start the next interval when the
        // signal is taken.
        if values[2..] == [0, 0] {
            values = [timer.isec, timer.iusec, timer.isec, timer.iusec];
        }
        if values != [0; 4] {
            remote.call_in(
                space,
                scratch,
                libc::SYS_setitimer,
                [which, 0, 0, 0, 0, 0],
                1,
                &bytes_of(&values),
            )?;
        }
    }
    for timer in &timers.posix {
        if expired.contains(&timer.it_id) {
            arm_expired(timer, remote, space, scratch)?;
            continue;
        }
        let values = [timer.isec, timer.insec, timer.vsec, timer.vnsec];
        if values != [0; 4] {
            remote.call_in(
                space,
                scratch,
                libc::SYS_timer_settime,
                [u64::from(timer.it_id), 0, 0, 0, 0, 0],
                2,
                &bytes_of(&values),
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timers_own_signal_is_left_to_the_timer() {
        let timer = msg::PosixTimerEntry {
            it_id: 7,
            si_signo: 42,
            isec: 1,
            vnsec: 5,
            ..Default::default()
        };
        let timers = msg::TaskTimersEntry { posix: vec![timer], ..Default::default() };
        let signal = |number: i32, code: i32, id: i32| {
            let mut siginfo = vec![0u8; 128];
            siginfo[0..4].copy_from_slice(&number.to_le_bytes());
            siginfo[8..12].copy_from_slice(&code.to_le_bytes());
            siginfo[16..20].copy_from_slice(&id.to_le_bytes());
            msg::SiginfoEntry { siginfo }
        };
        let signals = vec![signal(42, SI_TIMER, 7), signal(42, 0, 7), signal(42, SI_TIMER, 8)];
        let queue = msg::SignalQueueEntry { signals };
        assert_eq!(without_own(&queue, Some(&timers)).signals, queue.signals[1..]);
        assert_eq!(without_own(&queue, None).signals.len(), 3);
    }

    #[test]
    fn reads_the_kernels_list_of_timers() {
        let text = "ID: 0\nsignal: 34/0000000000001234\nnotify: signal/tid.77\nClockID: 1\nID: 5\nsignal: 0/0000000000000000\nnotify: none/pid.7\nClockID: 0\n";
        let timers = parse(text).unwrap();
        assert_eq!(timers.len(), 2);
        assert_eq!((timers[0].signal, timers[0].value, timers[0].notify), (34, 0x1234, 4));
        assert_eq!(timers[0].thread, 77);
        assert_eq!((timers[1].id, timers[1].notify), (5, 1));
        assert!(parse("nonsense").is_none());
    }
}
