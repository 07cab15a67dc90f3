//! Messages of sockets with what travels beside the bytes: sender, descriptors, credentials
//! (recvmsg(2), sendmsg(2), unix(7)).
//!
//! rustix reads no sender and no credentials from a peeked message, hence this module.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::check;

/// Largest socket address (struct sockaddr_storage) in bytes.
const ADDRESS: usize = 128;
/// Room for control messages: 253 descriptors (SCM_MAX_FD), credentials and a security label.
const CONTROL: usize = 4096;
const ALIGN: usize = size_of::<usize>();

/// Process, user and group of a sender or peer (struct ucred).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// Pid in the pid namespace of the caller; 0: it has none there.
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

impl Credentials {
    /// From the 12 bytes of struct ucred.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 12]) -> Self {
        let word = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Self { pid: word(0) as i32, uid: word(4), gid: word(8) }
    }

    fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.pid.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.uid.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.gid.to_ne_bytes());
        bytes
    }
}

/// What recvmsg(2) gave.
#[derive(Debug)]
pub struct Received {
    /// Bytes put into the buffer, or with MSG_TRUNC the length of the whole message.
    pub len: usize,
    /// The sender's sockaddr; empty when it has no name.
    pub sender: Vec<u8>,
    /// Descriptors that travel with it, close-on-exec.
    pub rights: Vec<OwnedFd>,
    /// The sender's credentials, when the socket asks for them (SO_PASSCRED).
    pub credentials: Option<Credentials>,
}

/// recvmsg(2).
///
/// # Errors
/// Those of the call; control messages that do not fit.
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8], flags: i32) -> io::Result<Received> {
    let mut name = [0u8; ADDRESS];
    let mut control = vec![0usize; CONTROL / ALIGN];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = ADDRESS as libc::socklen_t;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = CONTROL;
    // SAFETY: every pointer of `header` is live with the length beside it.
    let len = check(unsafe {
        libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags | libc::MSG_CMSG_CLOEXEC)
    } as i64)? as usize;
    let used = header.msg_controllen.min(CONTROL);
    let bytes: Vec<u8> = control.iter().flat_map(|w| w.to_ne_bytes()).take(used).collect();
    let mut received = Received {
        len,
        sender: name[..(header.msg_namelen as usize).min(ADDRESS)].to_vec(),
        rights: Vec::new(),
        credentials: None,
    };
    let mut rest = &bytes[..];
    while let Some((kind, data, next)) = control_message(rest) {
        match kind {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for number in data.as_chunks::<4>().0 {
                    let fd = RawFd::from_ne_bytes(*number);
                    // SAFETY: the kernel just made it for us and nobody else owns it.
                    received.rights.push(unsafe { OwnedFd::from_raw_fd(fd) });
                }
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                if let Ok(bytes) = <[u8; 12]>::try_from(data) {
                    received.credentials = Some(Credentials::from_bytes(bytes));
                }
            }
            _ => {}
        }
        rest = next;
    }
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::other("control messages larger than the room for them"));
    }
    Ok(received)
}

/// Looks at the next `len` bytes of a stream, for the last of which there is no room: the length of
/// the whole pieces, as they were sent, before the one that has the last byte.
///
/// The kernel copies piece by piece and answers with those that could be copied whole. It gives no
/// other sign of where descriptors begin to travel: a look that ends before them brings them too.
///
/// # Errors
/// Those of mmap(2) and recvmsg(2).
pub fn whole_pieces(fd: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    let page = rustix::param::page_size();
    let room = len.next_multiple_of(page);
    // SAFETY: a new mapping at a place of the kernel's choice, which nobody else knows.
    let area = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        libc::mmap(std::ptr::null_mut(), room + page, libc::PROT_NONE, flags, -1, 0)
    };
    if area == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let result = (|| {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a part of the mapping just made.
        check(i64::from(unsafe { libc::mprotect(area, room, access) }))?;
        // The last byte lies behind what may be written.
        let begin = room + 1 - len;
        let mut part =
            libc::iovec { iov_base: area.cast::<u8>().wrapping_add(begin).cast(), iov_len: len };
        // SAFETY: all zeros is a valid msghdr.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        // SAFETY: the kernel checks every byte it writes; it writes inside the mapping only.
        match check(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags) } as i64) {
            Ok(n) => Ok(n as usize),
            Err(e) if e.raw_os_error() == Some(libc::EFAULT) => Ok(0),
            Err(e) => Err(e),
        }
    })();
    // SAFETY: the mapping is ours and nothing refers to it any more.
    unsafe { libc::munmap(area, room + page) };
    result
}

