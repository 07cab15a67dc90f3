//! What a caller asks for: pod sandboxes and containers, in this crate's own types.
//!
//! The types are serde so that they can be kept on disk and sent to a shim. They say the same as
//! the CRI messages, but nothing here depends on CRI.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Whose pod it is: the CRI's `PodSandboxMetadata`. The four together are unique in one runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodIdentity {
    /// Name of the pod.
    pub name: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Uid the API server gave the pod.
    pub uid: String,
    /// How many sandboxes this pod had before.
    pub attempt: u32,
}

/// Whose network the pod uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// A new network namespace in which only the loopback device exists and is up.
    #[default]
    Private,
    /// The network of the machine.
    Host,
}

/// Who shares a namespace: the CRI's `NamespaceMode`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceMode {
    /// All containers of the pod share one.
    Pod,
    /// Each container has its own.
    #[default]
    Container,
    /// The one of the machine.
    Node,
    /// The one of another container of the same pod, by its id.
    Target(String),
}

/// A pod sandbox: what the containers of a pod share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxConfig {
    /// Whose pod it is.
    pub identity: PodIdentity,
    /// Host name inside the pod; empty: the machine's when the network is the machine's, else the
    /// pod's name.
    pub hostname: String,
    /// Folder in which the containers' logs are kept; empty: no logs.
    pub log_directory: PathBuf,
    /// Labels, kept and given back.
    pub labels: BTreeMap<String, String>,
    /// Annotations, kept and given back.
    pub annotations: BTreeMap<String, String>,
    /// Whose network the pod uses.
    pub network: NetworkMode,
    /// True: ipc objects and `/dev/shm` of the machine instead of the pod's own.
    pub host_ipc: bool,
    /// Who shares process ids; [`NamespaceMode::Target`] is not valid for a whole pod.
    pub pid: NamespaceMode,
    /// Kernel parameters (`net.ipv4.ip_forward`) of the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Lines for `/etc/resolv.conf`; empty: the container keeps the image's file.
    pub resolv_conf: Vec<String>,
    /// Size of the pod's `/dev/shm` in bytes; 0: 64 MiB.
    pub shm_size: u64,
    /// Runtime handler that was asked for, kept and given back.
    pub runtime_handler: String,
}

impl SandboxConfig {
    /// A sandbox with everything at its default, for the pod `namespace/name`.
    #[must_use]
    pub fn named(namespace: &str, name: &str) -> Self {
        Self {
            identity: PodIdentity {
                name: name.into(),
                namespace: namespace.into(),
                uid: format!("{namespace}-{name}"),
                attempt: 0,
            },
            ..Self::default()
        }
    }
}

/// Where a container's root filesystem comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageSpec {
    /// The host's own programs (`/usr`, `/bin`, `/sbin`, `/lib*`, `/etc`), read-only.
    #[default]
    Host,
    /// An image of the store, by id, digest or name (`name:tag`, `name@sha256:…`).
    Stored(String),
    /// A folder that holds a root filesystem; it is never written to.
    Folder(PathBuf),
}

/// One mount from the host into the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Absolute path inside the container.
    pub container_path: PathBuf,
    /// Absolute path on the host; it must exist.
    pub host_path: PathBuf,
    /// Mounted read-only.
    pub readonly: bool,
    /// With all mounts below it.
    pub recursive: bool,
    /// Whether later mounts below it are seen on the other side.
    pub propagation: MountPropagation,
}

/// Whether mounts made later below a mount are seen on the other side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountPropagation {
    /// Neither side sees the other's.
    #[default]
    Private,
    /// The container sees the host's.
    HostToContainer,
    /// Both see each other's.
    Bidirectional,
}

/// A device of the host given to the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Path of the device on the host.
    pub host_path: PathBuf,
    /// Path inside the container.
    pub container_path: PathBuf,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
}

/// Who the first process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunAs {
    /// Numeric user; `None`: by `user_name`, else the image's, else root.
    pub uid: Option<u32>,
    /// Numeric group; `None`: the user's in the container's `/etc/passwd`, else 0.
    pub gid: Option<u32>,
    /// `user`, `user:group`, numbers or names, looked up in the container's own files.
    pub user_name: String,
    /// Groups in addition to those of the container's `/etc/group`.
    pub supplemental_groups: Vec<u32>,
}

/// Which system calls are allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeccompPolicy {
    /// All.
    #[default]
    Unconfined,
    /// Those an ordinary program needs; the rest fails with `EPERM` or `ENOSYS`.
    RuntimeDefault,
    /// A profile in OCI `linux.seccomp` JSON, by its path on the host.
    Profile(PathBuf),
}

