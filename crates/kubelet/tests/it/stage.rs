//! A server on loopback, a runtime played by the test, and clients for it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use cryopod_kubelet::runtime::{CheckpointCall, Container, RpcError, Runtime, Sandbox};
use cryopod_kubelet::{BoxFuture, Delegates, Options, Server};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tempfile::TempDir;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::pki::{Authority, Identity};

/// What the played runtime does with a checkpoint call.
#[derive(Clone)]
pub(crate) enum Act {
    /// Writes a file and succeeds.
    Write,
    /// Fails.
    Fail(RpcError),
    /// Waits to be let on, then writes.
    Wait(Arc<Notify>),
    /// Never answers.
    Hang,
}

/// A runtime played by the test. Pod `default/counter` has the running `counter`, the created
/// `waiting`, and the exited `done`; pod `default/dead` has a sandbox that is not ready, and `late` still runs in it.
#[derive(Clone)]
pub(crate) struct Played {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    sandboxes: Vec<Sandbox>,
    containers: Vec<Container>,
    list_error: Option<RpcError>,
    used_bytes: Option<u64>,
    acts: VecDeque<Act>,
    calls: Vec<CheckpointCall>,
    running: usize,
    most_running: usize,
    cancelled: usize,
}

impl Default for Played {
    fn default() -> Self {
        let sandbox = |id: &str, pod: &str, ready| Sandbox {
            id: id.into(),
            pod: pod.into(),
            namespace: "default".into(),
            uid: format!("uid-{pod}"),
            ready,
            created_at: 1,
        };
        let container = |name: &str, running, sandbox: &str| Container {
            id: format!("id-{name}"),
            sandbox_id: sandbox.into(),
            name: name.into(),
            running,
            created_at: 1,
        };
        let state = State {
            sandboxes: vec![sandbox("s1", "counter", true), sandbox("s2", "dead", false)],
            containers: vec![
                container("counter", true, "s1"),
                container("second", true, "s1"),
                container("done", false, "s1"),
                container("late", true, "s2"),
            ],
            list_error: None,
            used_bytes: None,
            acts: VecDeque::new(),
            calls: Vec::new(),
            running: 0,
            most_running: 0,
            cancelled: 0,
        };
        Self { inner: Arc::new(Inner { state: Mutex::new(state), changed: Notify::new() }) }
    }
}

impl Played {
    fn change<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        let result = with(&mut self.inner.state.lock().unwrap());
        self.inner.changed.notify_waiters();
        result
    }

    /// What the next call without an act of its own does; [`Act::Write`] if nothing was said.
    pub(crate) fn next(&self, act: Act) {
        self.change(|state| state.acts.push_back(act));
    }

    pub(crate) fn fail_lists(&self, error: RpcError) {
        self.change(|state| state.list_error = Some(error));
    }

    /// What every container is said to use.
    pub(crate) fn uses(&self, bytes: u64) {
        self.change(|state| state.used_bytes = Some(bytes));
    }

    pub(crate) fn stop_container(&self, name: &str) {
        self.change(|state| {
            for container in state.containers.iter_mut().filter(|one| one.name == name) {
                container.running = false;
            }
        });
    }

    pub(crate) fn calls(&self) -> Vec<CheckpointCall> {
        self.change(|state| state.calls.clone())
    }

    /// The largest number of calls that ran at once.
    pub(crate) fn most_running(&self) -> usize {
        self.change(|state| state.most_running)
    }

    /// Waits until `count` calls were made.
    pub(crate) async fn called(&self, count: usize) {
        self.until(|state| state.calls.len() >= count).await;
    }

    /// Waits until `count` calls were dropped without an answer.
    pub(crate) async fn cancelled(&self, count: usize) {
        self.until(|state| state.cancelled >= count).await;
    }

    async fn until(&self, done: impl Fn(&State) -> bool) {
        loop {
            let changed = self.inner.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if done(&self.inner.state.lock().unwrap()) {
                return;
            }
            changed.await;
        }
    }
}

/// Counts a call that ends without an answer.
struct Running<'a>(&'a Played, bool);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let cancelled = usize::from(!self.1);
        self.0.change(|state| {
            state.running -= 1;
            state.cancelled += cancelled;
        });
    }
}

