//! Descriptors that carry events: eventfd(2), timerfd_create(2), signalfd(2), epoll(7).
//!
//! All their state is in /proc/PID/fdinfo. An epoll instance watches descriptors by number and
//! open file; it is filled again by a remote epoll_ctl(2) in the task that had both. Which edges
//! were taken already the kernel does not tell: an edge-triggered target that is ready is reported
//! once more. Refused: an epoll instance that watches a file the task has no descriptor for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use cryopod_images::msg;
use cryopod_sys::events;
use cryopod_sys::process::{self, EpollSlot};

use super::{Collector, OpenFile, dump_owner};
use crate::error::{DumpError, RestoreError};
use crate::inject::calls::Scratch;
use crate::inject::{Remote, Space};
use crate::proc;

const NONBLOCK: u32 = libc::O_NONBLOCK as u32;
/// EFD_SEMAPHORE, kept in the lowest bit of the flags.
const SEMAPHORE: u32 = 1;
/// TFD_TIMER_ABSTIME and TFD_TIMER_CANCEL_ON_SET.
const ABSOLUTE: u32 = 1;
const CANCEL_ON_SET: u32 = 2;
const SECOND: u64 = 1_000_000_000;
/// How often a timerfd is asked.
const ASK: u32 = 5;

fn missing(file: &OpenFile, what: &str) -> DumpError {
    proc::malformed(&format!("{}/fdinfo/{}", file.pid, file.fd), what)
}

fn hex(file: &OpenFile, key: &str) -> Result<u64, DumpError> {
    file.info
        .get(key)
        .and_then(|v| u64::from_str_radix(v.trim(), 16).ok())
        .ok_or_else(|| missing(file, key))
}

/// Makes the entry of an eventfd.
///
/// # Errors
/// An fdinfo that is not understood.
pub fn dump_eventfd(
    collector: &Collector<'_>,
    id: u32,
    file: &OpenFile,
) -> Result<msg::FileEntry, DumpError> {
    let semaphore = file.info.get("eventfd-semaphore").is_some_and(|v| v.trim() == "1");
    Ok(msg::FileEntry {
        r#type: msg::FdTypes::Eventfd.into(),
        id,
        efd: Some(msg::EventfdFileEntry {
            id,
            flags: file.flags() | if semaphore { SEMAPHORE } else { 0 },
            fown: dump_owner(file, collector.inside)?,
            counter: hex(file, "eventfd-count")?,
        }),
        ..Default::default()
    })
}

/// Makes the entry of a signalfd.
///
/// # Errors
/// An fdinfo that is not understood.
pub fn dump_signalfd(
    collector: &Collector<'_>,
    id: u32,
    file: &OpenFile,
) -> Result<msg::FileEntry, DumpError> {
    Ok(msg::FileEntry {
        r#type: msg::FdTypes::Signalfd.into(),
        id,
        sgfd: Some(msg::SignalfdEntry {
            id,
            flags: file.flags(),
            fown: dump_owner(file, collector.inside)?,
            sigmask: hex(file, "sigmask")?,
        }),
        ..Default::default()
    })
}

/// `(seconds, nanoseconds)`.
fn pair(text: &str) -> Option<(u64, u64)> {
    let (sec, nsec) = text.trim().strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    Some((sec.trim().parse().ok()?, nsec.trim().parse().ok()?))
}

/// Time of a clock that all time namespaces share, in nanoseconds: the wall clock.
fn clock_of(clock: u32) -> Option<u64> {
    const REALTIME_ALARM: u32 = libc::CLOCK_REALTIME_ALARM as u32;
    if !matches!(clock, 0 | REALTIME_ALARM) {
        return None;
    }
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Some(now.tv_sec as u64 * SECOND + now.tv_nsec as u64)
}

