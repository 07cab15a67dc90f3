//! `serve`: the node agent. Two doors over one runtime: CRI on a unix socket, and the kubelet's
//! checkpoint API over HTTPS, which is a CRI client of that very socket (or of another runtime's).
//!
//! It holds no state of its own: containers belong to their shims, records are on disk. It can be
//! killed at any moment.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use cryopod_cri::{Client, server};
use cryopod_kubelet::audit::Audit;
use cryopod_kubelet::config::{ConfigErrors, Effective};
use cryopod_kubelet::retention::{Census, RuntimeCensus};
use cryopod_kubelet::runtime::Code;
use cryopod_kubelet::thaw::Thaw;
use cryopod_kubelet::{CriRuntime, Keeper, Retention, Server, Store};
use cryopod_runtime::{Paths, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::args::ServeArgs;
use crate::configuration;
use crate::cri_server::{Places, Service};
use crate::telemetry;
use crate::thaw::CgroupThaw;

/// How long open calls may go on after a signal to stop; a second signal ends it at once.
///
/// Longer than the HTTPS door's own limit: containers of the calls it cancels are still to be seen to.
const LAST_CALLS: Duration = Duration::from_secs(45);

pub(super) async fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let effective = configuration::load(args)?;
    let endpoint = effective.extras.otlp_endpoint.as_deref();
    let telemetry = telemetry::start(args.log_format, endpoint)?;
    for note in effective.notes() {
        warn!("configuration: {note}");
    }
    let done = serve(args, &effective).await;
    telemetry.end().await;
    done
}

async fn serve(args: &ServeArgs, effective: &Effective) -> anyhow::Result<()> {
    // Before anything can be asked of us: a signal that comes early must not be lost.
    let mut signals = Signals::watch()?;
    let (stop_https, https_stopping) = watch::channel(false);
    let (stop_cri, cri_stopping) = watch::channel(false);

    ensure!(!configuration::has_nothing_to_do(effective), configuration::NOTHING_TO_DO);
    let checkpoints = make_checkpoints(effective)?;
    let runtime = runtime(args, effective)?;
    let keeper = keeper(effective, &checkpoints, &runtime)?;
    let https = https_door(effective, runtime, keeper.clone()).await?;
    let address = https.as_ref().map(Server::local_addr);
    if let Some(server) = &https {
        tokio::spawn(reopen_on_hangup(server.audit())?);
        if let Some(address) = server.healthz_addr() {
            info!(%address, "serving health pages");
        }
    }
    let mut cri = match &effective.container_runtime_endpoint.value {
        Some(endpoint) => {
            info!(%endpoint, "using another runtime");
            tokio::spawn(std::future::pending())
        }
        None => {
            let stopping = stopped(cri_stopping);
            tokio::spawn(embedded(args, effective, address, keeper.clone(), stopping).await?)
        }
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
        match effective.container_runtime_endpoint.value {
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

/// Opens the audit file again at each SIGHUP, as log rotation asks for it.
fn reopen_on_hangup(audit: Audit) -> anyhow::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup()).context("watch for SIGHUP")?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            audit.reopen();
        }
    })
}

/// Done when the flag is set; a sender that is gone means the same, nobody will tell any more.
async fn stopped(mut flag: watch::Receiver<bool>) {
    flag.wait_for(|stop| *stop).await.ok();
}

/// Makes the folder of archives.
fn make_checkpoints(effective: &Effective) -> anyhow::Result<PathBuf> {
    let checkpoints = effective.checkpoints();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&checkpoints)
        .with_context(|| format!("make folder {}", checkpoints.display()))?;
    Ok(checkpoints)
}

/// The runtime's socket; our own runtime too is reached by it: one way for every runtime.
fn runtime(args: &ServeArgs, effective: &Effective) -> anyhow::Result<Arc<CriRuntime>> {
    let endpoint = match &effective.container_runtime_endpoint.value {
        Some(endpoint) => endpoint.clone(),
        None => std::path::absolute(&args.socket)
            .context("--socket")?
            .to_str()
            .context("--socket: the path is not UTF-8")?
            .to_owned(),
    };
    let client = Client::connect_lazy(&endpoint).context("--container-runtime-endpoint")?;
    Ok(Arc::new(CriRuntime::new(client, effective.runtime_request_timeout.value)))
}

/// Who keeps the folder of archives within its policies, if there are any.
fn keeper(
    effective: &Effective,
    checkpoints: &Path,
    runtime: &Arc<CriRuntime>,
) -> anyhow::Result<Option<Keeper>> {
    let Some(path) = &effective.extras.retention_policy else { return Ok(None) };
    let retention = Retention::from_file(path).context("--retention-policy")?;
    let census: Arc<dyn Census> = Arc::new(RuntimeCensus(Arc::clone(runtime) as _));
    Ok(Some(Keeper::new(Store::at(checkpoints)?, retention, Some(census))))
}

/// Opens the HTTPS door, unless nobody could come in by it.
async fn https_door(
    effective: &Effective,
    runtime: Arc<CriRuntime>,
    keeper: Option<Keeper>,
) -> anyhow::Result<Option<Server>> {
    if effective.stays_closed() {
        warn!(
            "no caller could be authenticated, the HTTPS API stays closed: give --client-ca-file"
        );
        return Ok(None);
    }
    if !effective.enable_server.value {
        info!("enableServer is false: the HTTPS API stays closed");
        return Ok(None);
    }
    let mut options = effective.options().map_err(ConfigErrors)?;
    options.keeper = keeper;
    let mut delegates = effective.delegates().await.context("reach the API server")?;
    delegates.restorer = Some(runtime.clone());
    if let Some(endpoint) = &effective.container_runtime_endpoint.value {
        greet(&runtime).await.with_context(|| format!("validate the runtime at {endpoint}"))?;
        // Our own runtime thaws on every path by itself.
        delegates.thaw = Some(Arc::new(CgroupThaw::default()) as Arc<dyn Thaw>);
    }
    let server = Server::bind(options, runtime, delegates).await.context("open the HTTPS door")?;
    Ok(Some(server))
}

/// Asks another runtime who it is, as a kubelet does. One that is not there yet may still come; one
/// that speaks something else will not do.
async fn greet(runtime: &CriRuntime) -> anyhow::Result<()> {
    match runtime.version().await {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.code, Code::Unavailable | Code::DeadlineExceeded) => {
            warn!(%error, "the runtime does not answer yet");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens the runtime and its socket; the future serves it until `stopping` is done.
async fn embedded<S: Future<Output = ()>>(
    args: &ServeArgs,
    effective: &Effective,
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
        checkpoints_dir: absolute(&effective.checkpoints())?,
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
