//! `serve`: the node agent. Two doors over one runtime: CRI on a unix socket, and the kubelet's
//! checkpoint API over HTTPS, which is a CRI client of that very socket (or of another runtime's).
//!
//! It holds no state of its own: containers belong to their shims, records are on disk. It can be
//! killed at any moment.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use cryopod_cri::{Client, server};
use cryopod_kubelet::config::{ConfigErrors, Effective};
use cryopod_kubelet::runtime::Code;
use cryopod_kubelet::thaw::Thaw;
use cryopod_kubelet::{CriRuntime, Server};
use cryopod_runtime::{Paths, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::args::{LogFormat, ServeArgs};
use crate::configuration;
use crate::cri_server::{Places, Service};
use crate::thaw::CgroupThaw;

/// How long open calls may go on after a signal to stop; a second signal ends it at once.
///
/// Longer than the HTTPS door's own limit: containers of the calls it cancels are still to be seen to.
const LAST_CALLS: Duration = Duration::from_secs(45);

pub(super) async fn run(args: &ServeArgs) -> anyhow::Result<()> {
    log_to_stderr(args.log_format);
    let effective = configuration::load(args)?;
    // Before anything can be asked of us: a signal that comes early must not be lost.
    let mut signals = Signals::watch()?;
    let (stop_https, https_stopping) = watch::channel(false);
    let (stop_cri, cri_stopping) = watch::channel(false);

    ensure!(!configuration::has_nothing_to_do(&effective), configuration::NOTHING_TO_DO);
    let https = https_door(args, &effective).await?;
    let address = https.as_ref().map(Server::local_addr);
    let mut cri = match &effective.container_runtime_endpoint.value {
        Some(endpoint) => {
            info!(%endpoint, "using another runtime");
            tokio::spawn(std::future::pending())
        }
        None => tokio::spawn(embedded(args, &effective, address, stopped(cri_stopping)).await?),
    };
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

/// Done when the flag is set; a sender that is gone means the same, nobody will tell any more.
async fn stopped(mut flag: watch::Receiver<bool>) {
    flag.wait_for(|stop| *stop).await.ok();
}

/// Opens the HTTPS door, unless nobody could come in by it.
async fn https_door(args: &ServeArgs, effective: &Effective) -> anyhow::Result<Option<Server>> {
    let checkpoints = effective.checkpoints();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&checkpoints)
        .with_context(|| format!("make folder {}", checkpoints.display()))?;
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
    let options = effective.options().map_err(ConfigErrors)?;
    // Our own runtime too is reached by its socket: one way for every runtime.
    let endpoint = match &effective.container_runtime_endpoint.value {
        Some(endpoint) => endpoint.clone(),
        None => std::path::absolute(&args.socket)
            .context("--socket")?
            .to_str()
            .context("--socket: the path is not UTF-8")?
            .to_owned(),
    };
    let client = Client::connect_lazy(&endpoint).context("--container-runtime-endpoint")?;
    let runtime = CriRuntime::new(client, options.runtime_request_timeout);
    let mut delegates = effective.delegates().await.context("reach the API server")?;
    if effective.container_runtime_endpoint.value.is_some() {
        greet(&runtime).await.with_context(|| format!("validate the runtime at {endpoint}"))?;
        // Our own runtime thaws on every path by itself.
        delegates.thaw = Some(Arc::new(CgroupThaw::default()) as Arc<dyn Thaw>);
    }
    let server =
        Server::bind(options, Arc::new(runtime), delegates).await.context("open the HTTPS door")?;
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
    let service = Service::new(runtime, places);
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
