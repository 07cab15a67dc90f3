//! A look at the running tree for what cannot be carried, so that it is refused before anything is
//! stopped.
//!
//! Only names are looked at: links and files of /proc. No descriptor is taken, since a duplicate,
//! held for however short a time, can be noticed (a pipe that is closed and not yet at its end).
//! What comes up later, or shows only in a stopped task, is refused inside the freeze by the modules
//! that dump it; what is gone by then does no harm.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FileType;

use super::{namespaces, refuse_shared};
use crate::error::{DumpError, Refusal};
use crate::files::ghosts;
use crate::files::regular::is_plain_device;
use crate::proc::{self, fdinfo, stat, status, tasks};

/// Files without a name in the tree that are carried, as /proc shows them.
const CARRIED: &[&str] = &[
    "anon_inode:[eventfd]",
    "anon_inode:[eventpoll]",
    "anon_inode:[signalfd]",
    "anon_inode:[timerfd]",
    "anon_inode:inotify",
];

/// Mapped files that are no files: beginning of the name, what to call it.
const MAPPED: &[(&str, &str)] = &[
    ("/SYSV", "System V shared memory"),
    ("/[aio]", "an aio context"),
    ("/secretmem", "secret memory"),
    ("anon_inode:", "memory of a file that is not carried"),
];

/// How often and after what pause processes that share an address space are looked at again: the
/// child of a vfork(2), as posix_spawn(3) makes them, shares its parent's for a moment.
const LOOKS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// Looks at the tree under `root`.
///
/// # Errors
/// [`DumpError::Refused`] only: what cannot be read has ended or is looked at again when stopped.
pub(super) fn survey(root: i32) -> Result<(), DumpError> {
    for (pid, _) in tree(root) {
        pass(process(pid))?;
        pass(mappings(pid))?;
        pass(descriptors(pid))?;
    }
    let mut looks = 0;
    loop {
        looks += 1;
        match pass(sharing(root)) {
            Err(_) if looks < LOOKS => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
}

/// Processes below `root` and their parents, parents first.
fn tree(root: i32) -> Vec<(i32, i32)> {
    let mut found = vec![(root, 0)];
    let mut known = HashSet::from([root]);
    let mut at = 0;
    while let Some(&(pid, _)) = found.get(at) {
        at += 1;
        let children = tasks::children(pid).unwrap_or_default();
        found.extend(children.into_iter().filter(|c| known.insert(*c)).map(|c| (c, pid)));
    }
    found
}

fn sharing(root: i32) -> Result<(), DumpError> {
    let mut ids = namespaces::Ids::new()?;
    let mut seen = Vec::new();
    for (pid, ppid) in tree(root) {
        if stat::of(pid, pid).is_ok_and(|s| s.state != b'Z') {
            pass(ids.of_task(pid).and_then(|ids| refuse_shared((pid, ppid), &ids, &mut seen)))?;
        }
    }
    Ok(())
}

/// Keeps refusals, drops what could not be read.
fn pass(result: Result<(), DumpError>) -> Result<(), DumpError> {
    match result {
        Err(e @ DumpError::Refused(_)) => Err(e),
        _ => Ok(()),
    }
}

fn refuse(pid: i32, resource: String, way_out: &'static str) -> Result<(), DumpError> {
    let comm = status::of(pid, pid).map_or_else(|_| "?".into(), |s| s.name);
    Err(DumpError::Refused(Refusal { pid, comm, resource, way_out }))
}

fn process(pid: i32) -> Result<(), DumpError> {
    let threads = tasks::threads(pid)?;
    let leader = stat::of(pid, pid)?;
    if leader.state == b'Z' && threads.len() > 1 {
        return refuse(
            pid,
            "a thread group leader that has ended before its threads".into(),
            "let the first thread wait for the others",
        );
    }
    if leader.tty != 0 {
        return refuse(
            pid,
            format!("a controlling terminal (device {:x})", leader.tty),
            "run it in a session of its own, without a terminal",
        );
    }
    for tid in threads {
        let Ok(status) = status::of(pid, tid) else { continue };
        if status.tracer != 0 {
            return refuse(
                pid,
                format!("thread {tid} is traced by process {}", status.tracer),
                "detach the debugger",
            );
        }
        if status.seccomp == 1 {
            return refuse(pid, "seccomp's strict mode".into(), "use a filter instead");
        }
    }
    Ok(())
}

fn mappings(pid: i32) -> Result<(), DumpError> {
    let text = proc::read(&format!("{pid}/maps"))?;
    for line in String::from_utf8_lossy(&text).lines() {
        // Range, protection, offset, device, inode, and the name behind blanks.
        let Some(name) = line.splitn(6, ' ').nth(5).map(str::trim_start) else { continue };
        if let Some((_, what)) = MAPPED.iter().find(|(start, _)| name.starts_with(start)) {
            let at = line.split(' ').next().unwrap_or_default();
            return refuse(
                pid,
                format!("{what} ({name}) at {at}"),
                "unmap it before the checkpoint",
            );
        }
    }
    Ok(())
}

fn descriptors(pid: i32) -> Result<(), DumpError> {
    let mut foreign = None;
    for fd in fdinfo::descriptors(pid)? {
        let path = format!("{pid}/fd/{fd}");
        let Ok(link) = proc::link(&path) else { continue };
        let Ok(stat) = rustix::fs::stat(Path::new("/proc").join(&path)) else { continue };
        let name = link.to_string_lossy();
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            unlinked(pid, fd, &name, &stat)?;
        }
        let refused = match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice => !is_plain_device(&stat),
            FileType::BlockDevice => true,
            FileType::Socket => {
                let foreign = foreign.get_or_insert_with(|| foreign_sockets(pid));
                foreign.contains(&stat.st_ino)
            }
            _ => name.starts_with("anon_inode:") && !CARRIED.contains(&&*name),
        };
        if refused {
            let kind = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Socket => "a packet or raw socket, ",
                FileType::CharacterDevice | FileType::BlockDevice => "the device ",
                _ => "",
            };
            let what = format!("descriptor {fd}: {kind}{name}");
            return refuse(pid, what, "close it before the checkpoint");
        }
    }
    Ok(())
}

