//! Unix sockets: what each is, to whom it is connected, and what waits in it.
//!
//! Sockets are collected with the descriptors and settled together at the end ([`finish`]), when it
//! is known which peers belong to the tree. The kernel tells state, peer and waiting connections
//! over sock_diag(7); names come from getsockname(2), the file of a name from SIOCUNIXFILE (4.19).
//! A datagram socket whose peer is closed, and one half of a pair whose other half is closed, are
//! carried too. How sockets are made again: `restore::sockets`.
//!
//! Refused: a peer outside the tree, a listener with connections nobody accepted when bytes wait in
//! them or they come from outside, a bound path that was renamed, a socket of another network
//! namespace, a socket with a filter, urgent data.

pub mod names;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use cryopod_images::msg;
use cryopod_sys::diag::SocketDiag;
use cryopod_sys::message::Credentials;
use cryopod_sys::socket;
use rustix::event::{PollFd, PollFlags, poll};

use super::{Collector, OpenFile, dump_owner, inet};
use crate::error::DumpError;

/// State of a connected socket.
pub const ESTABLISHED: u32 = 1;
/// State of a socket that is neither connected nor listening.
pub const CLOSE: u32 = 7;
/// State of a listener.
pub const LISTEN: u32 = 10;
/// The socket leads outside and is given anew at restore (criu's USK_INHERIT).
pub const INHERIT: u32 = 8;

const SO_PEEK_OFF: i32 = 42;
const SOCKET: i32 = libc::SOL_SOCKET;

/// One socket of the tree while the tree is stopped.
#[derive(Debug)]
struct Seen {
    id: u32,
    file: OpenFile,
    kind: i32,
    state: u32,
    peer: u32,
    waiting: Vec<u32>,
    shutdown: u8,
    /// Memory of what it sent and nobody read.
    sent: u32,
}

/// The unix sockets seen so far.
#[derive(Debug, Default)]
pub struct Sockets {
    order: Vec<u32>,
    seen: HashMap<u32, Seen>,
}

/// Name of a sockaddr: what follows the family.
pub(crate) fn bare_name(addr: &[u8]) -> &[u8] {
    addr.get(2..).unwrap_or_default()
}

/// Makes the entry of a unix socket; [`finish`] completes it.
///
/// # Errors
/// A refusal, or what the kernel said.
pub fn dump(
    collector: &mut Collector<'_>,
    id: u32,
    file: OpenFile,
) -> Result<msg::FileEntry, DumpError> {
    let pid = file.pid;
    let kernel = |source| DumpError::Kernel { pid, what: "cannot read a unix socket", source };
    let fd = file.file.as_fd();
    if inet::has_filter(fd).map_err(kernel)? {
        return Err(file.refusal("a unix socket with a filter attached", "detach the filter"));
    }
    let kind = socket::option(fd, SOCKET, libc::SO_TYPE).map_err(kernel)?;
    let ino = file.stat.st_ino as u32;
    let name = bare_name(&socket::name(fd).map_err(kernel)?).to_vec();
    let peek = socket::option(fd, SOCKET, SO_PEEK_OFF).map_err(kernel)?;
    let entry = msg::UnixSkEntry {
        id,
        ino,
        r#type: kind as u32,
        state: CLOSE,
        flags: file.flags(),
        uflags: 0,
        backlog: 0,
        peer: 0,
        fown: dump_owner(&file, collector.inside)?,
        opts: inet::dump_options(fd).map_err(kernel)?,
        name,
        peek_offset: u32::try_from(peek).ok(),
        peer_credentials: peer_credentials(fd, collector.inside).map_err(kernel)?,
        ..Default::default()
    };
    let seen =
        Seen { id, file, kind, state: CLOSE, peer: 0, waiting: Vec::new(), shutdown: 0, sent: 0 };
    collector.unix.order.push(ino);
    collector.unix.seen.insert(ino, seen);
    Ok(msg::FileEntry {
        r#type: msg::FdTypes::Unixsk.into(),
        id,
        usk: Some(entry),
        ..Default::default()
    })
}

/// What SO_PEERCRED answers; `None` for a socket that never had a peer.
fn peer_credentials(
    fd: BorrowedFd<'_>,
    inside: &dyn Fn(i32) -> i32,
) -> io::Result<Option<msg::SkUcredEntry>> {
    let bytes: [u8; 12] = socket::bytes(fd, SOCKET, libc::SO_PEERCRED)?;
    Ok(credentials(Credentials::from_bytes(bytes), inside))
}

/// As the image has them; `None` for those of nobody.
pub(crate) fn credentials(
    found: Credentials,
    inside: &dyn Fn(i32) -> i32,
) -> Option<msg::SkUcredEntry> {
    let nobody = found.pid == 0 && found.uid == u32::MAX;
    (!nobody).then(|| msg::SkUcredEntry {
        uid: found.uid,
        gid: found.gid,
        pid: if found.pid == 0 { 0 } else { inside(found.pid) as u32 },
    })
}

