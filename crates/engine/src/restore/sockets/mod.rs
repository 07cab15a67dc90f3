//! Unix sockets made again, all before the tasks are rebuilt.
//!
//! What the kernel remembers of a caller (SO_PEERCRED) is set by socketpair(2), listen(2) and
//! connect(2): these are remote calls in the task that made them, or in one that holds the socket
//! when that one is gone. All else is done by the engine. The order: connections (an accepted one
//! gets its name from a listener made for it alone), names and listeners, queues, peers of datagram
//! sockets, ends, options, and last the connections that nobody has accepted yet.

mod actors;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use cryopod_images::msg;
use cryopod_sys::diag::SocketDiag;
use cryopod_sys::message::{self, Credentials};
use cryopod_sys::socket;
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::Context;
use super::tree::Seedling;
use crate::error::RestoreError;
use crate::files::inet;
use crate::files::queues::{self, Packet};
use crate::files::unix::names::{self, Hidden, Place};
use crate::files::unix::{ESTABLISHED, INHERIT, LISTEN};
use actors::{Actors, Target};

/// criu's USK_EXTERN: the peer is outside.
const EXTERN: u32 = 1;
const SO_PEEK_OFF: i32 = 42;
/// Strangers that may come to an abstract name before our own connection is given up.
const STRANGERS: usize = 64;

type Entry<'i> = &'i msg::UnixSkEntry;

struct Maker<'m, 'c, 'i> {
    context: &'c mut Context<'i>,
    actors: Actors<'m>,
    /// All sockets by inode.
    all: BTreeMap<u32, Entry<'i>>,
    made: HashMap<u32, OwnedFd>,
    places: HashMap<u32, Place>,
    /// Other ends of those whose peer is closed.
    ghosts: HashMap<u32, OwnedFd>,
    hidden: Hidden,
    diag: Option<SocketDiag>,
}

/// Makes all unix sockets of the tree; [`Context::file`] gives them.
pub(crate) fn make<'i>(
    context: &mut Context<'i>,
    seedlings: &mut [Seedling],
) -> Result<(), RestoreError> {
    let images = context.images;
    let all: BTreeMap<u32, Entry<'i>> =
        images.files.values().filter_map(|f| f.usk.as_ref()).map(|e| (e.ino, e)).collect();
    if all.is_empty() || seedlings.is_empty() {
        return Ok(());
    }
    let mut pids = HashMap::new();
    let mut holders = HashMap::new();
    for (at, seedling) in seedlings.iter().enumerate() {
        let task = &images.tasks[seedling.index];
        pids.insert(task.tree.pid, at);
        let table = task.body.as_ref().and_then(|b| images.tables.get(&b.ids.files_id));
        for entry in table.into_iter().flatten() {
            holders.entry(entry.id).or_insert(at);
        }
    }
    let actors = Actors { seedlings, transports: HashMap::new(), pids, holders };
    let mut maker = Maker {
        context,
        actors,
        all,
        made: HashMap::new(),
        places: HashMap::new(),
        ghosts: HashMap::new(),
        hidden: Hidden::default(),
        diag: None,
    };
    maker.create()?;
    maker.name()?;
    for (ino, fd) in &maker.made {
        let copy = fd.try_clone().map_err(|e| failed(maker.all[ino], e))?;
        maker.context.opened.insert(maker.all[ino].id, copy);
    }
    maker.fill()?;
    maker.join()?;
    maker.finish()?;
    maker.wait()
}

fn shown(entry: Entry<'_>) -> String {
    match &entry.name[..] {
        [] => format!("socket:[{}]", entry.ino),
        [0, name @ ..] => format!("@{}", String::from_utf8_lossy(name)),
        name => String::from_utf8_lossy(name).trim_end_matches('\0').to_owned(),
    }
}

fn failed(entry: Entry<'_>, source: io::Error) -> RestoreError {
    RestoreError::Kernel {
        pid: 0,
        what: format!("cannot make the unix socket {} again", shown(entry)),
        source,
    }
}

fn senseless(entry: Entry<'_>, what: &str) -> RestoreError {
    RestoreError::Image {
        name: "files.img".into(),
        what: format!("unix socket {}: {what}", shown(entry)),
    }
}

