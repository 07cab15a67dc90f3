//! What the engine does not carry yet, victim by victim, with the reason.
//!
//! A gap is either refused by name or loses what is told here (docs/fidelity.md). A victim that
//! passes has no place in this list: the coverage run and the engine's tests fail then.

#![allow(unsafe_code, reason = "two calls without pointers that outlive them")]

const GAPS: &[(&str, &str)] = &[
    ("posix_timers_full", "a pending timer signal comes back without its overrun count"),
    ("memory_full", "whether a mapping counts as committed memory (VmFlags ac) can differ"),
    ("sched_full", "cpu affinity is not set again"),
    ("attributes_full", "timer slack is not set again"),
    ("files_unlinked", "unlinked files are refused"),
    ("files_unlinked_full", "unlinked files are refused"),
    ("file_locks", "file locks are not taken again"),
    ("file_locks_full", "file locks are not taken again"),
    ("cwd_umask_root_full", "a removed working directory is refused"),
    ("fifo", "named pipes are refused"),
    ("epoll_full", "an epoll instance with EPOLLEXCLUSIVE or a nested one is not filled again"),
    ("timerfd_full", "TFD_TIMER_CANCEL_ON_SET is not set again"),
    ("inotify", "inotify is refused"),
    ("inotify_full", "inotify is refused"),
    ("unix_pair", "unix sockets are refused"),
    ("unix_pair_full", "unix sockets are refused"),
    ("unix_listen", "unix sockets are refused"),
    ("unix_listen_full", "unix sockets are refused"),
    ("unix_dgram", "unix sockets are refused"),
    ("unix_dgram_full", "unix sockets are refused"),
    ("blocked", "it holds unix sockets, which are refused"),
    ("blocked_full", "it holds unix sockets, which are refused"),
    ("netlink", "netlink sockets are refused"),
    ("unix_backlog", "unix sockets are refused, whatever waits in them"),
    ("tcp_listen_full", "TCP_DEFER_ACCEPT is not set again"),
    ("tree_full", "a process group whose leader has ended is not made again"),
    ("stopped_full", "a stop that was reported is reported once more"),
    ("clone_files", "a shared descriptor table is refused"),
    ("udp_bound_full", "datagrams that wait in a queue are lost"),
    ("tcp_established", "sending on the ended connection succeeds once"),
];

/// Why this victim is not carried yet; `None` for one that must pass.
pub fn gap(victim: &str) -> Option<&'static str> {
    GAPS.iter().find(|(name, _)| *name == victim).map(|(_, why)| *why)
}

/// Makes this process the parent of orphans below it (PR_SET_CHILD_SUBREAPER), so that [`reap`] can
/// free their pids at once.
///
/// # Errors
/// Those of prctl(2).
pub fn adopt() -> std::io::Result<()> {
    // SAFETY: integers only.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } == -1 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Reaps every ended child of this process, waiting a little for those that are just ending: a
/// zombie keeps its pid, and the pids of its group and session, from being restored. Only for
/// processes that start one child at a time.
pub fn reap() {
    let begin = std::time::Instant::now();
    while begin.elapsed() < std::time::Duration::from_secs(2) {
        let mut status = 0;
        // SAFETY: `status` is a live int.
        match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
            -1 => return,
            0 => std::thread::sleep(std::time::Duration::from_millis(2)),
            _ => {}
        }
    }
}
