//! CRI messages as the runtime's own types. What the runtime would have to ignore although it
//! matters (user namespaces, CDI devices, AppArmor profiles) is refused here by field name.

use std::path::{Component, Path, PathBuf};

use cryopod_cri::v1;
use cryopod_runtime as rt;
use tonic::Status;

use super::status::invalid;
use crate::reference::Reference;

type Result<T> = std::result::Result<T, Status>;

/// A sandbox to make.
pub(super) fn sandbox_config(
    config: v1::PodSandboxConfig,
    runtime_handler: String,
) -> Result<rt::SandboxConfig> {
    if !runtime_handler.is_empty() {
        return Err(invalid(
            "runtime_handler",
            format_args!("{runtime_handler:?} is unknown; only the default handler exists"),
        ));
    }
    let metadata = config.metadata.ok_or_else(|| invalid("config.metadata", "is missing"))?;
    if metadata.name.is_empty() || metadata.namespace.is_empty() {
        return Err(invalid("config.metadata", "name and namespace must not be empty"));
    }
    let linux = config.linux.unwrap_or_default();
    let options =
        linux.security_context.and_then(|context| context.namespace_options).unwrap_or_default();
    refuse_user_namespace(&options)?;
    let pid = match options.pid() {
        v1::NamespaceMode::Pod => rt::NamespaceMode::Pod,
        v1::NamespaceMode::Container => rt::NamespaceMode::Container,
        v1::NamespaceMode::Node => rt::NamespaceMode::Node,
        v1::NamespaceMode::Target => {
            return Err(invalid("namespace_options.pid", "TARGET is not valid for a sandbox"));
        }
    };
    Ok(rt::SandboxConfig {
        identity: rt::PodIdentity {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            attempt: metadata.attempt,
        },
        hostname: config.hostname,
        log_directory: config.log_directory.into(),
        labels: config.labels,
        annotations: config.annotations,
        network: match options.network() {
            v1::NamespaceMode::Node => rt::NetworkMode::Host,
            _ => rt::NetworkMode::Private,
        },
        host_ipc: options.ipc() == v1::NamespaceMode::Node,
        pid,
        sysctls: linux.sysctls,
        resolv_conf: config.dns_config.map(resolv_conf).unwrap_or_default(),
        shm_size: 0,
        runtime_handler,
    })
}

fn resolv_conf(dns: v1::DnsConfig) -> Vec<String> {
    let mut lines: Vec<String> =
        dns.servers.iter().map(|server| format!("nameserver {server}")).collect();
    if !dns.searches.is_empty() {
        lines.push(format!("search {}", dns.searches.join(" ")));
    }
    if !dns.options.is_empty() {
        lines.push(format!("options {}", dns.options.join(" ")));
    }
    lines
}

fn refuse_user_namespace(options: &v1::NamespaceOption) -> Result<()> {
    let Some(user) = &options.userns_options else { return Ok(()) };
    if user.mode() != v1::NamespaceMode::Node && !(user.uids.is_empty() && user.gids.is_empty()) {
        return Err(invalid(
            "namespace_options.userns_options",
            "user namespaces are not supported",
        ));
    }
    Ok(())
}

