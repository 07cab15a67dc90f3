//! containerd with runc and criu, asked over CRI as a kubelet asks it.
//!
//! Its restore pulls the image that the archive names, so a registry serves it on loopback.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use cryopod_cri::{Client, v1};
use tokio::runtime::{Builder, Runtime as Tokio};

use super::private::{CGROUP, Private};
use super::{How, Runtime, wait};
use crate::stand::inside;

const CONTAINER: &str = "bench";

/// The longest a call may take, in seconds.
const LIMIT: i64 = 280;

pub(super) struct Containerd<'a> {
    private: &'a Private,
    tokio: Tokio,
    client: Client,
    image: String,
    daemons: Vec<Child>,
    pod: Option<String>,
    container: Option<String>,
    pods: u32,
}

impl<'a> Containerd<'a> {
    /// Starts the registry and containerd; `image` is podman's name of the ticker's image.
    pub(super) fn start(private: &'a Private, image: &str) -> Result<Self> {
        let tokio = Builder::new_current_thread().enable_all().build().context("start tokio")?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let served = format!("127.0.0.1:{port}/bench/ticker:1");
        let socket = private.folder().join("containerd.sock");
        let within = |name: &str| -> Result<String> {
            Ok(inside(&private.folder().join(name))?.to_string_lossy().into_owned())
        };
        std::fs::write(
            private.folder().join("registry.yml"),
            format!(
                "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: /var/lib/registry\n\
                 http:\n  addr: 127.0.0.1:{port}\n"
            ),
        )?;
        std::fs::write(
            private.folder().join("containerd.toml"),
            format!(
                "version = 3\nroot = '/var/lib/containerd'\nstate = '/run/containerd'\n\
                 [grpc]\naddress = '{}'\n\
                 [plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = '{served}'\n\
                 [plugins.'io.containerd.cri.v1.runtime']\nrestrict_oom_score_adj = true\n",
                within("containerd.sock")?
            ),
        )?;
        let start = |words: &[&str], log: &str| -> Result<Child> {
            let log = std::fs::File::create(private.folder().join(log))?;
            let mut command = private.command(words);
            command.stdout(Stdio::null()).stderr(log);
            command.spawn().with_context(|| format!("start {}", words[0]))
        };
        let mut daemons =
            vec![start(&["docker-registry", "serve", &within("registry.yml")?], "registry.log")?];
        let target = format!("docker://{served}");
        wait(Duration::from_secs(30), "the registry", || {
            let words = ["podman", "push", "--quiet", "--tls-verify=false", image, &target];
            Ok(private.ok(&words).is_ok())
        })?;
        daemons.push(start(
            &["containerd", "--config", &within("containerd.toml")?],
            "containerd.log",
        )?);
        let endpoint = format!("unix://{}", socket.display());
        let end = Instant::now() + Duration::from_secs(60);
        let client = loop {
            let connected = tokio.block_on(async {
                let client = Client::connect(&endpoint).await?;
                client.status(false).await?;
                Ok::<_, cryopod_cri::CriError>(client)
            });
            match connected {
                Ok(client) => break client,
                Err(error) if Instant::now() > end => {
                    let log = std::fs::read_to_string(private.folder().join("containerd.log"));
                    let log = log.unwrap_or_default();
                    let tail: Vec<&str> = log.lines().rev().take(3).collect();
                    bail!("containerd does not answer: {error}: {}", tail.join("; "));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        };
        let spec = v1::ImageSpec { image: served.clone(), ..Default::default() };
        tokio.block_on(client.pull_image(spec)).context("containerd pulls the image")?;
        Ok(Containerd {
            private,
            tokio,
            client,
            image: served,
            daemons,
            pod: None,
            container: None,
            pods: 0,
        })
    }

    fn start_container(&mut self, image: &str, command: Vec<String>) -> Result<()> {
        self.pods += 1;
        let namespaces =
            v1::NamespaceOption { network: v1::NamespaceMode::Node.into(), ..own_namespaces() };
        let sandbox = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: CONTAINER.to_owned(),
                uid: format!("bench-{}", self.pods),
                namespace: "default".to_owned(),
                attempt: self.pods,
            }),
            log_directory: inside(&self.log_folder())?.to_string_lossy().into_owned(),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: format!("/{CGROUP}"),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: CONTAINER.to_owned(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() }),
            command,
            log_path: format!("{CONTAINER}/{}.log", self.pods),
            linux: Some(v1::LinuxContainerConfig {
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let client = self.client.clone();
        let (pod, container) = (&mut self.pod, &mut self.container);
        self.tokio.block_on(async {
            let sandbox_id =
                client.run_pod_sandbox(sandbox.clone()).await.context("RunPodSandbox")?;
            *pod = Some(sandbox_id.clone());
            let id = client
                .create_container(&sandbox_id, config, sandbox)
                .await
                .context("CreateContainer")?;
            *container = Some(id.clone());
            client.start_container(&id).await.context("StartContainer")
        })
    }

    fn log_folder(&self) -> PathBuf {
        self.private.folder().join("logs")
    }
}

fn own_namespaces() -> v1::NamespaceOption {
    v1::NamespaceOption { pid: v1::NamespaceMode::Container.into(), ..Default::default() }
}

impl Runtime for Containerd<'_> {
    fn name(&self) -> &'static str {
        "containerd + runc + criu"
    }

    fn begin(&mut self, words: &[&str]) -> Result<()> {
        let image = self.image.clone();
        self.start_container(&image, words.iter().map(|word| (*word).to_owned()).collect())
    }

    fn cgroup(&self) -> String {
        CGROUP.to_owned()
    }

    fn logs(&self) -> Result<Vec<PathBuf>> {
        let Ok(files) = std::fs::read_dir(self.log_folder().join(CONTAINER)) else {
            return Ok(Vec::new());
        };
        Ok(files.flatten().map(|file| file.path()).collect())
    }

    fn checkpoint(&mut self) -> Result<(PathBuf, Duration)> {
        let archive = self.private.folder().join("containerd.tar");
        let to = inside(&archive)?;
        let id = self.container.clone().context("no container")?;
        let begun = Instant::now();
        let limit = Duration::from_secs(LIMIT.unsigned_abs());
        let to = to.to_string_lossy();
        let call = self.client.checkpoint_container(&id, &to, LIMIT, Some(limit));
        self.tokio.block_on(call).context("CheckpointContainer")?;
        Ok((archive, begun.elapsed()))
    }

    fn destroy(&mut self) -> Result<()> {
        let client = self.client.clone();
        let (pod, container) = (self.pod.take(), self.container.take());
        self.tokio.block_on(async {
            if let Some(id) = container {
                client.stop_container(&id, Duration::ZERO).await.context("StopContainer")?;
                client.remove_container(&id).await.context("RemoveContainer")?;
            }
            if let Some(id) = pod {
                client.stop_pod_sandbox(&id).await.context("StopPodSandbox")?;
                client.remove_pod_sandbox(&id).await.context("RemovePodSandbox")?;
            }
            Ok(())
        })
    }

    fn restore(&mut self, archive: &Path, _: How) -> Result<()> {
        let from = inside(archive)?.to_string_lossy().into_owned();
        self.start_container(&from, Vec::new())
    }

    fn written(&self) -> Result<i64> {
        self.private.written()
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.destroy() {
            eprintln!("xtask: {error:#}");
        }
        for daemon in &mut self.daemons {
            // nsenter ends with the command it runs, which ends with the pid namespace.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}
