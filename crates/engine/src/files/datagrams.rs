//! UDP datagrams that waited in a queue, put back at the end of a restore.
//!
//! A datagram keeps its sender's address and port: it is sent as a raw packet (raw(7), CAP_NET_RAW)
//! that says so, over the loopback device, to the socket's own address; one that is bound to every
//! address gets it at the loopback address. What does not arrive (a packet filter in between) is
//! lost, as datagrams may be. Not put back: a datagram of a sender whose address is of a kind the
//! socket does not understand.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryopod_images::msg;
use cryopod_sys::message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType};

use super::queues::Packet;
use crate::error::RestoreError;

const UDP: u8 = libc::IPPROTO_UDP as u8;
const HEADER: usize = 8;
/// How long a datagram may be on its way over the loopback device.
const ARRIVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Address and port of a sockaddr; an IPv4 address in IPv6 clothes is IPv4.
fn sender(addr: &[u8]) -> Option<(IpAddr, u16)> {
    let port = u16::from_be_bytes(addr.get(2..4)?.try_into().ok()?);
    let ip = match i32::from(u16::from_ne_bytes(addr.get(..2)?.try_into().ok()?)) {
        libc::AF_INET => IpAddr::from(<[u8; 4]>::try_from(addr.get(4..8)?).ok()?),
        libc::AF_INET6 => IpAddr::from(<[u8; 16]>::try_from(addr.get(8..24)?).ok()?),
        _ => return None,
    };
    Some((ip.to_canonical(), port))
}

/// The address a socket is bound to, of the family of its sender.
fn receiver(entry: &msg::InetSkEntry, from: IpAddr) -> IpAddr {
    let bytes: Vec<u8> = entry.src_addr.iter().flat_map(|w| w.to_le_bytes()).collect();
    let bound = match (<[u8; 4]>::try_from(&bytes[..]), <[u8; 16]>::try_from(&bytes[..])) {
        (Ok(v4), _) => IpAddr::from(v4),
        (_, Ok(v6)) => IpAddr::from(v6),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let bound = bound.to_canonical();
    if bound.is_unspecified() || bound.is_multicast() || bound.is_ipv4() != from.is_ipv4() {
        return match from {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
    }
    bound
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A whole packet, IP header included; `None` for one that is too long.
fn packet(from: (IpAddr, u16), to: (IpAddr, u16), bytes: &[u8]) -> Option<Vec<u8>> {
    let len = u16::try_from(bytes.len() + HEADER).ok()?;
    let mut datagram = Vec::with_capacity(len.into());
    for half in [from.1, to.1, len, 0] {
        datagram.extend(half.to_be_bytes());
    }
    datagram.extend(bytes);
    let mut packet = Vec::new();
    match (from.0, to.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            // The kernel fills in length and checksum of the header; 0 means none of the datagram.
            packet.extend([0x45, 0, 0, 0, 0, 0, 0, 0, 64, UDP, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut covered = [from.octets(), to.octets()].concat();
            covered.extend(u32::from(len).to_be_bytes());
            covered.extend([0, 0, 0, UDP]);
            covered.extend(&datagram);
            // 0 would mean that there is none.
            let sum = match checksum(&covered) {
                0 => u16::MAX,
                sum => sum,
            };
            datagram[6..HEADER].copy_from_slice(&sum.to_be_bytes());
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(len.to_be_bytes());
            packet.extend([UDP, 64]);
            packet.extend(from.octets());
            packet.extend(to.octets());
        }
        _ => return None,
    }
    packet.extend(datagram);
    Some(packet)
}

fn raw(family: AddressFamily) -> io::Result<OwnedFd> {
    let protocol = std::num::NonZeroU32::new(libc::IPPROTO_RAW as u32).map(Protocol::from_raw);
    Ok(rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?)
}

fn sockaddr(ip: IpAddr) -> Vec<u8> {
    let mut addr = Vec::with_capacity(28);
    match ip {
        IpAddr::V4(ip) => {
            addr.extend((libc::AF_INET as u16).to_ne_bytes());
            addr.extend([0; 2]);
            addr.extend(ip.octets());
            addr.resize(16, 0);
        }
        IpAddr::V6(ip) => {
            addr.extend((libc::AF_INET6 as u16).to_ne_bytes());
            addr.extend([0; 6]);
            addr.extend(ip.octets());
            addr.resize(28, 0);
        }
    }
    addr
}

/// Puts the datagrams of one socket back, in the network namespace of the caller.
///
/// # Errors
/// What the kernel said; EPERM without CAP_NET_RAW.
pub fn restore(
    entry: &msg::InetSkEntry,
    socket: BorrowedFd<'_>,
    packets: &[Packet],
) -> Result<(), RestoreError> {
    let kernel = |source: io::Error| RestoreError::Kernel {
        pid: 0,
        what: format!("cannot put the datagrams of port {} back", entry.src_port),
        source,
    };
    for waiting in packets {
        let Some(from) = waiting.entry.addr.as_deref().and_then(sender) else { continue };
        let to = receiver(entry, from.0);
        let Some(bytes) = packet(from, (to, entry.src_port as u16), &waiting.bytes) else {
            continue;
        };
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let raw = raw(family).map_err(kernel)?;
        message::send(raw.as_fd(), &bytes, Some(&sockaddr(to)), &[], None).map_err(kernel)?;
    }
    if !packets.is_empty() {
        let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
        poll(&mut fds, Some(&ARRIVAL)).map_err(|e| kernel(e.into()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_says_who_sent_it_and_its_checksum_holds() {
        let v4 = |last| IpAddr::from([127, 0, 0, last]);
        let made = packet((v4(2), 1000), (v4(1), 53), b"abc").unwrap();
        assert_eq!(made.len(), 20 + 8 + 3);
        assert_eq!(made[12..20], [127, 0, 0, 2, 127, 0, 0, 1]);
        assert_eq!(made[20..26], [0x03, 0xe8, 0, 53, 0, 11]);
        let v6 = IpAddr::from(Ipv6Addr::LOCALHOST);
        let made = packet((v6, 1000), (v6, 53), b"abc").unwrap();
        // The pseudo header and the datagram with its checksum sum up to nothing.
        let mut covered = made[8..40].to_vec();
        covered.extend(11u32.to_be_bytes());
        covered.extend([0, 0, 0, UDP]);
        covered.extend(&made[40..]);
        assert_eq!(checksum(&covered), 0);
        assert_eq!(packet((v4(2), 1), (v6, 2), b""), None);
    }

    #[test]
    fn an_ipv4_sender_in_ipv6_clothes_is_ipv4() {
        let mut addr = (libc::AF_INET6 as u16).to_ne_bytes().to_vec();
        addr.extend([0, 7, 0, 0, 0, 0]);
        addr.extend(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets());
        addr.extend([0; 4]);
        assert_eq!(sender(&addr), Some((IpAddr::from([10, 0, 0, 1]), 7)));
    }
}
