//! The freezer of a container of another runtime, found by its first process.
//!
//! /proc/PID/cgroup names the process's cgroup in each hierarchy (cgroups(7)), the mount points are in
//! /proc/self/mountinfo. A runtime names the cgroup after the container's id (`/kubepods/…/ID`,
//! `cri-containerd-ID.scope`, `crio-ID.scope`) and freezes that one, or one below it where it made
//! one more (crun's `container`); so all from there down to the process's own are looked at. A process
//! whose cgroup does not name the container is not the container's, such as when the runtime counts
//! pids in another namespace: then nothing is touched.
//!
//! cgroup v1: `freezer.self_freezing` tells whether this cgroup itself is to be frozen (a frozen
//! parent does not count, and would not be helped), `freezer.state` takes `THAWED`. cgroup v2:
//! `cgroup.freeze` does both (5.2). Where both are mounted, runtimes use the v1 freezer.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use cryopod_kubelet::thaw::{Freezer, Motion, Thaw};
use cryopod_kubelet::{BoxError, BoxFuture};

/// Ids shorter than this could be a part of other names by chance; runtimes' have 64 digits.
const SHORTEST_ID: usize = 8;

/// Processes of a container whose tracer is looked for.
const PROCESSES: usize = 4096;

/// Why a freezer is not found or does not work.
#[derive(Debug, thiserror::Error)]
enum ThawError {
    #[error("{action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("no freezer is mounted, neither of cgroup v1 nor of v2")]
    NoFreezer,
    #[error(
        "process {pid} is in cgroup {cgroup:?}, which does not name the container: the runtime must \
         run in the same pid namespace"
    )]
    Another { pid: u32, cgroup: String },
    #[error(
        "cgroup {cgroup:?} lies outside of what is mounted at {}: run with the host's cgroup \
         namespace and /sys/fs/cgroup", mount.display()
    )]
    Outside { cgroup: String, mount: PathBuf },
    #[error("looking at the freezer was cut short")]
    CutShort,
}

/// [`Thaw`] by the cgroup file systems of this machine.
#[derive(Debug)]
pub(crate) struct CgroupThaw {
    proc: PathBuf,
}

impl Default for CgroupThaw {
    fn default() -> Self {
        Self { proc: "/proc".into() }
    }
}

impl Thaw for CgroupThaw {
    fn freezer<'a>(
        &'a self,
        container_id: &'a str,
        pid: u32,
    ) -> BoxFuture<'a, Result<Arc<dyn Freezer>, BoxError>> {
        Box::pin(async move {
            let (proc, id) = (self.proc.clone(), container_id.to_owned());
            let found = blocking(move || Cgroups::find(&proc, &id, pid)).await?;
            let freezer: Arc<dyn Freezer> = Arc::new(CgroupFreezer(Arc::new(found)));
            Ok(freezer)
        })
    }
}

/// Files of cgroups can block: on v1, a look at the state takes the cgroup's lock.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ThawError> + Send + 'static,
) -> Result<T, ThawError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(ThawError::CutShort))
}

#[derive(Debug)]
struct CgroupFreezer(Arc<Cgroups>);

impl Freezer for CgroupFreezer {
    fn look(&self) -> BoxFuture<'_, Result<Motion, BoxError>> {
        let cgroups = Arc::clone(&self.0);
        Box::pin(async move { Ok(blocking(move || cgroups.look()).await?) })
    }

    fn thaw(&self) -> BoxFuture<'_, Result<(), BoxError>> {
        let cgroups = Arc::clone(&self.0);
        Box::pin(async move { Ok(blocking(move || cgroups.thaw()).await?) })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Version {
    /// The file that says whether a cgroup itself is to be frozen, and the one that thaws it.
    fn files(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::V1 => ("freezer.self_freezing", "freezer.state", "THAWED"),
            Self::V2 => ("cgroup.freeze", "cgroup.freeze", "0"),
        }
    }
}