impl Runtime for Played {
    fn sandboxes(&self) -> BoxFuture<'_, Result<Vec<Sandbox>, RpcError>> {
        let answer = self.change(|state| match &state.list_error {
            Some(error) => Err(error.clone()),
            None => Ok(state.sandboxes.clone()),
        });
        Box::pin(async { answer })
    }

    fn containers(&self) -> BoxFuture<'_, Result<Vec<Container>, RpcError>> {
        let answer = self.change(|state| Ok(state.containers.clone()));
        Box::pin(async { answer })
    }

    fn pid<'a>(&'a self, _container_id: &'a str) -> BoxFuture<'a, Result<Option<u32>, RpcError>> {
        Box::pin(async { Ok(Some(1)) })
    }

    fn used_bytes<'a>(
        &'a self,
        _container_id: &'a str,
    ) -> BoxFuture<'a, Result<Option<u64>, RpcError>> {
        let answer = self.change(|state| state.used_bytes);
        Box::pin(async move { Ok(answer) })
    }

    fn checkpoint(&self, call: CheckpointCall) -> BoxFuture<'_, Result<(), RpcError>> {
        Box::pin(async move {
            let act = self.change(|state| {
                state.calls.push(call.clone());
                state.running += 1;
                state.most_running = state.most_running.max(state.running);
                state.acts.pop_front().unwrap_or(Act::Write)
            });
            let mut running = Running(self, false);
            let answer = match act {
                Act::Write => Ok(()),
                Act::Fail(error) => Err(error),
                Act::Wait(notify) => {
                    notify.notified().await;
                    Ok(())
                }
                Act::Hang => std::future::pending().await,
            };
            if answer.is_ok() {
                std::fs::write(&call.location, b"archive").unwrap();
            }
            running.1 = true;
            answer
        })
    }
}

/// A running server.
pub(crate) struct Stage {
    pub(crate) runtime: Played,
    pub(crate) root: Arc<TempDir>,
    pub(crate) authority: Authority,
    pub(crate) address: SocketAddr,
    /// The server's own certificate, to be trusted by clients.
    pub(crate) trusted: CertificateDer<'static>,
    stop: Option<oneshot::Sender<()>>,
    pub(crate) server: JoinHandle<()>,
}

/// Options for a server below `root` that takes certificates of `authority`.
pub(crate) fn options(root: &TempDir, authority: &Authority) -> Options {
    let ca = root.path().join("client-ca.crt");
    std::fs::write(&ca, authority.pem()).unwrap();
    Options {
        bind: SocketAddr::from(([127, 0, 0, 1], 0)),
        root_dir: root.path().join("kubelet"),
        client_ca_file: Some(ca),
        ..Options::new("node-1")
    }
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Options)) -> Self {
        Self::with_delegates(Delegates::default(), change).await
    }

    pub(crate) async fn with_delegates(
        delegates: Delegates,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let runtime = Played::default();
        let shared = Arc::new(runtime.clone());
        Self::over(runtime, shared, delegates, change).await
    }

    /// In front of another runtime.
    pub(crate) async fn over(
        played: Played,
        runtime: Arc<dyn Runtime>,
        delegates: Delegates,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let root = Arc::new(tempfile::tempdir().unwrap());
        let authority = Authority::new("client-ca");
        let mut options = options(&root, &authority);
        change(&mut options);
        let server = Server::bind(options, runtime, delegates).await.unwrap();
        let pem = std::fs::read(server.certificate_path()).unwrap();
        let trusted = CertificateDer::from_pem_slice(&pem).unwrap();
        let address = server.local_addr();
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Self { runtime: played, root, authority, address, trusted, stop: Some(stop), server }
    }

    /// A client with a good certificate.
    pub(crate) fn client(&self) -> Client {
        self.client_as(&self.authority.client("alice"))
    }

    pub(crate) fn client_as(&self, identity: &Identity) -> Client {
        Client::new(self.address, self.trusted.clone(), Some(identity))
    }

    /// A client without a certificate.
    pub(crate) fn stranger(&self) -> Client {
        Client::new(self.address, self.trusted.clone(), None)
    }

    pub(crate) fn checkpoints(&self) -> std::path::PathBuf {
        self.root.path().join("kubelet/checkpoints")
    }

    /// Tells the server to stop.
    pub(crate) fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }
}
