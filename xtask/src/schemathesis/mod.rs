//! `cargo xtask schemathesis`: the HTTPS API before a fuzzer that knows its OpenAPI document. A node
//! with real archives, a virtual environment with schemathesis (PyPI) in it, and one run.
//!
//! Requests are sent to a server on loopback that is this task's own, with everything below one
//! folder. Restores are real: containers that come of them are removed with it.

#[path = "../../../crates/cli/src/demo/certificates.rs"]
mod certificates;

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cryopod_testkit::isolate;

use crate::sid::{Answer, checkout};
use crate::stand::Program;

/// The fuzzer's version: another one finds other things.
const VERSION: &str = "4.32.5";
/// For what must happen.
const LIMIT: Duration = Duration::from_secs(60);
/// The whole run of the fuzzer; it is told less.
const FUZZ_LIMIT: Duration = Duration::from_secs(170);
/// Copies of the archive that it may delete.
const ARCHIVES: usize = 60;

/// How to run it.
#[derive(Debug)]
pub(crate) struct Choice {
    /// Examples for each operation.
    pub(crate) examples: u32,
    pub(crate) seed: u64,
    /// Where the virtual environment is, or is made.
    pub(crate) venv: Option<PathBuf>,
    pub(crate) release: bool,
}

/// Runs it; true when it found nothing.
pub(crate) fn schemathesis(choice: &Choice) -> Result<bool> {
    let venv = choice.venv.clone().unwrap_or_else(|| checkout().join("target/schemathesis"));
    let fuzzer = install(&venv)?;
    let program = Program::build(choice.release)?;
    let node = Node::start(&program)?;
    node.fill()?;
    let url = format!("https://{}/cryopod/v1/openapi.json", node.address);
    let at = |name: &str| node.folder.path().join(name);
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", &FUZZ_LIMIT.as_secs().to_string()]).arg(fuzzer);
    command.args(["run", &url, "--checks", "all", "--no-color"]);
    command.arg("--request-cert").arg(at("client.crt"));
    command.arg("--request-cert-key").arg(at("client.key"));
    command.arg("--tls-verify").arg(at("authority.crt"));
    command.args(["--max-examples", &choice.examples.to_string()]);
    command.args(["--seed", &choice.seed.to_string(), "--request-timeout", "20"]);
    command.args(["--continue-on-failure", "--suppress-health-check", "all"]);
    // The client's certificate is on the connection: a request without credentials is not one.
    command.args(["--exclude-checks", "ignored_auth"]);
    command.current_dir(node.folder.path());
    let begun = Instant::now();
    let status = command.status().context("start schemathesis")?;
    println!(
        "\nschemathesis {VERSION}, seed {}, {} examples: {status} in {:.0} s",
        choice.seed,
        choice.examples,
        begun.elapsed().as_secs_f64()
    );
    let log = node.log();
    for line in log.lines().filter(|line| line.contains("panicked")) {
        println!("the server: {line}");
    }
    Ok(status.success() && !log.contains("panicked"))
}