/// The cgroups of one container that can be frozen, from the one named after it down to its first
/// process's.
#[derive(Debug)]
struct Cgroups {
    proc: PathBuf,
    folders: Vec<(Version, PathBuf)>,
}

impl Cgroups {
    fn find(proc: &Path, id: &str, pid: u32) -> Result<Self, ThawError> {
        let mounts = mounts(&read(&proc.join("self/mountinfo"))?);
        let memberships = read(&proc.join(pid.to_string()).join("cgroup"))?;
        let mut folders = Vec::new();
        let mut another = None;
        for Mount { version, root, point } in mounts {
            let Some(cgroup) = membership(&memberships, version) else { continue };
            let named = |text: &str| id.len() >= SHORTEST_ID && text.contains(id);
            let path = Path::new(cgroup);
            let parts: Vec<&str> = path
                .components()
                .filter_map(|part| match part {
                    Component::RootDir | Component::CurDir => None,
                    part => part.as_os_str().to_str(),
                })
                .collect();
            let Some(at) = parts.iter().position(|part| named(part)) else {
                another = another.or_else(|| Some(cgroup.to_owned()));
                continue;
            };
            let outside = || ThawError::Outside { cgroup: cgroup.to_owned(), mount: point.clone() };
            if parts.contains(&"..") {
                return Err(outside());
            }
            for end in at..parts.len() {
                let whole: PathBuf =
                    std::iter::once("/").chain(parts[..=end].iter().copied()).collect();
                let below = whole.strip_prefix(&root).map_err(|_| outside())?;
                let folder = point.join(below);
                if folder.join(version.files().1).exists() {
                    folders.push((version, folder));
                }
            }
        }
        match (folders.is_empty(), another) {
            (false, _) => Ok(Self { proc: proc.to_owned(), folders }),
            (true, Some(cgroup)) => Err(ThawError::Another { pid, cgroup }),
            (true, None) => Err(ThawError::NoFreezer),
        }
    }

