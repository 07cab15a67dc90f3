//! A corner of the sid tree for the peers: mount and pid namespaces of their own, so that whatever they leave behind or
//! kill by mistake is theirs alone; their folders lie beside ours on the same disk.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cryopod_testkit::isolate;

use super::written;
use crate::sid::{Answer, Sid};
use crate::stand::{inside, tree};

/// What the tree lacks is added to it: crun finds criu's library at run time only.
const INSTALL: &str = "set -eu\n\
    command -v docker-registry >/dev/null && ldconfig -p | grep -q libcriu && exit\n\
    export DEBIAN_FRONTEND=noninteractive\n\
    apt-get update -q && apt-get install -y -q --no-install-recommends libcriu2 docker-registry";

/// crun wants no controllers of cgroup v2 beside those of v1.
const HOLD: &str = r#"set -eu
umount /sys/fs/cgroup/unified 2>/dev/null || true
for folder in containers containerd registry; do
    mkdir -p "/var/lib/$folder" "$1/$folder"
    mount --bind "$1/$folder" "/var/lib/$folder"
done
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
touch "$1/up"
while :; do sleep 3600; done
"#;

/// The cgroup below which the peers' containers are.
pub(crate) const CGROUP: &str = "cryopod-bench-peers";

/// Restores the limit when dropped.
///
/// criu raises its limit of open files to this one, for which it needs CAP_SYS_RESOURCE; with the limit that all processes
/// here have anyway, there is nothing to raise.
#[derive(Debug)]
struct OpenLimit {
    before: String,
}

const NR_OPEN: &str = "/proc/sys/fs/nr_open";

impl OpenLimit {
    fn lower() -> Result<Self> {
        let before = std::fs::read_to_string(NR_OPEN).context(NR_OPEN)?;
        let limits = std::fs::read_to_string("/proc/self/limits")?;
        let line = limits.lines().find(|line| line.starts_with("Max open files"));
        let hard = line.and_then(|line| line.split_whitespace().nth(4)).context("no limit")?;
        if hard.parse::<u64>().is_ok() {
            std::fs::write(NR_OPEN, hard).context(NR_OPEN)?;
        }
        Ok(OpenLimit { before })
    }
}

impl Drop for OpenLimit {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(NR_OPEN, &self.before) {
            eprintln!("xtask: {NR_OPEN} should be {} again: {error}", self.before.trim());
        }
    }
}

/// The namespaces; everything in them ends when dropped.
#[derive(Debug)]
pub(crate) struct Private {
    holder: Child,
    /// The first process of the pid namespace, as the machine numbers it.
    first: u32,
    folder: PathBuf,
    _limit: OpenLimit,
}

impl Private {
    pub(crate) fn start(sid: &Sid, below: &Path) -> Result<Self> {
        tree(sid, INSTALL, &[])?;
        let limit = OpenLimit::lower()?;
        let folder = below.join("peers");
        std::fs::create_dir(&folder)?;
        let mut command = sid.command("unshare");
        command.args(["--mount", "--pid", "--fork", "--mount-proc", "--propagation", "private"]);
        command.args(["--kill-child", "sh", "-c", HOLD, "sh"]).arg(inside(&folder)?);
        command.stdout(Stdio::null());
        isolate(&mut command);
        let mut holder = command.spawn().context("start sid run unshare")?;
        let end = Instant::now() + Duration::from_secs(20);
        while !folder.join("up").exists() {
            if let Some(status) = holder.try_wait()? {
                bail!("the peers' namespaces ended with {status}");
            }
            ensure!(Instant::now() < end, "the peers' namespaces do not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        let first = leaf(holder.id())?;
        Ok(Private { holder, first, folder, _limit: limit })
    }

    /// The folder as the machine names it.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file of the namespaces as the machine names it.
    pub(crate) fn outside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.first))
    }

    /// A command in the namespaces.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first.to_string(), "--mount", "--pid", "--"]);
        command.args(words).stdin(Stdio::null());
        command.env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1").env_remove("RUST_BACKTRACE");
        command
    }

    /// Runs a command that must succeed; gives what it printed.
    pub(crate) fn ok(&self, words: &[&str]) -> Result<String> {
        let mut all = vec!["timeout", "-s", "KILL", "280"];
        all.extend(words);
        let answer = Answer::of(self.command(&all))?;
        if !answer.status.success() {
            bail!("{} {}: {}: {}", words[0], words[1], answer.status, answer.text);
        }
        Ok(answer.text)
    }

    /// Bytes written by all processes of the pid namespace itself; those in the containers have others.
    pub(crate) fn written(&self) -> Result<i64> {
        let namespace =
            |process: &Path| Some(std::fs::metadata(process.join("ns/pid")).ok()?.ino());
        let ours = namespace(Path::new(&format!("/proc/{}", self.first)));
        written::of_all(|process| ours.is_some() && namespace(process) == ours)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", &self.first.to_string()]).status();
        let _ = self.holder.wait();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove(&hierarchy.path().join(CGROUP));
        }
    }
}

/// Removes a cgroup and those below it.
fn remove(cgroup: &Path) {
    for below in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if below.path().is_dir() {
            remove(&below.path());
        }
    }
    let _ = std::fs::remove_dir(cgroup);
}

/// The last of a line of only children: what `unshare` started.
fn leaf(mut pid: u32) -> Result<u32> {
    loop {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
            .with_context(|| format!("the children of {pid}"))?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or("");
        // The machine's number, the tree's, and 1.
        if numbers.split_whitespace().count() >= 3 && numbers.split_whitespace().last() == Some("1")
        {
            return Ok(pid);
        }
        let child = children.split_whitespace().next();
        pid = child.context("the peers' first process is not found")?.parse()?;
    }
}
