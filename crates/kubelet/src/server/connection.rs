//! One connection, from the handshake to its end: HTTP/1.1 or h2 by ALPN, every wait bounded.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::Limits;
use super::door::Door;
use crate::BoxError;
use crate::reply::Body;
use crate::tls::Handshakes;

/// For a connection told to close to do so.
const CLOSING: Duration = Duration::from_secs(5);
/// Between pings on an h2 connection, by which a dead peer is noticed.
const PING: Duration = Duration::from_secs(30);
/// Requests at once on one h2 connection: Go's number.
const STREAMS: u32 = 250;

/// What all connections share.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    door: Arc<Door>,
    handshakes: Arc<Handshakes>,
    limits: Limits,
    /// Closed when the server stops.
    stopped: watch::Receiver<()>,
}

impl Connections {
    pub(super) fn new(
        door: Arc<Door>,
        handshakes: Arc<Handshakes>,
        limits: Limits,
        stopped: watch::Receiver<()>,
    ) -> Self {
        Self { door, handshakes, limits, stopped }
    }

    /// Looks at certificate and CA files without end.
    pub(super) async fn keep_reloading(&self) {
        loop {
            tokio::time::sleep(self.limits.reload).await;
            self.handshakes.reload().await;
        }
    }

    /// Serves one connection to its end.
    pub(super) async fn serve(mut self, socket: TcpStream, peer: SocketAddr) {
        // Answers are small and complete: nothing to wait for.
        let _ = socket.set_nodelay(true);
        let handshake = TlsAcceptor::from(self.handshakes.config()).accept(socket);
        let stream = tokio::select! {
            done = tokio::time::timeout(self.limits.handshake, handshake) => match done {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(%peer, error, "TLS handshake failed");
                    return;
                }
                Err(_) => {
                    tracing::debug!(%peer, "TLS handshake timed out");
                    return;
                }
            },
            _ = self.stopped.changed() => return,
        };
        let session = stream.get_ref().1;
        let certificates: Arc<[_]> = session.peer_certificates().unwrap_or_default().into();
        let builder = self.builder(session.alpn_protocol() == Some(b"h2"));
        let activity = Arc::new(Activity::new());
        let service = service_fn(|request: Request<Incoming>| {
            let door = Arc::clone(&self.door);
            let certificates = Arc::clone(&certificates);
            let running = activity.begin();
            // hyper's own limit is looked at between reads only: a header that came in whole with
            // the last one would pass.
            let header: usize = request
                .headers()
                .iter()
                .map(|(name, value)| name.as_str().len() + value.len())
                .sum();
            let too_large =
                header > usize::try_from(self.limits.header_bytes).unwrap_or(usize::MAX);
            async move {
                if too_large {
                    let status = http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                    let reply = crate::reply::text(status, "");
                    return Ok::<_, Infallible>(reply.map(|body| running.stream(body)));
                }
                let reply = door.answer(request, &certificates, peer).await;
                Ok::<_, Infallible>(reply.map(|body| running.stream(body)))
            }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let mut closing: Option<Instant> = None;
        loop {
            let wake = closing.unwrap_or_else(|| activity.idle_end(&self.limits));
            tokio::select! {
                done = connection.as_mut() => {
                    if let Err(error) = done {
                        tracing::debug!(%peer, error = &*error, "connection ended");
                    }
                    return;
                }
                () = tokio::time::sleep_until(wake) => {
                    if activity.is_busy() {
                        // Asked at the last moment: the goodbye waits for the answer.
                        closing = closing.map(|_| Instant::now() + CLOSING);
                    } else if activity.is_streaming() {
                        if activity.idle_end(&self.limits) <= Instant::now() {
                            tracing::debug!(%peer, "an answer is not taken: connection dropped");
                            return;
                        }
                        closing = closing.map(|_| activity.idle_end(&self.limits));
                    } else if closing.is_some() || !activity.asked.load(Ordering::Relaxed) {
                        // Who never asked for anything is owed no goodbye.
                        return;
                    } else if activity.idle_end(&self.limits) <= Instant::now() {
                        connection.as_mut().graceful_shutdown();
                        closing = Some(Instant::now() + CLOSING);
                    }
                }
                // The sender is gone: requests under way may end, for as long as the server lets
                // them; it drops this task then.
                _ = self.stopped.changed(), if closing.is_none() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                    return;
                }
            }
        }
    }

    fn builder(&self, h2: bool) -> auto::Builder<TokioExecutor> {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.idle)
            .max_buf_size(usize::try_from(self.limits.header_bytes).unwrap_or(usize::MAX));
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(self.limits.header_bytes)
            .max_concurrent_streams(STREAMS)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING);
        if h2 { builder.http2_only() } else { builder.http1_only() }
    }
}

/// When a connection last did something.
#[derive(Debug)]
struct Activity {
    /// Requests without an answer.
    running: AtomicUsize,
    /// Answers that are not sent whole.
    streaming: AtomicUsize,
    asked: AtomicBool,
    since: Mutex<Instant>,
}

/// A request under way.
struct Running(Arc<Activity>);

impl Activity {
    fn new() -> Self {
        Self {
            running: AtomicUsize::new(0),
            streaming: AtomicUsize::new(0),
            asked: AtomicBool::new(false),
            since: Mutex::new(Instant::now()),
        }
    }

    fn begin(self: &Arc<Self>) -> Running {
        self.asked.store(true, Ordering::Relaxed);
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(Arc::clone(self))
    }

    fn is_busy(&self) -> bool {
        self.running.load(Ordering::Relaxed) > 0
    }

    fn is_streaming(&self) -> bool {
        self.streaming.load(Ordering::Relaxed) > 0
    }

    fn touch(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// When the connection will have been idle for too long, if nothing happens.
    fn idle_end(&self, limits: &Limits) -> Instant {
        if self.is_busy() {
            return Instant::now() + limits.idle;
        }
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = self.asked.load(Ordering::Relaxed);
        since + if asked { limits.idle } else { limits.first_request }
    }
}

impl Running {
    /// The answer is there and begins to be sent.
    fn stream(self, body: Body) -> Streaming {
        self.0.streaming.fetch_add(1, Ordering::Relaxed);
        Streaming { body, activity: Arc::clone(&self.0) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.touch();
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer on its way: every piece that the client takes is a sign of life.
struct Streaming {
    body: Body,
    activity: Arc<Activity>,
}

impl hyper::body::Body for Streaming {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_ready() {
            self.activity.touch();
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

impl Drop for Streaming {
    fn drop(&mut self) {
        self.activity.touch();
        self.activity.streaming.fetch_sub(1, Ordering::Relaxed);
    }
}