/// A container to make, and the archive it is to be restored from, if its image is one.
pub(super) fn container_config(
    config: v1::ContainerConfig,
) -> Result<(rt::ContainerConfig, Option<PathBuf>)> {
    let stop_signal = signal_name(config.stop_signal());
    let metadata = config.metadata.ok_or_else(|| invalid("config.metadata", "is missing"))?;
    if metadata.name.is_empty() {
        return Err(invalid("config.metadata.name", "is empty"));
    }
    if let Some(device) = config.cdi_devices.first() {
        return Err(invalid(
            "config.CDI_devices",
            format_args!("{:?}: CDI is not supported", device.name),
        ));
    }
    let image = config.image.unwrap_or_default();
    let (image_spec, archive) = match Reference::parse(&image.image) {
        Reference::Host => (rt::ImageSpec::Host, None),
        Reference::Folder(path) => (rt::ImageSpec::Folder(path), None),
        Reference::Archive(path) => (rt::ImageSpec::default(), Some(archive_file(path)?)),
        Reference::Stored(name) if name.is_empty() => {
            return Err(invalid("config.image.image", "is empty"));
        }
        Reference::Stored(name) => (rt::ImageSpec::Stored(name), None),
        local @ (Reference::OciLayout(_) | Reference::DockerArchive(_)) => {
            return Err(invalid(
                "config.image.image",
                format_args!("{local} must be taken in first: PullImage gives its id"),
            ));
        }
    };
    let log_path = PathBuf::from(config.log_path);
    if !log_path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(invalid(
            "config.log_path",
            format_args!("{} leads out of the log directory", log_path.display()),
        ));
    }
    let linux = config.linux.unwrap_or_default();
    let config = rt::ContainerConfig {
        name: metadata.name,
        attempt: metadata.attempt,
        image: image_spec,
        image_name: if image.user_specified_image.is_empty() {
            image.image
        } else {
            image.user_specified_image
        },
        command: config.command,
        args: config.args,
        working_dir: config.working_dir.into(),
        env: config.envs.into_iter().map(|pair| (pair.key, pair.value)).collect(),
        mounts: config.mounts.into_iter().map(mount).collect::<Result<_>>()?,
        devices: config.devices.into_iter().map(device).collect::<Result<_>>()?,
        labels: config.labels,
        annotations: config.annotations,
        log_path,
        stdin: config.stdin,
        tty: config.tty,
        security: security(linux.security_context.unwrap_or_default())?,
        resources: linux.resources.map(resources).transpose()?.unwrap_or_default(),
        rlimits: Vec::new(),
        stop_signal,
    };
    Ok((config, archive))
}

fn archive_file(path: PathBuf) -> Result<PathBuf> {
    match std::fs::metadata(&path) {
        Ok(meta) if meta.is_file() => Ok(path),
        Ok(_) => Err(invalid(
            "config.image.image",
            format_args!("checkpoint archive {} is not a regular file", path.display()),
        )),
        Err(err) => Err(Status::not_found(format!("checkpoint archive {}: {err}", path.display()))),
    }
}

fn mount(mount: v1::Mount) -> Result<rt::Mount> {
    let at = &mount.container_path;
    if mount.image.is_some() || !mount.image_sub_path.is_empty() {
        return Err(invalid("config.mounts", format_args!("{at}: image mounts are not supported")));
    }
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(invalid("config.mounts", format_args!("{at}: id mappings are not supported")));
    }
    if mount.recursive_read_only {
        return Err(invalid(
            "config.mounts",
            format_args!("{at}: recursive read-only mounts are not supported"),
        ));
    }
    for path in [at, &mount.host_path] {
        if !Path::new(path).is_absolute() {
            return Err(invalid("config.mounts", format_args!("path {path:?} is not absolute")));
        }
    }
    let propagation = match mount.propagation() {
        v1::MountPropagation::PropagationPrivate => rt::MountPropagation::Private,
        v1::MountPropagation::PropagationHostToContainer => rt::MountPropagation::HostToContainer,
        v1::MountPropagation::PropagationBidirectional => rt::MountPropagation::Bidirectional,
    };
    Ok(rt::Mount {
        container_path: mount.container_path.into(),
        host_path: mount.host_path.into(),
        readonly: mount.readonly,
        recursive: true,
        propagation,
    })
}

fn device(device: v1::Device) -> Result<rt::Device> {
    if device.permissions.contains(|letter| !matches!(letter, 'r' | 'w' | 'm')) {
        return Err(invalid(
            "config.devices",
            format_args!(
                "{}: permissions {:?} are not of r, w, m",
                device.host_path, device.permissions
            ),
        ));
    }
    Ok(rt::Device {
        host_path: device.host_path.into(),
        container_path: device.container_path.into(),
        permissions: device.permissions,
    })
}

