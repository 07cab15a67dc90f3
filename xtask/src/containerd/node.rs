//! A containerd of its own in a corner of the sid tree, containers in it, and `cryopod serve` in front of it.
//!
//! The servers run in the corner's mount and pid namespaces: paths and pids then mean the same to both, as they do on a
//! node.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cryopod_cri::{Client, v1};
use cryopod_testkit::loads;
use tokio::runtime::Runtime as Tokio;

use crate::bench::private::{CGROUP, Private};
use crate::bench::ticks;
use crate::sid::{Answer, Sid};
use crate::stand::{CERTIFY, Program, inside, tree};

/// The name of the only image.
const IMAGE: &str = "localhost/cryopod/ticker:1";

/// Makes an image of the ticker, as a tar that containerd imports.
const MAKE_IMAGE: &str = r#"set -eu
cd "$1"
mkdir -p image/blobs/sha256
case $(uname -m) in x86_64) arch=amd64;; aarch64) arch=arm64;; *) arch=$(uname -m);; esac
put() {
    digest=$(sha256sum "$1" | cut -d' ' -f1)
    size=$(stat -c %s "$1")
    mv "$1" "image/blobs/sha256/$digest"
}
tar -cf image/part ticker
put image/part
layer=$digest layer_size=$size
printf '{"architecture":"%s","os":"linux","config":{"Entrypoint":["/ticker"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$arch" "$layer" >image/part
put image/part
oci=application/vnd.oci.image
printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":{"mediaType":"%s.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"%s.layer.v1.tar","digest":"sha256:%s","size":%s}]}' \
    $oci $oci "$digest" "$size" $oci "$layer" "$layer_size" >image/part
put image/part
printf '{"schemaVersion":2,"manifests":[{"mediaType":"%s.manifest.v1+json","digest":"sha256:%s","size":%s,"annotations":{"io.containerd.image.name":"%s"}}]}' \
    $oci "$digest" "$size" "$2" >image/index.json
printf '{"imageLayoutVersion":"1.0.0"}' >image/oci-layout
tar -C image -cf image.tar .
"#;

/// All programs of the tree but criu.
const WITHOUT_CRIU: &str = r#"set -eu
mkdir -p "$1"
for file in /usr/sbin/* /usr/bin/*; do
    case ${file##*/} in criu*) ;; *) ln -sf "$file" "$1/";; esac
done
"#;

/// Tells its pid, then becomes the server.
const SERVER: &str = "echo $$ >\"$1\"; shift; exec \"$@\"";

const PATIENCE: Duration = Duration::from_secs(60);

/// A process in the corner that is ended when dropped.
#[derive(Debug)]
struct Server {
    child: Child,
    pid: PathBuf,
    log: PathBuf,
}

impl Server {
    /// `words[0]` is found in `path`, or the corner's own.
    fn start(private: &Private, name: &str, path: Option<&Path>, words: &[&str]) -> Result<Self> {
        let (pid, log) = (
            private.folder().join(format!("{name}.pid")),
            private.folder().join(format!("{name}.log")),
        );
        let _ = std::fs::remove_file(&pid);
        let pid_inside = inside(&pid)?.to_string_lossy().into_owned();
        let path = path.map(|path| format!("PATH={}", path.display()));
        let mut all = vec!["sh", "-c", SERVER, "sh", &pid_inside];
        if let Some(path) = &path {
            all.extend(["env", path]);
        }
        all.extend(words);
        let mut command = private.command(&all);
        command.stdout(Stdio::null()).stderr(File::options().create(true).append(true).open(&log)?);
        let child = command.spawn().with_context(|| format!("start {}", words[0]))?;
        Ok(Server { child, pid, log })
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn tail(&self) -> String {
        let log = self.log();
        let mut lines: Vec<&str> = log.lines().rev().take(6).collect();
        lines.reverse();
        lines.join("\n")
    }

    /// Asks it to end, and waits.
    fn end(&mut self, private: &Private) -> Result<()> {
        let pid = std::fs::read_to_string(&self.pid).context("its pid")?;
        private.ok(&["kill", "-TERM", pid.trim()])?;
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < end, "it does not end:\n{}", self.tail());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// containerd and its containers.
#[derive(Debug)]
pub(super) struct Node {
    private: Private,
    folder: tempfile::TempDir,
    program: PathBuf,
    tokio: Tokio,
    client: Client,
    daemon: Server,
}

/// One running container in a pod of its own.
#[derive(Debug, Clone)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) id: String,
    sandbox: String,
    log: PathBuf,
}

/// `cryopod serve` in front of containerd.
#[derive(Debug)]
pub(super) struct Front<'a> {
    node: &'a Node,
    server: Server,
    address: SocketAddr,
    root: PathBuf,
}

/// An answer of the API.
#[derive(Debug)]
pub(super) struct Reply {
    /// 0: curl hung up.
    pub(super) status: u16,
    pub(super) body: String,
}

