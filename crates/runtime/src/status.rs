//! What a caller is told: states, statistics, results.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{ContainerConfig, PodIdentity, Resources, SandboxConfig};

/// State of a pod sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PodSandboxState {
    /// Its shim runs; containers can be made in it.
    Ready,
    /// It was stopped, or its shim is gone.
    NotReady,
}

/// State of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// Made, its first process waits for the start.
    Created,
    /// Its first process runs.
    Running,
    /// Its first process ended.
    Exited,
    /// Its record on disk is incomplete; it can only be removed.
    Unknown,
}

/// A pod sandbox as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSandboxStatus {
    /// Id, 64 hexadecimal digits.
    pub id: String,
    /// What was asked for.
    pub config: SandboxConfig,
    /// State now.
    pub state: PodSandboxState,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Process id of the shim, while it runs.
    pub shim_pid: Option<i32>,
    /// Address of the pod; empty with the machine's network or with loopback only.
    pub ip: String,
    /// Path of the network namespace (`/proc/PID/ns/net`), while the shim runs.
    pub netns_path: Option<PathBuf>,
}

/// A container as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Id, 64 hexadecimal digits.
    pub id: String,
    /// Sandbox it belongs to.
    pub sandbox_id: String,
    /// Identity of that sandbox.
    pub pod: PodIdentity,
    /// What was asked for, with the resources that hold now.
    pub config: ContainerConfig,
    /// State now.
    pub state: ContainerState,
    /// Process id of the first process as the host sees it, while it is created or running.
    pub pid: Option<i32>,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Nanoseconds since 1970; 0: not started yet.
    pub started_at: i64,
    /// Nanoseconds since 1970; 0: not finished yet.
    pub finished_at: i64,
    /// Exit code; 128 and the signal's number when a signal ended it.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ShimLost`, `Checkpointed`; empty: none.
    pub reason: String,
    /// One sentence more about the reason.
    pub message: String,
    /// Id of the image (`sha256:…`); empty for the host's programs.
    pub image_id: String,
    /// Absolute path of the log; empty: none.
    pub log_path: PathBuf,
    /// The archive this container was restored from.
    pub restored_from: Option<PathBuf>,
    /// When that archive was made, nanoseconds since 1970.
    pub checkpointed_at: Option<i64>,
    /// Folder with the OCI `config.json` of the container.
    pub bundle: PathBuf,
    /// Paths of its cgroup below the mounted hierarchies.
    pub cgroup_paths: Vec<PathBuf>,
    /// Limits that hold now.
    pub resources: Resources,
}

/// Which sandboxes to list: all fields that are set must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodFilter {
    /// Id, or an unambiguous beginning of it.
    pub id: Option<String>,
    /// State.
    pub state: Option<PodSandboxState>,
    /// Labels the sandbox must carry.
    pub labels: BTreeMap<String, String>,
}

/// Which containers to list: all fields that are set must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerFilter {
    /// Id, or an unambiguous beginning of it.
    pub id: Option<String>,
    /// State.
    pub state: Option<ContainerState>,
    /// Id of the sandbox.
    pub sandbox_id: Option<String>,
    /// Labels the container must carry.
    pub labels: BTreeMap<String, String>,
}

/// What a command run in a container left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output, cut at 16 MiB.
    pub stdout: Vec<u8>,
    /// Standard error, cut at 16 MiB.
    pub stderr: Vec<u8>,
    /// Exit code; 128 and the signal's number when a signal ended it.
    pub exit_code: i32,
}

/// Processor time used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuUsage {
    /// Nanoseconds since 1970 at which it was read.
    pub timestamp: i64,
    /// Nanoseconds of processor time since the beginning.
    pub usage_core_nanoseconds: u64,
}

/// Memory used, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUsage {
    /// Nanoseconds since 1970 at which it was read.
    pub timestamp: i64,
    /// All that is charged, page cache included.
    pub usage_bytes: u64,
    /// Without the page cache that was not used lately.
    pub working_set_bytes: u64,
    /// Anonymous memory.
    pub rss_bytes: u64,
    /// The limit; `None`: none.
    pub limit_bytes: Option<u64>,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that read from disk.
    pub major_page_faults: u64,
}

/// Disk used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesystemUsage {
    /// Nanoseconds since 1970 at which it was read.
    pub timestamp: i64,
    /// The folder that was measured.
    pub mountpoint: PathBuf,
    /// Bytes on disk.
    pub used_bytes: u64,
    /// Files, folders and links.
    pub inodes_used: u64,
}

/// Statistics of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStats {
    /// Id of the container.
    pub id: String,
    /// Its sandbox.
    pub sandbox_id: String,
    /// Its configuration, for name, labels and annotations.
    pub config: ContainerConfig,
    /// Processor time.
    pub cpu: CpuUsage,
    /// Memory.
    pub memory: MemoryUsage,
    /// What it wrote to its root filesystem.
    pub writable_layer: FilesystemUsage,
    /// Number of tasks.
    pub pids: u64,
}

/// Statistics of a pod sandbox: sums over its containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSandboxStats {
    /// Id of the sandbox.
    pub id: String,
    /// Its configuration, for identity, labels and annotations.
    pub config: SandboxConfig,
    /// Processor time.
    pub cpu: CpuUsage,
    /// Memory.
    pub memory: MemoryUsage,
    /// Number of tasks.
    pub pids: u64,
    /// Its containers that are created or running.
    pub containers: Vec<ContainerStats>,
}