/// Makes the entry of a timerfd. One that is set to an absolute time of the wall clock keeps that
/// time, however long the way to the restore is.
///
/// # Errors
/// An fdinfo that is not understood.
pub fn dump_timerfd(
    collector: &Collector<'_>,
    id: u32,
    file: &OpenFile,
) -> Result<msg::FileEntry, DumpError> {
    // Expirations are counted when somebody asks; before, an expired timer looks disarmed. Asked
    // again for one that expires in between.
    let mut info = file.info.clone();
    let mut value = (0, 0);
    for _ in 0..ASK {
        let asked = rustix::time::timerfd_gettime(&file.file).map_err(|e| DumpError::Kernel {
            pid: file.pid,
            what: "cannot read a timerfd",
            source: e.into(),
        })?;
        value = (asked.it_value.tv_sec as u64, asked.it_value.tv_nsec as u64);
        info = proc::fdinfo::of(file.pid, file.fd)?;
        let shown = info.get("it_value").and_then(pair);
        if value == (0, 0) || shown.is_some_and(|shown| shown != (0, 0)) {
            break;
        }
    }
    let number = |key: &str| {
        info.get(key).and_then(|v| v.trim().parse::<u64>().ok()).ok_or_else(|| missing(file, key))
    };
    let interval = info.get("it_interval").and_then(pair);
    let interval = interval.ok_or_else(|| missing(file, "it_interval"))?;
    let settime = info
        .get("settime flags")
        .and_then(|v| u32::from_str_radix(v.trim(), 8).ok())
        .ok_or_else(|| missing(file, "settime flags"))?;
    let clock = number("clockid")? as u32;
    let armed = settime & ABSOLUTE != 0 && value != (0, 0);
    let due = clock_of(clock).filter(|_| armed).map(|now| now + value.0 * SECOND + value.1);
    Ok(msg::FileEntry {
        r#type: msg::FdTypes::Timerfd.into(),
        id,
        tfd: Some(msg::TimerfdEntry {
            id,
            flags: file.flags(),
            fown: dump_owner(file, collector.inside)?,
            clockid: clock,
            ticks: number("ticks")?,
            settime_flags: settime,
            vsec: value.0,
            vnsec: value.1,
            isec: interval.0,
            insec: interval.1,
            due,
        }),
        ..Default::default()
    })
}

/// One `tfd:` line.
fn watched(id: u32, line: &str) -> Option<msg::EventpollTfdEntry> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let after = |key: &str| {
        words.iter().enumerate().find_map(|(at, word)| {
            let rest = word.strip_prefix(key)?;
            if rest.is_empty() { words.get(at + 1).copied() } else { Some(rest) }
        })
    };
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    Some(msg::EventpollTfdEntry {
        id,
        tfd: words.first()?.parse().ok()?,
        events: hex(after("events:")?)? as u32,
        data: hex(after("data:")?)?,
        dev: hex(after("sdev:")?).map(|d| d as u32),
        inode: hex(after("ino:")?),
        pos: after("pos:")?.parse().ok(),
    })
}

/// Makes the entry of an epoll instance.
///
/// # Errors
/// An fdinfo that is not understood; a refusal for a watched file without a descriptor.
pub fn dump_epoll(
    collector: &Collector<'_>,
    id: u32,
    file: &OpenFile,
) -> Result<msg::FileEntry, DumpError> {
    let mut tfd: Vec<msg::EventpollTfdEntry> = Vec::new();
    let mut numbers: Vec<u32> = Vec::new();
    for line in file.info.all("tfd") {
        let mut target = watched(id, line).ok_or_else(|| missing(file, "tfd"))?;
        let number = target.tfd;
        let slot = EpollSlot {
            instance: file.fd as u32,
            number,
            which: numbers.iter().filter(|n| **n == number).count() as u32,
        };
        numbers.push(number);
        let Some(fd) = holder(file.pid, slot)? else {
            let what = format!(
                "an epoll instance that watches descriptor {number}, which is closed or another \
                 file now"
            );
            return Err(file.refusal(&what, "remove it from the instance before closing it"));
        };
        target.tfd = fd;
        tfd.push(target);
    }
    Ok(msg::FileEntry {
        r#type: msg::FdTypes::Eventpoll.into(),
        id,
        epfd: Some(msg::EventpollFileEntry {
            id,
            flags: file.flags(),
            fown: dump_owner(file, collector.inside)?,
            tfd,
            pid: Some((collector.inside)(file.pid)),
        }),
        ..Default::default()
    })
}

