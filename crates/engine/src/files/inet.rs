//! Internet sockets: TCP that listens or is bound, UDP, and TCP connections.
//!
//! A listening or bound socket is made again with its address, options and backlog. A connection is
//! recorded without touching it; at restore its owner gets a connection whose peer has closed, and
//! reads the end of the stream. What waits in a socket's queues is not carried: UDP may lose
//! datagrams, and connections end. Sockets are made in the tree's network namespace. Refused: other
//! protocols, a socket with a filter attached.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryopod_images::msg;
use cryopod_sys::socket;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{Collector, OpenFile, dump_owner, groups};
use crate::error::{DumpError, RestoreError};

const TCP_ESTABLISHED: u32 = 1;
const TCP_CLOSE: u32 = 7;
const TCP_LISTEN: u32 = 10;
const SO_RCVTIMEO: i32 = 20;
const SO_SNDTIMEO: i32 = 21;
const SO_SNDBUFFORCE: i32 = 32;
const SO_RCVBUFFORCE: i32 = 33;
const SO_GET_FILTER: i32 = 26;
const SO_BUF_LOCK: i32 = 72;
const SOCKET: i32 = libc::SOL_SOCKET;
const TCP: i32 = libc::IPPROTO_TCP;

/// Ports and address words of a sockaddr.
fn address(addr: &[u8]) -> (u32, Vec<u32>) {
    let port = addr.get(2..4).map_or(0, |b| u32::from(u16::from_be_bytes([b[0], b[1]])));
    let words = match addr.first() {
        Some(2) => addr.get(4..8),
        Some(10) => addr.get(8..24),
        _ => None,
    };
    let words = words.unwrap_or_default().as_chunks::<4>().0;
    (port, words.iter().map(|w| u32::from_le_bytes(*w)).collect())
}

/// A sockaddr of these parts.
fn sockaddr(family: u32, port: u32, words: &[u32]) -> Vec<u8> {
    let mut addr = (family as u16).to_le_bytes().to_vec();
    addr.extend((port as u16).to_be_bytes());
    if family == libc::AF_INET6 as u32 {
        addr.extend([0; 4]);
        addr.extend(words.iter().flat_map(|w| w.to_le_bytes()));
        addr.resize(28, 0);
    } else {
        addr.extend(words.iter().flat_map(|w| w.to_le_bytes()));
        addr.resize(16, 0);
    }
    addr
}

