//! The OCI `config.json` of a container: everything that was asked for, with the image's defaults
//! filled in. What is written here is what the first process carries out, and what goes into a
//! checkpoint as `spec.dump`, with the annotations CRI-O gives its containers.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde_json::{Map, Value, json};

use crate::capability;
use crate::config::{ContainerConfig, Device, Mount, MountPropagation, NamespaceMode};
use crate::error::RuntimeError;
use crate::image::ImageDefaults;
use crate::record::{ContainerRecord, SandboxRecord};
use crate::seccomp;
use crate::users;

/// Paths of /proc and /sys that tell or change too much.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths of /proc that are shown but not to be written.
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a spec is made from.
#[derive(Debug)]
pub(crate) struct Inputs<'a> {
    pub(crate) sandbox: &'a SandboxRecord,
    pub(crate) container: &'a ContainerRecord,
    pub(crate) image: &'a ImageDefaults,
    /// The pod's `/dev/shm` as the shim sees it.
    pub(crate) shm: &'a Path,
    /// A file to show as `/etc/resolv.conf`.
    pub(crate) resolv_conf: Option<&'a Path>,
    pub(crate) cgroup: &'a Path,
}

fn invalid(field: &'static str, reason: impl Into<String>) -> RuntimeError {
    RuntimeError::InvalidArgument { field, reason: reason.into() }
}

/// Makes the spec.
pub(crate) fn generate(inputs: &Inputs<'_>) -> Result<Spec, RuntimeError> {
    let config = &inputs.container.config;
    let security = &config.security;
    let process = process(inputs)?;
    let mut linux = json!({
        "cgroupsPath": Path::new("/").join(inputs.cgroup),
        "namespaces": namespaces(inputs)?,
        "resources": resources(config, security.privileged),
        "devices": devices(config)?,
    });
    if !security.privileged {
        let paths = |given: &Option<Vec<PathBuf>>, usual: &[&str]| match given {
            Some(paths) => json!(paths),
            None => json!(usual),
        };
        linux["maskedPaths"] = paths(&security.masked_paths, &MASKED);
        linux["readonlyPaths"] = paths(&security.readonly_paths, &READ_ONLY);
        if let Some(profile) = seccomp::profile(&security.seccomp, &process.capabilities)? {
            linux["seccomp"] = profile;
        }
    }
    let value = json!({
        "ociVersion": "1.1.0",
        "process": process.value,
        "root": {"path": "rootfs", "readonly": security.readonly_rootfs},
        "hostname": hostname(inputs.sandbox),
        "mounts": mounts(inputs)?,
        "linux": linux,
        "annotations": annotations(inputs),
    });
    serde_json::from_value(value)
        .map_err(|source| RuntimeError::Record { path: "config.json".into(), source })
}

/// Host name inside a pod: as asked, else the machine's with its network, else the pod's name.
pub(crate) fn hostname(sandbox: &SandboxRecord) -> String {
    let config = &sandbox.config;
    if !config.hostname.is_empty() {
        config.hostname.clone()
    } else if config.network == crate::config::NetworkMode::Host {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    } else {
        config.identity.name.clone()
    }
}

struct Process {
    value: Value,
    /// Names of the bounding set.
    capabilities: Vec<String>,
}

fn process(inputs: &Inputs<'_>) -> Result<Process, RuntimeError> {
    let config = &inputs.container.config;
    let image = inputs.image;
    let args = arguments(config, image);
    if args.is_empty() {
        return Err(invalid("command", "neither the request nor the image names a program"));
    }
    let identity = users::resolve(&config.security.run_as, &image.user, &inputs.container.root)?;
    let (bounding, ambient) =
        capability::plan(&config.security).map_err(|e| invalid("capabilities", e.to_string()))?;
    let bounding_names = bounding.names();
    // Another user than root has only what is ambient, as after setuid(2) and exec.
    let effective = if identity.uid == 0 { bounding_names.clone() } else { ambient.names() };
    let cwd = [&config.working_dir, &image.working_dir]
        .into_iter()
        .find(|d| !d.as_os_str().is_empty())
        .cloned()
        .unwrap_or_else(|| "/".into());
    if !cwd.is_absolute() {
        return Err(invalid("working_dir", format!("{cwd:?} is not absolute")));
    }
    let mut value = json!({
        "terminal": config.tty,
        "user": {
            "uid": identity.uid,
            "gid": identity.gid,
            "umask": 0o022,
            "additionalGids": identity.groups,
        },
        "args": args,
        "env": environment(config, image, &identity.home),
        "cwd": cwd,
        "capabilities": {
            "bounding": bounding_names,
            "effective": effective,
            "permitted": effective,
            "inheritable": ambient.names(),
            "ambient": ambient.names(),
        },
        "rlimits": rlimits(config)?,
        "noNewPrivileges": config.security.no_new_privs,
    });
    if let Some(adjustment) = config.resources.oom_score_adj {
        value["oomScoreAdj"] = json!(allowed_oom_score(adjustment));
    }
    Ok(Process { value, capabilities: bounding.names() })
}

