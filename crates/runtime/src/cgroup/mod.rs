//! Control groups of containers, v1 and v2 and both at once.
//!
//! A container has one cgroup of the same name in every hierarchy that is mounted (v1 with
//! controllers; v2). A limit goes to whichever hierarchy carries its controller. Relies on
//! cgroups(7); `cgroup.kill` (5.14) and `cgroup.freeze` (5.2) where there is v2, else the v1 freezer.
//! Named v1 hierarchies without a controller are left alone.

mod limits;
mod usage;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) use limits::DeviceRule;

use crate::error::{ErrorKind, RuntimeError};

/// Why a cgroup could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    /// No hierarchy is mounted.
    #[error("no cgroup hierarchy is mounted on this machine")]
    NoHierarchy,
    /// The controller of a limit is nowhere.
    #[error(
        "limit {limit} needs the cgroup controller {controller}, which no mounted hierarchy has"
    )]
    NoController { limit: &'static str, controller: &'static str },
    /// A file of a cgroup could not be used.
    #[error("{action} {path:?}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// Processes did not go away.
    #[error("cgroup {path:?} still has {count} processes after {seconds} s")]
    Busy { path: PathBuf, count: usize, seconds: u64 },
}

impl CgroupError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::NoController { .. } => ErrorKind::FailedPrecondition,
            Self::NoHierarchy | Self::Io { .. } | Self::Busy { .. } => ErrorKind::Internal,
        }
    }
}

impl From<CgroupError> for RuntimeError {
    fn from(error: CgroupError) -> Self {
        Self::Shim { kind: error.kind(), message: crate::wire::chain(&error) }
    }
}

type Result<T> = std::result::Result<T, CgroupError>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    root: PathBuf,
    /// Controllers of a v1 hierarchy; `None`: v2.
    v1: Option<Vec<String>>,
}

/// A container's (or pod's) cgroup in all hierarchies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cgroup {
    hierarchies: Vec<Hierarchy>,
    path: PathBuf,
}

fn hierarchies() -> Result<Vec<Hierarchy>> {
    let file = "/proc/self/mountinfo";
    let text = fs::read_to_string(file).map_err(|source| CgroupError::Io {
        action: "read",
        path: file.into(),
        source,
    })?;
    let found = parse_mounts(&text);
    if found.is_empty() { Err(CgroupError::NoHierarchy) } else { Ok(found) }
}

/// The hierarchies of the machine by the name of their mount point, with the controllers of v1.
pub(crate) fn visible_hierarchies() -> Vec<(String, Option<Vec<String>>)> {
    let found = hierarchies().unwrap_or_default();
    let name =
        |h: &Hierarchy| h.root.file_name().unwrap_or_default().to_string_lossy().into_owned();
    found.into_iter().map(|h| (name(&h), h.v1)).collect()
}

const V1_CONTROLLERS: [&str; 12] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "net_cls",
    "net_prio",
    "perf_event",
    "hugetlb",
];

fn parse_mounts(text: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut right = right.split(' ');
        let kind = right.next().unwrap_or_default();
        let options = right.nth(1).unwrap_or_default();
        let Some(root) = left.split(' ').nth(4) else { continue };
        let v1 = match kind {
            "cgroup2" => None,
            "cgroup" => {
                let controllers: Vec<String> = options
                    .split(',')
                    .filter(|o| V1_CONTROLLERS.contains(o))
                    .map(str::to_owned)
                    .collect();
                if controllers.is_empty() {
                    continue;
                }
                Some(controllers)
            }
            _ => continue,
        };
        if !found.iter().any(|h| h.v1 == v1) {
            found.push(Hierarchy { root: unescape(root), v1 });
        }
    }
    found
}

/// Undoes the octal escapes of mountinfo.
fn unescape(text: &str) -> PathBuf {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\").into()
}

impl Cgroup {
    /// The cgroup of this name; nothing is made yet.
    pub(crate) fn at(path: &Path) -> Result<Self> {
        Ok(Self { hierarchies: hierarchies()?, path: path.into() })
    }

    /// Makes it in every hierarchy, with its parents.
    pub(crate) fn create(&self) -> Result<()> {
        for hierarchy in &self.hierarchies {
            let mut dir = hierarchy.root.clone();
            for component in &self.path {
                if hierarchy.v1.is_none() {
                    delegate(&dir);
                }
                let parent = dir.clone();
                dir.push(component);
                match fs::create_dir(&dir) {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(source) => {
                        return Err(CgroupError::Io { action: "create", path: dir, source });
                    }
                }
                if hierarchy.has("cpuset") {
                    inherit_cpuset(&parent, &dir)?;
                }
            }
        }
        Ok(())
    }