fn time(fd: BorrowedFd<'_>, name: i32) -> io::Result<(u64, u64)> {
    let out: [u8; 16] = socket::bytes(fd, SOCKET, name)?;
    let word = |at: usize| out[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    Ok((word(0), word(8)))
}

/// Options of level SOL_SOCKET.
///
/// # Errors
/// Those of getsockopt(2).
pub fn dump_options(fd: BorrowedFd<'_>) -> io::Result<msg::SkOptsEntry> {
    let int = |name| socket::option(fd, SOCKET, name);
    let flag = |name| int(name).map(|v| Some(v != 0));
    let number = |name| int(name).map(|v| Some(v as u32));
    let (snd, rcv) = (time(fd, SO_SNDTIMEO)?, time(fd, SO_RCVTIMEO)?);
    let linger: [u8; 8] = socket::bytes(fd, SOCKET, libc::SO_LINGER)?;
    let linger =
        (linger[0] != 0).then(|| u32::from_le_bytes([linger[4], linger[5], linger[6], linger[7]]));
    Ok(msg::SkOptsEntry {
        so_sndbuf: int(libc::SO_SNDBUF)? as u32,
        so_rcvbuf: int(libc::SO_RCVBUF)? as u32,
        so_snd_tmo_sec: snd.0,
        so_snd_tmo_usec: snd.1,
        so_rcv_tmo_sec: rcv.0,
        so_rcv_tmo_usec: rcv.1,
        reuseaddr: flag(libc::SO_REUSEADDR)?,
        so_priority: number(libc::SO_PRIORITY)?,
        so_rcvlowat: number(libc::SO_RCVLOWAT)?,
        so_mark: number(libc::SO_MARK)?,
        so_passcred: flag(libc::SO_PASSCRED).unwrap_or(None),
        so_dontroute: flag(libc::SO_DONTROUTE)?,
        so_reuseport: flag(libc::SO_REUSEPORT)?,
        so_broadcast: flag(libc::SO_BROADCAST)?,
        so_keepalive: flag(libc::SO_KEEPALIVE)?,
        so_oobinline: number(libc::SO_OOBINLINE)?,
        so_linger: linger,
        so_buf_lock: number(SO_BUF_LOCK).unwrap_or(None),
        ..Default::default()
    })
}

/// Sets the options of level SOL_SOCKET that differ from what the socket has.
///
/// # Errors
/// Those of setsockopt(2).
pub fn restore_options(opts: &msg::SkOptsEntry, fd: BorrowedFd<'_>) -> io::Result<()> {
    let set = |name: i32, value: u32| -> io::Result<()> {
        if socket::option(fd, SOCKET, name)? as u32 != value {
            socket::set_option(fd, SOCKET, name, value as i32)?;
        }
        Ok(())
    };
    // The kernel doubles what it is told.
    for (get, force, wanted) in [
        (libc::SO_SNDBUF, SO_SNDBUFFORCE, opts.so_sndbuf),
        (libc::SO_RCVBUF, SO_RCVBUFFORCE, opts.so_rcvbuf),
    ] {
        if socket::option(fd, SOCKET, get)? as u32 != wanted {
            socket::set_option(fd, SOCKET, force, (wanted / 2) as i32)?;
        }
    }
    for (name, value) in [
        (libc::SO_REUSEADDR, opts.reuseaddr),
        (libc::SO_REUSEPORT, opts.so_reuseport),
        (libc::SO_DONTROUTE, opts.so_dontroute),
        (libc::SO_BROADCAST, opts.so_broadcast),
        (libc::SO_KEEPALIVE, opts.so_keepalive),
        (libc::SO_PASSCRED, opts.so_passcred.filter(|on| *on)),
    ] {
        if let Some(value) = value {
            set(name, value.into())?;
        }
    }
    for (name, value) in [
        (libc::SO_PRIORITY, opts.so_priority),
        (libc::SO_RCVLOWAT, opts.so_rcvlowat),
        (libc::SO_MARK, opts.so_mark),
        (libc::SO_OOBINLINE, opts.so_oobinline),
        (SO_BUF_LOCK, opts.so_buf_lock),
    ] {
        if let Some(value) = value {
            set(name, value)?;
        }
    }
    let times = [
        (SO_SNDTIMEO, opts.so_snd_tmo_sec, opts.so_snd_tmo_usec),
        (SO_RCVTIMEO, opts.so_rcv_tmo_sec, opts.so_rcv_tmo_usec),
    ];
    for (name, sec, usec) in times {
        if (sec, usec) != (0, 0) {
            let bytes: Vec<u8> = [sec, usec].iter().flat_map(|v| v.to_le_bytes()).collect();
            socket::set_bytes(fd, SOCKET, name, &bytes)?;
        }
    }
    if let Some(seconds) = opts.so_linger {
        let bytes: Vec<u8> = [1u32, seconds].iter().flat_map(|v| v.to_le_bytes()).collect();
        socket::set_bytes(fd, SOCKET, libc::SO_LINGER, &bytes)?;
    }
    Ok(())
}

/// Makes the entry of an internet socket.
///
/// # Errors
/// A refusal, or what the kernel said.
pub fn dump(
    collector: &mut Collector<'_>,
    id: u32,
    file: &OpenFile,
    family: i32,
) -> Result<msg::FileEntry, DumpError> {
    let fd = file.file.as_fd();
    let kernel = |source| DumpError::Kernel { pid: file.pid, what: "cannot read a socket", source };
    let int = |level, name| socket::option(fd, level, name).map_err(kernel);
    let kind = int(SOCKET, libc::SO_TYPE)?;
    let proto = int(SOCKET, libc::SO_PROTOCOL)?;
    let known =
        matches!((kind, proto), (libc::SOCK_STREAM, TCP) | (libc::SOCK_DGRAM, libc::IPPROTO_UDP));
    if !known {
        let what = format!("an internet socket of type {kind}, protocol {proto}");
        return Err(file.refusal(&what, "only TCP and UDP sockets are carried"));
    }
    if has_filter(fd).map_err(kernel)? {
        return Err(file.refusal("a socket with a filter attached", "detach the filter"));
    }
    let (src_port, src_addr) = address(&socket::name(fd).map_err(kernel)?);
    let peer = socket::peer(fd).map_err(kernel)?;
    // criu wants both addresses to have the family's length, also of a socket without a peer.
    let none = || (0, vec![0; src_addr.len()]);
    let (dst_port, dst_addr) = peer.as_deref().map_or_else(none, address);
    let (mut state, mut backlog) = (TCP_CLOSE, 0);
    if proto == TCP {
        // struct tcp_info: the state first; of a listener, bytes 28..32 are its backlog.
        let info: [u8; 32] = socket::bytes(fd, TCP, libc::TCP_INFO).map_err(kernel)?;
        state = u32::from(info[0]);
        if state == TCP_LISTEN {
            backlog = u32::from_le_bytes([info[28], info[29], info[30], info[31]]);
        }
    } else if peer.is_some() {
        state = TCP_ESTABLISHED;
    }
    let tcp = |name| int(TCP, name).map(|v| Some(v as u32));
    let tcp_opts = if proto == TCP {
        Some(msg::TcpOptsEntry {
            cork: Some(int(TCP, libc::TCP_CORK)? != 0),
            nodelay: Some(int(TCP, libc::TCP_NODELAY)? != 0),
            keepcnt: tcp(libc::TCP_KEEPCNT)?,
            keepidle: tcp(libc::TCP_KEEPIDLE)?,
            keepintvl: tcp(libc::TCP_KEEPINTVL)?,
            defer_accept: tcp(libc::TCP_DEFER_ACCEPT)?,
            user_timeout: tcp(libc::TCP_USER_TIMEOUT)?,
            fastopen: tcp(libc::TCP_FASTOPEN)?,
            linger2: tcp(libc::TCP_LINGER2)?,
            syncnt: tcp(libc::TCP_SYNCNT)?,
            notsent_lowat: tcp(libc::TCP_NOTSENT_LOWAT)?,
            congestion: Some(congestion(fd).map_err(kernel)?),
        })
    } else {
        None
    };
    let v6only = if family == libc::AF_INET6 {
        Some(int(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)? != 0)
    } else {
        None
    };
    let groups = if proto == TCP { Vec::new() } else { groups::dump(file)? };
    if proto != TCP {
        let mut queues = std::mem::take(&mut collector.queues);
        queues.udp(collector, id, file)?;
        collector.queues = queues;
    }
    Ok(msg::FileEntry {
        r#type: msg::FdTypes::Inetsk.into(),
        id,
        isk: Some(msg::InetSkEntry {
            id,
            ino: file.stat.st_ino as u32,
            family: family as u32,
            r#type: kind as u32,
            proto: proto as u32,
            state,
            src_port,
            dst_port,
            flags: file.flags(),
            backlog,
            src_addr,
            dst_addr,
            fown: dump_owner(file, collector.inside)?,
            opts: dump_options(fd).map_err(kernel)?,
            v6only,
            ip_opts: Some(ip_options(fd).map_err(kernel)?),
            ifname: None,
            ns_id: None,
            shutdown: None,
            tcp_opts,
            groups,
            more_opts: more_options(fd, family).map_err(kernel)?,
        }),
        ..Default::default()
    })
}

/// Name of a TCP socket's congestion control.
fn congestion(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let name: [u8; 16] = socket::bytes(fd, TCP, libc::TCP_CONGESTION)?;
    Ok(name.into_iter().take_while(|b| *b != 0).collect())
}

/// Options of level IP that criu knows.
fn ip_options(fd: BorrowedFd<'_>) -> io::Result<msg::IpOptsEntry> {
    let int = |name| socket::option(fd, libc::IPPROTO_IP, name);
    // What is off is not said: criu sets whatever is there.
    let on = |name| int(name).map(|v| (v != 0).then_some(true));
    Ok(msg::IpOptsEntry {
        freebind: on(libc::IP_FREEBIND)?,
        raw: None,
        pktinfo: on(libc::IP_PKTINFO)?,
        tos: Some(int(libc::IP_TOS)? as u32).filter(|tos| *tos != 0),
        ttl: Some(int(libc::IP_TTL)? as u32),
    })
}

/// Further options that are carried as plain numbers, by family of the socket.
const MORE_V4: [i32; 10] = [
    libc::IP_RECVTTL,
    libc::IP_RECVTOS,
    libc::IP_MTU_DISCOVER,
    libc::IP_RECVERR,
    libc::IP_TRANSPARENT,
    libc::IP_MULTICAST_TTL,
    libc::IP_MULTICAST_LOOP,
    libc::IP_MULTICAST_ALL,
    libc::IP_BIND_ADDRESS_NO_PORT,
    libc::IP_RECVORIGDSTADDR,
];
const MORE_V6: [i32; 9] = [
    libc::IPV6_RECVPKTINFO,
    libc::IPV6_UNICAST_HOPS,
    libc::IPV6_MULTICAST_HOPS,
    libc::IPV6_MULTICAST_LOOP,
    libc::IPV6_MTU_DISCOVER,
    libc::IPV6_RECVERR,
    libc::IPV6_TCLASS,
    libc::IPV6_RECVHOPLIMIT,
    libc::IPV6_RECVTCLASS,
];

/// Those of them that differ from a fresh socket's.
fn more_options(fd: BorrowedFd<'_>, family: i32) -> io::Result<Vec<msg::SkOptionEntry>> {
    let kind = socket::option(fd, SOCKET, libc::SO_TYPE)? as u32;
    let fresh = rustix::net::socket_with(
        AddressFamily::from_raw(family as u16),
        SocketType::from_raw(kind),
        SocketFlags::CLOEXEC,
        None,
    )?;
    let v4 = MORE_V4.iter().map(|name| (libc::IPPROTO_IP, *name));
    let v6 = MORE_V6.iter().map(|name| (libc::IPPROTO_IPV6, *name));
    let v6 = v6.filter(|_| family == libc::AF_INET6);
    let mut found = Vec::new();
    for (level, name) in v4.chain(v6) {
        // A kernel without the option, or a kind of socket without it.
        let Ok(value) = socket::option(fd, level, name) else { continue };
        if socket::option(fresh.as_fd(), level, name)? != value {
            found.push(msg::SkOptionEntry { level: level as u32, name: name as u32, value });
        }
    }
    Ok(found)
}

fn restore_ip_options(entry: &msg::InetSkEntry, fd: BorrowedFd<'_>) -> io::Result<()> {
    let set = |level: i32, name: i32, value: i32| {
        if socket::option(fd, level, name)? != value {
            socket::set_option(fd, level, name, value)?;
        }
        Ok::<_, io::Error>(())
    };
    let ip = entry.ip_opts.clone().unwrap_or_default();
    for (name, value) in [
        (libc::IP_FREEBIND, ip.freebind.map(i32::from)),
        (libc::IP_PKTINFO, ip.pktinfo.map(i32::from)),
        (libc::IP_TOS, ip.tos.map(|tos| tos as i32)),
        (libc::IP_TTL, ip.ttl.map(|ttl| ttl as i32)),
    ] {
        if let Some(value) = value {
            set(libc::IPPROTO_IP, name, value)?;
        }
    }
    for option in &entry.more_opts {
        set(option.level as i32, option.name as i32, option.value)?;
    }
    Ok(())
}

/// True when a socket has a filter attached (SO_ATTACH_FILTER).
///
/// # Errors
/// Those of getsockopt(2).
pub fn has_filter(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // With room for nothing, the kernel answers with the number of instructions in the length.
    match socket::length(fd, SOCKET, SO_GET_FILTER) {
        Ok(len) => Ok(len != 0),
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => Ok(true),
        Err(e) => Err(e),
    }
}

/// Makes an internet socket again, in the network namespace of the caller.
///
/// # Errors
/// What the kernel said, an address in use above all.
pub fn restore(entry: &msg::InetSkEntry) -> Result<OwnedFd, RestoreError> {
    let shown = format!("port {}", entry.src_port);
    let kernel = |source: io::Error| RestoreError::Kernel {
        pid: 0,
        what: format!("cannot make the socket of {shown} again"),
        source,
    };
    let connected = entry.proto == TCP as u32 && !matches!(entry.state, TCP_CLOSE | TCP_LISTEN);
    let fd = if connected {
        ended_connection().map_err(kernel)?
    } else {
        make(entry).map_err(kernel)?
    };
    let flags = rustix::fs::OFlags::from_bits_retain(entry.flags);
    rustix::fs::fcntl_setfl(&fd, flags).map_err(|e| kernel(e.into()))?;
    Ok(fd)
}

/// A connection over the loopback interface whose other side is closed.
fn ended_connection() -> io::Result<OwnedFd> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    let (other, _) = listener.accept()?;
    drop(other);
    // Without this the first send would succeed, and be answered with a reset.
    ours.shutdown(std::net::Shutdown::Write)?;
    Ok(ours.into())
}

