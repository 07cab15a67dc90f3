//! Messages between processes: the door of a shim, and the channel to a helper.
//!
//! The door is a stream of frames (length, little-endian u32, then JSON or raw bytes). A helper's
//! channel is a SEQPACKET pair: one JSON message per packet, with descriptors beside it.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, RuntimeError};

/// Largest frame of the door: an exec's output and a little more.
const FRAME_MAX: u32 = 64 << 20;
/// Largest packet of a helper's channel.
const PACKET_MAX: usize = 128 << 10;
/// Most descriptors beside one packet.
pub(crate) const FDS_MAX: usize = 8;

/// An error that crossed a process boundary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, error: &dyn std::error::Error) -> Self {
        Self { kind, message: chain(error) }
    }

    pub(crate) fn internal(error: &dyn std::error::Error) -> Self {
        Self::new(ErrorKind::Internal, error)
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        Self::new(error.kind(), &error)
    }
}

impl From<Failure> for RuntimeError {
    fn from(failure: Failure) -> Self {
        Self::Shim { kind: failure.kind, message: failure.message }
    }
}

/// An error with its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Writes one frame of bytes.
pub(crate) fn write_bytes(stream: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_le_bytes())?;
    stream.write_all(bytes)
}

/// Reads one frame of bytes.
pub(crate) fn read_bytes(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > FRAME_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
    }
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Writes one frame of JSON.
pub(crate) fn write_json(stream: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    write_bytes(stream, &serde_json::to_vec(value)?)
}

/// Reads one frame of JSON.
pub(crate) fn read_json<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<T> {
    Ok(serde_json::from_slice(&read_bytes(stream)?)?)
}

/// Bytes as hexadecimal digits, two characters to a byte.
pub(crate) mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&crate::record::hex(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let pair = |pair: &[u8]| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
        bytes.ok_or_else(|| D::Error::custom("not hexadecimal digits"))
    }
}

/// One end of a helper's channel.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Two ends that are connected; both are closed by exec.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (a, b) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(a), Self(b)))
    }

    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Closes this process's copy of the end, as a copied process must with what belongs to the
    /// one it was copied from.
    pub(crate) fn disconnect(&mut self) {
        if let Ok(null) = std::fs::File::open("/dev/null") {
            self.0 = null.into();
        }
    }

    /// Whether nobody has the other end any more.
    pub(crate) fn is_hung_up(&self) -> bool {
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [rustix::event::PollFd::new(&self.0, rustix::event::PollFlags::RDHUP)];
        let looked = rustix::event::poll(&mut fds, Some(&now));
        matches!(looked, Ok(1..))
    }

    /// Sends a message with descriptors.
    pub(crate) fn send(&self, value: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(value)?;
        if bytes.len() > PACKET_MAX || fds.len() > FDS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message is too long"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        loop {
            match sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Waits for a message; `None`: the other end is closed.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; PACKET_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Ok(received) => break received,
                // The other end was closed with words of ours unread. Told once, and before what it
                // said itself, which is still to be read (unix(7)).
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
                Err(e) => return Err(e.into()),
            }
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&bytes[..received.bytes])?, fds)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_carries_messages_with_descriptors_and_tells_the_end() {
        let (a, b) = Channel::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        a.send(&"hello", &[file.as_fd(), file.as_fd()]).unwrap();
        let (text, fds): (String, _) = b.receive().unwrap().unwrap();
        assert_eq!(text, "hello");
        assert_eq!(fds.len(), 2);
        drop(a);
        assert!(b.receive::<String>().unwrap().is_none());
    }

    #[test]
    fn the_last_words_are_heard_though_ours_were_not() {
        let (a, b) = Channel::pair().unwrap();
        a.send(&"last", &[]).unwrap();
        b.send(&"unread", &[]).unwrap();
        drop(a);
        assert_eq!(b.receive::<String>().unwrap().unwrap().0, "last");
        assert!(b.receive::<String>().unwrap().is_none());
    }

    #[test]
    fn a_frame_that_claims_to_be_too_long_is_refused() {
        let mut bytes: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0];
        assert!(read_bytes(&mut bytes).is_err());
    }
}
