//! Multicast groups that a socket has joined.
//!
//! The kernel lists groups by interface (/proc/PID/net/igmp, igmp6), not by socket; each of them is
//! asked for with MCAST_MSFILTER (RFC 3678), which answers EADDRNOTAVAIL when this socket has not
//! joined it. A group is joined again by its interface's name; whoever leaves it by an address of
//! the interface must have meant the first one. Refused: a list of wanted or unwanted sources.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use cryopod_images::msg;
use cryopod_sys::socket;

use super::OpenFile;
use crate::error::DumpError;
use crate::proc;

const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_MSFILTER: i32 = 48;
/// struct group_filter without sources, struct group_req: the group begins here.
const GROUP_AT: usize = 8;

/// A group on an interface: index, name, address (4 or 16 bytes).
type Group = (u32, Vec<u8>, Vec<u8>);

/// The lines of /proc/net/igmp: an interface, then its groups, indented.
fn parse_v4(text: &str) -> Vec<Group> {
    let mut found = Vec::new();
    let mut interface: Option<(u32, Vec<u8>)> = None;
    for line in text.lines().skip(1) {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        if !line.starts_with(char::is_whitespace) {
            let name = words.next().map(|n| n.trim_end_matches(':').as_bytes().to_vec());
            interface = first.parse().ok().zip(name);
        } else if let (Some((index, name)), Ok(word)) = (&interface, u32::from_str_radix(first, 16))
        {
            // Printed as a number of the machine's own byte order.
            found.push((*index, name.clone(), word.to_ne_bytes().to_vec()));
        }
    }
    found
}

/// The lines of /proc/net/igmp6: index, interface, group.
fn parse_v6(text: &str) -> Vec<Group> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let index = words.next()?.parse().ok()?;
        let name = words.next()?.as_bytes().to_vec();
        let hex = words.next().filter(|w| w.len() == 32)?;
        let bytes = (0..16).map(|at| u8::from_str_radix(hex.get(at * 2..at * 2 + 2)?, 16).ok());
        Some((index, name, bytes.collect::<Option<Vec<u8>>>()?))
    };
    text.lines().filter_map(line).collect()
}

fn level(group: &[u8]) -> i32 {
    if group.len() == 4 { libc::IPPROTO_IP } else { libc::IPPROTO_IPV6 }
}

/// Index and sockaddr of a group, as both structures begin.
fn head<const N: usize>(index: u32, group: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    bytes[..4].copy_from_slice(&index.to_ne_bytes());
    let (family, at) = if group.len() == 4 { (libc::AF_INET, 4) } else { (libc::AF_INET6, 8) };
    bytes[GROUP_AT..GROUP_AT + 2].copy_from_slice(&(family as u16).to_ne_bytes());
    bytes[GROUP_AT + at..GROUP_AT + at + group.len()].copy_from_slice(group);
    bytes
}

/// The groups of a socket.
///
/// # Errors
/// A refusal, or what the kernel said.
pub fn dump(file: &OpenFile) -> Result<Vec<msg::SkGroupEntry>, DumpError> {
    let read = |name: &str| {
        let bytes = proc::read(&format!("{}/net/{name}", file.pid)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let mut groups = parse_v4(&read("igmp"));
    groups.extend(parse_v6(&read("igmp6")));
    let mut joined = Vec::new();
    for (index, interface, addr) in groups {
        let question: [u8; 144] = head(index, &addr);
        match socket::ask(file.file.as_fd(), level(&addr), MCAST_MSFILTER, question) {
            Ok(answer) => {
                // Excluding (0) no sources is what a plain join means.
                if answer[136..144].iter().any(|b| *b != 0) {
                    return Err(file.refusal(
                        "a socket that has joined a multicast group for chosen sources",
                        "join the group for all sources",
                    ));
                }
                joined.push(msg::SkGroupEntry { addr, interface });
            }
            // Not joined, or not of this socket's family.
            Err(_) => continue,
        }
    }
    Ok(joined)
}

/// Joins a group again.
///
/// # Errors
/// ENODEV when the interface is not there, and others of setsockopt(2).
pub fn restore(group: &msg::SkGroupEntry, fd: BorrowedFd<'_>) -> io::Result<()> {
    let name = String::from_utf8_lossy(&group.interface).into_owned();
    let index = rustix::net::netdevice::name_to_index(fd, &name)?;
    if let Ok(addr) = <[u8; 4]>::try_from(&group.addr[..]) {
        // struct ip_mreqn: group, own address, interface. The address lets it be left by address.
        let own = socket::interface_address(fd, &group.interface)?.unwrap_or_default();
        let request = [&addr[..], &own, &index.to_ne_bytes()].concat();
        return socket::set_bytes(fd, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &request);
    }
    if group.addr.len() != 16 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let request: [u8; 136] = head(index, &group.addr);
    socket::set_bytes(fd, libc::IPPROTO_IPV6, MCAST_JOIN_GROUP, &request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lists_are_read() {
        let v4 = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
                  1\tlo        :     2      V3\n\t\t\t\t0B0AFCE9     1 0:00000000\t\t0\n\
                  2\teth0      :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n";
        let found = parse_v4(v4);
        assert_eq!(found[0], (1, b"lo".to_vec(), vec![0xe9, 0xfc, 0x0a, 0x0b]));
        assert_eq!(found[1], (2, b"eth0".to_vec(), vec![224, 0, 0, 1]));
        let v6 = "1    lo              ff020000000000000000000000000001     1 0000000C 0\n";
        assert_eq!(parse_v6(v6)[0].2[..2], [0xff, 2]);
    }
}
