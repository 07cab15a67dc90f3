//! A node of its own for each test: folders, a `cryopod serve`, and the commands talking to it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The program under test.
pub(crate) const CRYOPOD: &str = env!("CARGO_BIN_EXE_cryopod");

/// How long anything that must happen is waited for; never how long it may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A `cryopod` command that talks to nobody unless told to.
pub(crate) fn cryopod<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(CRYOPOD);
    command.args(args).env_remove("CRYOPOD_SOCKET").env_remove("CRYOPOD_LOG").stdin(Stdio::null());
    command
}

/// Stdout as text.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Stderr as text.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until `look` gives something.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A node: its folders outlive its server.
pub(crate) struct Node {
    folder: tempfile::TempDir,
    cgroup: String,
    more: Vec<String>,
    server: Option<Child>,
}

impl Node {
    /// A node whose server answers on its socket.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// [`Node::start`] with more options for `serve`.
    pub(crate) fn start_with(more: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("cryopod-test-").tempdir().unwrap();
        let name = folder.path().file_name().unwrap().to_str().unwrap().to_owned();
        let more = more.iter().map(|&text| text.to_owned()).collect();
        let mut node = Self { folder, cgroup: name, more, server: None };
        node.restart();
        node
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Name of its cgroup below the roots of the hierarchies.
    pub(crate) fn cgroup(&self) -> &str {
        &self.cgroup
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder().join("run/cryopod.sock")
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.folder().join("kubelet/checkpoints")
    }

    /// The command line of this node's server.
    pub(crate) fn serve_command(&self) -> Command {
        let mut command = cryopod(["serve", "--address", "127.0.0.1:0"]);
        for (option, place) in [
            ("--socket", "run/cryopod.sock"),
            ("--root-dir", "kubelet"),
            ("--state-dir", "state"),
            ("--run-dir", "run"),
            ("--log-dir", "logs"),
        ] {
            command.arg(option).arg(self.folder().join(place));
        }
        command.arg("--cgroup-parent").arg(&self.cgroup).args(&self.more);
        command
    }

    /// Starts the server, which must not run, and waits until it answers.
    pub(crate) fn restart(&mut self) {
        assert!(self.server.is_none(), "the server runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder().join("serve.log"))
            .unwrap();
        let server = self.serve_command().stderr(log).stdout(Stdio::null()).spawn().unwrap();
        self.server = Some(server);
        wait_for("the server's answer", || {
            let ended = self.server.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the server ended with {ended:?}:\n{}", self.log());
            let answer = self.run(["version", "--output", "json"]);
            let versions: serde_json::Value = serde_json::from_slice(&answer.stdout).ok()?;
            versions["runtime"].is_object().then_some(())
        });
    }

    pub(crate) fn server_pid(&self) -> Pid {
        let pid = self.server.as_ref().unwrap().id();
        Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
    }

    /// Sends the server a signal and waits for its end.
    pub(crate) fn end_server(&mut self, signal: Signal) -> ExitStatus {
        kill_process(self.server_pid(), signal).unwrap();
        let mut server = self.server.take().unwrap();
        wait_for("the server's end", || server.try_wait().unwrap())
    }

    /// What the server wrote.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("serve.log")).unwrap_or_default()
    }

    /// A command that talks to this node.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = cryopod(args);
        command.env("CRYOPOD_SOCKET", self.socket());
        command
    }

    /// Runs a command to its end, whatever that is.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that must succeed; gives its stdout.
    #[track_caller]
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let output = self.run(args);
        assert!(
            output.status.success(),
            "{:?}: {}\nserver: {}",
            output.status,
            stderr(&output),
            self.log()
        );
        stdout(&output)
    }

    /// Runs a command that must fail with a code; gives its stderr.
    #[track_caller]
    pub(crate) fn fails<S: AsRef<OsStr>>(
        &self,
        code: i32,
        args: impl IntoIterator<Item = S>,
    ) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "{}\n{}", stdout(&output), stderr(&output));
        stderr(&output)
    }

    /// `cryopod ps --all` as JSON.
    pub(crate) fn ps(&self) -> Vec<serde_json::Value> {
        let text = self.ok(["ps", "--all", "--output", "json"]);
        serde_json::from_str(&text).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.server.is_none() && !std::thread::panicking() {
            self.restart();
        }
        if self.server.is_some() {
            let all = self.run(["ps", "--all", "--output", "json"]).stdout;
            let all: Vec<serde_json::Value> = serde_json::from_slice(&all).unwrap_or_default();
            for one in all {
                let (Some(namespace), Some(pod)) = (one["namespace"].as_str(), one["pod"].as_str())
                else {
                    continue;
                };
                self.run(["rm", "--force", &format!("{namespace}/{pod}")]);
            }
            let status = self.end_server(Signal::TERM);
            if !status.success() {
                eprintln!("the server ended with {:?} {:?}", status.code(), status.signal());
            }
        }
        if std::thread::panicking() {
            eprintln!("--- the server's log\n{}", self.log());
        }
        remove_cgroup(&self.cgroup);
    }
}

/// Removes a node's cgroup, left empty by its pods, from the hierarchies of cgroup v1, or the one
/// of v2.
pub(crate) fn remove_cgroup(name: &str) {
    let roots = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    for root in roots.map(|root| root.path()).chain(["/sys/fs/cgroup".into()]) {
        std::fs::remove_dir(root.join(name)).ok();
    }
}
