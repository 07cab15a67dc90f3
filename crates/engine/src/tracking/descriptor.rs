//! The userfaultfd of a process that is to be tracked: made by the process itself in a short stop,
//! taken out of it, and closed in it by the stub that the kernel returns to, so that nothing of it is
//! left in the process whoever dies meanwhile (userfaultfd(2), pidfd_getfd(2)).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use cryopod_sys::{process, userfaultfd};

use crate::inject::guard::Guard;
use crate::inject::site::Site;
use crate::inject::{Remote, Space, finish_return};
use crate::proc::maps;
use crate::seize::Task;

/// Has a stopped process make a userfaultfd, and takes it out of it.
pub(super) fn make(task: &Task, held: &mut Vec<(i32, i32, i32)>) -> io::Result<OwnedFd> {
    let pid = task.pid;
    let areas = maps::of(pid).map_err(io::Error::other)?;
    let space = Space::open(pid, &areas)?;
    let mut pointers = Vec::with_capacity(task.threads.len());
    for thread in &task.threads {
        finish_return(&space, thread.tid)?;
        pointers.push(cryopod_sys::ptrace::registers(thread.tid)?.rsp);
    }
    let guard = Guard::read(pid, pid)?;
    if !guard.permits(libc::SYS_rt_sigreturn, &[0; 6]) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "a seccomp filter kills"));
    }
    let xstate = cryopod_sys::ptrace::xstate(pid)?.len();
    let site = Site::take(&space, &areas, &pointers, xstate)?;
    let made = space.prepare_closing().and_then(|()| {
        let mut remote = Remote::enter(&space, pid, site.first, guard)?;
        let flags = libc::O_CLOEXEC as u64 | userfaultfd::USER_MODE_ONLY;
        let pidfd = process::pidfd_open(pid)?;
        let made = remote.call_closing(libc::SYS_userfaultfd, [flags, 0, 0, 0, 0, 0], |fd| {
            process::pidfd_getfd(pidfd.as_fd(), fd)
        });
        held.extend(remote.take_held().into_iter().map(|s| (pid, pid, s)));
        remote.leave()?;
        made
    });
    site.give_back(&space)?;
    space.close()?;
    made
}
