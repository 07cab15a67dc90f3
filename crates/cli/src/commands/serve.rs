//! `serve`: the node agent. Two doors over one runtime: CRI on a unix socket, and the kubelet's
//! checkpoint API over HTTPS, which is a CRI client of that very socket (or of another runtime's).
//!
//! It holds no state of its own: containers belong to their shims, records are on disk. It can be
//! killed at any moment.

use std::time::Duration;

use anyhow::Context;
use cryopod_cri::server;
use cryopod_runtime::{Paths, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::args::{LogFormat, ServeArgs};
use crate::cri_server::{Places, Service};

/// How long open calls may go on after a signal to stop; a second signal ends it at once.
const LAST_CALLS: Duration = Duration::from_secs(30);

pub(super) async fn run(args: &ServeArgs) -> anyhow::Result<()> {
    log_to_stderr(args.log_format);
    let (stop, stopping) = watch::channel(false);
    // Before anything can be asked of us: a signal that comes early must not be lost.
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;

    let mut cri = match &args.container_runtime_endpoint {
        Some(endpoint) => {
            info!(%endpoint, "using another runtime");
            None
        }
        None => Some(tokio::spawn(embedded(args, stopping).await?)),
    };

    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: ending"),
        _ = interrupt.recv() => info!("SIGINT: ending"),
        ended = async { match &mut cri { Some(task) => task.await, None => std::future::pending().await } } => {
            ended.context("serve CRI")?.context("serve CRI")?;
            return Ok(());
        }
    }
    stop.send_replace(true);
    let last_calls = async {
        if let Some(task) = cri {
            task.await.context("serve CRI")?.context("serve CRI")?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        ended = tokio::time::timeout(LAST_CALLS, last_calls) => match ended {
            Ok(ended) => ended?,
            Err(_) => warn!(seconds = LAST_CALLS.as_secs(), "calls still open: ending without them"),
        },
        _ = terminate.recv() => warn!("SIGTERM again: ending at once"),
        _ = interrupt.recv() => warn!("SIGINT again: ending at once"),
    }
    Ok(())
}

/// Opens the runtime and its socket; the future serves it until `stopping` holds true.
async fn embedded(
    args: &ServeArgs,
    mut stopping: watch::Receiver<bool>,
) -> anyhow::Result<impl Future<Output = Result<(), server::ServerError>> + use<>> {
    let mut paths = Paths::new(&args.state_dir, &args.run_dir);
    paths.cgroup_parent.clone_from(&args.cgroup_parent);
    let places = Places {
        state_dir: args.state_dir.clone(),
        run_dir: args.run_dir.clone(),
        log_dir: args.log_dir.clone(),
        checkpoints_dir: args.root_dir.join("checkpoints"),
        https: None,
    };
    // First the socket: it is the proof that no other server works on this run folder.
    let listener = server::listen(&args.socket)?;
    let runtime = tokio::task::spawn_blocking(move || Runtime::open(paths))
        .await
        .context("open the runtime")?
        .context("open the runtime")?;
    let service = Service::new(runtime, places);
    info!(socket = %args.socket.display(), "serving CRI");
    Ok(server::serve(listener, service.clone(), service, async move {
        // The sender gone means the same: nobody will tell any more.
        stopping.wait_for(|stop| *stop).await.ok();
    }))
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_env("CRYOPOD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
