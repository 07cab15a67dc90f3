//! The runtime's own types as CRI messages.

use std::collections::BTreeMap;
use std::path::Path;

use cryopod_cri::v1;
use cryopod_runtime as rt;
use serde_json::json;

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn pod_metadata(identity: &rt::PodIdentity) -> v1::PodSandboxMetadata {
    v1::PodSandboxMetadata {
        name: identity.name.clone(),
        uid: identity.uid.clone(),
        namespace: identity.namespace.clone(),
        attempt: identity.attempt,
    }
}

fn pod_state(state: rt::PodSandboxState) -> v1::PodSandboxState {
    match state {
        rt::PodSandboxState::Ready => v1::PodSandboxState::SandboxReady,
        rt::PodSandboxState::NotReady => v1::PodSandboxState::SandboxNotready,
    }
}

/// A line of a list of sandboxes.
pub(super) fn pod_sandbox(status: rt::PodSandboxStatus) -> v1::PodSandbox {
    v1::PodSandbox {
        id: status.id,
        metadata: Some(pod_metadata(&status.config.identity)),
        state: pod_state(status.state).into(),
        created_at: status.created_at,
        labels: status.config.labels,
        annotations: status.config.annotations,
        runtime_handler: status.config.runtime_handler,
    }
}

/// The status of a sandbox.
pub(super) fn pod_sandbox_status(status: rt::PodSandboxStatus) -> v1::PodSandboxStatus {
    let config = status.config;
    let mode = |host| if host { v1::NamespaceMode::Node } else { v1::NamespaceMode::Pod };
    let options = v1::NamespaceOption {
        network: mode(config.network == rt::NetworkMode::Host).into(),
        pid: pid_mode(&config.pid).into(),
        ipc: mode(config.host_ipc).into(),
        ..Default::default()
    };
    v1::PodSandboxStatus {
        id: status.id,
        metadata: Some(pod_metadata(&config.identity)),
        state: pod_state(status.state).into(),
        created_at: status.created_at,
        network: Some(v1::PodSandboxNetworkStatus { ip: status.ip, additional_ips: Vec::new() }),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace { options: Some(options) }),
        }),
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: config.runtime_handler,
    }
}

fn pid_mode(mode: &rt::NamespaceMode) -> v1::NamespaceMode {
    match mode {
        rt::NamespaceMode::Pod => v1::NamespaceMode::Pod,
        rt::NamespaceMode::Container => v1::NamespaceMode::Container,
        rt::NamespaceMode::Node => v1::NamespaceMode::Node,
        rt::NamespaceMode::Target(_) => v1::NamespaceMode::Target,
    }
}

/// What a verbose status of a sandbox adds, under the key crictl shows.
pub(super) fn pod_sandbox_info(status: &rt::PodSandboxStatus) -> BTreeMap<String, String> {
    let info = json!({
        "pid": status.shim_pid,
        "netns": status.netns_path,
        "config": status.config,
    });
    [("info".to_owned(), info.to_string())].into()
}

fn container_state(state: rt::ContainerState) -> v1::ContainerState {
    match state {
        rt::ContainerState::Created => v1::ContainerState::ContainerCreated,
        rt::ContainerState::Running => v1::ContainerState::ContainerRunning,
        rt::ContainerState::Exited => v1::ContainerState::ContainerExited,
        rt::ContainerState::Unknown => v1::ContainerState::ContainerUnknown,
    }
}

fn container_metadata(config: &rt::ContainerConfig) -> v1::ContainerMetadata {
    v1::ContainerMetadata { name: config.name.clone(), attempt: config.attempt }
}

fn image_spec(config: &rt::ContainerConfig) -> v1::ImageSpec {
    v1::ImageSpec {
        image: config.image_name.clone(),
        user_specified_image: config.image_name.clone(),
        ..Default::default()
    }
}

/// A line of a list of containers.
pub(super) fn container(status: rt::ContainerStatus) -> v1::Container {
    v1::Container {
        id: status.id,
        pod_sandbox_id: status.sandbox_id,
        metadata: Some(container_metadata(&status.config)),
        image: Some(image_spec(&status.config)),
        image_ref: status.image_id.clone(),
        state: container_state(status.state).into(),
        created_at: status.created_at,
        labels: status.config.labels,
        annotations: status.config.annotations,
        image_id: status.image_id,
    }
}