/// Settles all unix sockets: their peers, their names, what waits in their queues (which may bring
/// further files, sockets among them). `external` names sockets that may lead outside, as
/// `socket:[INODE]`.
///
/// # Errors
/// A refusal, or what the kernel said.
pub fn finish(
    collector: &mut Collector<'_>,
    diag: &SocketDiag,
    external: &[String],
) -> Result<(), DumpError> {
    let mut queue = std::mem::take(&mut collector.queues);
    let mut at = 0;
    while let Some(&ino) = collector.unix.order.get(at) {
        at += 1;
        let Some(mut seen) = collector.unix.seen.remove(&ino) else { continue };
        let outside = external.contains(&format!("socket:[{ino}]"));
        settle(collector, diag, &mut seen, outside)?;
        if !outside {
            queue.unix(collector, seen.id, &seen.file, seen.kind, seen.state == LISTEN)?;
        }
        collector.unix.seen.insert(ino, seen);
    }
    collector.queues = queue;
    connect(collector, external)
}

/// Fills an entry with what the kernel tells of the socket itself.
fn settle(
    collector: &mut Collector<'_>,
    diag: &SocketDiag,
    seen: &mut Seen,
    outside: bool,
) -> Result<(), DumpError> {
    let file = &seen.file;
    let kernel =
        |source| DumpError::Kernel { pid: file.pid, what: "cannot read a unix socket", source };
    let Some(found) = diag.unix(file.stat.st_ino as u32).map_err(kernel)? else {
        let what = format!("{}, a unix socket of another network namespace", file.name());
        return Err(file.refusal(&what, "close it before the checkpoint"));
    };
    let peer_name = socket::peer(file.file.as_fd()).map_err(kernel)?;
    let mut fds = [PollFd::new(&file.file, PollFlags::empty())];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).map_err(|e| kernel(e.into()))?;
    let failed = fds[0].revents().contains(PollFlags::ERR);

    seen.state = found.state.into();
    seen.peer = found.peer.unwrap_or(0);
    seen.shutdown = found.shutdown;
    seen.sent = found.send;
    seen.waiting.clone_from(&found.waiting);
    let Some(entry) = collector.entries.iter_mut().find(|e| e.id == seen.id) else {
        return Ok(());
    };
    let Some(entry) = entry.usk.as_mut() else { return Ok(()) };
    entry.state = seen.state;
    entry.peer = seen.peer;
    if seen.state == LISTEN {
        entry.backlog = found.send;
        entry.waiting.clone_from(&found.waiting);
    }
    if found.shutdown != 0 {
        entry.shutdown = Some(i32::from(found.shutdown));
    }
    if outside {
        entry.uflags = INHERIT;
        entry.peer = 0;
        return Ok(());
    }
    // A datagram socket that others connect to is in that state too, without any peer.
    if seen.state == ESTABLISHED && found.peer == Some(0) {
        entry.peer_name = Some(peer_name.map_or(Vec::new(), |name| bare_name(&name).to_vec()));
        entry.reset = (failed && seen.kind != libc::SOCK_DGRAM).then_some(true);
    }
    names::dump(&seen.file, entry)
}

/// Checks who is connected to whom, once all are known.
fn connect(collector: &mut Collector<'_>, external: &[String]) -> Result<(), DumpError> {
    let sockets = std::mem::take(&mut collector.unix);
    let is_external = |ino: u32| external.contains(&format!("socket:[{ino}]"));
    // Who waits to be accepted, and by whom.
    let mut pending: HashMap<u32, u32> = HashMap::new();
    for (ino, seen) in &sockets.seen {
        if seen.state != LISTEN || is_external(*ino) {
            continue;
        }
        for client in &seen.waiting {
            let what = match sockets.seen.get(client) {
                None => {
                    "a connection that waits to be accepted and comes from outside, or whose \
                         other end is closed"
                }
                Some(client) if client.sent != 0 => {
                    "a connection that waits to be accepted, with bytes in it"
                }
                Some(_) => {
                    pending.insert(*client, *ino);
                    continue;
                }
            };
            return Err(seen.file.refusal(what, "let the server accept it before the checkpoint"));
        }
    }
    for ino in &sockets.order {
        let Some(seen) = sockets.seen.get(ino) else { continue };
        if seen.state != ESTABLISHED || is_external(*ino) {
            continue;
        }
        if seen.peer != 0 {
            if !sockets.seen.contains_key(&seen.peer) || is_external(seen.peer) {
                return Err(stranger(&seen.file));
            }
        } else if let Some(listener) = pending.get(ino) {
            let entry = collector.entries.iter_mut().find(|e| e.id == seen.id);
            if let Some(entry) = entry.and_then(|e| e.usk.as_mut()) {
                entry.peer = *listener;
                entry.peer_name = None;
            }
        } else if seen.kind != libc::SOCK_DGRAM && seen.shutdown != 3 {
            // A closed peer leaves both directions shut down.
            return Err(stranger(&seen.file));
        }
    }
    Ok(())
}

fn stranger(file: &OpenFile) -> DumpError {
    let to = socket::peer(file.file.as_fd()).ok().flatten().unwrap_or_default();
    let to = match bare_name(&to) {
        [] => String::new(),
        [0, name @ ..] => format!(" at @{}", String::from_utf8_lossy(name)),
        name => format!(" at {}", String::from_utf8_lossy(name).trim_end_matches('\0')),
    };
    let what = format!("{}, a unix socket connected to one{to} outside the container", file.name());
    file.refusal(&what, "close the connection before the checkpoint, or name it as external")
}