/// The fuzzer's program, installed when it is not there.
fn install(venv: &Path) -> Result<PathBuf> {
    let fuzzer = venv.join("bin/schemathesis");
    let told = Command::new(&fuzzer).arg("--version").output();
    if told.is_ok_and(|told| String::from_utf8_lossy(&told.stdout).contains(VERSION)) {
        return Ok(fuzzer);
    }
    let run = |command: &mut Command, what: &str| {
        let status = command.stdout(Stdio::null()).status().with_context(|| what.to_owned())?;
        ensure!(status.success(), "{what}: {status}");
        Ok(())
    };
    run(Command::new("python3").args(["-m", "venv"]).arg(venv), "make a virtual environment")?;
    let mut pip = Command::new(venv.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check"]);
    pip.arg(format!("schemathesis=={VERSION}"));
    run(&mut pip, "install schemathesis")?;
    Ok(fuzzer)
}

/// A server with certificates; everything of it is removed when dropped.
struct Node {
    program: PathBuf,
    folder: tempfile::TempDir,
    server: Child,
    address: SocketAddr,
}

impl Node {
    fn start(program: &Program) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("cryopod-fuzz-").tempdir()?;
        let made = certificates::Certificates::make().context("make certificates")?;
        for (name, pem) in [
            ("authority.crt", &made.authority),
            ("server.crt", &made.server.certificate),
            ("server.key", &made.server.key),
            ("client.crt", &made.client.certificate),
            ("client.key", &made.client.key),
        ] {
            std::fs::write(folder.path().join(name), pem)?;
        }
        let server = serve(program.path(), folder.path())?;
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut node = Self { program: program.path().to_owned(), folder, server, address };
        node.address = node.await_door()?;
        Ok(node)
    }

    fn await_door(&mut self) -> Result<SocketAddr> {
        let end = Instant::now() + LIMIT;
        loop {
            let log = self.log();
            let opened = log.split_once("serving HTTPS address=");
            if let Some(word) = opened.and_then(|(_, rest)| rest.split_whitespace().next())
                && self.run(&["version"]).is_ok()
            {
                return word.parse().with_context(|| format!("the address {word:?}"));
            }
            if let Some(status) = self.server.try_wait()? {
                bail!("the server ended with {status}: {log}");
            }
            ensure!(Instant::now() < end, "the server opens no door: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A container, a checkpoint of it over HTTPS, and copies of its archive.
    fn fill(&self) -> Result<()> {
        let name = "fuzzed";
        self.run(&["run", "--host-programs", "--name", name, "--", "/bin/sleep", "inf"])?;
        let server = format!("https://{}", self.address);
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let path = self.run(&[
            "checkpoint",
            "default/fuzzed/fuzzed",
            "--server",
            &server,
            "--cert",
            &at("client.crt"),
            "--key",
            &at("client.key"),
            "--cacert",
            &at("authority.crt"),
        ])?;
        let archive = PathBuf::from(path.lines().next().unwrap_or_default());
        for number in 0..ARCHIVES {
            let copy = archive.with_file_name(format!("copy-{number}.tar"));
            std::fs::copy(&archive, &copy).with_context(|| copy.display().to_string())?;
        }
        self.run(&["rm", "--force", "default/fuzzed"]).map(drop)
    }

    /// Runs a command of `cryopod` that must succeed; gives what it printed.
    fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", &LIMIT.as_secs().to_string()]).arg(&self.program);
        command.args(arguments).env("CRYOPOD_SOCKET", self.folder.path().join("run/cryopod.sock"));
        let answer = Answer::of(command)?;
        ensure!(
            answer.status.success(),
            "cryopod {}: {}: {}",
            arguments.join(" "),
            answer.status,
            answer.text
        );
        Ok(answer.text)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("serve.log")).unwrap_or_default()
    }

    fn end(&mut self) -> Result<()> {
        let all = self.run(&["ps", "--all", "--output", "json"])?;
        let all: Vec<serde_json::Value> = serde_json::from_str(&all).context("list the pods")?;
        for one in all {
            if let (Some(namespace), Some(pod)) = (one["namespace"].as_str(), one["pod"].as_str()) {
                // Of several containers of a pod, the first takes all with it.
                self.run(&["rm", "--force", &format!("{namespace}/{pod}")]).ok();
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

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("xtask: {error:#}");
            let _ = self.server.kill();
            let _ = self.server.wait();
        }
        let name = cgroup(self.folder.path());
        let roots = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for root in roots.map(|root| root.path()).chain(["/sys/fs/cgroup".into()]) {
            let _ = std::fs::remove_dir(root.join(&name));
        }
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

fn serve(program: &Path, folder: &Path) -> Result<Child> {
    let mut command = Command::new(program);
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
