//! `serve`: the node agent. Two doors over one runtime: CRI on a unix socket, and the kubelet's
//! checkpoint API over HTTPS, which is a CRI client of that very socket (or of another runtime's).
//!
//! It holds no state of its own: containers belong to their shims, records are on disk. It can be
//! killed at any moment.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use cryopod_cri::{Client, server};
use cryopod_kubelet::retention::{Census, RuntimeCensus};
use cryopod_kubelet::{CriRuntime, Delegates, Keeper, Options, Retention, Server, Store};
use cryopod_runtime::{Paths, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::args::{LogFormat, ServeArgs};
use crate::cri_server::{Places, Service};

/// The folder of archives below the root folder.
const CHECKPOINTS: &str = "checkpoints";

/// How long open calls may go on after a signal to stop; a second signal ends it at once.
const LAST_CALLS: Duration = Duration::from_secs(30);

pub(super) async fn run(args: &ServeArgs) -> anyhow::Result<()> {
    log_to_stderr(args.log_format);
    // Before anything can be asked of us: a signal that comes early must not be lost.
    let mut signals = Signals::watch()?;
    let (stop_https, https_stopping) = watch::channel(false);
    let (stop_cri, cri_stopping) = watch::channel(false);

    let checkpoints = make_checkpoints(&args.root_dir)?;
    let runtime = runtime(args)?;
    let keeper = keeper(args, &checkpoints, &runtime)?;
    let https = https_door(args, runtime, keeper.clone()).await?;
    let address = https.as_ref().map(Server::local_addr);
    let mut cri = match &args.container_runtime_endpoint {
        Some(endpoint) => {
            ensure!(
                https.is_some(),
                "nothing to do: the runtime is another's, and no caller of the HTTPS API could be \
                 authenticated; give --client-ca-file"
            );
            info!(%endpoint, "using another runtime");
            tokio::spawn(std::future::pending())
        }
        None => tokio::spawn(embedded(args, address, keeper.clone(), stopped(cri_stopping)).await?),
    };
    // Ended with the program, at whatever point: it has no state.
    if let Some(keeper) = keeper {
        tokio::spawn(async move { keeper.run().await });
    }
    let mut https = tokio::spawn(async move {
        match https {
            Some(server) => {
                info!(address = %server.local_addr(), "serving HTTPS");
                server.run(stopped(https_stopping)).await;
            }
            None => stopped(https_stopping).await,
        }
    });

    tokio::select! {
        signal = signals.next() => info!("{signal}: ending"),
        ended = &mut cri => return ended.context("serve CRI")?.context("serve CRI"),
        ended = &mut https => return ended.context("serve HTTPS"),
    }
    let last_calls = async {
        // In this order: what comes in by HTTPS is answered by CRI.
        stop_https.send_replace(true);
        https.await.context("serve HTTPS")?;
        stop_cri.send_replace(true);
        match args.container_runtime_endpoint {
            Some(_) => Ok(()),
            None => cri.await.context("serve CRI")?.context("serve CRI"),
        }
    };
    tokio::select! {
        ended = tokio::time::timeout(LAST_CALLS, last_calls) => match ended {
            Ok(ended) => ended?,
            Err(_) => {
                warn!(seconds = LAST_CALLS.as_secs(), "calls still open: ending without them");
            }
        },
        signal = signals.next() => warn!("{signal} again: ending at once"),
    }
    Ok(())
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn watch() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("watch for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("watch for SIGINT")?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Done when the flag is set; a sender that is gone means the same, nobody will tell any more.
async fn stopped(mut flag: watch::Receiver<bool>) {
    flag.wait_for(|stop| *stop).await.ok();
}

/// Makes the folder of archives.
fn make_checkpoints(root_dir: &Path) -> anyhow::Result<PathBuf> {
    let checkpoints = root_dir.join(CHECKPOINTS);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&checkpoints)
        .with_context(|| format!("make folder {}", checkpoints.display()))?;
    Ok(checkpoints)
}

/// The runtime's socket; our own runtime too is reached by it: one way for every runtime.
fn runtime(args: &ServeArgs) -> anyhow::Result<Arc<CriRuntime>> {
    let endpoint = match &args.container_runtime_endpoint {
        Some(endpoint) => endpoint.clone(),
        None => std::path::absolute(&args.socket)
            .context("--socket")?
            .to_str()
            .context("--socket: the path is not UTF-8")?
            .to_owned(),
    };
    let client = Client::connect_lazy(&endpoint).context("--container-runtime-endpoint")?;
    let timeout = Options::new("").runtime_request_timeout;
    Ok(Arc::new(CriRuntime::new(client, timeout)))
}

/// Who keeps the folder of archives within its policies, if there are any.
fn keeper(
    args: &ServeArgs,
    checkpoints: &Path,
    runtime: &Arc<CriRuntime>,
) -> anyhow::Result<Option<Keeper>> {
    let Some(path) = &args.retention_policy else { return Ok(None) };
    let retention = Retention::from_file(path).context("--retention-policy")?;
    let census: Arc<dyn Census> = Arc::new(RuntimeCensus(Arc::clone(runtime) as _));
    Ok(Some(Keeper::new(Store::at(checkpoints)?, retention, Some(census))))
}

/// Opens the HTTPS door, unless nobody could come in by it.
async fn https_door(
    args: &ServeArgs,
    runtime: Arc<CriRuntime>,
    keeper: Option<Keeper>,
) -> anyhow::Result<Option<Server>> {
    let feature_gates = args.feature_gates.parse().context("--feature-gates")?;
    if args.client_ca_file.is_none() && !args.anonymous_auth {
        warn!(
            "no caller could be authenticated, the HTTPS API stays closed: give --client-ca-file"
        );
        return Ok(None);
    }
    let node_name = args.node_name.clone().unwrap_or_else(host_name);
    let mut options = Options::new(node_name);
    options.bind = args.address;
    options.root_dir.clone_from(&args.root_dir);
    options.tls_cert_file.clone_from(&args.tls_cert_file);
    options.tls_private_key_file.clone_from(&args.tls_private_key_file);
    options.client_ca_file.clone_from(&args.client_ca_file);
    options.anonymous = args.anonymous_auth;
    options.feature_gates = feature_gates;
    options.keeper = keeper;
    let delegates = Delegates { restorer: Some(runtime.clone()), ..Delegates::default() };
    let server = Server::bind(options, runtime, delegates).await.context("open the HTTPS door")?;
    Ok(Some(server))
}

/// The kubelet's rule: the host's name in lower case.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().trim().to_lowercase()
}

/// Opens the runtime and its socket; the future serves it until `stopping` is done.
async fn embedded<S: Future<Output = ()>>(
    args: &ServeArgs,
    https: Option<SocketAddr>,
    keeper: Option<Keeper>,
    stopping: S,
) -> anyhow::Result<impl Future<Output = Result<(), server::ServerError>> + use<S>> {
    let absolute =
        |path: &Path| std::path::absolute(path).with_context(|| format!("path {}", path.display()));
    let places = Places {
        state_dir: absolute(&args.state_dir)?,
        run_dir: absolute(&args.run_dir)?,
        log_dir: absolute(&args.log_dir)?,
        checkpoints_dir: absolute(&args.root_dir)?.join(CHECKPOINTS),
        https,
    };
    let mut paths = Paths::new(&places.state_dir, &places.run_dir);
    paths.cgroup_parent.clone_from(&args.cgroup_parent);
    // First the socket: it is the proof that no other server works on this run folder.
    let listener = server::listen(&args.socket)?;
    let runtime = tokio::task::spawn_blocking(move || Runtime::open(paths))
        .await
        .context("open the runtime")?
        .context("open the runtime")?;
    let service = Service::new(runtime, places, keeper);
    info!(socket = %args.socket.display(), "serving CRI");
    Ok(server::serve(listener, service.clone(), service, stopping))
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_env("CRYOPOD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