    /// Moves a process into it, in every hierarchy.
    pub(crate) fn add(&self, pid: i32) -> Result<()> {
        for dir in self.dirs() {
            write(&dir.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Its folders that exist, one per hierarchy.
    pub(crate) fn dirs(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.hierarchies.iter().map(|h| h.root.join(&self.path)).filter(|d| d.exists())
    }

    /// The files that list its processes, one per hierarchy.
    pub(crate) fn procs_files(&self) -> Vec<PathBuf> {
        self.dirs().map(|d| d.join("cgroup.procs")).collect()
    }

    /// Its processes, as the caller's pid namespace sees them.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = Vec::new();
        for file in self.procs_files() {
            let Ok(text) = fs::read_to_string(file) else { continue };
            pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|p| *p > 0));
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Whether [`hold`](Self::hold) can keep its processes where they are. Only v2 can: its freezer
    /// does not get into the way of a tracer, v1's does.
    pub(crate) fn can_hold(&self) -> bool {
        self.holding_file().is_some()
    }

    /// Keeps all its processes where they are, also when a tracer lets them go, until
    /// [`thaw`](Self::thaw) or [`kill`](Self::kill).
    pub(crate) fn hold(&self) -> Result<()> {
        match self.holding_file() {
            Some(file) => write(&file, "1"),
            None => Ok(()),
        }
    }

    fn holding_file(&self) -> Option<PathBuf> {
        let v2 = self.hierarchies.iter().find(|h| h.v1.is_none())?;
        let file = v2.root.join(&self.path).join("cgroup.freeze");
        file.exists().then_some(file)
    }

    /// Lets its processes go on; harmless when they are not frozen.
    pub(crate) fn thaw(&self) -> Result<()> {
        for hierarchy in &self.hierarchies {
            let dir = hierarchy.root.join(&self.path);
            let (name, word) = match &hierarchy.v1 {
                None => ("cgroup.freeze", "0"),
                Some(_) if hierarchy.has("freezer") => ("freezer.state", "THAWED"),
                Some(_) => continue,
            };
            let file = dir.join(name);
            if file.exists() {
                write(&file, word)?;
            }
        }
        Ok(())
    }

    /// Kills all its processes and waits until they are gone; those being reaped count as gone when
    /// the caller's parent reaps them.
    pub(crate) fn kill(&self) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(10);
        let begun = Instant::now();
        loop {
            let pids = self.processes();
            if pids.is_empty() {
                return Ok(());
            }
            for dir in self.dirs() {
                let _ = write(&dir.join("cgroup.kill"), "1");
            }
            for pid in &pids {
                let _ = cryopod_sys::process::kill(*pid, libc::SIGKILL);
            }
            // Only now: what was held must die without running on.
            let _ = self.thaw();
            if begun.elapsed() > LIMIT {
                return Err(CgroupError::Busy {
                    path: self.path.clone(),
                    count: pids.len(),
                    seconds: LIMIT.as_secs(),
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Removes it; its processes must be gone. A cgroup that is not there is no error.
    pub(crate) fn remove(&self) -> Result<()> {
        for dir in self.dirs().collect::<Vec<_>>() {
            remove_tree(&dir)?;
        }
        Ok(())
    }
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.v1.as_ref().is_some_and(|c| c.iter().any(|c| c == controller))
    }
}

fn remove_tree(dir: &Path) -> Result<()> {
    if let Ok(entries) = fs::read_dir(dir) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                remove_tree(&entry.path())?;
            }
        }
    }
    let begun = Instant::now();
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A process that has just been killed keeps its cgroup busy for a moment.
            Err(e)
                if e.raw_os_error() == Some(libc::EBUSY)
                    && begun.elapsed() < Duration::from_secs(5) =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(source) => {
                return Err(CgroupError::Io { action: "remove", path: dir.into(), source });
            }
        }
    }
}

/// Gives the children of a v2 cgroup the controllers that hold limits. What cannot be given (the
/// cgroup has processes, the controller belongs to v1) is missed when a limit asks for it.
fn delegate(dir: &Path) {
    let available = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    for controller in available.split_whitespace() {
        if ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"].contains(&controller) {
            let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

/// A new v1 cpuset is empty and takes no process until it has processors and memory.
fn inherit_cpuset(parent: &Path, dir: &Path) -> Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let file = dir.join(name);
        if read(&file)?.trim().is_empty() {
            write(&file, read(&parent.join(name))?.trim())?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|source| CgroupError::Io {
        action: "read",
        path: path.into(),
        source,
    })
}

fn write(path: &Path, text: &str) -> Result<()> {
    // Opened without O_CREAT, so that a missing file is told as such.
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
        .map_err(|source| CgroupError::Io { action: "write", path: path.into(), source })
}

/// True when the file is there and root may write it.
fn is_writable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o200 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_each_hierarchy_once_and_leaves_named_ones_alone() {
        let text = "\
30 25 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
32 25 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
33 25 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
34 25 0:26 / /mnt/my\\040copy rw,relatime - cgroup cgroup rw,memory
";
        let found = parse_mounts(text);
        assert_eq!(found.len(), 3);
        assert!(found[1].has("cpu") && found[1].has("cpuacct"));
        assert_eq!(found[2], Hierarchy { root: "/sys/fs/cgroup/unified".into(), v1: None });
    }
}