/// The status of a container.
pub(super) fn container_status(status: rt::ContainerStatus) -> v1::ContainerStatus {
    let config = status.config;
    let run_as = &config.security.run_as;
    // Only what is known without the image's own files; they are read when the container is made.
    let user = run_as.uid.map(|uid| v1::ContainerUser {
        linux: Some(v1::LinuxContainerUser {
            uid: i64::from(uid),
            gid: run_as.gid.map_or(0, i64::from),
            supplemental_groups: run_as
                .supplemental_groups
                .iter()
                .map(|gid| i64::from(*gid))
                .collect(),
        }),
    });
    v1::ContainerStatus {
        id: status.id,
        metadata: Some(container_metadata(&config)),
        state: container_state(status.state).into(),
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        exit_code: status.exit_code,
        image: Some(image_spec(&config)),
        image_ref: status.image_id.clone(),
        reason: status.reason,
        message: status.message,
        mounts: config.mounts.iter().map(mount).collect(),
        log_path: path(&status.log_path),
        resources: Some(v1::ContainerResources { linux: Some(resources(&status.resources)) }),
        image_id: status.image_id,
        user,
        stop_signal: stop_signal(&config.stop_signal).into(),
        labels: config.labels,
        annotations: config.annotations,
    }
}

/// What a verbose status of a container adds, under the key crictl shows: the pid among it.
pub(super) fn container_info(status: &rt::ContainerStatus) -> BTreeMap<String, String> {
    let spec: Option<serde_json::Value> = std::fs::read(status.bundle.join("config.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let info = json!({
        "sandboxID": status.sandbox_id,
        "pid": status.pid,
        "bundle": status.bundle,
        "cgroupPaths": status.cgroup_paths,
        "restoredFrom": status.restored_from,
        "checkpointedAt": status.checkpointed_at,
        "config": status.config,
        "runtimeSpec": spec,
    });
    [("info".to_owned(), info.to_string())].into()
}

fn mount(mount: &rt::Mount) -> v1::Mount {
    let propagation = match mount.propagation {
        rt::MountPropagation::Private => v1::MountPropagation::PropagationPrivate,
        rt::MountPropagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
        rt::MountPropagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
    };
    v1::Mount {
        container_path: path(&mount.container_path),
        host_path: path(&mount.host_path),
        readonly: mount.readonly,
        propagation: propagation.into(),
        ..Default::default()
    }
}

fn resources(resources: &rt::Resources) -> v1::LinuxContainerResources {
    let unsigned = |value: Option<u64>| value.and_then(|v| i64::try_from(v).ok()).unwrap_or(0);
    let mut unified = resources.unified.clone();
    let limit = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
    if let Some(pids) = resources.pids_limit {
        unified.insert("pids.max".to_owned(), limit(pids));
    }
    if let Some(low) = resources.memory_low {
        unified.insert("memory.low".to_owned(), limit(low));
    }
    v1::LinuxContainerResources {
        cpu_period: unsigned(resources.cpu_period),
        cpu_quota: resources.cpu_quota.unwrap_or(0),
        cpu_shares: unsigned(resources.cpu_shares),
        memory_limit_in_bytes: resources.memory_limit.unwrap_or(0),
        oom_score_adj: resources.oom_score_adj.map_or(0, i64::from),
        cpuset_cpus: resources.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: resources.cpuset_mems.clone().unwrap_or_default(),
        hugepage_limits: Vec::new(),
        unified,
        memory_swap_limit_in_bytes: resources.memory_swap_limit.unwrap_or(0),
    }
}

fn stop_signal(name: &str) -> v1::Signal {
    v1::Signal::from_str_name(&name.replace('+', "PLUS").replace('-', "MINUS"))
        .unwrap_or(v1::Signal::RuntimeDefault)
}

