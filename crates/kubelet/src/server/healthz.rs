//! The plain health pages: HTTP, no TLS, nobody asked who they are; meant for loopback, where
//! systemd, a probe or a load balancer on the node asks. A kubelet's `healthzBindAddress` and
//! `healthzPort`.
//!
//! One request for each connection, and few connections, of which one that does nothing makes way.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::places::{Places, Seat};
use crate::health::Health;
use crate::reply::{self, Reply};
use crate::routes::{self, Landing, Prefix};

/// Connections at once; one more takes the place of the one that was silent for the longest.
const CONNECTIONS: usize = 16;
/// For a connection from its beginning to its end.
const PATIENCE: Duration = Duration::from_secs(15);
/// Size of a request's header, in bytes: the least the library takes.
const HEADER_BYTES: usize = 8192;

/// Serves without end; waits without end when there is nothing to serve.
pub(super) async fn serve(listening: Option<(TcpListener, SocketAddr)>, health: Arc<Health>) {
    let Some((listener, _)) = listening else { return std::future::pending().await };
    let places = Places::new(CONNECTIONS);
    let mut tasks = JoinSet::new();
    loop {
        let (socket, _) = super::accept(&listener, &places).await;
        let place = places.take().await;
        while tasks.try_join_next().is_some() {}
        let health = Arc::clone(&health);
        tasks.spawn(async move {
            tokio::select! {
                // Whoever is slower has hung up, or should have.
                _ = tokio::time::timeout(PATIENCE, answer(socket, health, place.seat())) => {}
                () = place.must_leave() => {}
            }
        });
    }
}

async fn answer(socket: TcpStream, health: Arc<Health>, seat: &Arc<Seat>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let health = Arc::clone(&health);
        let running = seat.begin();
        async move {
            let page = page(&request, &health).await;
            Ok::<_, Infallible>(page.map(|body| running.send(body)))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(HEADER_BYTES)
        .keep_alive(false);
    if let Err(error) = builder.serve_connection(TokioIo::new(socket), service).await {
        tracing::debug!(error = &*error, "health connection ended");
    }
}

async fn page(request: &Request<Incoming>, health: &Health) -> Reply {
    let (method, uri) = (request.method(), request.uri());
    match routes::land(method, uri.path(), uri.query(), false) {
        Landing::BadRequest => reply::bad_request(),
        Landing::Redirect { status, location } => reply::redirect(method, status, &location),
        Landing::Guarded { prefix: Prefix::Healthz | Prefix::Readyz, path } => {
            let answer = health.answer(&path, uri.query()).await;
            answer.unwrap_or_else(reply::page_not_found)
        }
        Landing::Guarded { .. } | Landing::Beyond { .. } | Landing::NotFound => {
            reply::page_not_found()
        }
    }
}
