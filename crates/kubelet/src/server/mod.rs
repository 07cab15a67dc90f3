//! The server: options, start, accept loop, shutdown.
//!
//! What is wrong with the options is found at the start and said, not met later: no way to
//! authenticate anybody, a certificate without its key, a CA file without certificates, a folder
//! that cannot be made.

mod connection;
mod door;
mod healthz;
mod intake;
mod places;
mod sending;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::Api;
use crate::audit::{Audit, AuditFile};
use crate::authn::{Authenticator, Chain, ClientCa, ClientCaError, NoMethod};
use crate::authz::{
    AlwaysAllow, Authorizer, ClientCertificates, NodeAttributes, RequestAttributes,
};
use crate::checkpoint::{Checkpointer, Settings};
use crate::feature_gates::FeatureGates;
use crate::health::Health;
use crate::kubernetes_version::KubernetesVersion;
use crate::metrics::Metrics;
use crate::retention::Keeper;
use crate::runtime::{Counted, Restorer, Runtime};
use crate::store::{Store, StoreError};
use crate::thaw::Thaw;
use crate::tls::{Handshakes, Policy, ProtocolError, ServingCertificate, ServingError};

use connection::Connections;
use door::Door;
use places::Places;

/// The folder of the archives, below the root folder.
const CHECKPOINTS: &str = "checkpoints";
/// The folder of the self-signed pair, below the root folder.
const PKI: &str = "pki";
/// The pause after a failed accept, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How the server is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--address` and `--port`.
    pub bind: SocketAddr,
    /// The node's name: in the certificate, and what authorization is about.
    pub node_name: String,
    /// `--root-dir`: archives in `checkpoints`, the self-signed pair in `pki`.
    pub root_dir: PathBuf,
    /// `--cert-dir`, if not `pki` of the root folder.
    pub cert_dir: Option<PathBuf>,
    /// `--tls-cert-file`; needs the key.
    pub tls_cert_file: Option<PathBuf>,
    /// `--tls-private-key-file`; needs the certificate.
    pub tls_private_key_file: Option<PathBuf>,
    /// `--tls-min-version`, `--tls-cipher-suites` and `tlsCurvePreferences`.
    pub tls: Policy,
    /// `--client-ca-file`: client certificates are asked for and accepted if given.
    pub client_ca_file: Option<PathBuf>,
    /// `--anonymous-auth`: callers without credentials are let in as `system:anonymous`.
    pub anonymous: bool,
    /// `--authorization-mode`.
    pub authorization: AuthorizationMode,
    /// Whether `create pods/checkpoint` in the pod's namespace is needed beside the right to the
    /// node's endpoint, which alone opens every container of the node. The kubelet lacks this.
    pub authorize_pods: bool,
    /// Whose texts and attributes: the version of the cluster.
    pub kubernetes_version: KubernetesVersion,
    /// `--feature-gates`.
    pub feature_gates: FeatureGates,
    /// `--enable-debugging-handlers`, of which the checkpoint route is one.
    pub debugging_handlers: bool,
    /// `--runtime-request-timeout`: the timeout of a checkpoint that names none, and the least.
    pub runtime_request_timeout: Duration,
    /// How checkpoints are made.
    pub checkpoints: Settings,
    /// What one client can hold.
    pub limits: Limits,
    /// Told of each new archive; it must be run elsewhere, and be over the folder `checkpoints`
    /// of the root folder.
    pub keeper: Option<Keeper>,
    /// `--healthz-bind-address` and `--healthz-port`: `/healthz` and `/readyz` for everybody who
    /// reaches this address, over plain HTTP. `None`: only behind the door.
    pub healthz_bind: Option<SocketAddr>,
    /// Where audit lines go beside the log.
    pub audit_log: Option<PathBuf>,
}

