//! What waits in the queues of sockets: bytes, packets, datagrams with their senders, descriptors
//! on their way.
//!
//! A queue is read with MSG_PEEK, which takes nothing out. To look behind the first packet the
//! socket's SO_PEEK_OFF (3.4; UDP 4.17) is moved and put back; a child of ours puts it back when we
//! are killed in between. An empty datagram behind another packet is seen once only: the kernel
//! marks it when it is peeked, and a second checkpoint misses it.
//!
//! Refused: urgent data, an epoll instance on its way.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryopod_images::{Image, Reader, Writer, msg};
use cryopod_sys::message::{self, Received};
use cryopod_sys::spawn::{self, CloneOptions, Cloned};
use cryopod_sys::{socket, wait};

use super::{Collector, OpenFile, unix};
use crate::error::{DumpError, RestoreError};

const SO_PEEK_OFF: i32 = 42;
const SOCKET: i32 = libc::SOL_SOCKET;
const PEEK: i32 = libc::MSG_PEEK | libc::MSG_DONTWAIT;
/// First size of the buffer for a datagram.
const BUFFER: usize = 128 * 1024;

/// Puts SO_PEEK_OFF back when dropped, and by a child when this process dies before.
#[derive(Debug)]
struct Peeking<'a> {
    fd: BorrowedFd<'a>,
    before: i32,
    child: i32,
    /// The child waits for the end of this pipe.
    alive: Option<OwnedFd>,
}

impl<'a> Peeking<'a> {
    fn begin(fd: BorrowedFd<'a>) -> io::Result<Self> {
        let before = socket::option(fd, SOCKET, SO_PEEK_OFF)?;
        let (end, alive) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        match spawn::clone_process(&CloneOptions::default())? {
            Cloned::Child => {
                drop(alive);
                let mut byte = [0];
                while matches!(rustix::io::read(&end, &mut byte), Err(rustix::io::Errno::INTR)) {}
                let _ = socket::set_option(fd, SOCKET, SO_PEEK_OFF, before);
                spawn::exit_now(0)
            }
            Cloned::Parent { pid, .. } => Ok(Self { fd, before, child: pid, alive: Some(alive) }),
        }
    }

    fn at(&self, offset: usize) -> io::Result<()> {
        socket::set_option(self.fd, SOCKET, SO_PEEK_OFF, offset as i32)
    }
}

impl Drop for Peeking<'_> {
    fn drop(&mut self) {
        let _ = socket::set_option(self.fd, SOCKET, SO_PEEK_OFF, self.before);
        self.alive = None;
        while let Ok(status) = wait::wait_for(self.child) {
            if matches!(status, wait::Status::Exited(_) | wait::Status::Killed(_)) {
                break;
            }
        }
    }
}

/// One message of a queue.
#[derive(Debug)]
struct Message {
    bytes: Vec<u8>,
    got: Received,
}

