//! Memory for what clients send before a request is complete. Every connection has a little of
//! its own; what goes beyond comes from one pool for all, so that many clients with large headers
//! hold no more memory together than a few. An ordinary header never gets near the pool.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Each connection's own, in bytes.
const OWN: usize = 16 << 10;
/// The pool is given out in pieces of so many bytes.
const PIECE: usize = 16 << 10;
/// Pieces in the pool: 64 MiB.
const PIECES: usize = (64 << 20) / PIECE;
/// What a header costs beside its bytes.
const PER_HEADER: usize = 100;

/// The pool.
#[derive(Clone, Debug)]
pub(super) struct Pool(Arc<Semaphore>);

/// The pool is used up.
#[derive(Debug, thiserror::Error)]
#[error("too much sent before a request was complete, by this client and others")]
pub(super) struct Exhausted;

/// What one connection has sent since its last request began.
#[derive(Debug)]
pub(super) struct Meter {
    pool: Pool,
    state: Mutex<Count>,
}

#[derive(Debug, Default)]
struct Count {
    bytes: usize,
    pieces: Option<OwnedSemaphorePermit>,
}

/// Pieces of the pool, given back when dropped; `None` for a request that needs none.
pub(super) type Claim = Option<OwnedSemaphorePermit>;

impl Pool {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(PIECES)))
    }

    /// Memory for so many bytes beyond a connection's own.
    fn claim(&self, bytes: usize) -> Result<Claim, Exhausted> {
        let pieces = bytes.saturating_sub(OWN).div_ceil(PIECE);
        if pieces == 0 {
            return Ok(None);
        }
        let pieces = u32::try_from(pieces).map_err(|_| Exhausted)?;
        Arc::clone(&self.0).try_acquire_many_owned(pieces).map(Some).map_err(|_| Exhausted)
    }
}

impl Meter {
    pub(super) fn new(pool: Pool) -> Arc<Self> {
        Arc::new(Self { pool, state: Mutex::default() })
    }

    /// A request is complete: its header counts as long as the result lives, and what comes next
    /// is counted anew.
    pub(super) fn request(&self, headers: &http::HeaderMap) -> Result<Claim, Exhausted> {
        *self.count() = Count::default();
        let bytes = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + PER_HEADER)
            .sum();
        self.pool.claim(bytes)
    }

    fn came(&self, bytes: usize) -> Result<(), Exhausted> {
        let mut count = self.count();
        count.bytes += bytes;
        let needed = count.bytes.saturating_sub(OWN).div_ceil(PIECE);
        let held = count.pieces.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if needed > held {
            // At most one read more than is held: one piece, or a few.
            let more = self.pool.claim(OWN + (needed - held) * PIECE)?;
            match (&mut count.pieces, more) {
                (Some(held), Some(more)) => held.merge(more),
                (held, more) => *held = more,
            }
        }
        Ok(())
    }

    fn count(&self) -> std::sync::MutexGuard<'_, Count> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream whose reads are counted.
#[derive(Debug)]
pub(super) struct Metered<S> {
    stream: S,
    meter: Arc<Meter>,
}

impl<S> Metered<S> {
    pub(super) fn new(stream: S, meter: Arc<Meter>) -> Self {
        Self { stream, meter }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let done = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = done
            && let Err(error) = self.meter.came(buf.filled().len() - before)
        {
            return Poll::Ready(Err(io::Error::other(error)));
        }
        done
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_requests_need_nothing_and_large_ones_share_the_pool() {
        let pool = Pool::new();
        let small = Meter::new(pool.clone());
        small.came(OWN).unwrap();
        assert_eq!(pool.0.available_permits(), PIECES);
        let mut large = Vec::new();
        loop {
            let meter = Meter::new(pool.clone());
            // As it comes, in reads of 8 KiB.
            let came = (0..128).try_for_each(|_| meter.came(8 << 10));
            large.push(meter);
            if came.is_err() {
                break;
            }
        }
        // 1 MiB each, less their own 16 KiB.
        assert_eq!(large.len(), PIECES / 63 + 1);
        small.came(OWN).unwrap_err();
        assert!(small.request(&http::HeaderMap::new()).unwrap().is_none());
        small.came(OWN).unwrap();
        drop(large);
        assert_eq!(pool.0.available_permits(), PIECES);
    }

    #[test]
    fn a_header_counts_as_long_as_its_request() {
        let pool = Pool::new();
        let meter = Meter::new(pool.clone());
        let mut headers = http::HeaderMap::new();
        headers.insert("x-big", "x".repeat(100 << 10).parse().unwrap());
        meter.came(100 << 10).unwrap();
        let claim = meter.request(&headers).unwrap();
        let held = PIECES - pool.0.available_permits();
        // 84 KiB and a little beyond its own.
        assert_eq!(held, 6);
        drop(claim);
        assert_eq!(pool.0.available_permits(), PIECES);
    }
}