impl Options {
    /// The defaults: loopback, port 10250, `/var/lib/kubelet`, gate on, no authentication method,
    /// so that a start needs at least a client CA or anonymous access asked for.
    pub fn new(node_name: impl Into<String>) -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], 10250)),
            node_name: node_name.into(),
            root_dir: PathBuf::from("/var/lib/kubelet"),
            cert_dir: None,
            tls_cert_file: None,
            tls_private_key_file: None,
            tls: Policy::default(),
            client_ca_file: None,
            anonymous: false,
            authorization: AuthorizationMode::default(),
            authorize_pods: false,
            kubernetes_version: KubernetesVersion::default(),
            feature_gates: FeatureGates::default(),
            debugging_handlers: true,
            runtime_request_timeout: Duration::from_secs(120),
            checkpoints: Settings::default(),
            limits: Limits::default(),
            keeper: None,
            healthz_bind: None,
            audit_log: None,
        }
    }
}

/// Who decides what an authenticated caller may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthorizationMode {
    /// Every client certificate of the client CA is enough, and so is none at all where
    /// anonymous access was asked for.
    #[default]
    ClientCertificates,
    /// Everybody who was let in, however.
    AlwaysAllow,
    /// The authorizer of [`Delegates`], which must be there.
    Webhook,
}

/// Bounds on what a client can hold, and on waiting for it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; one more takes the place of the one that has done the least for the
    /// longest, or waits while all are busy. Never more than three quarters of the descriptors
    /// that this process may have (getrlimit(2)).
    pub connections: usize,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// From the handshake to the end of the first request's header.
    pub first_request: Duration,
    /// Without a request, after which a connection is closed; also for each later header.
    pub idle: Duration,
    /// Size of a request's header, in bytes.
    pub header_bytes: u32,
    /// For requests under way when the server is told to stop; then they are cancelled.
    pub shutdown: Duration,
    /// Between looks at the certificate and CA files.
    pub reload: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            handshake: Duration::from_secs(10),
            first_request: Duration::from_secs(30),
            idle: Duration::from_secs(90),
            header_bytes: 1 << 20,
            shutdown: Duration::from_secs(30),
            reload: Duration::from_secs(5),
        }
    }
}

/// Judges from outside this crate: token review, access review. Empty by default.
#[derive(Clone, Default)]
pub struct Delegates {
    /// Tried after client certificates, in order.
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    /// In place of what [`AuthorizationMode`] says.
    pub authorizer: Option<Arc<dyn Authorizer>>,
    /// In place of [`NodeAttributes`].
    pub attributes: Option<Arc<dyn RequestAttributes>>,
    /// Lets containers go on from archives; without one, nobody can ask for it.
    pub restorer: Option<Arc<dyn Restorer>>,
    /// Lets containers go on that a runtime left frozen. For runtimes that are not our own.
    pub thaw: Option<Arc<dyn Thaw>>,
}

