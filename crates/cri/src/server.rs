//! What a CRI server needs besides the calls themselves: its socket, and the answer to calls it
//! does not know, in the words a kubelet and its users look for.
//!
//! Relies on unix(7): a socket's file keeps existing after its server's death, and connecting to
//! it is then refused (ECONNREFUSED); before listen(2) a connection is refused too, so the mode can
//! be set between bind(2) and listen(2) without a moment in which others could connect.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;
use tokio::sync::{oneshot, watch};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tower::{Layer, Service};

use crate::MAX_MESSAGE;
use crate::v1::image_service_server::{ImageService, ImageServiceServer};
use crate::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Why a server could not begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another server answers on this socket.
    #[error("another server listens on {}: stop it, or choose another socket path", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket is in the way; it is left alone.
    #[error("{} exists and is not a socket: remove it, or choose another socket path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refused a step of making the socket.
    #[error("{step} socket {}", path.display())]
    Socket {
        /// What was being done.
        step: &'static str,
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Serving ended with an error.
    #[error("serve CRI")]
    Serve(#[source] tonic::transport::Error),
}

/// Makes the listening socket: mode 0600, in an existing or new (0700) folder. A stale socket is
/// replaced; one that is listened on, or a file of another kind, is not touched.
///
/// Must be called inside a tokio runtime.
///
/// # Errors
/// [`ServerError`].
pub fn listen(path: &Path) -> Result<UnixListener, ServerError> {
    let failed = |step| move |source| ServerError::Socket { step, path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed("make the folder of"))?;
    }
    remove_stale(path)?;
    let errno = |step| move |err: rustix::io::Errno| failed(step)(err.into());
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(errno("make"))?;
    let address = SocketAddrUnix::new(path).map_err(errno("address"))?;
    rustix::net::bind(&socket, &address).map_err(|err| match err {
        rustix::io::Errno::ADDRINUSE => ServerError::InUse { path: path.to_owned() },
        err => errno("bind")(err),
    })?;
    rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR).map_err(errno("set the mode of"))?;
    rustix::net::listen(&socket, BACKLOG).map_err(errno("listen on"))?;
    UnixListener::from_std(socket.into()).map_err(failed("wait on"))
}

fn remove_stale(path: &Path) -> Result<(), ServerError> {
    let failed = |step| move |source| ServerError::Socket { step, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(failed("look at")(err)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(ServerError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match StdStream::connect(path) {
        Err(err) if err.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove stale"))
        }
        Ok(_) => Err(ServerError::InUse { path: path.to_owned() }),
        Err(err) => Err(failed("probe")(err)),
    }
}

/// How long connections without an open call may stay after the last call ended: enough to send
/// what is still to be sent to a client that listens, and no more to one that does not.
const FAREWELL: Duration = Duration::from_millis(500);

/// Serves both services on `listener` until `shutdown` is done and open calls have ended.
/// Connections that only stay open do not hold it up.
///
/// # Errors
/// [`ServerError::Serve`].
pub async fn serve<R, I>(
    listener: UnixListener,
    runtime: R,
    image: I,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError>
where
    R: RuntimeService,
    I: ImageService,
{
    let (stop, stopped) = oneshot::channel::<()>();
    let calls = CountCalls::default();
    let mut open = calls.open.subscribe();
    let serving = Server::builder()
        .layer(NameUnknownCalls)
        .layer(calls)
        .add_service(RuntimeServiceServer::new(runtime).max_decoding_message_size(MAX_MESSAGE))
        .add_service(ImageServiceServer::new(image).max_decoding_message_size(MAX_MESSAGE))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async {
            stopped.await.ok();
        });
    let ending = async {
        shutdown.await;
        stop.send(()).ok();
        // The sender lives in the server, which is polled beside this.
        open.wait_for(|open| *open == 0).await.ok();
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        served = serving => served.map_err(ServerError::Serve),
        () = ending => Ok(()),
    }
}

/// Counts the calls that are being answered.
#[derive(Clone, Debug)]
struct CountCalls {
    open: Arc<watch::Sender<usize>>,
}

impl Default for CountCalls {
    fn default() -> Self {
        Self { open: Arc::new(watch::Sender::new(0)) }
    }
}

impl<S> Layer<S> for CountCalls {
    type Service = CountsCalls<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CountsCalls { inner, open: Arc::clone(&self.open) }
    }
}

/// The service made by [`CountCalls`].
#[derive(Clone, Debug)]
struct CountsCalls<S> {
    inner: S,
    open: Arc<watch::Sender<usize>>,
}

/// One open call.
struct OpenCall(Arc<watch::Sender<usize>>);

impl OpenCall {
    fn begin(open: &Arc<watch::Sender<usize>>) -> Self {
        open.send_modify(|open| *open += 1);
        Self(Arc::clone(open))
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

impl<S, Req> Service<http::Request<Req>> for CountsCalls<S>
where
    S: Service<http::Request<Req>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Req>) -> Self::Future {
        let call = OpenCall::begin(&self.open);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(call);
            answer
        })
    }
}

/// Gives answers `Unimplemented` that carry no text of their own the text a Go server gives:
/// `unknown method M for service S`, or `unknown service S`.
#[derive(Clone, Copy, Debug)]
pub struct NameUnknownCalls;

impl<S> Layer<S> for NameUnknownCalls {
    type Service = NamesUnknownCalls<S>;

    fn layer(&self, inner: S) -> Self::Service {
        NamesUnknownCalls { inner }
    }
}

/// The service made by [`NameUnknownCalls`].
#[derive(Clone, Debug)]
pub struct NamesUnknownCalls<S> {
    inner: S,
}

impl<S, Req, Res> Service<http::Request<Req>> for NamesUnknownCalls<S>
where
    S: Service<http::Request<Req>, Response = http::Response<Res>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Req>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut answer = answer.await?;
            name_unknown_call(&path, answer.headers_mut());
            Ok(answer)
        })
    }
}

/// Unimplemented comes as an answer without body, its code and text among the headers.
fn name_unknown_call(path: &str, headers: &mut http::HeaderMap) {
    // The second is what the generated default of a call says (percent-encoded on the wire).
    let silent = match headers.get("grpc-message").map(HeaderValue::as_bytes) {
        None | Some(b"" | b"Not yet implemented" | b"Not%20yet%20implemented") => true,
        Some(_) => false,
    };
    if !silent || headers.get("grpc-status").is_none_or(|code| code != "12") {
        return;
    }
    let text = match path.trim_start_matches('/').split_once('/') {
        Some((service, method)) if KNOWN_SERVICES.contains(&service) => {
            format!("unknown method {method} for service {service}")
        }
        Some((service, _)) => format!("unknown service {service}"),
        None => format!("malformed method name: {path}"),
    };
    // A path can hold `%`, which is the escape sign in this header.
    if let Ok(value) = HeaderValue::from_str(&text.replace('%', "%25")) {
        headers.insert("grpc-message", value);
    }
}

const KNOWN_SERVICES: [&str; 2] = ["runtime.v1.RuntimeService", "runtime.v1.ImageService"];

/// A service that implements no call; both of a runtime's services can be played by it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nothing;

impl RuntimeService for Nothing {}
impl ImageService for Nothing {}