fn security(context: v1::LinuxContainerSecurityContext) -> Result<rt::Security> {
    let options = context.namespace_options.clone().unwrap_or_default();
    refuse_user_namespace(&options)?;
    refuse_apparmor(&context)?;
    let seccomp = seccomp(&context)?;
    let pid = context.namespace_options.as_ref().map(|_| match options.pid() {
        v1::NamespaceMode::Pod => rt::NamespaceMode::Pod,
        v1::NamespaceMode::Container => rt::NamespaceMode::Container,
        v1::NamespaceMode::Node => rt::NamespaceMode::Node,
        v1::NamespaceMode::Target => rt::NamespaceMode::Target(options.target_id),
    });
    if context.run_as_group.is_some()
        && context.run_as_user.is_none()
        && context.run_as_username.is_empty()
    {
        return Err(invalid("security_context.run_as_group", "is given without a user"));
    }
    let capabilities = context.capabilities.unwrap_or_default();
    Ok(rt::Security {
        privileged: context.privileged,
        add_capabilities: capabilities.add_capabilities,
        drop_capabilities: capabilities.drop_capabilities,
        ambient_capabilities: capabilities.add_ambient_capabilities,
        no_new_privs: context.no_new_privs,
        readonly_rootfs: context.readonly_rootfs,
        seccomp,
        masked_paths: paths(context.masked_paths),
        readonly_paths: paths(context.readonly_paths),
        run_as: rt::RunAs {
            uid: context.run_as_user.map(|id| numeric_id("run_as_user", id.value)).transpose()?,
            gid: context.run_as_group.map(|id| numeric_id("run_as_group", id.value)).transpose()?,
            user_name: context.run_as_username,
            supplemental_groups: context
                .supplemental_groups
                .into_iter()
                .map(|id| numeric_id("supplemental_groups", id))
                .collect::<Result<_>>()?,
        },
        pid,
    })
}

/// None given means the usual ones: the wire cannot tell "none" from "not said", and a container
/// that should see everything is a privileged one.
fn paths(list: Vec<String>) -> Option<Vec<PathBuf>> {
    (!list.is_empty()).then(|| list.into_iter().map(PathBuf::from).collect())
}

fn numeric_id(field: &str, id: i64) -> Result<u32> {
    // (uid_t)-1 means "leave as it is" to the kernel and is no id.
    u32::try_from(id)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| invalid(field, format_args!("{id} is not a user or group id")))
}

fn seccomp(context: &v1::LinuxContainerSecurityContext) -> Result<rt::SeccompPolicy> {
    use v1::security_profile::ProfileType;
    let localhost = |path: &str| {
        if Path::new(path).is_absolute() {
            Ok(rt::SeccompPolicy::Profile(path.into()))
        } else {
            Err(invalid("security_context.seccomp", format_args!("path {path:?} is not absolute")))
        }
    };
    if let Some(profile) = &context.seccomp {
        return match profile.profile_type() {
            ProfileType::RuntimeDefault => Ok(rt::SeccompPolicy::RuntimeDefault),
            ProfileType::Unconfined => Ok(rt::SeccompPolicy::Unconfined),
            ProfileType::Localhost => localhost(&profile.localhost_ref),
        };
    }
    #[expect(deprecated, reason = "older clients say it only here")]
    let legacy = context.seccomp_profile_path.as_str();
    match legacy {
        "" | "unconfined" => Ok(rt::SeccompPolicy::Unconfined),
        "runtime/default" | "docker/default" => Ok(rt::SeccompPolicy::RuntimeDefault),
        other => match other.strip_prefix("localhost/") {
            Some(path) => localhost(path),
            None => Err(invalid(
                "security_context.seccomp_profile_path",
                format_args!("{other:?} is not a known form"),
            )),
        },
    }
}

/// A default profile is fine to leave out, as every runtime does without AppArmor; a named one
/// somebody relies on.
fn refuse_apparmor(context: &v1::LinuxContainerSecurityContext) -> Result<()> {
    use v1::security_profile::ProfileType;
    #[expect(deprecated, reason = "older clients say it only here")]
    let legacy = context.apparmor_profile.starts_with("localhost/");
    let named = context
        .apparmor
        .as_ref()
        .is_some_and(|profile| profile.profile_type() == ProfileType::Localhost);
    if legacy || named {
        return Err(invalid("security_context.apparmor", "AppArmor profiles are not supported"));
    }
    Ok(())
}