impl fmt::Debug for Delegates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delegates")
            .field("authenticators", &self.authenticators.len())
            .field("authorizer", &self.authorizer.is_some())
            .field("attributes", &self.attributes.is_some())
            .field("restorer", &self.restorer.is_some())
            .field("thaw", &self.thaw.is_some())
            .finish()
    }
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nobody could be authenticated.
    #[error(transparent)]
    NoAuthentication(#[from] NoMethod),
    /// The API server is to decide, and there is none to ask.
    #[error("no client provided, cannot use webhook authorization")]
    NoAuthorizer,
    /// One of certificate and key is given.
    #[error("{given} is given without {missing}: TLS needs both")]
    HalfPair {
        /// The option that is there.
        given: &'static str,
        /// The option that is not.
        missing: &'static str,
    },
    /// The client CA cannot be used.
    #[error(transparent)]
    ClientCa(#[from] ClientCaError),
    /// The serving certificate cannot be used.
    #[error(transparent)]
    Serving(#[from] ServingError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// Paths in it are told to the runtime and the caller as text.
    #[error("the root folder {path:?} is not UTF-8")]
    RootDir {
        /// As given.
        path: PathBuf,
    },
    /// The working directory, needed for a relative root folder, is not known.
    #[error("cannot make the root folder {path:?} absolute")]
    Relative {
        /// As given.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The archives have nowhere to go.
    #[error("error creating checkpoint directory: {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The folder of the archives is none.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit file cannot be written to.
    #[error("cannot open the audit file {}", path.display())]
    AuditLog {
        /// As given.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The address is taken or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// As given.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// A server that listens and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    handshakes: Arc<Handshakes>,
    certificate: Arc<ServingCertificate>,
    door: Arc<Door>,
    limits: Limits,
    healthz: Option<(TcpListener, SocketAddr)>,
    health: Arc<Health>,
    /// Dropped when the server stops.
    stop: watch::Sender<()>,
}

impl Server {
    /// Checks the options, makes what is missing (the folder of the archives only if the route
    /// is on, the self-signed certificate only if none is given) and listens.
    ///
    /// # Errors
    /// [`StartError`]; nothing is made on disk before the options are known to be good and the
    /// address is ours.
    pub async fn bind(
        options: Options,
        runtime: Arc<dyn Runtime>,
        delegates: Delegates,
    ) -> Result<Self, StartError> {
        let Options { node_name, limits, anonymous, .. } = options;
        let root_dir = match std::path::absolute(&options.root_dir) {
            Ok(path) if path.to_str().is_some() => path,
            Ok(path) => return Err(StartError::RootDir { path }),
            Err(source) => return Err(StartError::Relative { path: options.root_dir, source }),
        };
        let given = match (options.tls_cert_file, options.tls_private_key_file) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => {
                let (given, missing) = ("--tls-cert-file", "--tls-private-key-file");
                return Err(StartError::HalfPair { given, missing });
            }
            (None, Some(_)) => {
                let (given, missing) = ("--tls-private-key-file", "--tls-cert-file");
                return Err(StartError::HalfPair { given, missing });
            }
        };
        let client_ca = match &options.client_ca_file {
            Some(path) => Some(Arc::new(ClientCa::load(path).await?)),
            None => None,
        };
        let mut authenticators: Vec<Arc<dyn Authenticator>> = Vec::new();
        authenticators.extend(client_ca.clone().map(|ca| ca as Arc<dyn Authenticator>));
        authenticators.extend(delegates.authenticators);
        let chain = Chain::new(authenticators, anonymous)?;
        let authorizer: Arc<dyn Authorizer> = match (delegates.authorizer, options.authorization) {
            (Some(authorizer), _) => authorizer,
            (None, AuthorizationMode::ClientCertificates) => {
                Arc::new(ClientCertificates { anonymous })
            }
            (None, AuthorizationMode::AlwaysAllow) => Arc::new(AlwaysAllow),
            (None, AuthorizationMode::Webhook) => return Err(StartError::NoAuthorizer),
        };
        let attributes = delegates.attributes.unwrap_or_else(|| {
            Arc::new(NodeAttributes::of_version(&*node_name, options.kubernetes_version))
        });

        let (listener, address) = listen(options.bind).await?;
        let healthz = match options.healthz_bind {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let audit_file = match options.audit_log {
            Some(path) => Some(
                AuditFile::open(&path).map_err(|source| StartError::AuditLog { path, source })?,
            ),
            None => None,
        };

        let certificate = match given {
            Some((certificate, key)) => ServingCertificate::from_files(&certificate, &key).await?,
            None => {
                let folder = options.cert_dir.unwrap_or_else(|| root_dir.join(PKI));
                ServingCertificate::self_signed(&folder, &node_name).await?
            }
        };
        let metrics = Arc::new(Metrics::new());
        let runtime: Arc<dyn Runtime> = Arc::new(Counted::new(runtime, metrics.operations.clone()));
        let certificate = Arc::new(certificate);
        let handshakes = Handshakes::new(Arc::clone(&certificate), client_ca, options.tls)?;
        let folder = root_dir.join(CHECKPOINTS);
        if options.feature_gates.container_checkpoint {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(|source| StartError::Folder { path: folder.clone(), source })?;
        }
        let registered = options.feature_gates.container_checkpoint && options.debugging_handlers;
        let health = Arc::new(Health::new(
            Arc::clone(&runtime),
            registered.then(|| folder.clone()),
            Arc::clone(&certificate),
        ));
        let keeper = options.keeper;
        let store = match &keeper {
            Some(keeper) => keeper.store().clone(),
            None => Store::at(&folder)?,
        };
        let checkpointer = Checkpointer::new(
            runtime,
            delegates.thaw,
            &folder,
            options.runtime_request_timeout,
            options.checkpoints,
        )
        .with_metrics(metrics.checkpoints.clone())
        .with_store(store.clone());
        let (stop, stopped) = watch::channel(());
        let api = Api::new(store, checkpointer.board().clone(), delegates.restorer, stopped);
        let door = Door {
            chain,
            attributes,
            authorizer,
            checkpointer,
            keeper,
            api,
            version: options.kubernetes_version,
            authorize_pods: options.authorize_pods,
            registered,
            health: Arc::clone(&health),
            audit: Audit::new(audit_file, Arc::clone(&metrics)),
            metrics,
            certificate: Arc::clone(&certificate),
        };
        Ok(Self {
            listener,
            address,
            handshakes: Arc::new(handshakes),
            certificate,
            door: Arc::new(door),
            limits: Limits { connections: limits.connections.min(descriptors()), ..limits },
            healthz,
            health,
            stop,
        })
    }

    /// The address listened on, with the port the kernel chose for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The address of the plain health pages, if there are any.
    pub fn healthz_addr(&self) -> Option<SocketAddr> {
        self.healthz.as_ref().map(|(_, address)| *address)
    }

    /// The audit lines' way out, to have its file opened again.
    pub fn audit(&self) -> Audit {
        self.door.audit.clone()
    }

    /// The file of the certificate served: what a client trusts when it is self-signed.
    pub fn certificate_path(&self) -> &std::path::Path {
        self.certificate.path()
    }

    /// Serves until `shutdown` is done; then no connection is taken, requests under way may end
    /// within [`Limits::shutdown`], and what is left is cancelled. Containers of calls that were
    /// cancelled are looked after for as long again, so that none stays frozen.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let stop = self.stop;
        let stopped = stop.subscribe();
        let door = Arc::clone(&self.door);
        let connections = Connections::new(self.door, self.handshakes, self.limits, stopped);
        let mut tasks = JoinSet::new();
        tokio::select! {
            () = accept_all(&self.listener, &connections, &mut tasks, self.limits) => {}
            () = connections.keep_reloading() => {}
            () = healthz::serve(self.healthz, self.health) => {}
            () = shutdown => {}
        }
        drop(self.listener);
        drop(stop);
        let all_done = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(self.limits.shutdown, all_done).await.is_err() {
            tracing::warn!(connections = tasks.len(), "requests under way are cancelled");
        }
        tasks.shutdown().await;
        let settled = door.checkpointer.settled();
        if tokio::time::timeout(self.limits.shutdown, settled).await.is_err() {
            tracing::error!("a runtime still works on a container whose checkpoint was cancelled");
        }
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Accepts without end.
async fn accept_all(
    listener: &TcpListener,
    connections: &Connections,
    tasks: &mut JoinSet<()>,
    limits: Limits,
) {
    let places = Places::new(limits.connections);
    loop {
        let (socket, peer) = accept(listener, &places).await;
        let place = places.take().await;
        while tasks.try_join_next().is_some() {}
        tasks.spawn(connections.clone().serve(socket, peer, place));
    }
}

/// One connection.
async fn accept(listener: &TcpListener, places: &Places) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept");
                // Most likely for want of descriptors: an idle connection's is one.
                places.give_up_one();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Connections that the descriptors of this process are enough for: a quarter of them is for
/// everything else, files and the runtime's socket above all.
fn descriptors() -> usize {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    most - most / 4
}
