//! An API server played by the test: TokenReview and SubjectAccessReview over TLS, on loopback.
//!
//! What it knows (tokens, a rule about access) and how it misbehaves ([`Disturbance`]) is told by
//! the test at any time. It answers only clients that show a certificate of its authority or
//! [`NODE_TOKEN`], as a cluster answers its nodes; others get 401.

mod authority;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::net::sockopt::set_socket_linger;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use authority::Authority;

pub use authority::PemPair;

/// The token by which a client without a certificate may ask.
pub const NODE_TOKEN: &str = "node-token";
/// Questions that are remembered.
const REMEMBERED: usize = 256;

/// A kind of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Review {
    /// TokenReview.
    Token,
    /// SubjectAccessReview.
    Access,
}

/// A user behind a token.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// The user's name.
    pub name: String,
    /// Unique id.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Further facts.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What an access review says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// They may.
    Allow,
    /// They may not.
    Deny,
    /// Nothing says that they may.
    NoOpinion,
}

/// Something else than an answer.
#[derive(Clone, Debug)]
pub enum Disturbance {
    /// A refusal with this status.
    Status {
        /// The HTTP status.
        code: u16,
        /// `Retry-After`, in seconds.
        retry_after: Option<u32>,
    },
    /// The right answer, once this is notified.
    Wait(Arc<Notify>),
    /// No answer, ever.
    Hang,
    /// The connection is reset.
    Reset,
    /// 200 with this body.
    Body(String),
}

type Rule = Box<dyn Fn(&Value) -> Access + Send + Sync>;

