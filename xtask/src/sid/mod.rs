//! The Debian sid tree with the real peers of this field, made by a script that is not part of this repository.

use std::ffi::OsStr;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cryopod_testkit::{Verdict, Victim, Workplace, isolate, reap};

/// The checkout.
pub(crate) fn checkout() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// How a command ended, and what it printed.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its exit.
    pub(crate) status: ExitStatus,
    /// Standard output and error.
    pub(crate) text: String,
}

impl Answer {
    /// Runs it to its end, in a session of its own. It prints into a file: a process that it leaves behind would keep a
    /// pipe open.
    pub(crate) fn of(mut command: Command) -> Result<Self> {
        let mut file = tempfile::tempfile()?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file.try_clone()?);
        isolate(&mut command);
        let status = command.status().with_context(|| format!("start {command:?}"))?;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut bytes)?;
        Ok(Answer { status, text: String::from_utf8_lossy(&bytes).trim().to_owned() })
    }
}

/// Ends what a command left behind: the processes with `part` in their command line, which must be a name of one run.
pub(crate) fn sweep(part: &Path) {
    let part = part.as_os_str().as_bytes();
    let Ok(listing) = std::fs::read_dir("/proc") else { return };
    let pids = listing.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids.filter(|pid| *pid != std::process::id()) {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if line.windows(part.len()).any(|window| window == part) {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
    }
}

/// The tree, made and reachable.
#[derive(Debug)]
pub(crate) struct Sid {
    script: PathBuf,
    root: PathBuf,
}

impl Sid {
    /// Finds the script (`CRYOPOD_PEERS`, its path or its folder; else `../shared/peers/sid` beside the checkout) and makes
    /// the tree when it is not there.
    pub(crate) fn find() -> Result<Self> {
        let given = std::env::var_os("CRYOPOD_PEERS").map(PathBuf::from);
        let mut script = given.unwrap_or_else(|| checkout().join("../shared/peers/sid"));
        if script.is_dir() {
            script.push("sid");
        }
        ensure!(
            script.is_file(),
            "no script that makes the sid tree at {}: set CRYOPOD_PEERS to its path",
            script.display()
        );
        let mut sid = Sid { script, root: PathBuf::new() };
        let status = Command::new(&sid.script).arg("up").stdin(Stdio::null()).status();
        ensure!(status.context("start sid up")?.success(), "sid up failed");
        let path = Command::new(&sid.script).arg("path").output().context("start sid path")?;
        sid.root = PathBuf::from(String::from_utf8(path.stdout)?.trim());
        ensure!(sid.root.is_dir(), "sid path names no folder: {}", sid.root.display());
        // starts the namespaces now, so that no victim's processes are their parents
        let mut start = sid.command("true");
        isolate(&mut start);
        ensure!(start.status().context("start sid run")?.success(), "sid run true failed");
        Ok(sid)
    }

    /// A path inside the tree, as the host names it.
    pub(crate) fn on_host(&self, inside: &Path) -> PathBuf {
        self.root.join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// A command in the tree's mount and pid namespaces, as root.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(&self.script);
        command.arg("run").arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a command in the tree for at most `limit`. The clock runs inside: ending `nsenter` would not end what it
    /// started.
    pub(crate) fn run(&self, arguments: &[&OsStr], limit: Duration) -> Result<Answer> {
        let mut command = self.command("timeout");
        command.args(["-s", "KILL", &limit.as_secs().to_string()]).args(arguments);
        Answer::of(command)
    }
}

/// A victim that runs in the tree.
#[derive(Debug)]
pub(crate) struct Guest {
    /// Its folder, as the host names it.
    pub(crate) place: Workplace,
    /// The folder as the tree names it.
    pub(crate) inside: PathBuf,
    host: PathBuf,
    /// Its process, as the tree's pid namespace numbers it.
    pub(crate) pid: u32,
    /// Leave the folder behind.
    pub(crate) keep: bool,
}

impl Guest {
    /// Starts a victim in the tree, in a session of its own, and waits until it is ready. `Err(Verdict)` inside: it gave
    /// its verdict at once.
    pub(crate) fn start(sid: &Sid, victim: &Victim) -> Result<std::result::Result<Self, Verdict>> {
        let inside = PathBuf::from(format!(
            "/var/lib/cryopod-victims/{}-{}",
            std::process::id(),
            victim.name
        ));
        let host = sid.on_host(&inside);
        if host.exists() {
            std::fs::remove_dir_all(&host)?;
        }
        let place = Workplace::new(victim, &host)?;
        let mut guest = Guest { place, inside, host, pid: 0, keep: false };
        let mut command = sid.command("setsid");
        let script =
            "cd \"$1/work\" && echo $$ >../pid && exec \"../bin/$2\" </dev/null >out 2>err";
        command
            .args(["-f", "env", "-i", "/bin/sh", "-c", script, "sh"])
            .arg(&guest.inside)
            .arg(victim.name);
        command.stdout(Stdio::null());
        isolate(&mut command);
        ensure!(command.status().context("start sid run")?.success(), "sid run setsid failed");
        let end = Instant::now() + Duration::from_secs(20);
        while !guest.place.is_ready() {
            if let Some(verdict) = guest.place.verdict() {
                return Ok(Err(verdict));
            }
            if Instant::now() > end {
                bail!("not ready after 20 s; it printed: {}", guest.place.printed());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let pid = std::fs::read_to_string(guest.host.join("pid")).context("its pid")?;
        guest.pid = pid.trim().parse().context("its pid")?;
        Ok(Ok(guest))
    }

    /// The folder for images, as the tree names it, made now.
    pub(crate) fn images(&self) -> Result<PathBuf> {
        std::fs::create_dir_all(self.host.join("images"))?;
        Ok(self.inside.join("images"))
    }

    /// A file of the images, as text.
    pub(crate) fn log(&self, name: &str) -> String {
        let bytes = std::fs::read(self.host.join("images").join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Lets it go on and waits for its verdict.
    pub(crate) fn finish(&self) -> Result<Verdict> {
        self.place.go()?;
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let alive = !self.place.processes().is_empty();
            if let Some(verdict) = self.place.verdict() {
                return Ok(verdict);
            }
            if !alive {
                bail!("ended without a verdict; it printed: {}", self.place.printed());
            }
            if Instant::now() > end {
                bail!("no verdict after 20 s; it printed: {}", self.place.printed());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.place.kill_all();
        sweep(&self.inside);
        reap();
        if self.keep {
            eprintln!("kept {}", self.host.display());
        } else if let Err(error) = std::fs::remove_dir_all(&self.host) {
            eprintln!("xtask: {} is left: {error}", self.host.display());
        }
    }
}