/// One peek; `None` when nothing is there.
fn look(fd: BorrowedFd<'_>, room: usize, flags: i32) -> io::Result<Option<Message>> {
    let mut bytes = vec![0; room];
    match message::receive(fd, &mut bytes, PEEK | flags) {
        Ok(got) => {
            bytes.truncate(got.len);
            Ok(Some(Message { bytes, got }))
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(e),
    }
}

/// All datagrams or packets of a queue.
fn packets(fd: BorrowedFd<'_>, kind: i32) -> io::Result<Vec<Message>> {
    let whole = |peeking: Option<(&Peeking<'_>, usize)>| {
        let mut room = BUFFER;
        loop {
            if let Some((peeking, offset)) = peeking {
                peeking.at(offset)?;
            }
            match look(fd, room, libc::MSG_TRUNC)? {
                Some(message) if message.got.len > room => room = message.got.len,
                other => return Ok::<_, io::Error>(other),
            }
        }
    };
    // The end of a connection of packets looks like an empty one.
    let ends = |message: &Message| {
        let empty = message.bytes.is_empty() && message.got.rights.is_empty();
        Ok::<_, io::Error>(kind == libc::SOCK_SEQPACKET && empty && at_end(fd)?)
    };
    // A first look without an offset: an empty queue stays untouched.
    let before = socket::option(fd, SOCKET, SO_PEEK_OFF)?;
    let mut all = Vec::new();
    if before < 0 {
        let Some(first) = whole(None)? else { return Ok(all) };
        if ends(&first)? {
            return Ok(all);
        }
        all.push(first);
    }
    let peeking = Peeking::begin(fd)?;
    let mut offset = all.first().map_or(0, |m: &Message| m.bytes.len());
    while let Some(message) = whole(Some((&peeking, offset)))? {
        if ends(&message)? {
            break;
        }
        offset += message.bytes.len();
        all.push(message);
    }
    Ok(all)
}

/// True when reading ends rather than waits: the other side has shut down.
fn at_end(fd: BorrowedFd<'_>) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::RDHUP)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(fds[0].revents().contains(PollFlags::RDHUP))
}

/// The bytes of a stream, cut where descriptors begin to travel or the sender changes.
fn stream(fd: BorrowedFd<'_>) -> io::Result<Option<Vec<Message>>> {
    let total = rustix::io::ioctl_fionread(fd)? as usize;
    if total == 0 {
        return Ok(Some(Vec::new()));
    }
    let before = socket::option(fd, SOCKET, SO_PEEK_OFF)?;
    if before < 0 {
        match look(fd, total, 0)? {
            Some(first) if first.bytes.len() == total && first.got.rights.is_empty() => {
                return Ok(Some(vec![first]));
            }
            _ => {}
        }
    }
    let peeking = Peeking::begin(fd)?;
    let mut all = Vec::new();
    let mut offset = 0;
    while offset < total {
        peeking.at(offset)?;
        let Some(mut message) = look(fd, total - offset, 0)? else { return Ok(None) };
        if message.bytes.is_empty() {
            return Ok(None);
        }
        if !message.got.rights.is_empty() {
            // The bytes before those that the descriptors came with travel alone.
            peeking.at(offset)?;
            let before = message::whole_pieces(fd, message.bytes.len())?;
            if before != 0 {
                let bytes: Vec<u8> = message.bytes.drain(..before).collect();
                let got = Received {
                    len: before,
                    sender: message.got.sender.clone(),
                    rights: Vec::new(),
                    credentials: message.got.credentials,
                };
                offset += before;
                all.push(Message { bytes, got });
            }
        }
        offset += message.bytes.len();
        all.push(message);
    }
    Ok(Some(all))
}

/// Writes the image of all queues.
#[derive(Debug)]
pub struct Recorder {
    writer: Writer,
    /// Files found in queues: kept open so that they can be compared with others.
    kept: Vec<OwnedFd>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { writer: Writer::new(Image::SkQueues), kept: Vec::new() }
    }
}

impl Recorder {
    /// Records what waits in a unix socket.
    ///
    /// # Errors
    /// A refusal, or what the kernel said.
    pub fn unix(
        &mut self,
        collector: &mut Collector<'_>,
        id: u32,
        file: &OpenFile,
        kind: i32,
        listening: bool,
    ) -> Result<(), DumpError> {
        if listening {
            return Ok(());
        }
        let kernel =
            |source| DumpError::Kernel { pid: file.pid, what: "cannot look into a socket", source };
        let fd = file.file.as_fd();
        let messages = if kind == libc::SOCK_STREAM {
            stream(fd).map_err(kernel)?.ok_or_else(|| {
                file.refusal("a unix socket with urgent data in its queue", "have it read first")
            })?
        } else {
            // A packet socket that was never connected cannot be read.
            match packets(fd, kind) {
                Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => Vec::new(),
                other => other.map_err(kernel)?,
            }
        };
        let passes = socket::option(fd, SOCKET, libc::SO_PASSCRED).map_err(kernel)? != 0;
        for message in messages {
            self.record(collector, id, file, message, passes)?;
        }
        Ok(())
    }