/// The server; ends when dropped.
pub struct ApiServer {
    authority: Authority,
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

struct State {
    accounts: HashMap<String, Account>,
    unchecked: HashMap<String, String>,
    rule: Rule,
    token: Desk,
    access: Desk,
    clients: Vec<String>,
}

/// What happened and is to happen to one kind of question.
#[derive(Default)]
struct Desk {
    count: usize,
    asked: VecDeque<Value>,
    next: VecDeque<Disturbance>,
    every: Option<(usize, Disturbance)>,
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ApiServer {
    /// Listens on loopback; knows no token and has no opinion on anybody.
    ///
    /// # Errors
    /// No address could be had.
    pub async fn start() -> io::Result<Self> {
        let authority = Authority::new();
        let acceptor = TlsAcceptor::from(Arc::new(authority.server()));
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State {
            accounts: HashMap::new(),
            unchecked: HashMap::new(),
            rule: Box::new(|_| Access::NoOpinion),
            token: Desk::default(),
            access: Desk::default(),
            clients: Vec::new(),
        }));
        let task = tokio::spawn(accept(listener, acceptor, Arc::clone(&state)));
        Ok(Self { authority, address, state, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate of its authority, PEM.
    pub fn ca(&self) -> String {
        self.authority.pem()
    }

    /// A certificate by which a client of that name may ask.
    pub fn client(&self, name: &str) -> PemPair {
        self.authority.client(name)
    }

    /// Writes a kubeconfig for a client with a certificate, and the files it names, into a folder.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn write_kubeconfig(&self, folder: &Path) -> io::Result<PathBuf> {
        let pair = self.client("system:node:node-1");
        std::fs::write(folder.join("node.crt"), pair.certificate)?;
        std::fs::write(folder.join("node.key"), pair.key)?;
        let user = "{client-certificate: node.crt, client-key: node.key}";
        self.write_kubeconfig_as(folder, user)
    }

    /// The same, with another `user`, in YAML.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn write_kubeconfig_as(&self, folder: &Path, user: &str) -> io::Result<PathBuf> {
        std::fs::write(folder.join("cluster-ca.crt"), self.ca())?;
        let file = folder.join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: played\n\
             contexts: [{{name: played, context: {{cluster: played, user: node}}}}]\n\
             clusters: [{{name: played, cluster: {{server: \"https://{}\", \
             certificate-authority: cluster-ca.crt}}}}]\n\
             users: [{{name: node, user: {user}}}]\n",
            self.address
        );
        std::fs::write(&file, text)?;
        Ok(file)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// From now on the token belongs to that user.
    pub fn know(&self, token: &str, account: Account) {
        self.state().accounts.insert(token.to_owned(), account);
    }

    /// From now on the token belongs to nobody.
    pub fn revoke(&self, token: &str) {
        self.state().accounts.remove(token);
    }

    /// From now on the token cannot be checked, with this text.
    pub fn fail_to_check(&self, token: &str, text: &str) {
        self.state().unchecked.insert(token.to_owned(), text.to_owned());
    }

    /// From now on this decides on access; it is given the review's `spec`.
    pub fn rule(&self, rule: impl Fn(&Value) -> Access + Send + Sync + 'static) {
        self.state().rule = Box::new(rule);
    }

    /// The next questions of a kind meet these.
    pub fn disturb(&self, review: Review, with: impl IntoIterator<Item = Disturbance>) {
        self.state().desk(review).next.extend(with);
    }

    /// Each `nth` question of a kind meets this.
    pub fn disturb_every(&self, review: Review, nth: usize, with: Disturbance) {
        self.state().desk(review).every = Some((nth.max(1), with));
    }

    /// How many questions of a kind were asked, disturbed ones included.
    pub fn count(&self, review: Review) -> usize {
        self.state().desk(review).count
    }

    /// The `spec` of the last questions of a kind.
    pub fn asked(&self, review: Review) -> Vec<Value> {
        self.state().desk(review).asked.iter().cloned().collect()
    }

    /// Who asked, each named once, in order: `certificate` or `token`, or `nobody`.
    pub fn clients(&self) -> Vec<String> {
        self.state().clients.clone()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn desk(&mut self, review: Review) -> &mut Desk {
        match review {
            Review::Token => &mut self.token,
            Review::Access => &mut self.access,
        }
    }

    /// The status of a review.
    fn answer(&self, review: Review, spec: &Value) -> Value {
        if review == Review::Access {
            return match (self.rule)(spec) {
                Access::Allow => json!({"allowed": true, "reason": "played"}),
                Access::Deny => json!({"allowed": false, "denied": true, "reason": "played"}),
                Access::NoOpinion => json!({"allowed": false}),
            };
        }
        let token = spec["token"].as_str().unwrap_or_default();
        if let Some(text) = self.unchecked.get(token) {
            return json!({"authenticated": false, "error": text});
        }
        match self.accounts.get(token) {
            None => json!({"user": {}}),
            Some(Account { name, uid, groups, extra }) => json!({
                "authenticated": true,
                "user": {"username": name, "uid": uid, "groups": groups, "extra": extra},
            }),
        }
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(serve(socket, acceptor.clone(), Arc::clone(&state)));
    }
}

async fn serve(socket: TcpStream, acceptor: TlsAcceptor, state: Arc<Mutex<State>>) {
    // By which the connection can be reset from below the layers.
    let Ok(handle) = socket.as_fd().try_clone_to_owned() else { return };
    let Ok(stream) = acceptor.accept(socket).await else { return };
    let certified = stream.get_ref().1.peer_certificates().is_some();
    let service = service_fn(|request| one(request, certified, &state, &handle));
    // A client that leaves, or a reset of ours: nothing to do.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

type Reply = Response<Full<Bytes>>;

async fn one(
    request: Request<Incoming>,
    certified: bool,
    state: &Mutex<State>,
    handle: &OwnedFd,
) -> Result<Reply, io::Error> {
    let client = match request.headers().get(AUTHORIZATION) {
        _ if certified => "certificate",
        Some(value) if value == format!("Bearer {NODE_TOKEN}").as_str() => "token",
        _ => "nobody",
    };
    let review = match (request.method(), request.uri().path()) {
        (&Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews") => Some(Review::Token),
        (&Method::POST, "/apis/authorization.k8s.io/v1/subjectaccessreviews") => {
            Some(Review::Access)
        }
        _ => None,
    };
    let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    let mut question: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (review, disturbance) = {
        let mut state = lock(state);
        if !state.clients.iter().any(|known| known == client) {
            state.clients.push(client.to_owned());
        }
        if client == "nobody" {
            return Ok(status(401, None, "Unauthorized"));
        }
        let Some(review) = review else {
            return Ok(status(404, None, "the server could not find the requested resource"));
        };
        let desk = state.desk(review);
        desk.count += 1;
        if desk.asked.len() == REMEMBERED {
            desk.asked.pop_front();
        }
        desk.asked.push_back(question["spec"].clone());
        let due = |(nth, with): &(usize, Disturbance)| {
            desk.count.is_multiple_of(*nth).then(|| with.clone())
        };
        let every = desk.every.as_ref().and_then(due);
        (review, desk.next.pop_front().or(every))
    };
    if let Some(Disturbance::Wait(go)) = &disturbance {
        go.notified().await;
    }
    match disturbance {
        None | Some(Disturbance::Wait(_)) => {
            question["status"] = lock(state).answer(review, &question["spec"]);
            Ok(json_reply(StatusCode::CREATED, question.to_string()))
        }
        Some(Disturbance::Status { code, retry_after }) => {
            Ok(status(code, retry_after, "disturbed"))
        }
        Some(Disturbance::Body(body)) => Ok(json_reply(StatusCode::OK, body)),
        Some(Disturbance::Hang) => match std::future::pending::<Infallible>().await {},
        Some(Disturbance::Reset) => {
            // With no time to linger, closing resets (socket(7)).
            set_socket_linger(handle, Some(Duration::ZERO))?;
            Err(io::Error::from(io::ErrorKind::ConnectionReset))
        }
    }
}

fn json_reply(status: StatusCode, body: String) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    reply
}

/// A `metav1.Status`.
fn status(code: u16, retry_after: Option<u32>, message: &str) -> Reply {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code,
    });
    let known = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = json_reply(known, body.to_string());
    if let Some(seconds) = retry_after {
        reply.headers_mut().insert(RETRY_AFTER, http::HeaderValue::from(seconds));
    }
    reply
}