fn wrapped(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

fn cpu(usage: rt::CpuUsage) -> v1::CpuUsage {
    v1::CpuUsage {
        timestamp: usage.timestamp,
        usage_core_nano_seconds: wrapped(usage.usage_core_nanoseconds),
        ..Default::default()
    }
}

fn memory(usage: rt::MemoryUsage) -> v1::MemoryUsage {
    v1::MemoryUsage {
        timestamp: usage.timestamp,
        working_set_bytes: wrapped(usage.working_set_bytes),
        available_bytes: usage
            .limit_bytes
            .and_then(|limit| wrapped(limit.saturating_sub(usage.working_set_bytes))),
        usage_bytes: wrapped(usage.usage_bytes),
        rss_bytes: wrapped(usage.rss_bytes),
        page_faults: wrapped(usage.page_faults),
        major_page_faults: wrapped(usage.major_page_faults),
        psi: None,
    }
}

/// The usage of a container.
pub(super) fn container_stats(stats: rt::ContainerStats) -> v1::ContainerStats {
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: stats.id,
            metadata: Some(container_metadata(&stats.config)),
            labels: stats.config.labels,
            annotations: stats.config.annotations,
        }),
        cpu: Some(cpu(stats.cpu)),
        memory: Some(memory(stats.memory)),
        writable_layer: Some(v1::FilesystemUsage {
            timestamp: stats.writable_layer.timestamp,
            fs_id: Some(v1::FilesystemIdentifier {
                mountpoint: path(&stats.writable_layer.mountpoint),
            }),
            used_bytes: wrapped(stats.writable_layer.used_bytes),
            inodes_used: wrapped(stats.writable_layer.inodes_used),
        }),
        swap: None,
        io: None,
    }
}

/// The usage of a sandbox and its containers.
pub(super) fn pod_sandbox_stats(stats: rt::PodSandboxStats) -> v1::PodSandboxStats {
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: stats.id,
            metadata: Some(pod_metadata(&stats.config.identity)),
            labels: stats.config.labels,
            annotations: stats.config.annotations,
        }),
        linux: Some(v1::LinuxPodSandboxStats {
            process: Some(v1::ProcessUsage {
                timestamp: stats.cpu.timestamp,
                process_count: wrapped(stats.pids),
            }),
            cpu: Some(cpu(stats.cpu)),
            memory: Some(memory(stats.memory)),
            network: None,
            containers: stats.containers.into_iter().map(container_stats).collect(),
            io: None,
        }),
    }
}

/// An image.
pub(super) fn image(info: rt::ImageInfo) -> v1::Image {
    // The image's user is a number or a name, with a group or without one.
    let user = info.user.split(':').next().unwrap_or_default();
    let uid = user.parse().ok().map(|value| v1::Int64Value { value });
    v1::Image {
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        uid,
        id: info.id,
        repo_tags: info.repo_tags,
        repo_digests: info.repo_digests,
        // The standard wants more than nothing.
        size: info.size.max(1),
        spec: None,
        pinned: false,
    }
}

/// What the image store takes.
pub(super) fn image_fs_info(usage: &rt::ImageStoreUsage) -> v1::ImageFsInfoResponse {
    v1::ImageFsInfoResponse {
        image_filesystems: vec![v1::FilesystemUsage {
            timestamp: usage.timestamp,
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: path(&usage.mountpoint) }),
            used_bytes: wrapped(usage.used_bytes),
            inodes_used: wrapped(usage.inodes_used),
        }],
        container_filesystems: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_users_are_numbers_or_names() {
        let of = |user: &str| {
            image(rt::ImageInfo {
                id: "sha256:0".into(),
                repo_tags: vec![],
                repo_digests: vec![],
                size: 0,
                user: user.into(),
                imported_at: 0,
                architecture: String::new(),
            })
        };
        assert_eq!(of("65534:0").uid, Some(v1::Int64Value { value: 65534 }));
        assert_eq!(of("redis").username, "redis");
        assert_eq!(of("").username, "");
        assert_eq!(of("").size, 1);
    }

    #[test]
    fn signals_and_limits_read_back() {
        assert_eq!(stop_signal("SIGRTMIN+3"), v1::Signal::Sigrtminplus3);
        assert_eq!(stop_signal(""), v1::Signal::RuntimeDefault);
        let limits = rt::Resources { pids_limit: Some(-1), ..Default::default() };
        assert_eq!(resources(&limits).unified["pids.max"], "max");
    }
}
