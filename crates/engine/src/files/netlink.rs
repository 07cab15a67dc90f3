//! Netlink sockets (netlink(7)): protocol, port, groups, options.
//!
//! Carried are the protocols whose kernel side keeps nothing for a socket but its groups. Refused:
//! the others, and a socket with messages unread, which nobody could put back.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryopod_images::msg;
use cryopod_sys::socket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType};

use super::{Collector, OpenFile, dump_owner, inet};
use crate::error::{DumpError, RestoreError};

const NETLINK: i32 = libc::SOL_NETLINK;
const LIST_MEMBERSHIPS: i32 = 9;
const CONNECTED: u32 = 1;
const NOT_CONNECTED: u32 = 7;
/// Options that are on or off: packet info, broadcast errors, no buffer errors, all namespaces, short
/// acknowledgements, long ones, strict checks.
const SWITCHES: [i32; 7] = [3, 4, 5, 8, 10, 11, 12];
/// Routing, socket diagnosis, IPsec, routing lookups, device events, generic.
const PROTOCOLS: [i32; 6] = [0, 4, 6, 10, 15, 16];

/// Whether sockets of this protocol are carried.
#[must_use]
pub fn is_carried(protocol: i32) -> bool {
    PROTOCOLS.contains(&protocol)
}

/// Port and first groups of a sockaddr_nl.
fn parts(addr: &[u8]) -> (u32, u32) {
    let word = |at: usize| {
        addr.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
    };
    (word(4), word(8))
}

fn address(port: u32, groups: u32) -> Vec<u8> {
    let mut addr = (libc::AF_NETLINK as u16).to_ne_bytes().to_vec();
    addr.extend([0; 2]);
    addr.extend(port.to_ne_bytes());
    addr.extend(groups.to_ne_bytes());
    addr
}

/// Makes the entry of a netlink socket.
///
/// # Errors
/// A refusal, or what the kernel said.
pub fn dump(
    collector: &Collector<'_>,
    id: u32,
    file: &OpenFile,
) -> Result<msg::FileEntry, DumpError> {
    let kernel =
        |source| DumpError::Kernel { pid: file.pid, what: "cannot read a netlink socket", source };
    let fd = file.file.as_fd();
    let int = |level, name| socket::option(fd, level, name).map_err(kernel);
    let protocol = int(libc::SOL_SOCKET, libc::SO_PROTOCOL)?;
    if !is_carried(protocol) {
        let what = format!("a netlink socket of protocol {protocol}");
        return Err(file.refusal(&what, "close it before the checkpoint"));
    }
    if inet::has_filter(fd).map_err(kernel)? {
        return Err(file.refusal("a netlink socket with a filter attached", "detach the filter"));
    }
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map_err(|e| kernel(e.into()))?;
    if !fds[0].revents().is_empty() {
        let what = "a netlink socket with messages that nobody has read";
        return Err(file.refusal(what, "let the process read them before the checkpoint"));
    }
    let (portid, _) = parts(&socket::name(fd).map_err(kernel)?);
    let peer = socket::peer(fd).map_err(kernel)?.unwrap_or_default();
    let (dst_portid, dst_group) = parts(&peer);
    let memberships: [u8; 64] = socket::bytes(fd, NETLINK, LIST_MEMBERSHIPS).map_err(kernel)?;
    let mut groups: Vec<u32> =
        memberships.as_chunks::<4>().0.iter().map(|w| u32::from_ne_bytes(*w)).collect();
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let on = |name: &i32| socket::option(fd, NETLINK, *name).is_ok_and(|v| v != 0);
    Ok(msg::FileEntry {
        r#type: msg::FdTypes::Netlinksk.into(),
        id,
        nlsk: Some(msg::NetlinkSkEntry {
            id,
            ino: file.stat.st_ino as u32,
            protocol: protocol as u32,
            state: if (dst_portid, dst_group) == (0, 0) { NOT_CONNECTED } else { CONNECTED },
            flags: file.flags(),
            portid,
            groups,
            dst_portid,
            dst_group,
            fown: dump_owner(file, collector.inside)?,
            opts: inet::dump_options(fd).map_err(kernel)?,
            ns_id: None,
            r#type: Some(int(libc::SOL_SOCKET, libc::SO_TYPE)? as u32),
            enabled: SWITCHES.iter().filter(|name| on(name)).map(|n| *n as u32).collect(),
        }),
        ..Default::default()
    })
}

/// Makes a netlink socket again, in the network namespace of the caller.
///
/// # Errors
/// What the kernel said: a port in use above all.
pub fn restore(entry: &msg::NetlinkSkEntry) -> Result<OwnedFd, RestoreError> {
    let kernel = |source: io::Error| RestoreError::Kernel {
        pid: 0,
        what: format!("cannot make the netlink socket with port {} again", entry.portid),
        source,
    };
    let kind = entry.r#type.map_or(SocketType::RAW, SocketType::from_raw);
    let protocol = std::num::NonZeroU32::new(entry.protocol).map(Protocol::from_raw);
    let fd = rustix::net::socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, protocol)
        .map_err(|e| kernel(e.into()))?;
    fill(entry, fd.as_fd()).map_err(kernel)?;
    Ok(fd)
}

fn fill(entry: &msg::NetlinkSkEntry, fd: BorrowedFd<'_>) -> io::Result<()> {
    inet::restore_options(&entry.opts, fd)?;
    for name in &entry.enabled {
        socket::set_option(fd, NETLINK, *name as i32, 1)?;
    }
    let first = entry.groups.first().copied().unwrap_or(0);
    if entry.portid != 0 || first != 0 {
        socket::bind(fd, &address(entry.portid, first))?;
    }
    for (word, bits) in entry.groups.iter().enumerate().skip(1) {
        for bit in (0..32).filter(|bit| bits & (1 << bit) != 0) {
            // Groups are counted from 1.
            let group = word as i32 * 32 + bit + 1;
            socket::set_option(fd, NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)?;
        }
    }
    if entry.state == CONNECTED {
        socket::connect(fd, &address(entry.dst_portid, entry.dst_group))?;
    }
    Ok(rustix::fs::fcntl_setfl(fd, OFlags::from_bits_retain(entry.flags))?)
}
