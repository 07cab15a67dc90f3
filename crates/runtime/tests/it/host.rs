//! A runtime in folders of its own, and the proof that nothing of it is left afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cryopod_runtime::{
    ContainerConfig, ContainerFilter, ContainerState, ContainerStatus, ImageSpec, Paths, PodFilter,
    Runtime, SandboxConfig,
};

pub(crate) struct Host {
    pub(crate) runtime: Runtime,
    pub(crate) dir: tempfile::TempDir,
    cgroup: String,
    exe: PathBuf,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self::with(|_| env!("CARGO_BIN_EXE_runtime-host").into())
    }

    /// A host whose helpers stop at birth while `dir` has the file `host.hold`.
    pub(crate) fn holding() -> Self {
        Self::with(|dir| {
            let link = dir.join("host");
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_runtime-host"), &link).unwrap();
            link
        })
    }

    fn with(exe: impl FnOnce(&Path) -> PathBuf) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::tempdir().unwrap();
        let cgroup = format!("cryopod-test-{}-{serial}", std::process::id());
        let exe = exe(dir.path());
        let runtime = Runtime::open(paths(dir.path(), &cgroup, &exe)).unwrap();
        Self { runtime, dir, cgroup, exe }
    }

    /// Another runtime on the same folders, as a restarted server would open it.
    pub(crate) fn reopen(&self) -> Runtime {
        Runtime::open(paths(self.dir.path(), &self.cgroup, &self.exe)).unwrap()
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.dir.path().join("logs")
    }

    pub(crate) fn pod(&self, name: &str) -> SandboxConfig {
        SandboxConfig { log_directory: self.logs(), ..SandboxConfig::named("default", name) }
    }

    pub(crate) fn run_pod(&self, name: &str) -> String {
        self.runtime.run_pod_sandbox(&self.pod(name)).unwrap()
    }

    /// A started container.
    pub(crate) fn run(&self, sandbox: &str, config: &ContainerConfig) -> String {
        let id = self.runtime.create_container(sandbox, config).unwrap();
        self.runtime.start_container(&id).unwrap();
        id
    }

    /// Runs a script to its end in a pod of its own: status and the log's lines as
    /// (stream, text).
    pub(crate) fn run_to_end(
        &self,
        config: &ContainerConfig,
    ) -> (ContainerStatus, Vec<(String, String)>) {
        let sandbox = self.run_pod("once");
        let id = self.run(&sandbox, config);
        let status = self.runtime.wait_container(&id, Some(Duration::from_secs(30))).unwrap();
        let lines = self.log(&config.name);
        self.runtime.remove_pod_sandbox(&sandbox).unwrap();
        (status, lines)
    }

    pub(crate) fn log(&self, name: &str) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.logs().join(format!("{name}.log"))).unwrap_or_default();
        text.lines()
            .map(|line| {
                let fields: Vec<&str> = line.splitn(4, ' ').collect();
                (fields[1].to_owned(), fields[3].to_owned())
            })
            .collect()
    }

    pub(crate) fn wait_log(&self, name: &str, text: &str) {
        wait_for(&format!("{text:?} in the log"), || self.log(name).iter().any(|(_, l)| l == text));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for sandbox in self.runtime.list_pod_sandboxes(&PodFilter::default()).unwrap_or_default() {
            let removed = self.runtime.remove_pod_sandbox(&sandbox.id);
            if !std::thread::panicking() {
                removed.unwrap();
            }
        }
        let left: Vec<PathBuf> = cgroup_dirs(&self.cgroup)
            .flat_map(|d| fs::read_dir(d).unwrap().flatten())
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .map(|e| e.path())
            .collect();
        for dir in cgroup_dirs(&self.cgroup) {
            let _ = fs::remove_dir(dir);
        }
        if std::thread::panicking() {
            return;
        }
        assert!(left.is_empty(), "cgroups left: {left:?}");
        let containers = self.runtime.list_containers(&ContainerFilter::default()).unwrap();
        assert!(containers.is_empty(), "{containers:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.dir.path().to_str().unwrap();
        assert!(!mounts.contains(here), "mounts left: {mounts}");
        let processes = processes_mentioning(here);
        assert!(processes.is_empty(), "processes left: {processes:?}");
    }
}

fn paths(dir: &Path, cgroup: &str, exe: &Path) -> Paths {
    Paths {
        state_dir: dir.join("state"),
        run_dir: dir.join("run"),
        exe: exe.into(),
        cgroup_parent: cgroup.into(),
    }
}

fn cgroup_dirs(name: &str) -> impl Iterator<Item = PathBuf> {
    let name = name.to_owned();
    fs::read_dir("/sys/fs/cgroup")
        .unwrap()
        .flatten()
        .map(move |e| e.path().join(&name))
        .filter(|p| p.is_dir())
        .chain(
            [Path::new("/sys/fs/cgroup").join("cryopod-none")].into_iter().filter(|p| p.is_dir()),
        )
}

fn processes_mentioning(text: &str) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let found: Vec<String> = fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|e| fs::read(e.path().join("cmdline")).ok())
            .map(|c| String::from_utf8_lossy(&c).into_owned())
            .filter(|c| c.contains(text))
            .collect();
        if found.is_empty() || Instant::now() > deadline {
            return found;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A container of the host's programs that runs a shell script and logs to `NAME.log`.
pub(crate) fn script(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        command: vec!["/bin/sh".into(), "-c".into(), script.into()],
        log_path: format!("{name}.log").into(),
        ..ContainerConfig::named(name, ImageSpec::Host)
    }
}

pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "no {what} within 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

pub(crate) fn assert_state(status: &ContainerStatus, state: ContainerState) {
    assert_eq!(status.state, state, "{status:?}");
}
