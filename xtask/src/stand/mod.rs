//! A node of its own for real programs: a `cryopod serve` with folders, doors and cgroup of its own, a root filesystem
//! made of the sid tree's programs, and `curl` with a client certificate.
//!
//! All that is made lies in one folder below the machine's folder for temporary files, which the tree sees below `/host`.
//! The root filesystem holds copies, not the tree itself: a folder image is named by a digest of all it holds, and the
//! tree changes while others work in it.

use std::ffi::OsStr;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cryopod_testkit::isolate;

use crate::sid::{Answer, Sid, checkout};

/// What a command may take before it counts as hung.
const LIMIT: Duration = Duration::from_secs(120);

/// Copies programs of the tree with the libraries that ldd names, and Python's own, into a new root.
const COPY: &str = r#"set -eu
to=$1; shift
mkdir -p "$to/usr/bin" "$to/usr/sbin" "$to/usr/lib" "$to/usr/lib64" "$to/etc" "$to/root" "$to/var" "$to/run"
mkdir -p "$to/proc" "$to/sys" "$to/dev"
mkdir -m 1777 "$to/tmp"
for link in bin sbin lib lib64; do ln -s "usr/$link" "$to/$link"; done
python=$(dirname "$(python3 -c 'import os; print(os.__file__)')")
{
    for program; do path=$(command -v "$program"); echo "$path"; ldd "$path" | grep -o '/[^ ]*'; done
    ldd "$python"/lib-dynload/*.so | grep -o '/[^ ]*\.so[^ :]*'
} | sort -u | while read -r file; do cp -Lp --parents "$file" "$to"; done
cp -a --parents "$python" "$to"
"#;

/// Makes an authority, and a serving and a client certificate of it.
pub(crate) const CERTIFY: &str = r#"set -eu
cd "$1"
make() {
    name=$1; shift
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=cryopod-e2e-$name" \
        -keyout "$name.key" -out "$name.crt" "$@"
}
make authority
make server -CA authority.crt -CAkey authority.key -addext basicConstraints=critical,CA:FALSE \
    -addext subjectAltName=IP:127.0.0.1 -addext extendedKeyUsage=serverAuth
make client -CA authority.crt -CAkey authority.key -addext basicConstraints=critical,CA:FALSE \
    -addext extendedKeyUsage=clientAuth
"#;

/// The program under test.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    path: PathBuf,
}

impl Program {
    /// Builds `cryopod`.
    pub(crate) fn build(release: bool) -> Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["build", "--quiet", "--package", "cryopod"]).current_dir(checkout());
        if release {
            command.arg("--release");
        }
        let status = command.status().context("start cargo build")?;
        ensure!(status.success(), "cryopod does not build");
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| checkout().join("target"), PathBuf::from);
        let profile = if release { "release" } else { "debug" };
        let path = target.join(profile).join("cryopod");
        Ok(Program { path: path.canonicalize().with_context(|| path.display().to_string())? })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// A node that runs; everything on it is removed when dropped.
#[derive(Debug)]
pub(crate) struct Stand<'a> {
    pub(crate) sid: &'a Sid,
    program: Program,
    folder: tempfile::TempDir,
    server: Child,
    address: SocketAddr,
}

impl<'a> Stand<'a> {
    /// Makes the folder, the certificates and the root filesystem with these programs, and starts the server.
    pub(crate) fn start(sid: &'a Sid, program: &Program, programs: &[&str]) -> Result<Self> {
        Self::start_in(&std::env::temp_dir(), sid, program, programs)
    }

    /// [`Stand::start`] with its folder below this one.
    pub(crate) fn start_in(
        below: &Path,
        sid: &'a Sid,
        program: &Program,
        programs: &[&str],
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("cryopod-e2e-").tempdir_in(below)?;
        tree(sid, CERTIFY, &[inside(folder.path())?.as_os_str()])?;
        if !programs.is_empty() {
            let to = inside(&folder.path().join("root"))?;
            let mut arguments = vec![to.as_os_str()];
            arguments.extend(programs.iter().map(OsStr::new));
            tree(sid, COPY, &arguments)?;
        }
        let server = serve(program, folder.path())?;
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut stand = Stand { sid, program: program.clone(), folder, server, address };
        stand.await_doors()?;
        Ok(stand)
    }

    fn await_doors(&mut self) -> Result<()> {
        let end = Instant::now() + LIMIT;
        loop {
            let log = self.log();
            let opened = log.split_once("serving HTTPS address=");
            if let Some(word) = opened.and_then(|(_, rest)| rest.split_whitespace().next()) {
                self.address = word.parse().with_context(|| format!("the address {word:?}"))?;
                if self.run(&["version"])?.status.success() {
                    return Ok(());
                }
            }
            if let Some(status) = self.server.try_wait()? {
                bail!("the server ended with {status}: {log}");
            }
            ensure!(Instant::now() < end, "the server opens no doors: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The folder of everything.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The root filesystem.
    pub(crate) fn root(&self) -> PathBuf {
        self.folder().join("root")
    }

    /// What the server wrote.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("serve.log")).unwrap_or_default()
    }

    /// The name of this node's cgroup in each hierarchy.
    pub(crate) fn cgroup(&self) -> String {
        cgroup(self.folder())
    }

    /// Runs a command of `cryopod` on this node, whatever becomes of it.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<Answer> {
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", &LIMIT.as_secs().to_string()]).arg(&self.program.path);
        command.args(arguments).env_remove("CRYOPOD_LOG");
        command.env("CRYOPOD_SOCKET", self.folder().join("run/cryopod.sock"));
        Answer::of(command)
    }

    /// Runs a command that must succeed; gives what it printed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> Result<String> {
        let answer = self.run(arguments)?;
        if !answer.status.success() {
            bail!("cryopod {}: {}: {}", arguments.join(" "), answer.status, answer.text);
        }
        Ok(answer.text)
    }

    /// Starts a container of this name, alone in a pod of the same name.
    pub(crate) fn begin(&self, name: &str, options: &[&str], command: &[&str]) -> Result<()> {
        let root = self.root();
        let root = root.to_str().context("the folder's path is not UTF-8")?;
        let mut arguments = vec!["run", "--name", name, "--rootfs", root];
        arguments.extend(options);
        arguments.push("--");
        arguments.extend(command);
        self.ok(&arguments).map(drop)
    }

    /// Asks the HTTPS door for a checkpoint with curl and a client certificate; gives the archive.
    pub(crate) fn checkpoint(&self, name: &str) -> Result<PathBuf> {
        self.checkpoint_timed(name).map(|(archive, _)| archive)
    }

    /// [`Stand::checkpoint`], and how long the request took, as curl measured it.
    pub(crate) fn checkpoint_timed(&self, name: &str) -> Result<(PathBuf, Duration)> {
        let url = format!("https://{}/checkpoint/default/{name}/{name}", self.address);
        let within = inside(self.folder())?;
        let mut command = self.sid.command("curl");
        command.args(["-sS", "--fail-with-body", "--max-time", &LIMIT.as_secs().to_string()]);
        command.arg("--cacert").arg(within.join("authority.crt"));
        command.arg("--cert").arg(within.join("client.crt"));
        command.arg("--key").arg(within.join("client.key"));
        command.args(["-w", "\n%{time_total}", "-X", "POST", &url]);
        let answer = Answer::of(command)?;
        ensure!(answer.status.success(), "curl: {}: {}", answer.status, answer.text);
        let unclear = || format!("the answer {:?}", answer.text);
        let (body, seconds) = answer.text.rsplit_once('\n').with_context(unclear)?;
        let body: serde_json::Value = serde_json::from_str(body).with_context(unclear)?;
        let archive = body["items"][0].as_str().map(PathBuf::from).with_context(unclear)?;
        let seconds = seconds.parse().with_context(unclear)?;
        Ok((archive, Duration::try_from_secs_f64(seconds)?))
    }

    /// Kills a container and removes it, its pod and all that it wrote.
    pub(crate) fn destroy(&self, name: &str) -> Result<()> {
        self.ok(&["stop", "--grace", "0", &format!("default/{name}/{name}")])?;
        self.ok(&["rm", "--force", &format!("default/{name}")]).map(drop)
    }

    /// Lets a container go on from its archive.
    pub(crate) fn restore(&self, archive: &Path, options: &[&str]) -> Result<()> {
        let archive = archive.to_str().context("the archive's path is not UTF-8")?;
        let mut arguments = vec!["restore", archive];
        arguments.extend(options);
        self.ok(&arguments).map(drop)
    }

    /// The whole lines a container has written so far.
    pub(crate) fn lines(&self, name: &str) -> Result<Vec<String>> {
        let text = self.ok(&["logs", &format!("default/{name}/{name}")])?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Waits until `look` finds something.
    pub(crate) fn wait<T>(
        &self,
        what: &str,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            if Instant::now() > end {
                bail!("waited in vain for {what}; the server's log: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(&mut self) -> Result<()> {
        let all = self.ok(&["ps", "--all", "--output", "json"])?;
        let all: Vec<serde_json::Value> = serde_json::from_str(&all).context("list the pods")?;
        for one in all {
            if let (Some(namespace), Some(pod)) = (one["namespace"].as_str(), one["pod"].as_str()) {
                self.run(&["rm", "--force", &format!("{namespace}/{pod}")])?;
            }
        }
        let pid = self.server.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().context("end the server")?;
        let end = Instant::now() + LIMIT;
        while self.server.try_wait()?.is_none() {
            ensure!(Instant::now() < end, "the server does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Stand<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("xtask: {error:#}");
            let _ = self.server.kill();
            let _ = self.server.wait();
        }
        // The pods left them empty: the hierarchies of cgroup v1, or the one of v2.
        let name = self.cgroup();
        let roots = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for root in roots.map(|root| root.path()).chain(["/sys/fs/cgroup".into()]) {
            let _ = std::fs::remove_dir(root.join(&name));
        }
        // Removing through a mount that was left would remove what is mounted.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let folder = self.folder.path().to_string_lossy().into_owned();
        if mounts.lines().any(|line| line.contains(&folder)) {
            eprintln!("xtask: mounts are left below {folder}, which is kept");
            self.folder.disable_cleanup(true);
        }
    }
}

fn cgroup(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A path of the machine as the tree names it.
pub(crate) fn inside(path: &Path) -> Result<PathBuf> {
    let relative = path.strip_prefix("/").with_context(|| path.display().to_string())?;
    Ok(Path::new("/host").join(relative))
}

/// Runs a shell script in the tree; it must succeed. Gives what it printed.
pub(crate) fn tree(sid: &Sid, script: &str, arguments: &[&OsStr]) -> Result<String> {
    let mut all = ["sh", "-c", script, "sh"].map(OsStr::new).to_vec();
    all.extend(arguments);
    let answer = sid.run(&all, LIMIT)?;
    if !answer.status.success() {
        let first = script.lines().find(|line| *line != "set -eu").unwrap_or_default();
        let end = answer.text.char_indices().rev().nth(1000).map_or(0, |(at, _)| at);
        bail!("in the tree, {first}: {}: {}", answer.status, &answer.text[end..]);
    }
    Ok(answer.text)
}

fn serve(program: &Program, folder: &Path) -> Result<Child> {
    let mut command = Command::new(&program.path);
    command.args(["serve", "--address", "127.0.0.1:0"]);
    for (option, place) in [
        ("--socket", "run/cryopod.sock"),
        ("--root-dir", "kubelet"),
        ("--state-dir", "state"),
        ("--run-dir", "run"),
        ("--log-dir", "logs"),
        ("--client-ca-file", "authority.crt"),
        ("--tls-cert-file", "server.crt"),
        ("--tls-private-key-file", "server.key"),
    ] {
        command.arg(option).arg(folder.join(place));
    }
    command.arg("--cgroup-parent").arg(cgroup(folder));
    let log = File::create(folder.join("serve.log"))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    isolate(&mut command);
    command.spawn().context("start `cryopod serve`")
}