    fn look(&self) -> Result<Motion, ThawError> {
        let mut there = false;
        for (version, folder) in &self.folders {
            match read(&folder.join(version.files().0)) {
                Ok(text) if text.trim() == "1" => return Ok(Motion::Frozen),
                Ok(_) => there = true,
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
        let pids = self.pids();
        if !there || pids.is_empty() {
            return Ok(Motion::Gone);
        }
        let traced = pids.iter().take(PROCESSES).any(|pid| {
            let status = fs::read_to_string(self.proc.join(pid).join("status")).unwrap_or_default();
            let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
            tracer.is_some_and(|pid| pid.trim() != "0")
        });
        Ok(if traced { Motion::Traced } else { Motion::Runs })
    }

    /// The processes of the outermost of the cgroups, and of those below it.
    fn pids(&self) -> Vec<String> {
        let mut pids: Vec<String> = Vec::new();
        let mut folders: Vec<PathBuf> =
            self.folders.iter().map(|(_, folder)| folder.clone()).collect();
        while let Some(folder) = folders.pop() {
            let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().map(str::to_owned));
            let below = fs::read_dir(&folder).into_iter().flatten().flatten();
            folders.extend(
                below
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    fn thaw(&self) -> Result<(), ThawError> {
        for (version, folder) in &self.folders {
            let (state, file, word) = version.files();
            if read(&folder.join(state)).is_ok_and(|text| text.trim() == "0") {
                continue;
            }
            match write(&folder.join(file), word) {
                Err(error) if !error.is_gone() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl ThawError {
    /// A cgroup that was removed: its files are not there, or answer ENODEV when they are still open.
    fn is_gone(&self) -> bool {
        const ENODEV: i32 = rustix::io::Errno::NODEV.raw_os_error();
        matches!(self, Self::Io { source, .. }
            if source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(ENODEV))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    version: Version,
    /// The cgroup that is seen at the mount point.
    root: PathBuf,
    point: PathBuf,
}

/// Each hierarchy with a freezer, once, the widest view of it first.
fn mounts(mountinfo: &str) -> Vec<Mount> {
    let mut found: Vec<Mount> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let left: Vec<&str> = left.split(' ').collect();
        let (Some(root), Some(point)) = (left.get(3), left.get(4)) else { continue };
        let right: Vec<&str> = right.split(' ').collect();
        let version = match (right.first(), right.get(2)) {
            (Some(&"cgroup2"), _) => Version::V2,
            (Some(&"cgroup"), Some(options)) if options.split(',').any(|o| o == "freezer") => {
                Version::V1
            }
            _ => continue,
        };
        let mount = Mount { version, root: unescape(root), point: unescape(point) };
        match found.iter_mut().find(|other| other.version == version) {
            None => found.push(mount),
            Some(other) if mount.root.as_os_str().len() < other.root.as_os_str().len() => {
                *other = mount;
            }
            Some(_) => {}
        }
    }
    found
}

/// The process's cgroup in the hierarchy of the v1 freezer, or of v2.
fn membership(text: &str, version: Version) -> Option<&str> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers) = (fields.next()?, fields.next()?);
        let wanted = match version {
            Version::V1 => controllers.split(',').any(|one| one == "freezer"),
            Version::V2 => number == "0" && controllers.is_empty(),
        };
        fields.next().filter(|_| wanted)
    })
}

/// Undoes the octal escapes of mountinfo.
fn unescape(text: &str) -> PathBuf {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\").into()
}

fn read(path: &Path) -> Result<String, ThawError> {
    let failed = |source| ThawError::Io { action: "read", path: path.to_owned(), source };
    fs::read_to_string(path).map_err(failed)
}

fn write(path: &Path, word: &str) -> Result<(), ThawError> {
    // Without O_CREAT: a file that is not there is told as such.
    let opened = fs::OpenOptions::new().write(true).open(path);
    opened.and_then(|mut file| file.write_all(word.as_bytes())).map_err(|source| ThawError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    /// Folders that look like /proc and the two hierarchies.
    struct Machine {
        folder: tempfile::TempDir,
    }

    impl Machine {
        fn new(roots: (&str, &str), cgroup: &str) -> Self {
            let machine = Self { folder: tempfile::tempdir().unwrap() };
            let at = |name: &str| machine.at(name).display().to_string();
            machine.put(
                "proc/self/mountinfo",
                &format!(
                    "31 25 0:27 / {cpu} rw - cgroup cgroup rw,cpu\n\
                     32 25 0:28 {v1} {freezer} rw shared:9 - cgroup cgroup rw,freezer\n\
                     33 25 0:29 {v2} {unified} rw - cgroup2 cgroup2 rw\n",
                    cpu = at("cpu"),
                    freezer = at("freezer"),
                    unified = at("unified"),
                    v1 = roots.0,
                    v2 = roots.1,
                ),
            );
            machine.put("proc/7/cgroup", cgroup);
            machine.put("proc/7/status", "Name:\tx\nTracerPid:\t0\n");
            machine
        }

        fn at(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn put(&self, name: &str, text: &str) {
            let path = self.at(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn freezer(&self, cgroup: &str, freezing: &str) {
            self.put(&format!("freezer/{cgroup}/freezer.self_freezing"), freezing);
            self.put(&format!("freezer/{cgroup}/freezer.state"), "?");
        }

        fn find(&self) -> Result<Cgroups, ThawError> {
            Cgroups::find(&self.at("proc"), ID, 7)
        }

        fn text(&self, name: &str) -> String {
            fs::read_to_string(self.at(name)).unwrap()
        }
    }

    #[test]
    fn version_1_is_asked_by_its_own_wish_and_thawed_by_its_state() {
        let cgroup = format!("9:cpu:/x\n6:cpuset,freezer:/k8s.io/{ID}\n0::/\n");
        let machine = Machine::new(("/", "/"), &cgroup);
        machine.freezer(&format!("k8s.io/{ID}"), "1\n");
        machine.put(&format!("freezer/k8s.io/{ID}/cgroup.procs"), "7\n");
        let found = machine.find().unwrap();
        assert_eq!(found.look().unwrap(), Motion::Frozen);
        found.thaw().unwrap();
        assert_eq!(machine.text(&format!("freezer/k8s.io/{ID}/freezer.state")), "THAWED");
        machine.freezer(&format!("k8s.io/{ID}"), "0\n");
        assert_eq!(found.look().unwrap(), Motion::Runs);
        found.thaw().unwrap();
        assert_eq!(machine.text(&format!("freezer/k8s.io/{ID}/freezer.state")), "?");
        machine.put("proc/7/status", "TracerPid:\t99\n");
        assert_eq!(found.look().unwrap(), Motion::Traced);
        machine.put(&format!("freezer/k8s.io/{ID}/cgroup.procs"), "");
        assert_eq!(found.look().unwrap(), Motion::Gone);
        fs::remove_dir_all(machine.at("freezer")).unwrap();
        assert_eq!(found.look().unwrap(), Motion::Gone);
        found.thaw().unwrap();
    }

    #[test]
    fn version_2_is_found_at_the_cgroup_named_after_the_container_and_below() {
        let scope = format!("kubepods.slice/crio-{ID}.scope");
        let machine = Machine::new(("/", "/"), &format!("0::/{scope}/container/init\n"));
        for folder in ["", "/container", "/container/init"] {
            machine.put(&format!("unified/{scope}{folder}/cgroup.freeze"), "0\n");
        }
        machine.put("unified/kubepods.slice/cgroup.freeze", "1\n");
        machine.put(&format!("unified/{scope}/container/init/cgroup.procs"), "7\n");
        let found = machine.find().unwrap();
        assert_eq!(found.folders.len(), 3);
        assert_eq!(found.look().unwrap(), Motion::Runs);
        machine.put(&format!("unified/{scope}/container/cgroup.freeze"), "1\n");
        assert_eq!(found.look().unwrap(), Motion::Frozen);
        found.thaw().unwrap();
        assert_eq!(machine.text(&format!("unified/{scope}/container/cgroup.freeze")).trim(), "0");
        assert_eq!(machine.text("unified/kubepods.slice/cgroup.freeze"), "1\n");
    }

    #[test]
    fn a_part_of_the_hierarchy_that_is_mounted_is_enough() {
        let machine = Machine::new(("/", "/outer"), &format!("0::/outer/pods/{ID}\n"));
        machine.put(&format!("unified/pods/{ID}/cgroup.freeze"), "0\n");
        assert_eq!(machine.find().unwrap().folders[0].1, machine.at(&format!("unified/pods/{ID}")));
        let machine = Machine::new(("/", "/inner"), &format!("0::/outer/pods/{ID}\n"));
        assert!(matches!(machine.find(), Err(ThawError::Outside { .. })));
        let machine = Machine::new(("/", "/"), &format!("0::/../pods/{ID}\n"));
        assert!(matches!(machine.find(), Err(ThawError::Outside { .. })));
    }

    #[test]
    fn a_process_that_is_not_the_containers_is_left_alone() {
        for cgroup in ["6:freezer:/\n0::/\n", "6:freezer:/system.slice/sshd.service\n"] {
            let machine = Machine::new(("/", "/"), cgroup);
            machine.freezer("", "1");
            machine.freezer("system.slice/sshd.service", "1");
            let error = machine.find().unwrap_err();
            assert!(matches!(error, ThawError::Another { pid: 7, .. }), "{error}");
        }
        let machine = Machine::new(("/", "/"), "3:cpu:/x\n");
        assert!(matches!(machine.find(), Err(ThawError::NoFreezer)));
        let machine = Machine::new(("/", "/"), "0::/a\n");
        machine.put("unified/a/cgroup.freeze", "0");
        let error = Cgroups::find(&machine.at("proc"), "a", 7).unwrap_err();
        assert!(matches!(error, ThawError::Another { .. }), "an id of one letter names nothing");
        assert!(Cgroups::find(&machine.at("proc"), ID, 8).is_err(), "no such process");
    }
}