/// Limits: CRI's 0 and empty mean "not given". Huge page limits are not applied: a kubelet sends
/// them for every page size, and there is no controller for them here.
pub(super) fn resources(linux: v1::LinuxContainerResources) -> Result<rt::Resources> {
    let some = |value: i64| (value != 0).then_some(value);
    let positive = |field: &str, value: i64| match value {
        0 => Ok(None),
        value => u64::try_from(value).map(Some).map_err(|_| invalid(field, "is negative")),
    };
    let text = |value: String| (!value.is_empty()).then_some(value);
    let mut unified = linux.unified;
    // CRI has no field for these two; the runtime has, and knows them on cgroup v1 as well.
    let pids_limit = take_limit(&mut unified, "pids.max")?;
    let memory_low = take_limit(&mut unified, "memory.low")?;
    Ok(rt::Resources {
        cpu_period: positive("resources.cpu_period", linux.cpu_period)?,
        cpu_quota: some(linux.cpu_quota),
        cpu_shares: positive("resources.cpu_shares", linux.cpu_shares)?,
        cpuset_cpus: text(linux.cpuset_cpus),
        cpuset_mems: text(linux.cpuset_mems),
        memory_limit: some(linux.memory_limit_in_bytes),
        memory_swap_limit: some(linux.memory_swap_limit_in_bytes),
        memory_low,
        pids_limit,
        oom_score_adj: some(linux.oom_score_adj)
            .map(|value| {
                i32::try_from(value)
                    .ok()
                    .filter(|value| (-1000..=1000).contains(value))
                    .ok_or_else(|| invalid("resources.oom_score_adj", "is not within -1000..1000"))
            })
            .transpose()?,
        unified,
    })
}

fn take_limit(
    unified: &mut std::collections::BTreeMap<String, String>,
    key: &str,
) -> Result<Option<i64>> {
    unified
        .remove(key)
        .map(|value| match value.trim() {
            "max" => Ok(-1),
            number => number.parse().map_err(|_| {
                invalid("resources.unified", format_args!("{key}={value:?} is not a number or max"))
            }),
        })
        .transpose()
}

/// The kernel's name of a signal; empty for the image's own choice.
fn signal_name(signal: v1::Signal) -> String {
    let name = signal.as_str_name();
    match name {
        "RUNTIME_DEFAULT" => String::new(),
        // Other names of the same signals.
        "SIGCLD" => "SIGCHLD".to_owned(),
        "SIGIOT" => "SIGABRT".to_owned(),
        "SIGPOLL" => "SIGIO".to_owned(),
        _ => name.replace("PLUS", "+").replace("MINUS", "-"),
    }
}

/// Which sandboxes to list.
pub(super) fn pod_filter(filter: Option<v1::PodSandboxFilter>) -> rt::PodFilter {
    let filter = filter.unwrap_or_default();
    rt::PodFilter {
        id: given(filter.id),
        state: filter.state.map(|state| match state.state() {
            v1::PodSandboxState::SandboxReady => rt::PodSandboxState::Ready,
            v1::PodSandboxState::SandboxNotready => rt::PodSandboxState::NotReady,
        }),
        labels: filter.label_selector,
    }
}

/// Which containers to list.
pub(super) fn container_filter(filter: Option<v1::ContainerFilter>) -> rt::ContainerFilter {
    let filter = filter.unwrap_or_default();
    rt::ContainerFilter {
        id: given(filter.id),
        state: filter.state.map(|state| match state.state() {
            v1::ContainerState::ContainerCreated => rt::ContainerState::Created,
            v1::ContainerState::ContainerRunning => rt::ContainerState::Running,
            v1::ContainerState::ContainerExited => rt::ContainerState::Exited,
            v1::ContainerState::ContainerUnknown => rt::ContainerState::Unknown,
        }),
        sandbox_id: given(filter.pod_sandbox_id),
        labels: filter.label_selector,
    }
}