/// A descriptor of the process that is the watched file: the number it was added under, or another
/// that keeps the file open when that one was closed.
fn holder(pid: i32, slot: EpollSlot) -> Result<Option<u32>, DumpError> {
    let is = |fd: i32| process::is_epoll_target(pid, fd, pid, slot).unwrap_or(false);
    if is(slot.number as i32) {
        return Ok(Some(slot.number));
    }
    let fds = proc::fdinfo::descriptors(pid)?;
    Ok(fds.into_iter().find(|fd| is(*fd)).map(|fd| fd as u32))
}

fn kernel(what: &str) -> impl Fn(io::Error) -> RestoreError + use<'_> {
    move |source| RestoreError::Kernel { pid: 0, what: format!("cannot make {what} again"), source }
}

/// Makes an eventfd again.
///
/// # Errors
/// What the kernel said.
pub fn restore_eventfd(entry: &msg::EventfdFileEntry) -> Result<OwnedFd, RestoreError> {
    let flags = entry.flags & NONBLOCK;
    events::eventfd(entry.counter, entry.flags & SEMAPHORE != 0, flags as i32)
        .map_err(kernel("an eventfd"))
}

/// Makes a signalfd again.
///
/// # Errors
/// What the kernel said.
pub fn restore_signalfd(entry: &msg::SignalfdEntry) -> Result<OwnedFd, RestoreError> {
    events::signalfd(entry.sigmask, (entry.flags & NONBLOCK) as i32).map_err(kernel("a signalfd"))
}

/// Makes a timerfd again, armed with the time it had left, its unread expirations kept.
///
/// # Errors
/// What the kernel said.
pub fn restore_timerfd(entry: &msg::TimerfdEntry) -> Result<OwnedFd, RestoreError> {
    let fail = kernel("a timerfd");
    let fd =
        events::timerfd(entry.clockid as i32, (entry.flags & NONBLOCK) as i32).map_err(&fail)?;
    let interval = (entry.isec, entry.insec);
    let mut flags = 0;
    let mut value = (entry.vsec, entry.vnsec);
    if value != (0, 0)
        && let Some(now) = clock_of(entry.clockid)
    {
        let left = entry.vsec.saturating_mul(SECOND).saturating_add(entry.vnsec);
        let due = entry.due.unwrap_or(now.saturating_add(left));
        if entry.due.is_some() || entry.settime_flags & CANCEL_ON_SET != 0 {
            flags = ABSOLUTE | entry.settime_flags & CANCEL_ON_SET;
            value = (due / SECOND, due % SECOND);
        }
    }
    events::arm_timerfd(fd.as_fd(), flags as i32, events::Timer { value, interval })
        .map_err(&fail)?;
    if entry.ticks != 0 {
        events::set_timerfd_ticks(fd.as_fd(), entry.ticks).map_err(&fail)?;
    }
    Ok(fd)
}

/// Makes an epoll instance again, empty.
///
/// # Errors
/// What the kernel said.
pub fn restore_epoll() -> Result<OwnedFd, RestoreError> {
    rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC)
        .map_err(|e| kernel("an epoll instance")(e.into()))
}

/// Fills an epoll instance: descriptor `fd` of a task that has all its descriptors.
///
/// # Errors
/// Those of the remote calls.
pub fn fill_epoll(
    entry: &msg::EventpollFileEntry,
    fd: u32,
    remote: &mut Remote,
    space: &Space,
    scratch: Scratch,
) -> io::Result<()> {
    for target in &entry.tfd {
        // struct epoll_event is packed on x86_64.
        let mut event = [0u8; 12];
        event[..4].copy_from_slice(&target.events.to_le_bytes());
        event[4..].copy_from_slice(&target.data.to_le_bytes());
        remote.call_in(
            space,
            scratch,
            libc::SYS_epoll_ctl,
            [u64::from(fd), libc::EPOLL_CTL_ADD as u64, u64::from(target.tfd), 0, 0, 0],
            3,
            &event,
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_watched_descriptor() {
        let line = "       5 events:       19 data:                7  pos:3 ino:61af sdev:7";
        let entry = watched(1, line).unwrap();
        assert_eq!((entry.tfd, entry.events, entry.data), (5, 0x19, 7));
        assert_eq!((entry.inode, entry.pos), (Some(0x61af), Some(3)));
    }

    #[test]
    fn reads_a_pair_of_seconds_and_nanoseconds() {
        assert_eq!(pair("(0, 49406829)"), Some((0, 49_406_829)));
        assert_eq!(pair("0, 1"), None);
    }
}
