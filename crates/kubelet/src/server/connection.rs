//! One connection, from the handshake to its end: HTTP/1.1 or h2 by ALPN, every wait bounded.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::Limits;
use super::door::Door;
use super::intake::{Meter, Metered, Pool};
use super::places::Place;
use crate::tls::Handshakes;

/// For a connection told to close to do so.
const CLOSING: Duration = Duration::from_secs(5);
/// Between pings on an h2 connection, by which a dead peer is noticed.
const PING: Duration = Duration::from_secs(30);
/// Requests at once on one h2 connection: Go's number.
const STREAMS: u32 = 250;
/// What an h2 client may send of bodies before they are read, in bytes: for a stream, and in all.
/// Nobody reads them but to see the client hang up.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;

/// What all connections share.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    door: Arc<Door>,
    handshakes: Arc<Handshakes>,
    pool: Pool,
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
        Self { door, handshakes, pool: Pool::new(), limits, stopped }
    }

    /// Looks at certificate and CA files without end.
    pub(super) async fn keep_reloading(&self) {
        loop {
            tokio::time::sleep(self.limits.reload).await;
            self.handshakes.reload().await;
        }
    }

    /// Serves one connection to its end.
    pub(super) async fn serve(mut self, socket: TcpStream, peer: SocketAddr, place: Place) {
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
            () = place.must_leave() => {
                tracing::debug!(%peer, "given up in the handshake: others need the place");
                return;
            }
            _ = self.stopped.changed() => return,
        };
        let seat = place.seat();
        seat.shook_hands();
        let session = stream.get_ref().1;
        let certificates: Arc<[_]> = session.peer_certificates().unwrap_or_default().into();
        let builder = self.builder(session.alpn_protocol() == Some(b"h2"));
        let meter = Meter::new(self.pool.clone());
        let service = service_fn(|request: Request<Incoming>| {
            let door = Arc::clone(&self.door);
            let certificates = Arc::clone(&certificates);
            let running = seat.begin();
            // hyper's own limit is looked at between reads only: a header that came in whole with
            // the last one would pass.
            let header: usize = request
                .headers()
                .iter()
                .map(|(name, value)| name.as_str().len() + value.len())
                .sum();
            let too_large =
                header > usize::try_from(self.limits.header_bytes).unwrap_or(usize::MAX);
            let claim = meter.request(request.headers());
            async move {
                // Too large by itself, or together with what others have sent.
                let Some(claim) = claim.ok().filter(|_| !too_large) else {
                    let status = http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                    let reply = crate::reply::text(status, "");
                    return Ok::<_, Infallible>(reply.map(|body| running.send(body)));
                };
                let reply = door.answer(request, &certificates, peer).await;
                drop(claim);
                Ok::<_, Infallible>(reply.map(|body| running.send(body)))
            }
        });
        let stream = TokioIo::new(Metered::new(stream, Arc::clone(&meter)));
        let connection = builder.serve_connection(stream, service);
        tokio::pin!(connection);
        let mut closing: Option<Instant> = None;
        loop {
            let wake = closing.unwrap_or_else(|| seat.idle_end(&self.limits));
            tokio::select! {
                done = connection.as_mut() => {
                    if let Err(error) = done {
                        tracing::debug!(%peer, error = &*error, "connection ended");
                    }
                    return;
                }
                () = tokio::time::sleep_until(wake) => {
                    if seat.is_busy() {
                        // Asked at the last moment: the goodbye waits for the answer.
                        closing = closing.map(|_| Instant::now() + CLOSING);
                    } else if seat.is_sending() {
                        if seat.idle_end(&self.limits) <= Instant::now() {
                            tracing::debug!(%peer, "an answer is not taken: connection dropped");
                            return;
                        }
                        closing = closing.map(|_| seat.idle_end(&self.limits));
                    } else if closing.is_some() || !seat.has_asked() {
                        // Who never asked for anything is owed no goodbye.
                        return;
                    } else if seat.idle_end(&self.limits) <= Instant::now() {
                        connection.as_mut().graceful_shutdown();
                        closing = Some(Instant::now() + CLOSING);
                    }
                }
                () = place.must_leave() => {
                    tracing::debug!(%peer, "given up: others need the place");
                    return;
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
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING);
        if h2 { builder.http2_only() } else { builder.http1_only() }
    }
}