/// Which containers to measure.
pub(super) fn container_stats_filter(
    filter: Option<v1::ContainerStatsFilter>,
) -> rt::ContainerFilter {
    let filter = filter.unwrap_or_default();
    rt::ContainerFilter {
        id: given(filter.id),
        state: None,
        sandbox_id: given(filter.pod_sandbox_id),
        labels: filter.label_selector,
    }
}

/// Which sandboxes to measure.
pub(super) fn pod_stats_filter(filter: Option<v1::PodSandboxStatsFilter>) -> rt::PodFilter {
    let filter = filter.unwrap_or_default();
    rt::PodFilter { id: given(filter.id), state: None, labels: filter.label_selector }
}

fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(image: &str) -> v1::ContainerConfig {
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt: 2 }),
            image: Some(v1::ImageSpec { image: image.into(), ..Default::default() }),
            ..Default::default()
        }
    }

    fn refusal(config: v1::ContainerConfig) -> String {
        container_config(config).unwrap_err().message().to_owned()
    }

    #[test]
    fn image_forms_choose_the_root() {
        let image = |text| container_config(named(text)).unwrap().0.image;
        assert_eq!(image("host:"), rt::ImageSpec::Host);
        assert_eq!(image("folder:/r"), rt::ImageSpec::Folder("/r".into()));
        assert_eq!(image("redis:8"), rt::ImageSpec::Stored("redis:8".into()));
        assert!(refusal(named("")).contains("is empty"));
        assert!(refusal(named("oci:/x")).contains("PullImage"));
    }

    #[test]
    fn an_image_that_is_a_file_is_an_archive_to_restore() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(container_config(named(path)).unwrap().1.as_deref(), Some(file.path()));
        let missing = container_config(named("/no/such/archive.tar")).unwrap_err();
        assert_eq!(missing.code(), tonic::Code::NotFound);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        let mut config = named("host:");
        config.cdi_devices.push(v1::CdiDevice { name: "v/g=1".into() });
        assert!(refusal(config).contains("CDI"));
        let mut config = named("host:");
        config.mounts.push(v1::Mount { container_path: "/a".into(), ..Default::default() });
        assert!(refusal(config).contains("not absolute"));
        let mut config = named("host:");
        config.log_path = "../../etc/passwd".into();
        assert!(refusal(config).contains("log_path"));
    }

    #[test]
    fn zero_means_not_given_and_pids_travel_beside() {
        let empty = resources(v1::LinuxContainerResources::default()).unwrap();
        assert_eq!(empty, rt::Resources::default());
        let given = resources(v1::LinuxContainerResources {
            cpu_quota: -1,
            unified: [("pids.max".into(), "64".into()), ("io.weight".into(), "1".into())].into(),
            ..Default::default()
        })
        .unwrap();
        assert_eq!(given.cpu_quota, Some(-1));
        assert_eq!(given.pids_limit, Some(64));
        assert_eq!(given.unified.len(), 1);
    }

    #[test]
    fn signals_have_the_kernels_names() {
        assert_eq!(signal_name(v1::Signal::RuntimeDefault), "");
        assert_eq!(signal_name(v1::Signal::Sigquit), "SIGQUIT");
        assert_eq!(signal_name(v1::Signal::Sigrtminplus3), "SIGRTMIN+3");
        assert_eq!(signal_name(v1::Signal::Sigcld), "SIGCHLD");
    }

    #[test]
    fn an_unknown_handler_and_user_namespaces_are_refused() {
        let metadata = Some(v1::PodSandboxMetadata {
            name: "p".into(),
            namespace: "n".into(),
            ..Default::default()
        });
        let config = v1::PodSandboxConfig { metadata, ..Default::default() };
        assert!(sandbox_config(config.clone(), "kata".into()).is_err());
        let made = sandbox_config(config, String::new()).unwrap();
        // Not said: what the standard says for it.
        assert_eq!(made.pid, rt::NamespaceMode::Pod);
        assert_eq!(made.network, rt::NetworkMode::Private);
    }
}