fn make(entry: &msg::InetSkEntry) -> io::Result<OwnedFd> {
    let family = AddressFamily::from_raw(entry.family as u16);
    let kind = SocketType::from_raw(entry.r#type);
    let fd = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    let sock = fd.as_fd();
    if let Some(v6only) = entry.v6only {
        socket::set_option(sock, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, v6only.into())?;
    }
    restore_options(&entry.opts, sock)?;
    restore_ip_options(entry, sock)?;
    if let Some(opts) = &entry.tcp_opts {
        if let Some(name) = &opts.congestion
            && *name != congestion(sock)?
        {
            socket::set_bytes(sock, TCP, libc::TCP_CONGESTION, name)?;
        }
        let values = [
            (libc::TCP_CORK, opts.cork.map(u32::from)),
            (libc::TCP_NODELAY, opts.nodelay.map(u32::from)),
            (libc::TCP_KEEPCNT, opts.keepcnt),
            (libc::TCP_KEEPIDLE, opts.keepidle),
            (libc::TCP_KEEPINTVL, opts.keepintvl),
            (libc::TCP_DEFER_ACCEPT, opts.defer_accept),
            (libc::TCP_USER_TIMEOUT, opts.user_timeout),
            (libc::TCP_LINGER2, opts.linger2),
            (libc::TCP_SYNCNT, opts.syncnt),
            (libc::TCP_NOTSENT_LOWAT, opts.notsent_lowat),
        ];
        for (name, value) in values {
            if let Some(value) = value
                && socket::option(sock, TCP, name)? as u32 != value
            {
                socket::set_option(sock, TCP, name, value as i32)?;
            }
        }
    }
    if entry.src_port != 0 {
        socket::bind(sock, &sockaddr(entry.family, entry.src_port, &entry.src_addr))?;
    }
    for group in &entry.groups {
        groups::restore(group, sock)?;
    }
    let fastopen = entry.tcp_opts.as_ref().and_then(|o| o.fastopen).filter(|n| *n != 0);
    if let Some(waiting) = fastopen {
        // Only of an address that is bound.
        socket::set_option(sock, TCP, libc::TCP_FASTOPEN, waiting as i32)?;
    }
    if entry.proto == TCP as u32 && entry.state == TCP_LISTEN {
        rustix::net::listen(&fd, entry.backlog as i32)?;
    } else if entry.proto != TCP as u32 && entry.state == TCP_ESTABLISHED {
        socket::connect(sock, &sockaddr(entry.family, entry.dst_port, &entry.dst_addr))?;
    }
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_taken_apart_and_put_together_is_the_same() {
        let v4 = sockaddr(2, 6379, &[u32::from_le_bytes([127, 0, 0, 1])]);
        assert_eq!(v4[..8], [2, 0, 0x18, 0xeb, 127, 0, 0, 1]);
        assert_eq!(address(&v4), (6379, vec![u32::from_le_bytes([127, 0, 0, 1])]));
        let v6 = sockaddr(10, 80, &[1, 2, 3, 4]);
        assert_eq!((v6.len(), address(&v6)), (28, (80, vec![1, 2, 3, 4])));
    }
}
