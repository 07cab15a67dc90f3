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

/// Arms the timers with the time they had left.
///
/// # Errors
/// Those of the remote calls.
pub fn arm(
    timers: &msg::TaskTimersEntry,
    remote: &mut Remote,
    space: &Space,
    scratch: Scratch,
) -> io::Result<()> {
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