/// What a container may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    /// Everything: all capabilities, all devices, no masked paths, no seccomp.
    pub privileged: bool,
    /// Capabilities to add to the default set (`NET_ADMIN`, `CAP_NET_ADMIN`, `ALL`).
    pub add_capabilities: Vec<String>,
    /// Capabilities to take from the default set.
    pub drop_capabilities: Vec<String>,
    /// Capabilities to put in the ambient set as well.
    pub ambient_capabilities: Vec<String>,
    /// Gains no privilege by exec.
    pub no_new_privs: bool,
    /// The root filesystem is read-only.
    pub readonly_rootfs: bool,
    /// Which system calls are allowed.
    pub seccomp: SeccompPolicy,
    /// Paths made unreadable; `None`: the usual ones.
    pub masked_paths: Option<Vec<PathBuf>>,
    /// Paths made read-only; `None`: the usual ones.
    pub readonly_paths: Option<Vec<PathBuf>>,
    /// Who the first process runs as.
    pub run_as: RunAs,
    /// Who shares process ids; `None`: as the sandbox says.
    pub pid: Option<NamespaceMode>,
}

/// Limits of a container. `None` in a field: no limit, and on an update: as before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Microseconds in which `cpu_quota` holds.
    pub cpu_period: Option<u64>,
    /// Microseconds of processor time per period; -1: no limit.
    pub cpu_quota: Option<i64>,
    /// Relative weight, 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// Processors it may run on (`0-3,8`).
    pub cpuset_cpus: Option<String>,
    /// Memory nodes it may use.
    pub cpuset_mems: Option<String>,
    /// Bytes of memory; -1: no limit.
    pub memory_limit: Option<i64>,
    /// Bytes of memory and swap together; -1: no limit.
    pub memory_swap_limit: Option<i64>,
    /// Bytes that are kept when the machine runs short.
    pub memory_low: Option<i64>,
    /// Number of tasks; -1: no limit.
    pub pids_limit: Option<i64>,
    /// -1000 to 1000: who is killed first when memory runs out.
    pub oom_score_adj: Option<i32>,
    /// Any other file of cgroup v2, by name.
    pub unified: BTreeMap<String, String>,
}

impl Resources {
    /// Takes over what `other` sets.
    pub(crate) fn update(&mut self, other: &Self) {
        fn take<T: Clone>(ours: &mut Option<T>, theirs: &Option<T>) {
            if theirs.is_some() {
                ours.clone_from(theirs);
            }
        }
        take(&mut self.cpu_period, &other.cpu_period);
        take(&mut self.cpu_quota, &other.cpu_quota);
        take(&mut self.cpu_shares, &other.cpu_shares);
        take(&mut self.cpuset_cpus, &other.cpuset_cpus);
        take(&mut self.cpuset_mems, &other.cpuset_mems);
        take(&mut self.memory_limit, &other.memory_limit);
        take(&mut self.memory_swap_limit, &other.memory_swap_limit);
        take(&mut self.memory_low, &other.memory_low);
        take(&mut self.pids_limit, &other.pids_limit);
        take(&mut self.oom_score_adj, &other.oom_score_adj);
        self.unified.extend(other.unified.clone());
    }
}

/// One resource limit (`getrlimit(2)`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` and so on.
    pub kind: String,
    /// Soft limit; `u64::MAX`: none.
    pub soft: u64,
    /// Hard limit; `u64::MAX`: none.
    pub hard: u64,
}

/// A container to make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Name, unique in the pod together with `attempt`.
    pub name: String,
    /// How often it was made before.
    pub attempt: u32,
    /// Where the root filesystem comes from.
    pub image: ImageSpec,
    /// The image as the user wrote it, kept and given back; empty: derived from `image`.
    pub image_name: String,
    /// Program and leading arguments; empty: the image's entry point.
    pub command: Vec<String>,
    /// Further arguments; empty together with `command`: the image's.
    pub args: Vec<String>,
    /// Working folder; empty: the image's, else `/`.
    pub working_dir: PathBuf,
    /// Environment, in this order, over the image's.
    pub env: Vec<(String, String)>,
    /// Mounts from the host.
    pub mounts: Vec<Mount>,
    /// Devices of the host.
    pub devices: Vec<Device>,
    /// Labels, kept and given back.
    pub labels: BTreeMap<String, String>,
    /// Annotations, kept and given back.
    pub annotations: BTreeMap<String, String>,
    /// Log file, relative to the sandbox's log directory; empty: no log.
    pub log_path: PathBuf,
    /// Standard input is kept open (a pipe nobody writes to) instead of `/dev/null`.
    pub stdin: bool,
    /// Standard input, output and error are a terminal.
    pub tty: bool,
    /// What it may do.
    pub security: Security,
    /// Its limits.
    pub resources: Resources,
    /// Resource limits of its first process.
    pub rlimits: Vec<Rlimit>,
    /// Signal that asks it to stop (`SIGTERM`, `15`); empty: the image's, else `SIGTERM`.
    pub stop_signal: String,
}

impl ContainerConfig {
    /// A container with everything at its default.
    #[must_use]
    pub fn named(name: &str, image: ImageSpec) -> Self {
        Self { name: name.into(), image, ..Self::default() }
    }
}
