//! Operations on pod sandboxes.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Result, Runtime};
use crate::config::{NamespaceMode, NetworkMode, SandboxConfig};
use crate::entry::FLAG;
use crate::error::RuntimeError;
use crate::record::{Phase, SandboxRecord, io_error, lock, make_dir, new_id, now};
use crate::shim::{Request, ShimArguments};
use crate::status::{PodFilter, PodSandboxState, PodSandboxStatus};
use crate::wire::Failure;

impl Runtime {
    /// Makes a pod sandbox and returns its id. It is ready when this returns.
    ///
    /// # Errors
    /// [`RuntimeError::AlreadyExists`] for the same identity; on any failure nothing is left.
    pub fn run_pod_sandbox(&self, config: &SandboxConfig) -> Result<String> {
        check(config)?;
        let id = new_id()?;
        let dir = self.layout.sandbox_dir(&id);
        let record = SandboxRecord {
            id: id.clone(),
            config: config.clone(),
            phase: Phase::Creating,
            created_at: now(),
            shim_pid: None,
        };
        let _lock = {
            // Nobody else reserves the same identity meanwhile.
            let _names = lock(&self.layout.state_dir.join("names.lock"))?;
            self.refuse_same_identity(config)?;
            make_dir(&dir)?;
            let own = lock(&dir.join("lock"))?;
            self.layout.save_sandbox(&record)?;
            own
        };
        let started = self.start_shim(&id);
        if started.is_err() {
            self.clear_sandbox(&id)?;
        }
        started.map(|()| id)
    }

    fn refuse_same_identity(&self, config: &SandboxConfig) -> Result<()> {
        for id in self.layout.sandbox_ids()? {
            let Some(other) = self.layout.load_sandbox(&id)? else { continue };
            if other.config.identity == config.identity {
                let identity = &config.identity;
                return Err(RuntimeError::AlreadyExists {
                    what: "pod sandbox",
                    name: format!(
                        "{}/{} uid {} attempt {}",
                        identity.namespace, identity.name, identity.uid, identity.attempt
                    ),
                    id,
                });
            }
        }
        Ok(())
    }

    fn start_shim(&self, id: &str) -> Result<()> {
        if !self.sandbox(id)?.config.resolv_conf.is_empty() {
            let text = self.sandbox(id)?.config.resolv_conf.join("\n") + "\n";
            let path = self.layout.sandbox_dir(id).join("resolv.conf");
            fs::write(&path, text).map_err(io_error("write", &path))?;
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
                .map_err(io_error("set the mode of", &path))?;
        }
        let log_path = self.layout.sandbox_dir(id).join("shim.log");
        let log = File::options()
            .append(true)
            .create(true)
            .open(&log_path)
            .map_err(io_error("open", &log_path))?;
        let arguments = ShimArguments { layout: self.layout.clone(), sandbox: id.into() };
        let argument = serde_json::to_string(&arguments)
            .map_err(|source| RuntimeError::Record { path: log_path.clone(), source })?;
        let exe = &self.layout.exe;
        let mut child = Command::new(exe)
            .args([FLAG, "shim", &argument])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(io_error("start", exe))?;
        let mut answer = String::new();
        let read = match child.stdout.take() {
            Some(mut out) => out.read_to_string(&mut answer),
            None => Ok(0),
        };
        // What was started ends at once; the shim is a copy of it.
        let waited = child.wait();
        read.and(waited.map(drop).map(|()| 0)).map_err(io_error("hear from the shim in", exe))?;
        if answer == "ready" {
            return Ok(());
        }
        match serde_json::from_str::<Failure>(&answer) {
            Ok(failure) => Err(failure.into()),
            Err(_) => {
                let tail = fs::read_to_string(&log_path).unwrap_or_default();
                let message = tail.lines().last().unwrap_or("no word from it").to_owned();
                let source = std::io::Error::other(message);
                Err(io_error("start the shim with", exe)(source))
            }
        }
    }

    /// Kills all containers of the sandbox and ends its shim. Done before: no error.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`] for an unknown id.
    pub fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let record = self.sandbox(id)?;
        if self.layout.shim_lives(&record.id) {
            self.ask(&record.id, &Request::Shutdown)?;
            let deadline = Instant::now() + Duration::from_secs(10);
            while self.layout.shim_lives(&record.id) {
                if Instant::now() > deadline {
                    return Err(RuntimeError::Timeout { what: "the end of the shim", seconds: 10 });
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        for container in self.containers_of(&record.id)? {
            self.current(container)?;
        }
        self.current_sandbox(record).map(drop)
    }

    /// Stops the sandbox if need be and removes it with its containers.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`] for an unknown id.
    pub fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        let record = self.sandbox(id)?;
        self.stop_pod_sandbox(&record.id)?;
        for container in self.containers_of(&record.id)? {
            self.clear_container(&container)?;
        }
        self.clear_sandbox(&record.id)
    }

    /// One sandbox, by id or an unambiguous beginning of it.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`], [`RuntimeError::Ambiguous`].
    pub fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus> {
        let record = self.sandbox(id)?;
        Ok(sandbox_status(self.current_sandbox(record)?))
    }

    /// All sandboxes that match, newest first.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn list_pod_sandboxes(&self, filter: &PodFilter) -> Result<Vec<PodSandboxStatus>> {
        let mut list = Vec::new();
        for id in self.layout.sandbox_ids()? {
            if filter.id.as_ref().is_some_and(|wanted| !id.starts_with(wanted.as_str())) {
                continue;
            }
            let Some(record) = self.layout.load_sandbox(&id)? else { continue };
            if record.phase == Phase::Creating {
                continue;
            }
            let status = sandbox_status(self.current_sandbox(record)?);
            let labels = &status.config.labels;
            if filter.state.is_none_or(|state| state == status.state)
                && filter.labels.iter().all(|(k, v)| labels.get(k) == Some(v))
            {
                list.push(status);
            }
        }
        list.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
        Ok(list)
    }
}

fn check(config: &SandboxConfig) -> Result<()> {
    let invalid = |field: &'static str, reason: &str| {
        Err(RuntimeError::InvalidArgument { field, reason: reason.into() })
    };
    if config.identity.name.is_empty() || config.identity.namespace.is_empty() {
        return invalid("identity", "name and namespace of the pod must be given");
    }
    if config.hostname.len() > 64 {
        return invalid("hostname", "it has more than 64 bytes");
    }
    if matches!(config.pid, NamespaceMode::Target(_)) {
        return invalid("pid", "a whole pod cannot share the process ids of a container");
    }
    if !config.log_directory.as_os_str().is_empty() && !config.log_directory.is_absolute() {
        return invalid("log_directory", "it is not absolute");
    }
    Ok(())
}

fn sandbox_status(record: SandboxRecord) -> PodSandboxStatus {
    let ready = record.phase == Phase::Ready;
    let private = record.config.network == NetworkMode::Private;
    let shim_pid = record.shim_pid.filter(|_| ready);
    PodSandboxStatus {
        state: if ready { PodSandboxState::Ready } else { PodSandboxState::NotReady },
        netns_path: shim_pid
            .filter(|_| private)
            .map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net"))),
        shim_pid,
        ip: String::new(),
        id: record.id,
        config: record.config,
        created_at: record.created_at,
    }
}
