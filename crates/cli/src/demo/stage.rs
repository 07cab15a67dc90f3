//! The demo's surroundings: a private folder and a `cryopod serve` of its own, all gone at the end.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow};
use cryopod_cri::Client;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::certificates::Certificates;
use crate::commands::{mount_point, places};
use crate::print;

/// How long anything that should happen soon is waited for.
pub(super) const SOON: Duration = Duration::from_secs(30);

/// Between two looks.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// The folder and the server.
#[derive(Debug)]
pub(super) struct Stage {
    folder: PathBuf,
    server: Child,
    pub(super) client: Client,
    pub(super) https: SocketAddr,
    pub(super) certificates: Certificates,
}

impl Stage {
    /// Makes the folder and starts the server; gives it when both doors are open.
    pub(super) async fn set() -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("cryopod-demo-{}", std::process::id()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("make folder {}", folder.display()))?;
        match Self::set_in(&folder).await {
            Ok(stage) => Ok(stage),
            Err(error) => {
                print::note(log_tail(&folder));
                std::fs::remove_dir_all(&folder).ok();
                Err(error)
            }
        }
    }

    async fn set_in(folder: &Path) -> anyhow::Result<Self> {
        let certificates = Certificates::make().context("make certificates")?;
        let files = [
            ("authority.crt", &certificates.authority),
            ("server.crt", &certificates.server.certificate),
            ("server.key", &certificates.server.key),
        ];
        for (name, pem) in files {
            std::fs::write(folder.join(name), pem).with_context(|| format!("write {name}"))?;
        }
        let log = File::create(folder.join("serve.log")).context("make the server's log")?;
        let socket = folder.join("run/cryopod.sock");
        let mut server = Command::new("/proc/self/exe")
            .arg("serve")
            .args(["--address", "127.0.0.1:0"])
            .arg("--socket")
            .arg(&socket)
            .arg("--root-dir")
            .arg(folder.join("kubelet"))
            .arg("--state-dir")
            .arg(folder.join("state"))
            .arg("--run-dir")
            .arg(folder.join("run"))
            .arg("--log-dir")
            .arg(folder.join("logs"))
            .arg("--client-ca-file")
            .arg(folder.join("authority.crt"))
            .arg("--tls-cert-file")
            .arg(folder.join("server.crt"))
            .arg("--tls-private-key-file")
            .arg(folder.join("server.key"))
            .arg("--cgroup-parent")
            .arg(cgroup_parent())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            // A Ctrl-C is for us: we stop the server when its containers are gone.
            .process_group(0)
            .spawn()
            .context("start `cryopod serve`")?;
        let client = wait_for(&mut server, &socket).await?;
        let https = places(&client).await?.https.context("the server opened no HTTPS door")?;
        Ok(Self { folder: folder.to_owned(), server, client, https, certificates })
    }

    /// Stops everything and removes the folder, unless it is to be kept.
    pub(super) async fn strike(mut self, keep: bool) -> anyhow::Result<()> {
        let removed = self.remove_pods().await;
        let stopped = self.stop_server().await;
        removed.and(stopped).with_context(|| format!("folder {}", self.folder.display()))?;
        if keep {
            print::note(format_args!("kept: {}", self.folder.display()));
            return Ok(());
        }
        // Removing through a mount that was left would remove what is mounted.
        if let Some(left) = mount_point(&self.folder)? {
            return Err(anyhow!("a mount was left at {}: the folder is kept", left.display()));
        }
        remove_cgroups(&cgroup_parent()).context("remove the demo's cgroups")?;
        std::fs::remove_dir_all(&self.folder)
            .with_context(|| format!("remove folder {}", self.folder.display()))
    }

    async fn remove_pods(&self) -> anyhow::Result<()> {
        for pod in self.client.list_pod_sandbox(None, Some(SOON)).await.context("list pods")? {
            self.client.remove_pod_sandbox(&pod.id).await.context("remove the pod")?;
        }
        Ok(())
    }

    async fn stop_server(&mut self) -> anyhow::Result<()> {
        let Some(pid) = self.server.id().and_then(|pid| i32::try_from(pid).ok()) else {
            return Err(anyhow!("the server ended by itself: {}", log_tail(&self.folder)));
        };
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                .context("stop the server")?;
        }
        let ended = tokio::time::timeout(SOON, self.server.wait()).await;
        let status = ended.context("the server does not end")?.context("wait for the server")?;
        if status.success() {
            return Ok(());
        }
        Err(anyhow!("the server ended with {status}: {}", log_tail(&self.folder)))
    }

    /// The last lines of the server's log, for when something fails.
    pub(super) fn log_tail(&self) -> String {
        log_tail(&self.folder)
    }
}

/// The name of our cgroup in each hierarchy.
fn cgroup_parent() -> String {
    format!("cryopod-demo-{}", std::process::id())
}

/// Removes the cgroup of that name, which the pods left empty, from the one hierarchy of cgroup v2 or
/// the several of v1.
fn remove_cgroups(name: &str) -> std::io::Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let mut roots = vec![root.to_owned()];
    for entry in std::fs::read_dir(root)? {
        roots.push(entry?.path());
    }
    for root in roots {
        match std::fs::remove_dir(root.join(name)) {
            Err(error)
                if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Err(error);
            }
            _ => {}
        }
    }
    Ok(())
}

async fn wait_for(server: &mut Child, socket: &Path) -> anyhow::Result<Client> {
    let until = Instant::now() + SOON;
    loop {
        match Client::connect(&socket.to_string_lossy()).await {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() > until => {
                return Err(anyhow::Error::new(error).context("the server does not answer"));
            }
            Err(_) => {}
        }
        if let Some(status) = server.try_wait().context("look at the server")? {
            return Err(anyhow!("the server ended with {status}"));
        }
        sleep(LOOK).await;
    }
}

fn log_tail(folder: &Path) -> String {
    let mut text = String::new();
    let read = File::open(folder.join("serve.log")).and_then(|mut f| f.read_to_string(&mut text));
    if read.is_err() || text.trim().is_empty() {
        return "the server's log is empty".to_owned();
    }
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(15)..).unwrap_or_default();
    format!("the server's log ends with\n  {}", tail.join("\n  "))
}