fn fresh(kind: u32) -> io::Result<OwnedFd> {
    let kind = SocketType::from_raw(kind);
    Ok(rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?)
}

fn is_datagram(entry: Entry<'_>) -> bool {
    entry.r#type == libc::SOCK_DGRAM as u32
}

impl<'i> Maker<'_, '_, 'i> {
    fn entries(&self) -> Vec<Entry<'i>> {
        self.all.values().copied().collect()
    }

    fn peer(&self, entry: Entry<'_>) -> Option<Entry<'i>> {
        self.all.get(&entry.peer).copied()
    }

    fn fd(&self, entry: Entry<'_>) -> Result<BorrowedFd<'_>, RestoreError> {
        self.made
            .get(&entry.ino)
            .map(AsFd::as_fd)
            .ok_or_else(|| senseless(entry, "it was not made"))
    }

    /// Makes every socket, and every connection that is accepted.
    fn create(&mut self) -> Result<(), RestoreError> {
        // A datagram socket without a name was connected to by socketpair(2) only.
        for entry in self.entries() {
            let Some(peer) = self.peer(entry).filter(|p| p.name.is_empty()) else { continue };
            if !is_datagram(entry) || self.made.contains_key(&entry.ino) {
                continue;
            }
            let who = self.actors.who(entry.peer_credentials.as_ref(), entry.id);
            let (a, b) = self
                .actors
                .pair(who, entry.peer_credentials.as_ref(), entry.r#type)
                .map_err(|e| failed(entry, e))?;
            if peer.peer != entry.ino {
                disconnect(b.as_fd(), a.as_fd()).map_err(|e| failed(peer, e))?;
            }
            self.made.insert(entry.ino, a);
            if self.made.insert(peer.ino, b).is_some() {
                return Err(senseless(peer, "it has no name and more than one peer"));
            }
        }
        for entry in self.entries() {
            if self.made.contains_key(&entry.ino) {
                continue;
            }
            if entry.uflags & (INHERIT | EXTERN) != 0 {
                let fd = self.inherited(entry)?;
                self.made.insert(entry.ino, fd);
                continue;
            }
            let peer = self.peer(entry);
            if entry.peer != 0 && peer.is_none() {
                return Err(senseless(entry, "its peer is not in the image"));
            }
            let connected = entry.state == ESTABLISHED
                && if is_datagram(entry) {
                    entry.peer == 0 && entry.peer_name.as_ref().is_some_and(Vec::is_empty)
                } else {
                    peer.is_none_or(|p| p.state != LISTEN)
                };
            if connected {
                self.connection(entry, peer)?;
            } else {
                let fd = fresh(entry.r#type).map_err(|e| failed(entry, e))?;
                self.made.insert(entry.ino, fd);
            }
        }
        Ok(())
    }

    fn inherited(&self, entry: Entry<'_>) -> Result<OwnedFd, RestoreError> {
        let name = format!("socket:[{}]", entry.ino);
        let found = self.context.options.inherit.iter().find(|(n, _)| *n == name);
        let Some((_, fd)) = found else {
            return Err(RestoreError::Refused {
                pid: 0,
                what: format!("{name} led outside the container"),
                way_out: "name a descriptor that takes its place",
            });
        };
        fd.try_clone().map_err(|e| failed(entry, e))
    }

    /// Both ends of a connection; without a peer the other end becomes a ghost.
    fn connection(
        &mut self,
        entry: Entry<'i>,
        peer: Option<Entry<'i>>,
    ) -> Result<(), RestoreError> {
        let fail = |e| failed(entry, e);
        let credentials = entry.peer_credentials.as_ref();
        let other = peer.map_or(entry.peer_name.as_deref().unwrap_or_default(), |p| &p.name);
        if is_datagram(entry) || (entry.name.is_empty() && other.is_empty()) {
            let who = self.actors.who(credentials, entry.id);
            let (a, b) = self.actors.pair(who, credentials, entry.r#type).map_err(fail)?;
            self.made.insert(entry.ino, a);
            self.keep(entry, peer, b);
            return Ok(());
        }
        let listens = |name: &[u8]| {
            self.all.values().any(|e| e.state == LISTEN && e.name == name && !name.is_empty())
        };
        // The accepted side has the listener's name.
        let accepted_is_other = entry.name.is_empty() || (!other.is_empty() && listens(other));
        let (name, client, server) = if accepted_is_other {
            (other, Some(entry), peer)
        } else {
            (&entry.name[..], peer, Some(entry))
        };
        let listener = fresh(entry.r#type).map_err(fail)?;
        let place = if names::path(name).is_some() {
            Some(self.hidden.bind(listener.as_fd(), name).map_err(fail)?)
        } else {
            socket::bind(listener.as_fd(), &names::address(name)).map_err(fail)?;
            None
        };
        let id = |e: Option<Entry<'_>>| e.map_or(entry.id, |e| e.id);
        // Each end knows who was on the other: the client the one that listened.
        let seen_by_client = client.and_then(|c| c.peer_credentials.as_ref());
        let who = self.actors.who(seen_by_client, id(server));
        self.actors.listen(who, seen_by_client, listener.as_fd(), 8).map_err(fail)?;
        let from = fresh(entry.r#type).map_err(fail)?;
        if let Some(client) = client {
            self.bind(client, from.as_fd())?;
        }
        let seen_by_server = server.and_then(|s| s.peer_credentials.as_ref());
        let who = self.actors.who(seen_by_server, id(client));
        let target = place.as_ref().map_or(Target::Name(name), Target::Place);
        self.actors.connect(who, seen_by_server, from.as_fd(), &target).map_err(fail)?;
        let accepted = self.accept(&listener, &from, place.is_some()).map_err(fail)?;
        if let Some(place) = place {
            place.remove().map_err(fail)?;
        }
        let (own, others) = if accepted_is_other { (from, accepted) } else { (accepted, from) };
        self.made.insert(entry.ino, own);
        self.keep(entry, peer, others);
        Ok(())
    }

    fn keep(&mut self, entry: Entry<'i>, peer: Option<Entry<'i>>, fd: OwnedFd) {
        match peer {
            Some(peer) => self.made.insert(peer.ino, fd),
            None => self.ghosts.insert(entry.ino, fd),
        };
    }

    /// Accepts our own connection; anybody in the network namespace may come to an abstract name.
    fn accept(&mut self, listener: &OwnedFd, from: &OwnedFd, private: bool) -> io::Result<OwnedFd> {
        if private {
            return Ok(rustix::net::accept_with(listener, SocketFlags::CLOEXEC)?);
        }
        if self.diag.is_none() {
            self.diag = Some(SocketDiag::open()?);
        }
        let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|s| s.st_ino as u32);
        for _ in 0..STRANGERS {
            let accepted = rustix::net::accept_with(listener, SocketFlags::CLOEXEC)?;
            let known = self.diag.as_ref().map(|d| d.unix(inode(&accepted)?)).transpose()?;
            if known.flatten().and_then(|s| s.peer) == Some(inode(from)?) {
                return Ok(accepted);
            }
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    /// Binds a socket to its own name.
    fn bind(&mut self, entry: Entry<'i>, fd: BorrowedFd<'_>) -> Result<(), RestoreError> {
        let fail = |e| failed(entry, e);
        if entry.name.is_empty() {
            return Ok(());
        }
        if names::path(&entry.name).is_none() {
            return socket::bind(fd, &names::address(&entry.name)).map_err(fail);
        }
        let place = if entry.deleted == Some(true) {
            // Removed at the end, when nobody has to be connected to it any more.
            self.hidden.bind(fd, &entry.name).map_err(fail)?
        } else {
            names::bind(fd, entry, self.context.root.as_fd())?
        };
        self.places.insert(entry.ino, place);
        Ok(())
    }

    /// Binds and listens.
    fn name(&mut self) -> Result<(), RestoreError> {
        for entry in self.entries() {
            let bound_already = !is_datagram(entry)
                && entry.state == ESTABLISHED
                && self.peer(entry).is_none_or(|p| p.state != LISTEN);
            if bound_already || entry.uflags & (INHERIT | EXTERN) != 0 {
                continue;
            }
            let fd = self.fd(entry)?.try_clone_to_owned().map_err(|e| failed(entry, e))?;
            self.bind(entry, fd.as_fd())?;
            if entry.state == LISTEN {
                let credentials = entry.peer_credentials.as_ref();
                let who = self.actors.who(credentials, entry.id);
                self.actors
                    .listen(who, credentials, fd.as_fd(), entry.backlog)
                    .map_err(|e| failed(entry, e))?;
            }
        }
        Ok(())
    }

    /// Fills the queues.
    fn fill(&mut self) -> Result<(), RestoreError> {
        let images = self.context.images;
        for entry in self.entries() {
            let packets = images.queues.of(entry.id);
            if packets.is_empty() || entry.uflags & (INHERIT | EXTERN) != 0 {
                continue;
            }
            if is_datagram(entry) {
                self.fill_datagrams(entry, packets)?;
                continue;
            }
            let sender = match self.peer(entry).filter(|p| p.peer == entry.ino) {
                Some(peer) => self.fd(peer)?.try_clone_to_owned(),
                None => match self.ghosts.get(&entry.ino) {
                    Some(ghost) => ghost.try_clone(),
                    None => return Err(senseless(entry, "nobody could have sent to it")),
                },
            };
            let sender = sender.map_err(|e| failed(entry, e))?;
            queues::make_room(sender.as_fd(), packets).map_err(|e| failed(entry, e))?;
            for packet in packets {
                self.send(entry, sender.as_fd(), packet, None)?;
            }
        }
        Ok(())
    }

    fn send(
        &mut self,
        entry: Entry<'i>,
        from: BorrowedFd<'_>,
        packet: &Packet,
        to: Option<&[u8]>,
    ) -> Result<(), RestoreError> {
        let fail = |source: io::Error| RestoreError::Kernel {
            pid: 0,
            what: format!("cannot fill the queue of the unix socket {}", shown(entry)),
            source,
        };
        let mut rights = Vec::new();
        for id in packet.rights() {
            rights.push(self.context.file(id)?.try_clone_to_owned().map_err(fail)?);
        }
        let mut rights: Vec<BorrowedFd<'_>> = rights.iter().map(AsFd::as_fd).collect();
        let credentials = packet.entry.ucred.map(|c| Credentials {
            pid: self.actors.host(c.pid).unwrap_or(std::process::id() as i32),
            uid: c.uid,
            gid: c.gid,
        });
        let mut rest = &packet.bytes[..];
        loop {
            let sent = message::send(from, rest, to, &rights, credentials).map_err(fail)?;
            rest = &rest[sent..];
            if rest.is_empty() {
                return Ok(());
            }
            rights.clear();
        }
    }

    /// Datagrams, each from a socket with its sender's name.
    fn fill_datagrams(&mut self, entry: Entry<'i>, packets: &[Packet]) -> Result<(), RestoreError> {
        let fail = |e| failed(entry, e);
        // One that may send without an address: the other half of a pair.
        let half = match self.peer(entry).filter(|p| p.peer == entry.ino || entry.name.is_empty()) {
            Some(peer) => Some((self.fd(peer)?.try_clone_to_owned().map_err(fail)?, &peer.name)),
            None => None,
        };
        let paired = entry.name.is_empty()
            || self.peer(entry).is_some_and(|p| p.peer == entry.ino && p.name.is_empty());
        let half = match (half, self.ghosts.get(&entry.ino)) {
            (Some((fd, name)), _) if paired => Some((fd, name.clone())),
            (_, Some(ghost)) => Some((ghost.try_clone().map_err(fail)?, Vec::new())),
            _ => {
                // Somebody connected to this one from a pair.
                let other = self
                    .all
                    .values()
                    .find(|e| is_datagram(e) && e.peer == entry.ino && entry.name.is_empty());
                match other {
                    Some(e) => {
                        Some((self.fd(e)?.try_clone_to_owned().map_err(fail)?, e.name.clone()))
                    }
                    None => None,
                }
            }
        };
        let file = socket::bound_file(self.fd(entry)?).map_err(fail)?;
        let address = match &file {
            Some(file) => {
                let path = format!("/proc/self/fd/{}\0", file.as_raw_fd());
                Some(names::address(path.as_bytes()))
            }
            None if entry.name.is_empty() => None,
            None => Some(names::address(&entry.name)),
        };
        let mut senders: HashMap<Vec<u8>, OwnedFd> = HashMap::new();
        for packet in packets {
            let name = match &packet.entry.addr {
                Some(name) => name.clone(),
                // criu does not say: somebody who is connected to it.
                None => self.likely_sender(entry),
            };
            if let Some((half, its_name)) = &half
                && (address.is_none() || *its_name == name)
            {
                let half = half.try_clone().map_err(fail)?;
                queues::make_room(half.as_fd(), packets).map_err(fail)?;
                self.send(entry, half.as_fd(), packet, None)?;
                continue;
            }
            if !senders.contains_key(&name) {
                let sender = self.sender(&name).map_err(fail)?;
                queues::make_room(sender.as_fd(), packets).map_err(fail)?;
                senders.insert(name.clone(), sender);
            }
            let sender = senders[&name].try_clone().map_err(fail)?;
            self.send(entry, sender.as_fd(), packet, address.as_deref())?;
        }
        Ok(())
    }

    fn likely_sender(&self, entry: Entry<'_>) -> Vec<u8> {
        let connected = self.all.values().filter(|e| is_datagram(e) && e.peer == entry.ino);
        connected.map(|e| e.name.clone()).max_by_key(|name| !name.is_empty()).unwrap_or_default()
    }

    /// A socket with this name to send from.
    fn sender(&mut self, name: &[u8]) -> io::Result<OwnedFd> {
        let fd = fresh(libc::SOCK_DGRAM as u32)?;
        if names::path(name).is_some() {
            self.hidden.bind(fd.as_fd(), name)?.remove()?;
        } else if !name.is_empty() {
            let own = self.all.values().find(|e| is_datagram(e) && e.name == name);
            if let Some(made) = own.and_then(|e| self.made.get(&e.ino)) {
                return made.try_clone();
            }
            match socket::bind(fd.as_fd(), &names::address(name)) {
                // Somebody else has that name now; the sender stays nameless.
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
                other => other?,
            }
        }
        Ok(fd)
    }

    /// Connects datagram sockets to named peers: whoever is connected to, connects after.
    fn join(&mut self) -> Result<(), RestoreError> {
        let mut left: Vec<Entry<'i>> = self
            .entries()
            .into_iter()
            .filter(|e| is_datagram(e) && e.state == ESTABLISHED && e.uflags == 0)
            .filter(|e| match self.peer(e) {
                Some(peer) => !peer.name.is_empty(),
                None => e.peer_name.as_ref().is_some_and(|n| !n.is_empty()),
            })
            .collect();
        while !left.is_empty() {
            let waits =
                |e: Entry<'_>| left.iter().any(|other| other.peer == e.ino && e.peer != other.ino);
            let (later, now): (Vec<_>, Vec<_>) = left.iter().copied().partition(|e| waits(e));
            if now.is_empty() {
                return Err(senseless(left[0], "peers in a circle"));
            }
            for entry in now {
                self.join_one(entry)?;
            }
            left = later;
        }
        Ok(())
    }

    fn join_one(&mut self, entry: Entry<'i>) -> Result<(), RestoreError> {
        let fail = |e| failed(entry, e);
        let gone;
        let (peer, name) = match self.peer(entry) {
            Some(peer) => (self.fd(peer)?, &peer.name[..]),
            None => {
                let name = entry.peer_name.as_deref().unwrap_or_default();
                gone = fresh(entry.r#type).map_err(fail)?;
                if names::path(name).is_some() {
                    self.hidden.bind(gone.as_fd(), name).map_err(fail)?;
                } else {
                    socket::bind(gone.as_fd(), &names::address(name)).map_err(fail)?;
                }
                (gone.as_fd(), name)
            }
        };
        let file = socket::bound_file(peer).map_err(fail)?;
        let address = match &file {
            Some(file) => {
                names::address(format!("/proc/self/fd/{}\0", file.as_raw_fd()).as_bytes())
            }
            None => names::address(name),
        };
        socket::connect(self.fd(entry)?, &address).map_err(fail)
    }

    /// Ends, options and flags.
    fn finish(&mut self) -> Result<(), RestoreError> {
        for entry in self.entries() {
            let fail = |e| failed(entry, e);
            if entry.uflags & (INHERIT | EXTERN) != 0 {
                continue;
            }
            let fd = self.fd(entry)?.try_clone_to_owned().map_err(fail)?;
            if let Some(ghost) = self.ghosts.remove(&entry.ino) {
                if entry.reset == Some(true) {
                    // Closed with a byte unread, the other end resets the connection.
                    message::send(fd.as_fd(), b"x", None, &[], None).map_err(fail)?;
                }
                drop(ghost);
            }
        }
        for entry in self.entries() {
            let fail = |e| failed(entry, e);
            if entry.uflags & (INHERIT | EXTERN) != 0 {
                continue;
            }
            let fd = self.fd(entry)?;
            let how = match entry.shutdown.unwrap_or(0) {
                1 => Some(rustix::net::Shutdown::Read),
                2 => Some(rustix::net::Shutdown::Write),
                3 => Some(rustix::net::Shutdown::Both),
                _ => None,
            };
            // The end of a connection whose peer is closed is down already.
            if let Some(how) = how {
                match rustix::net::shutdown(fd, how) {
                    Err(rustix::io::Errno::NOTCONN) if entry.state != ESTABLISHED => {}
                    other => other.map_err(|e| fail(e.into()))?,
                }
            }
            inet::restore_options(&entry.opts, fd).map_err(fail)?;
            if let Some(offset) = entry.peek_offset {
                socket::set_option(fd, libc::SOL_SOCKET, SO_PEEK_OFF, offset as i32)
                    .map_err(fail)?;
            }
            let flags = OFlags::from_bits_retain(entry.flags);
            rustix::fs::fcntl_setfl(fd, flags).map_err(|e| fail(e.into()))?;
        }
        Ok(())
    }

    /// Connections that wait to be accepted, and last the names that are gone.
    fn wait(&mut self) -> Result<(), RestoreError> {
        for listener in self.entries().into_iter().filter(|e| e.state == LISTEN) {
            let mut clients: Vec<Entry<'i>> =
                self.entries().into_iter().filter(|e| e.peer == listener.ino).collect();
            let turn = |e: &Entry<'_>| listener.waiting.iter().position(|ino| *ino == e.ino);
            clients.sort_by_key(|e| turn(e).unwrap_or(usize::MAX));
            for client in clients {
                self.queue_up(client, listener)?;
            }
        }
        for entry in self.entries().into_iter().filter(|e| e.deleted == Some(true)) {
            if let Some(place) = self.places.get(&entry.ino) {
                place.remove().map_err(|e| failed(entry, e))?;
            }
        }
        Ok(())
    }

    fn queue_up(&mut self, client: Entry<'i>, listener: Entry<'i>) -> Result<(), RestoreError> {
        let fail = |e| failed(client, e);
        let who = self.actors.who(None, client.id);
        let task = &self.context.images.tasks[self.actors.seedlings[who].index];
        let creds = task.cores[0].1.thread_core.as_ref().and_then(|t| t.creds.as_ref());
        let own = creds.map(|c| msg::SkUcredEntry { uid: c.euid, gid: c.egid, pid: 0 });
        let fd = self.fd(client)?.try_clone_to_owned().map_err(fail)?;
        // A full backlog is an error then, not a wait.
        rustix::fs::fcntl_setfl(&fd, OFlags::NONBLOCK).map_err(|e| fail(e.into()))?;
        let target = match self.places.get(&listener.ino) {
            Some(place) => Target::Place(place),
            None => Target::Name(&listener.name),
        };
        let mut result = self.actors.connect(who, own.as_ref(), fd.as_fd(), &target);
        if matches!(&result, Err(e) if e.kind() == io::ErrorKind::PermissionDenied) {
            result = self.actors.connect(who, None, fd.as_fd(), &target);
        }
        result.map_err(fail)?;
        let flags = OFlags::from_bits_retain(client.flags);
        rustix::fs::fcntl_setfl(&fd, flags).map_err(|e| fail(e.into()))
    }
}

/// Takes a peer away from one half of a pair; the other half keeps its own.
fn disconnect(half: BorrowedFd<'_>, other: BorrowedFd<'_>) -> io::Result<()> {
    let nobody = [0u8; 16];
    socket::connect(half, &nobody)?;
    // The kernel tells the other half; reading the error takes it away.
    socket::option(other, libc::SOL_SOCKET, libc::SO_ERROR).map(drop)
}
