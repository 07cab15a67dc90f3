//! Answers on their way: every piece that the client takes is a sign of life.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::places::Seat;
use crate::BoxError;
use crate::reply::Body;

/// A body that is being sent, until it is dropped.
pub(super) struct Sending {
    body: Body,
    seat: Arc<Seat>,
}

impl Sending {
    pub(super) fn new(body: Body, seat: Arc<Seat>) -> Self {
        seat.begin_sending();
        Self { body, seat }
    }
}

impl hyper::body::Body for Sending {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_ready() {
            self.seat.touch();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.seat.end_sending();
    }
}