    /// Records the datagrams that wait in a UDP socket.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn udp(
        &mut self,
        collector: &mut Collector<'_>,
        id: u32,
        file: &OpenFile,
    ) -> Result<(), DumpError> {
        let kernel =
            |source| DumpError::Kernel { pid: file.pid, what: "cannot look into a socket", source };
        for message in packets(file.file.as_fd(), libc::SOCK_DGRAM).map_err(kernel)? {
            self.record(collector, id, file, message, false)?;
        }
        Ok(())
    }

    fn record(
        &mut self,
        collector: &mut Collector<'_>,
        id: u32,
        file: &OpenFile,
        message: Message,
        passes: bool,
    ) -> Result<(), DumpError> {
        let mut rights = Vec::new();
        for fd in message.got.rights {
            rights.push(collector.queued(file, &fd)?);
            self.kept.push(fd);
        }
        let scm = (!rights.is_empty())
            .then_some(msg::ScmEntry { r#type: libc::SCM_RIGHTS as u32, rights });
        let ucred = message.got.credentials.filter(|_| passes);
        let sender = if message.got.sender.first() == Some(&(libc::AF_UNIX as u8)) {
            unix::bare_name(&message.got.sender).to_vec()
        } else {
            message.got.sender
        };
        let entry = msg::SkPacketEntry {
            id_for: id,
            length: message.bytes.len() as u32,
            addr: Some(sender),
            scm: scm.into_iter().collect(),
            ucred: ucred
                .filter(|c| c.pid != 0)
                .and_then(|c| unix::credentials(c, collector.inside)),
        };
        let failed =
            |e| DumpError::Sink { name: Image::SkQueues.file_name(0), source: io::Error::other(e) };
        self.writer.record(&entry).map_err(failed)?;
        self.writer.payload(&message.bytes);
        Ok(())
    }

    /// The image, when anything waits anywhere.
    #[must_use]
    pub fn finish(self) -> Option<Vec<u8>> {
        (!self.writer.is_empty()).then(|| self.writer.finish())
    }
}

/// One message of the image.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Its head.
    pub entry: msg::SkPacketEntry,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Packet {
    /// Ids of the files that travel with it.
    pub fn rights(&self) -> impl Iterator<Item = u32> + '_ {
        let rights = |scm: &&msg::ScmEntry| scm.r#type == libc::SCM_RIGHTS as u32;
        self.entry.scm.iter().filter(rights).flat_map(|scm| scm.rights.iter().copied())
    }
}

/// What waits in the sockets, by the id of the one that would read it.
#[derive(Debug, Default)]
pub struct Contents {
    packets: HashMap<u32, Vec<Packet>>,
}

impl Contents {
    /// Reads the image of queues.
    ///
    /// # Errors
    /// [`RestoreError::Image`].
    pub fn read(name: &str, bytes: &[u8]) -> Result<Self, RestoreError> {
        let bad = |what: String| RestoreError::Image { name: name.to_owned(), what };
        let mut reader =
            Reader::new(Image::SkQueues, name, bytes).map_err(|e| bad(e.to_string()))?;
        let mut contents = Self::default();
        while let Some(entry) =
            reader.record::<msg::SkPacketEntry>().map_err(|e| bad(e.to_string()))?
        {
            let length = u64::from(entry.length);
            let bytes = reader.payload(length).map_err(|e| bad(e.to_string()))?.to_vec();
            contents.packets.entry(entry.id_for).or_default().push(Packet { entry, bytes });
        }
        Ok(contents)
    }

    /// The messages for one socket, first come first.
    #[must_use]
    pub fn of(&self, id: u32) -> &[Packet] {
        self.packets.get(&id).map_or(&[], Vec::as_slice)
    }
}

/// Makes sure that a socket can send so much at once; nothing is lost when it is set back later.
///
/// # Errors
/// Those of setsockopt(2).
pub fn make_room(fd: BorrowedFd<'_>, packets: &[Packet]) -> io::Result<()> {
    const SO_SNDBUFFORCE: i32 = 32;
    // The kernel charges its own structures too; it doubles what it is told.
    let need: usize = packets.iter().map(|p| p.bytes.len() + 2048).sum();
    if need > (socket::option(fd, SOCKET, libc::SO_SNDBUF)? / 2) as usize {
        let need = i32::try_from(need).unwrap_or(i32::MAX / 2);
        socket::set_option(fd, SOCKET, SO_SNDBUFFORCE, need)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn a_whole_stream_is_seen_and_stays() {
        let (a, b) = pair(SocketType::STREAM);
        for part in [&b"first "[..], b"second"] {
            message::send(a.as_fd(), part, None, &[], None).unwrap();
        }
        for _ in 0..2 {
            let all = stream(b.as_fd()).unwrap().unwrap();
            assert_eq!(all.len(), 1);
            assert_eq!(all[0].bytes, b"first second");
        }
        assert_eq!(rustix::io::ioctl_fionread(&b).unwrap(), 12);
    }

    #[test]
    fn room_for_a_large_queue_is_made() {
        let (a, _b) = pair(SocketType::STREAM);
        let entry = msg::SkPacketEntry { id_for: 1, length: 0, ..Default::default() };
        let packet = Packet { entry, bytes: vec![0; 1 << 20] };
        make_room(a.as_fd(), &[packet]).unwrap();
        let room = socket::option(a.as_fd(), SOCKET, libc::SO_SNDBUF).unwrap();
        assert!(room >= 1 << 20);
    }
}
