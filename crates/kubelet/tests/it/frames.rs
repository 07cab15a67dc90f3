//! h2 spoken by hand, to say what no well-behaved client would (RFC 9113, RFC 7541).

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::client::Client;

/// For a server that stops taking what is sent, which is one way to bear a flood.
const STUCK: Duration = Duration::from_secs(2);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A connection whose every frame is the test's.
pub(crate) struct Hand {
    write: WriteHalf<TlsStream<TcpStream>>,
    read: Option<ReadHalf<TlsStream<TcpStream>>>,
}

/// How a flood ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Everything was taken.
    Taken,
    /// The server closed the connection.
    Closed,
    /// The server takes no more.
    Stuck,
}

impl Hand {
    /// After the preface and empty settings.
    pub(crate) async fn shake(client: &Client) -> Self {
        let stream = client.stream(&["h2"]).await.unwrap();
        let (read, write) = tokio::io::split(stream);
        let mut hand = Self { write, read: Some(read) };
        assert_eq!(hand.send(PREFACE).await, End::Taken);
        assert_eq!(hand.send(&frame(SETTINGS, 0, 0, b"")).await, End::Taken);
        hand
    }

    /// Reads and drops whatever the server says, in the background.
    pub(crate) fn listen(&mut self) {
        let mut read = self.read.take().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 16 << 10];
            while read.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        });
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> End {
        match tokio::time::timeout(STUCK, self.write.write_all(bytes)).await {
            Ok(Ok(())) => match tokio::time::timeout(STUCK, self.write.flush()).await {
                Ok(Ok(())) => End::Taken,
                Ok(Err(_)) => End::Closed,
                Err(_) => End::Stuck,
            },
            Ok(Err(_)) => End::Closed,
            Err(_) => End::Stuck,
        }
    }

    /// Sends pieces until they are all taken, or no more are.
    pub(crate) async fn flood(&mut self, pieces: impl IntoIterator<Item = Vec<u8>>) -> End {
        for piece in pieces {
            match self.send(&piece).await {
                End::Taken => {}
                other => return other,
            }
        }
        End::Taken
    }
}

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block for a POST.
pub(crate) fn post(path: &str) -> Vec<u8> {
    // Indexed: `:method POST`, `:scheme https`; literal with an indexed name: `:authority`, `:path`.
    let mut block = vec![0x83, 0x87, 0x01, 9];
    block.extend(b"localhost");
    block.push(0x04);
    string(path.as_bytes(), &mut block);
    block
}

/// A literal header that is not to be kept by the decoder.
pub(crate) fn literal(name: &str, value: &[u8], block: &mut Vec<u8>) {
    block.push(0x00);
    string(name.as_bytes(), block);
    string(value, block);
}

/// A string without Huffman coding, its length in seven bits and more.
fn string(bytes: &[u8], block: &mut Vec<u8>) {
    let mut rest = bytes.len();
    if rest < 127 {
        block.push(u8::try_from(rest).unwrap());
    } else {
        block.push(127);
        rest -= 127;
        while rest >= 128 {
            block.push(u8::try_from(rest % 128 + 128).unwrap());
            rest /= 128;
        }
        block.push(u8::try_from(rest).unwrap());
    }
    block.extend(bytes);
}