/// Program and arguments: the request's words win over the image's, as in a pod's spec: a command
/// replaces the image's entry point and drops its arguments.
fn arguments(config: &ContainerConfig, image: &ImageDefaults) -> Vec<String> {
    let (program, rest) = match (config.command.is_empty(), config.args.is_empty()) {
        (true, true) => (&image.entrypoint, &image.cmd),
        (true, false) => (&image.entrypoint, &config.args),
        (false, _) => (&config.command, &config.args),
    };
    program.iter().chain(rest).cloned().collect()
}

fn environment(config: &ContainerConfig, image: &ImageDefaults, home: &str) -> Vec<String> {
    let mut list: Vec<(String, String)> = vec![("PATH".into(), DEFAULT_PATH.into())];
    let mut set = |key: &str, value: &str| match list.iter_mut().find(|(k, _)| k == key) {
        Some((_, old)) => *old = value.into(),
        None => list.push((key.into(), value.into())),
    };
    for entry in &image.env {
        if let Some((key, value)) = entry.split_once('=') {
            set(key, value);
        }
    }
    for (key, value) in &config.env {
        set(key, value);
    }
    if !list.iter().any(|(k, _)| k == "HOME") {
        list.push(("HOME".into(), home.into()));
    }
    if config.tty && !list.iter().any(|(k, _)| k == "TERM") {
        list.push(("TERM".into(), "xterm".into()));
    }
    list.into_iter().map(|(k, v)| format!("{k}={v}")).collect()
}

fn rlimits(config: &ContainerConfig) -> Result<Vec<Value>, RuntimeError> {
    let mut list = Vec::new();
    for limit in &config.rlimits {
        if crate::process::resource(&limit.kind).is_none() {
            return Err(invalid("rlimits", format!("{:?} is not a resource limit", limit.kind)));
        }
        if limit.soft > limit.hard {
            let reason = format!("the soft limit of {} is above the hard one", limit.kind);
            return Err(invalid("rlimits", reason));
        }
        list.push(json!({"type": limit.kind, "soft": limit.soft, "hard": limit.hard}));
    }
    Ok(list)
}

/// Lowering the score needs CAP_SYS_RESOURCE; without it the score we have is the lowest.
fn allowed_oom_score(asked: i32) -> i32 {
    let asked = asked.clamp(-1000, 1000);
    if capability::own().contains("SYS_RESOURCE") {
        return asked;
    }
    let ours = fs::read_to_string("/proc/self/oom_score_adj")
        .ok()
        .and_then(|t| t.trim().parse().ok())
        .unwrap_or(0);
    asked.max(ours)
}

fn namespaces(inputs: &Inputs<'_>) -> Result<Vec<Value>, RuntimeError> {
    let sandbox = inputs.sandbox;
    let shim = sandbox.shim_pid.unwrap_or_default();
    let shared =
        |kind: &str, file: &str| json!({"type": kind, "path": format!("/proc/{shim}/ns/{file}")});
    let mut list = vec![json!({"type": "mount"}), json!({"type": "cgroup"})];
    if sandbox.config.network == crate::config::NetworkMode::Private {
        list.push(shared("network", "net"));
    }
    if !sandbox.config.host_ipc {
        list.push(shared("ipc", "ipc"));
    }
    list.push(shared("uts", "uts"));
    let mode = inputs.container.config.security.pid.as_ref().unwrap_or(&sandbox.config.pid);
    match mode {
        NamespaceMode::Container => list.push(json!({"type": "pid"})),
        NamespaceMode::Pod => list.push(shared("pid", "pid_for_children")),
        NamespaceMode::Node => {}
        NamespaceMode::Target(id) if crate::record::is_id(id) => {
            list.push(json!({"type": "pid", "path": format!("container:{id}")}));
        }
        NamespaceMode::Target(id) => {
            return Err(invalid("pid", format!("{id:?} is not the id of a container")));
        }
    }
    Ok(list)
}