/// Refuses an unlinked file that is too large to be kept, or more than its bytes.
fn unlinked(pid: i32, fd: i32, name: &str, stat: &rustix::fs::Stat) -> Result<(), DumpError> {
    if !name.ends_with(" (deleted)") || name.starts_with("/memfd:") {
        return Ok(());
    }
    let door = format!("/proc/{pid}/fd/{fd}");
    if let Some(what) = ghosts::special(Path::new(&door)) {
        let what = format!("descriptor {fd}: {what}, {name}");
        return refuse(pid, what, "close it before the checkpoint");
    }
    let bytes = stat.st_blocks as u64 * 512;
    if stat.st_nlink == 0 && bytes > ghosts::LIMIT {
        let limit = ghosts::LIMIT;
        let what = format!(
            "descriptor {fd}: the unlinked file {name} of {bytes} bytes, at most {limit} are taken"
        );
        return refuse(pid, what, "give it a name, or close it before the checkpoint");
    }
    Ok(())
}

/// Inodes of the packet and raw sockets in the process's network namespace, by the tables of
/// proc_net(5).
fn foreign_sockets(pid: i32) -> HashSet<u64> {
    let mut found = HashSet::new();
    // The column that has the inode.
    for (table, column) in [("packet", 8), ("raw", 9), ("raw6", 9)] {
        let text = proc::read(&format!("{pid}/net/{table}")).unwrap_or_default();
        for line in String::from_utf8_lossy(&text).lines().skip(1) {
            found.extend(line.split_whitespace().nth(column).and_then(|n| n.parse::<u64>().ok()));
        }
    }
    found
}