/// Level and type, data, and what follows of the first control message.
#[allow(clippy::type_complexity, reason = "private, used once")]
fn control_message(bytes: &[u8]) -> Option<((i32, i32), &[u8], &[u8])> {
    let head = size_of::<libc::cmsghdr>();
    let len = usize::from_ne_bytes(bytes.get(..8)?.try_into().ok()?);
    let int = |at: usize| Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let data = bytes.get(head..len)?;
    let next = bytes.get(len.next_multiple_of(ALIGN)..).unwrap_or_default();
    Some(((int(8)?, int(12)?), data, next))
}

/// sendmsg(2) of one message, without waiting and without SIGPIPE; the bytes taken.
///
/// # Errors
/// EAGAIN when the queue is full, and others of the call.
pub fn send(
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    to: Option<&[u8]>,
    rights: &[BorrowedFd<'_>],
    credentials: Option<Credentials>,
) -> io::Result<usize> {
    let mut control = Vec::new();
    let mut push = |kind: i32, data: &[u8]| {
        control.extend((size_of::<libc::cmsghdr>() + data.len()).to_ne_bytes());
        control.extend(libc::SOL_SOCKET.to_ne_bytes());
        control.extend(kind.to_ne_bytes());
        control.extend(data);
        control.resize(control.len().next_multiple_of(ALIGN), 0);
    };
    if !rights.is_empty() {
        let numbers: Vec<u8> = rights.iter().flat_map(|r| r.as_raw_fd().to_ne_bytes()).collect();
        push(libc::SCM_RIGHTS, &numbers);
    }
    if let Some(credentials) = credentials {
        push(libc::SCM_CREDENTIALS, &credentials.to_bytes());
    }
    // The kernel wants control messages aligned.
    let mut words = vec![0usize; control.len() / ALIGN];
    for (word, bytes) in words.iter_mut().zip(control.as_chunks::<ALIGN>().0) {
        *word = usize::from_ne_bytes(*bytes);
    }
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all zeros is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    if let Some(to) = to {
        header.msg_name = to.as_ptr().cast_mut().cast();
        header.msg_namelen = to.len() as libc::socklen_t;
    }
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if !words.is_empty() {
        header.msg_control = words.as_mut_ptr().cast();
        header.msg_controllen = words.len() * ALIGN;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: every pointer of `header` is live with the length beside it, and only read.
    check(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, flags) } as i64)
        .map(|n| n as usize)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_descriptor_and_credentials_travel_and_can_be_peeked_more_than_once() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (a, b) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .unwrap();
        let me = Credentials { pid: std::process::id() as i32, uid: 0, gid: 0 };
        crate::socket::set_option(b.as_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, 1).unwrap();
        let credentials = rustix::process::geteuid().is_root().then_some(me);
        send(a.as_fd(), b"text", None, &[a.as_fd()], credentials).unwrap();
        for _ in 0..2 {
            let mut buffer = [0; 16];
            let got = receive(b.as_fd(), &mut buffer, libc::MSG_PEEK).unwrap();
            assert_eq!((got.len, &buffer[..4], got.rights.len()), (4, &b"text"[..], 1));
            assert_eq!(got.credentials.map(|c| c.pid), Some(me.pid));
        }
    }

    #[test]
    fn the_pieces_before_a_descriptor_are_told_apart() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (a, b) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .unwrap();
        send(a.as_fd(), b"one ", None, &[], None).unwrap();
        send(a.as_fd(), b"two ", None, &[], None).unwrap();
        send(a.as_fd(), b"with", None, &[a.as_fd()], None).unwrap();
        let mut buffer = [0; 64];
        let got = receive(b.as_fd(), &mut buffer, libc::MSG_PEEK).unwrap();
        assert_eq!((got.len, got.rights.len()), (12, 1));
        assert_eq!(whole_pieces(b.as_fd(), 12).unwrap(), 8);
        assert_eq!(whole_pieces(b.as_fd(), 4).unwrap(), 0);
        assert_eq!(rustix::io::ioctl_fionread(&b).unwrap(), 12);
    }
}