fn mounts(inputs: &Inputs<'_>) -> Result<Vec<Value>, RuntimeError> {
    let config = &inputs.container.config;
    let access = if config.security.privileged { "rw" } else { "ro" };
    let mut list = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc",
            "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", access]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", access]}),
        json!({"destination": "/dev/shm", "type": "bind", "source": inputs.shm,
            "options": ["bind", "rw", "nosuid", "nodev"]}),
    ];
    if let Some(path) = inputs.resolv_conf {
        list.push(json!({"destination": "/etc/resolv.conf", "type": "bind", "source": path,
            "options": ["bind", "rw"]}));
    }
    // A mount below another one must come after it.
    let mut asked: Vec<&Mount> = config.mounts.iter().collect();
    asked.sort_by_key(|m| m.container_path.components().count());
    for mount in asked {
        list.push(host_mount(mount)?);
    }
    Ok(list)
}

fn host_mount(mount: &Mount) -> Result<Value, RuntimeError> {
    if !mount.container_path.is_absolute() || !mount.host_path.is_absolute() {
        let reason =
            format!("{:?} and {:?} must be absolute", mount.host_path, mount.container_path);
        return Err(invalid("mounts", reason));
    }
    if mount.container_path == Path::new("/") {
        return Err(invalid("mounts", "the root itself cannot be mounted over"));
    }
    let source = fs::canonicalize(&mount.host_path)
        .map_err(|e| invalid("mounts", format!("{:?}: {e}", mount.host_path)))?;
    let propagation = match mount.propagation {
        MountPropagation::Private => "rprivate",
        MountPropagation::HostToContainer => "rslave",
        MountPropagation::Bidirectional => {
            return Err(invalid("mounts", "bidirectional propagation is not supported"));
        }
    };
    Ok(json!({
        "destination": mount.container_path,
        "type": "bind",
        "source": source,
        "options": [
            if mount.recursive { "rbind" } else { "bind" },
            if mount.readonly { "ro" } else { "rw" },
            propagation,
        ],
    }))
}

/// Devices every container may use: any node may be made, few may be opened.
const ALLOWED_DEVICES: [(&str, i64, i64); 9] = [
    ("c", 1, 3),
    ("c", 1, 5),
    ("c", 1, 7),
    ("c", 1, 8),
    ("c", 1, 9),
    ("c", 5, 0),
    ("c", 5, 1),
    ("c", 5, 2),
    ("c", 136, -1),
];

/// The resources of a spec.
pub(crate) fn resources(config: &ContainerConfig, privileged: bool) -> Value {
    let asked = &config.resources;
    let mut rules = Vec::new();
    if privileged {
        rules.push(json!({"allow": true, "access": "rwm"}));
    } else {
        rules.push(json!({"allow": false, "access": "rwm"}));
        rules.push(json!({"allow": true, "type": "c", "access": "m"}));
        rules.push(json!({"allow": true, "type": "b", "access": "m"}));
        for (kind, major, minor) in ALLOWED_DEVICES {
            let mut rule = json!({"allow": true, "type": kind, "major": major, "access": "rwm"});
            if minor >= 0 {
                rule["minor"] = json!(minor);
            }
            rules.push(rule);
        }
        for device in &config.devices {
            if let Ok(meta) = fs::metadata(&device.host_path) {
                rules.push(json!({
                    "allow": true,
                    "type": if meta.file_type().is_block_device() { "b" } else { "c" },
                    "major": rustix::fs::major(meta.rdev()),
                    "minor": rustix::fs::minor(meta.rdev()),
                    "access": access(device),
                }));
            }
        }
    }
    let mut value = json!({"devices": rules});
    let mut put = |group: &str, key: &str, number: Value| {
        if !number.is_null() {
            let entry = value
                .as_object_mut()
                .map(|m| m.entry(group).or_insert_with(|| Value::Object(Map::new())));
            if let Some(entry) = entry {
                entry[key] = number;
            }
        }
    };
    put("memory", "limit", json!(asked.memory_limit));
    put("memory", "swap", json!(asked.memory_swap_limit));
    put("memory", "reservation", json!(asked.memory_low));
    put("cpu", "shares", json!(asked.cpu_shares));
    put("cpu", "quota", json!(asked.cpu_quota));
    put("cpu", "period", json!(asked.cpu_period));
    put("cpu", "cpus", json!(asked.cpuset_cpus));
    put("cpu", "mems", json!(asked.cpuset_mems));
    put("pids", "limit", json!(asked.pids_limit));
    if !asked.unified.is_empty() {
        value["unified"] = json!(asked.unified);
    }
    value
}

fn access(device: &Device) -> &str {
    if device.permissions.is_empty() { "rwm" } else { &device.permissions }
}

