//! Descriptors on their way from the engine into a task under construction.
//!
//! The task makes a socket pair by a remote call, the engine takes one end with pidfd_getfd(2) and
//! sends descriptors as SCM_RIGHTS messages, which the task receives by a remote recvmsg(2). Thus
//! every kernel object is made by ordinary code in the engine.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryopod_sys::process;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::inject::calls::Scratch;
use crate::inject::{Remote, Space};

/// The engine's end, and the number of the task's.
#[derive(Debug)]
pub(crate) struct Transport {
    ours: OwnedFd,
    /// Descriptor of the task's end.
    pub(crate) theirs: i32,
}

impl Transport {
    /// Makes the pair in the task; its end gets the number `at`.
    pub(crate) fn open(
        remote: &mut Remote,
        space: &Space,
        scratch: Scratch,
        at: i32,
    ) -> io::Result<Self> {
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        let out: [u8; 8] = remote.call_out(
            space,
            scratch,
            libc::SYS_socketpair,
            [libc::AF_UNIX as u64, kind as u64, 0, 0, 0, 0],
            3,
        )?;
        let a = i32::from_le_bytes([out[0], out[1], out[2], out[3]]);
        let b = i32::from_le_bytes([out[4], out[5], out[6], out[7]]);
        let pidfd = process::pidfd_open(space.pid)?;
        let ours = process::pidfd_getfd(pidfd.as_fd(), a)?;
        remote.close(a)?;
        if b != at {
            remote.dup(b, at, libc::O_CLOEXEC)?;
            remote.close(b)?;
        }
        Ok(Self { ours, theirs: at })
    }

    /// Sends one descriptor; returns its number in the task, close-on-exec.
    pub(crate) fn send(
        &self,
        fd: BorrowedFd<'_>,
        remote: &mut Remote,
        space: &Space,
        scratch: Scratch,
    ) -> io::Result<i32> {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut room);
        let fds = [fd];
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("no room for a descriptor in a control message"));
        }
        sendmsg(&self.ours, &[IoSlice::new(&[0])], &mut control, SendFlags::empty())?;

        // struct msghdr (56 bytes), one iovec (16), one byte, then 64 bytes of control room.
        let (iov, byte, room) = (scratch.at + 64, scratch.at + 80, scratch.at + 128);
        let mut header = Vec::with_capacity(192);
        for word in [0, 0, iov, 1, room, 64, 0, 0, byte, 1] {
            header.extend(u64::to_le_bytes(word));
        }
        header.resize(192, 0);
        space.write(scratch.at, &header)?;
        let flags = libc::MSG_CMSG_CLOEXEC as u64;
        remote.call(libc::SYS_recvmsg, [self.theirs as u64, scratch.at, flags, 0, 0, 0])?;
        // The control message: length, level, type, then the descriptor.
        let mut fd = [0; 4];
        space.read(room + 16, &mut fd)?;
        Ok(i32::from_le_bytes(fd))
    }
}
