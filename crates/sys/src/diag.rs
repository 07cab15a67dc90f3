//! What the kernel tells about sockets over netlink (sock_diag(7)): unix sockets one by one.
//!
//! Relies on UNIX_DIAG (3.3). A diag socket sees the network namespace it was made in.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const UDIAG_SHOW_PEER: u32 = 4;
const UDIAG_SHOW_ICONS: u32 = 8;
const UDIAG_SHOW_RQLEN: u32 = 0x10;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_ICONS: u16 = 3;
const UNIX_DIAG_RQLEN: u16 = 4;
const UNIX_DIAG_SHUTDOWN: u16 = 6;
/// Length of the header before the attributes: struct nlmsghdr and struct unix_diag_msg.
const HEAD: usize = 32;

/// One unix socket as the kernel describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnixSocket {
    /// 1 connected, 7 not, 10 listening.
    pub state: u8,
    /// Inode of its peer; `Some(0)`: the peer is closed, or not accepted yet.
    pub peer: Option<u32>,
    /// Of a listener: inodes of those whose connection waits to be accepted; 0: closed already.
    pub waiting: Vec<u32>,
    /// Of a listener: connections that wait. Else bytes to read; of a datagram socket those of the
    /// first datagram.
    pub receive: u32,
    /// Of a listener: its backlog. Else memory of what was sent and not read yet.
    pub send: u32,
    /// Directions that are shut down: 1 receiving, 2 sending.
    pub shutdown: u8,
}

/// A netlink socket that answers for one network namespace.
#[derive(Debug)]
pub struct SocketDiag {
    fd: OwnedFd,
}

impl SocketDiag {
    /// For the caller's network namespace.
    ///
    /// # Errors
    /// EPROTONOSUPPORT when the kernel has no sock_diag.
    pub fn open() -> io::Result<Self> {
        const NETLINK_SOCK_DIAG: u32 = 4;
        let protocol =
            std::num::NonZeroU32::new(NETLINK_SOCK_DIAG).map(rustix::net::Protocol::from_raw);
        let family = AddressFamily::NETLINK;
        let fd = rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        Ok(Self { fd })
    }

    /// The unix socket with this inode; `None`: it is not in this network namespace.
    ///
    /// # Errors
    /// Those of the calls, or an answer that is not understood.
    pub fn unix(&self, inode: u32) -> io::Result<Option<UnixSocket>> {
        let show = UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN;
        let mut request = Vec::with_capacity(40);
        request.extend(40u32.to_ne_bytes());
        request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        request.extend(NLM_F_REQUEST.to_ne_bytes());
        request.extend([0; 8]);
        request.extend([libc::AF_UNIX as u8, 0, 0, 0]);
        // All states; no cookie.
        for word in [u32::MAX, inode, show, u32::MAX, u32::MAX] {
            request.extend(word.to_ne_bytes());
        }
        send(&self.fd, &request, SendFlags::empty())?;
        let mut answer = vec![0u8; 64 * 1024];
        let (len, _) = recv(self.fd.as_fd(), &mut answer[..], RecvFlags::empty())?;
        parse(&answer[..len])
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn parse(answer: &[u8]) -> io::Result<Option<UnixSocket>> {
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "an odd answer of sock_diag");
    let len = word(answer, 0).ok_or_else(odd)? as usize;
    let message = answer.get(..len).ok_or_else(odd)?;
    if half(message, 4) == Some(NLMSG_ERROR) {
        let code = word(message, 16).ok_or_else(odd)? as i32;
        if -code == libc::ENOENT {
            return Ok(None);
        }
        return Err(io::Error::from_raw_os_error(-code));
    }
    // struct unix_diag_msg: family, type, state, pad, inode, cookie.
    let mut socket =
        UnixSocket { state: *message.get(18).ok_or_else(odd)?, ..UnixSocket::default() };
    let mut rest = message.get(HEAD..).ok_or_else(odd)?;
    while rest.len() >= 4 {
        let len = usize::from(half(rest, 0).ok_or_else(odd)?);
        let kind = half(rest, 2).ok_or_else(odd)?;
        let data = rest.get(4..len).ok_or_else(odd)?;
        match kind {
            UNIX_DIAG_PEER => socket.peer = word(data, 0),
            UNIX_DIAG_ICONS => {
                socket.waiting =
                    data.as_chunks::<4>().0.iter().map(|w| u32::from_ne_bytes(*w)).collect();
            }
            UNIX_DIAG_RQLEN => {
                socket.receive = word(data, 0).ok_or_else(odd)?;
                socket.send = word(data, 4).ok_or_else(odd)?;
            }
            UNIX_DIAG_SHUTDOWN => socket.shutdown = *data.first().ok_or_else(odd)?,
            _ => {}
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Some(socket))
}

#[cfg(test)]
mod tests {
    use rustix::net::{Shutdown, shutdown, socketpair};

    use super::*;

    #[test]
    fn a_pair_knows_its_peers_bytes_and_shutdown() {
        let (a, b) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .unwrap();
        send(&a, b"four", SendFlags::empty()).unwrap();
        shutdown(&a, Shutdown::Write).unwrap();
        let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino as u32;
        let diag = SocketDiag::open().unwrap();
        let first = diag.unix(inode(&a)).unwrap().unwrap();
        assert_eq!((first.state, first.peer, first.shutdown), (1, Some(inode(&b)), 2));
        let second = diag.unix(inode(&b)).unwrap().unwrap();
        assert_eq!((second.receive, second.shutdown), (4, 1));
        drop(a);
        let orphan = diag.unix(inode(&b)).unwrap().unwrap();
        assert_eq!((orphan.peer, orphan.shutdown), (Some(0), 3));
        assert_eq!(diag.unix(u32::MAX - 5).unwrap(), None);
    }
}