fn devices(config: &ContainerConfig) -> Result<Vec<Value>, RuntimeError> {
    let mut list = Vec::new();
    for device in &config.devices {
        let value = describe_device(&device.host_path, &device.container_path)
            .ok_or_else(|| invalid("devices", format!("{:?} is not a device", device.host_path)))?;
        if !access(device).bytes().all(|b| b"rwm".contains(&b)) {
            let reason = format!("{:?} are not permissions of a device", device.permissions);
            return Err(invalid("devices", reason));
        }
        list.push(value);
    }
    if config.security.privileged {
        all_devices(Path::new("/dev"), &mut list);
    }
    Ok(list)
}

fn describe_device(host: &Path, container: &Path) -> Option<Value> {
    let meta = fs::metadata(host).ok()?;
    let kind = if meta.file_type().is_block_device() {
        "b"
    } else if meta.file_type().is_char_device() {
        "c"
    } else {
        return None;
    };
    Some(json!({
        "path": container,
        "type": kind,
        "major": rustix::fs::major(meta.rdev()),
        "minor": rustix::fs::minor(meta.rdev()),
        "fileMode": meta.mode() & 0o777,
        "uid": meta.uid(),
        "gid": meta.gid(),
    }))
}

/// All devices of the machine, apart from terminals and what is mounted over `/dev`.
fn all_devices(dir: &Path, list: &mut Vec<Value>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        let own = ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/console", "/dev/ptmx"];
        if own.iter().any(|p| Path::new(p) == path) {
            continue;
        }
        if kind.is_dir() {
            all_devices(&path, list);
        } else if kind.is_char_device() || kind.is_block_device() {
            list.extend(describe_device(&path, &path));
        }
    }
}

/// What CRI-O writes into its containers' specs: readers of checkpoints look for it.
fn annotations(inputs: &Inputs<'_>) -> Value {
    let (sandbox, container) = (inputs.sandbox, inputs.container);
    let (config, pod) = (&container.config, &sandbox.config.identity);
    let full_name = |name: &str, attempt: u32| {
        format!("k8s_{name}_{}_{}_{}_{attempt}", pod.name, pod.namespace, pod.uid)
    };
    let text = |value: Value| Value::String(value.to_string());
    let labels = {
        let mut labels = config.labels.clone();
        for (key, value) in [
            ("io.kubernetes.container.name", &config.name),
            ("io.kubernetes.pod.name", &pod.name),
            ("io.kubernetes.pod.namespace", &pod.namespace),
            ("io.kubernetes.pod.uid", &pod.uid),
        ] {
            labels.entry(key.into()).or_insert_with(|| value.clone());
        }
        labels
    };
    let created = jiff::Timestamp::from_nanosecond(container.created_at.into())
        .map(|t| format!("{t:.9}"))
        .unwrap_or_default();
    let mut map = Map::new();
    for (key, value) in &config.annotations {
        map.insert(key.clone(), Value::String(value.clone()));
    }
    let crio = [
        ("Annotations", text(json!(config.annotations))),
        ("ContainerID", json!(container.id)),
        ("ContainerName", json!(full_name(&config.name, config.attempt))),
        ("ContainerType", json!("container")),
        ("Created", json!(created)),
        ("HostName", json!(hostname(sandbox))),
        ("IP.0", json!("")),
        ("Image", json!(container.image_name)),
        ("ImageName", json!(container.image_name)),
        ("ImageRef", json!(container.image_id)),
        ("KubernetesName", json!(config.name)),
        ("Labels", text(json!(labels))),
        ("LogPath", json!(container.log_path)),
        ("Metadata", text(json!({"name": config.name, "attempt": config.attempt}))),
        ("Name", json!(full_name(&config.name, config.attempt))),
        ("SandboxID", json!(sandbox.id)),
        ("SandboxName", json!(full_name("POD", pod.attempt))),
        ("Stdin", json!(config.stdin.to_string())),
        ("StdinOnce", json!("false")),
        ("TTY", json!(config.tty.to_string())),
        ("Volumes", text(json!(volumes(config)))),
    ];
    for (key, value) in crio {
        map.insert(format!("io.kubernetes.cri-o.{key}"), value);
    }
    map.insert("io.container.manager".into(), json!("cri-o"));
    for key in [
        "io.kubernetes.container.name",
        "io.kubernetes.pod.name",
        "io.kubernetes.pod.namespace",
        "io.kubernetes.pod.uid",
    ] {
        map.insert(key.into(), json!(labels.get(key)));
    }
    Value::Object(map)
}

fn volumes(config: &ContainerConfig) -> Vec<Value> {
    config
        .mounts
        .iter()
        .map(|m| {
            json!({"container_path": m.container_path, "host_path": m.host_path,
                "readonly": m.readonly})
        })
        .collect()
}