impl Node {
    pub(super) fn start(sid: &Sid, program: &Program) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("cryopod-e2e-").tempdir_in("/var/tmp")?;
        std::fs::copy(loads::ticker(), folder.path().join("ticker")).context("copy the ticker")?;
        let within = inside(folder.path())?;
        tree(sid, CERTIFY, &[within.as_os_str()])?;
        tree(sid, MAKE_IMAGE, &[within.as_os_str(), IMAGE.as_ref()])?;
        let private = Private::start(sid, folder.path())?;
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("start tokio")?;
        let socket = private.folder().join("containerd.sock");
        let socket_inside = inside(&socket)?.to_string_lossy().into_owned();
        std::fs::write(
            private.folder().join("containerd.toml"),
            format!(
                "version = 3\nroot = '/var/lib/containerd'\nstate = '/run/containerd'\n\
                 [grpc]\naddress = '{socket_inside}'\n\
                 [plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = '{IMAGE}'\n\
                 [plugins.'io.containerd.cri.v1.runtime']\nrestrict_oom_score_adj = true\n",
            ),
        )?;
        let daemon = containerd(&private, None)?;
        let client = {
            let _entered = tokio.enter();
            Client::connect_lazy(&format!("unix://{}", socket.display()))?
        };
        let program = inside(program.path())?;
        let node = Node { private, folder, program, tokio, client, daemon };
        node.await_daemon()?;
        let image = within.join("image.tar");
        let image = image.to_string_lossy();
        node.private.ok(&[
            "ctr",
            "-a",
            &socket_inside,
            "-n",
            "k8s.io",
            "images",
            "import",
            &image,
        ])?;
        Ok(node)
    }

    fn await_daemon(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let ready = self.tokio.block_on(self.client.status(false));
            let Err(error) = ready else { return Ok(()) };
            ensure!(
                Instant::now() < end,
                "containerd does not answer: {error}\n{}",
                self.daemon.tail()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Starts containerd anew; `criu` says whether it finds one. Containers live on in their shims.
    pub(super) fn restart(&mut self, criu: bool) -> Result<()> {
        self.daemon.end(&self.private).context("end containerd")?;
        let without = inside(&self.private.folder().join("without-criu"))?;
        if !criu {
            self.private.ok(&["sh", "-c", WITHOUT_CRIU, "sh", &without.to_string_lossy()])?;
        }
        self.daemon = containerd(&self.private, (!criu).then_some(without.as_path()))?;
        self.await_daemon()
    }

    pub(super) fn tokio(&self) -> &Tokio {
        &self.tokio
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The folder of everything, as the machine names it.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn private(&self) -> &Private {
        &self.private
    }

    /// containerd's socket as the corner names it.
    pub(super) fn endpoint(&self) -> Result<String> {
        let socket = inside(&self.private.folder().join("containerd.sock"))?;
        Ok(format!("unix://{}", socket.display()))
    }

    /// Starts a container that holds so much memory and looks at the clock; waits until it does.
    pub(super) fn begin(&self, name: &str, mib: u64) -> Result<Container> {
        let namespaces = v1::NamespaceOption {
            network: v1::NamespaceMode::Node.into(),
            pid: v1::NamespaceMode::Container.into(),
            ..Default::default()
        };
        let logs = self.private.folder().join("logs");
        let sandbox = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            log_directory: inside(&logs)?.to_string_lossy().into_owned(),
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
            metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: IMAGE.to_owned(), ..Default::default() }),
            command: vec!["/ticker".to_owned(), mib.to_string()],
            log_path: format!("{name}.log"),
            linux: Some(v1::LinuxContainerConfig {
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let client = &self.client;
        let (sandbox, id) = self.tokio.block_on(async {
            let sandbox_id =
                client.run_pod_sandbox(sandbox.clone()).await.context("RunPodSandbox")?;
            let id = client
                .create_container(&sandbox_id, config, sandbox)
                .await
                .context("CreateContainer")?;
            client.start_container(&id).await.context("StartContainer")?;
            Ok::<_, anyhow::Error>((sandbox_id, id))
        })?;
        let log = logs.join(format!("{name}.log"));
        let container = Container { name: name.to_owned(), id, sandbox, log };
        container.ticks().context("it does not begin to tick")?;
        Ok(container)
    }

    /// Kills a container, and removes it and its pod.
    pub(super) fn destroy(&self, container: &Container) -> Result<()> {
        let Container { id, sandbox, .. } = container;
        self.tokio.block_on(async {
            // It may be gone already.
            let _ = self.client.stop_container(id, Duration::ZERO).await;
            let _ = self.client.remove_container(id).await;
            self.client.stop_pod_sandbox(sandbox).await.context("StopPodSandbox")?;
            self.client.remove_pod_sandbox(sandbox).await.context("RemovePodSandbox")
        })
    }

    /// Starts the API in front of the runtime at `endpoint`, with a folder of its own of this name.
    pub(super) fn front(&self, name: &str, endpoint: &str, more: &[&str]) -> Result<Front<'_>> {
        let folder = |path: &str| -> Result<String> {
            Ok(inside(&self.folder().join(path))?.to_string_lossy().into_owned())
        };
        let root = self.folder().join(name);
        let program = self.program.to_string_lossy();
        let (root_inside, authority) = (folder(name)?, folder("authority.crt")?);
        let (certificate, key) = (folder("server.crt")?, folder("server.key")?);
        let mut words = vec![&*program, "serve", "--address", "127.0.0.1:0"];
        words.extend(["--container-runtime-endpoint", endpoint, "--root-dir", &root_inside]);
        words.extend(["--client-ca-file", &authority, "--tls-cert-file", &certificate]);
        words.extend(["--tls-private-key-file", &key]);
        words.extend(more);
        let server = Server::start(&self.private, name, None, &words)?;
        let mut front =
            Front { node: self, server, address: SocketAddr::from(([127, 0, 0, 1], 0)), root };
        let end = Instant::now() + PATIENCE;
        loop {
            let log = front.server.log();
            let opened = log.split_once("serving HTTPS address=");
            if let Some(word) = opened.and_then(|(_, rest)| rest.split_whitespace().next()) {
                front.address = word.parse().with_context(|| format!("the address {word:?}"))?;
                return Ok(front);
            }
            if let Some(status) = front.server.child.try_wait()? {
                bail!("the server ended with {status}: {log}");
            }
            ensure!(Instant::now() < end, "the server opens no door: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.daemon.end(&self.private) {
            eprintln!("xtask: containerd: {error:#}");
        }
    }
}

fn containerd(private: &Private, path: Option<&Path>) -> Result<Server> {
    let config = inside(&private.folder().join("containerd.toml"))?;
    Server::start(
        private,
        "containerd",
        path,
        &["containerd", "--config", &config.to_string_lossy()],
    )
}

impl Container {
    /// Waits until it looks at the clock now.
    pub(super) fn ticks(&self) -> Result<()> {
        let (now, end) = (ticks::now(), Instant::now() + PATIENCE);
        while ticks::read(std::slice::from_ref(&self.log), now)?.is_empty() {
            ensure!(Instant::now() < end, "{} does not tick", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Whether its freezer is to hold it.
    pub(super) fn is_frozen(&self) -> Result<bool> {
        let file = self.freezer("freezer.self_freezing", "cgroup.freeze");
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        Ok(text.trim() == "1")
    }

    /// Lets it go on by hand.
    pub(super) fn thaw(&self) -> Result<()> {
        let file = self.freezer("freezer.state", "cgroup.freeze");
        let word = if file.ends_with("freezer.state") { "THAWED" } else { "0" };
        std::fs::write(&file, word).with_context(|| file.display().to_string())
    }

    fn freezer(&self, v1: &str, v2: &str) -> PathBuf {
        let path = Path::new(CGROUP).join(&self.id);
        let first = Path::new("/sys/fs/cgroup/freezer").join(&path).join(v1);
        if first.exists() { first } else { Path::new("/sys/fs/cgroup").join(path).join(v2) }
    }
}

impl Front<'_> {
    /// Asks for a checkpoint; hangs up after so many seconds.
    pub(super) fn ask(&self, container: &Container, seconds: f32) -> Result<Reply> {
        let name = &container.name;
        let url = format!("https://{}/checkpoint/default/{name}/{name}", self.address);
        let folder = |path: &str| -> Result<String> {
            Ok(inside(&self.node.folder().join(path))?.to_string_lossy().into_owned())
        };
        let (authority, certificate) = (folder("authority.crt")?, folder("client.crt")?);
        let (key, seconds) = (folder("client.key")?, seconds.to_string());
        let mut words = vec!["curl", "-sS", "--max-time", &seconds, "--cacert", &authority];
        words.extend(["--cert", &certificate, "--key", &key, "-w", "\n%{http_code}"]);
        words.extend(["-X", "POST", &url]);
        let answer = Answer::of(self.node.private.command(&words))?;
        // curl(1): 28 is a time-out.
        if answer.status.code() == Some(28) {
            return Ok(Reply { status: 0, body: answer.text });
        }
        ensure!(answer.status.success(), "curl: {}: {}", answer.status, answer.text);
        let (body, status) = answer.text.rsplit_once('\n').context("curl tells no status")?;
        Ok(Reply { status: status.parse().context("the status")?, body: body.to_owned() })
    }

    /// What lies in the folder of archives.
    pub(super) fn archives(&self) -> Result<Vec<PathBuf>> {
        let folder = self.root.join("checkpoints");
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            paths.push(entry?.path());
        }
        paths.sort();
        Ok(paths)
    }

    pub(super) fn log(&self) -> String {
        self.server.log()
    }
}

impl Drop for Front<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.server.end(&self.node.private) {
            eprintln!("xtask: the API: {error:#}");
        }
    }
}

impl Reply {
    /// The archive, as the machine names it.
    pub(super) fn archive(&self) -> Result<PathBuf> {
        let unclear = || format!("the answer {self:?}");
        ensure!(self.status == 200, "{}", unclear());
        let body: serde_json::Value = serde_json::from_str(&self.body).with_context(unclear)?;
        let path = body["items"][0].as_str().with_context(unclear)?;
        Ok(Path::new("/").join(Path::new(path).strip_prefix("/host").with_context(unclear)?))
    }
}
