//! A body that a task fills piece by piece, never faster than the client takes it: the channel
//! between them holds a piece or two.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::BoxError;
use crate::reply;

/// The task's end. Sending fails once the client is gone.
pub(crate) type Sender = mpsc::Sender<Bytes>;

/// A body and the end that fills it. With a `length`, ending before it breaks the answer off, which
/// the client notices; without one, the answer ends where the sender is dropped.
pub(crate) fn body(length: Option<u64>) -> (Sender, reply::Body) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, Streamed { receiver, left: length }.boxed_unsync())
}

struct Streamed {
    receiver: mpsc::Receiver<Bytes>,
    left: Option<u64>,
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == Some(0) {
            return Poll::Ready(None);
        }
        let piece = match self.receiver.poll_recv(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(piece) => piece,
        };
        match (piece, self.left) {
            (Some(piece), Some(left)) => {
                self.left = Some(left.saturating_sub(piece.len() as u64));
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            (Some(piece), None) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            (None, None) => Poll::Ready(None),
            (None, Some(left)) => {
                let text = format!("{left} bytes are missing");
                Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text).into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_with_a_length_must_reach_it() {
        let (sender, body) = body(Some(5));
        assert_eq!(body.size_hint().exact(), Some(5));
        tokio::spawn(async move {
            sender.send(Bytes::from_static(b"abc")).await.unwrap();
            sender.send(Bytes::from_static(b"de")).await.unwrap();
        });
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abcde");
        let (sender, body) = super::body(Some(5));
        tokio::spawn(async move { sender.send(Bytes::from_static(b"abc")).await.unwrap() });
        assert_eq!(body.collect().await.unwrap_err().to_string(), "2 bytes are missing");
    }

    #[tokio::test]
    async fn a_body_without_one_ends_with_its_sender_and_the_sender_sees_it_go() {
        let (sender, stream) = body(None);
        tokio::spawn(async move { sender.send(Bytes::from_static(b"abc")).await.unwrap() });
        assert_eq!(stream.collect().await.unwrap().to_bytes(), "abc");
        let (sender, stream) = body(None);
        drop(stream);
        assert!(sender.send(Bytes::new()).await.is_err());
    }
}
