//! Operations on containers.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::recovery::remove_dir;
use super::{Result, Runtime};
use crate::cgroup::Cgroup;
use crate::config::{ContainerConfig, ImageSpec, Resources};
use crate::error::RuntimeError;
use crate::image::ImageRecord;
use crate::process::signal;
use crate::record::{
    ContainerRecord, Phase, SandboxRecord, io_error, lock, make_dir, new_id, now, replace,
};
use crate::shim::{Request, Response, ask_exec};
use crate::spec;
use crate::status::{ContainerFilter, ContainerState, ContainerStatus, ExecOutput};

impl Runtime {
    /// Makes a container in a sandbox and returns its id. Its first process exists and waits.
    ///
    /// # Errors
    /// [`RuntimeError::AlreadyExists`] for the same name and attempt, an error of the image, or
    /// whatever the kernel refused; on any failure nothing is left.
    pub fn create_container(&self, sandbox: &str, config: &ContainerConfig) -> Result<String> {
        let sandbox = self.ready_sandbox(sandbox)?;
        check(config)?;
        let image = self.store().resolve(&config.image)?;
        let record = self.new_container(&sandbox, config, &image)?;
        let id = record.id.clone();
        let _lock = self.reserve(&sandbox, &record)?;
        let made = (|| {
            record.root.prepare(&self.layout.container_dir(&id)).map_err(root_error)?;
            let resolv_conf = self.layout.sandbox_dir(&sandbox.id).join("resolv.conf");
            let shm = self.shm(&sandbox);
            let spec = spec::generate(&spec::Inputs {
                sandbox: &sandbox,
                container: &record,
                image: &image.defaults,
                shm: &shm,
                resolv_conf: resolv_conf.exists().then_some(resolv_conf.as_path()),
                cgroup: &self.layout.container_cgroup(&sandbox.id, &id),
            })?;
            self.save_spec(&id, &spec)?;
            self.ask(&sandbox.id, &Request::Create { id: id.clone() })
        })();
        match made {
            Ok(_) => Ok(id),
            Err(error) => {
                self.discard(&record);
                Err(error)
            }
        }
    }

    /// Where a pod's `/dev/shm` is, as its shim sees it.
    pub(super) fn shm(&self, sandbox: &SandboxRecord) -> PathBuf {
        if sandbox.config.host_ipc {
            "/dev/shm".into()
        } else {
            self.layout.shim_dir(&sandbox.id).join("shm")
        }
    }

    pub(super) fn save_spec(&self, id: &str, spec: &oci_spec::runtime::Spec) -> Result<()> {
        let path = self.layout.container_dir(id).join("config.json");
        let bytes = serde_json::to_vec_pretty(spec)
            .map_err(|source| RuntimeError::Record { path: path.clone(), source })?;
        replace(&path, &bytes).map_err(io_error("write", &path))
    }

    pub(super) fn ready_sandbox(&self, id: &str) -> Result<SandboxRecord> {
        let record = self.current_sandbox(self.sandbox(id)?)?;
        if record.phase != Phase::Ready {
            return Err(RuntimeError::State {
                what: "pod sandbox",
                id: record.id,
                state: "not ready".into(),
                reason: "containers can only be made in a ready one".into(),
            });
        }
        Ok(record)
    }

    pub(super) fn new_container(
        &self,
        sandbox: &SandboxRecord,
        config: &ContainerConfig,
        image: &ImageRecord,
    ) -> Result<ContainerRecord> {
        let image_name = if config.image_name.is_empty() {
            match &config.image {
                ImageSpec::Host => "host".into(),
                ImageSpec::Stored(name) => name.clone(),
                ImageSpec::Folder(path) => path.to_string_lossy().into_owned(),
            }
        } else {
            config.image_name.clone()
        };
        let stop_signal = [&config.stop_signal, &image.defaults.stop_signal]
            .into_iter()
            .find(|s| !s.is_empty())
            .map_or(Some(libc::SIGTERM), |name| signal(name))
            .ok_or_else(|| RuntimeError::InvalidArgument {
                field: "stop_signal",
                reason: format!("{:?} is not a signal", config.stop_signal),
            })?;
        let no_log = config.log_path.as_os_str().is_empty()
            || sandbox.config.log_directory.as_os_str().is_empty();
        let log_path = if no_log {
            PathBuf::new()
        } else {
            sandbox.config.log_directory.join(&config.log_path)
        };
        Ok(ContainerRecord {
            id: new_id()?,
            sandbox_id: sandbox.id.clone(),
            pod: sandbox.config.identity.clone(),
            config: config.clone(),
            phase: Phase::Creating,
            pid: None,
            created_at: now(),
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            image_id: image.info.id.clone(),
            image_name,
            root: self.store().root_plan(image),
            log_path,
            stop_signal,
            restore: None,
        })
    }

    /// Makes the folder of a new container and keeps it locked while it is being made.
    pub(super) fn reserve(
        &self,
        sandbox: &SandboxRecord,
        record: &ContainerRecord,
    ) -> Result<fs::File> {
        let _names = lock(&self.layout.state_dir.join("names.lock"))?;
        for other in self.containers_of(&sandbox.id)? {
            if other.config.name == record.config.name
                && other.config.attempt == record.config.attempt
            {
                return Err(RuntimeError::AlreadyExists {
                    what: "container",
                    name: format!("{} attempt {}", other.config.name, other.config.attempt),
                    id: other.id,
                });
            }
        }
        let dir = self.layout.container_dir(&record.id);
        make_dir(&dir)?;
        let own = lock(&dir.join("lock"))?;
        self.layout.save_container(record)?;
        Ok(own)
    }

    /// Removes a container that could not be made, as far as that is possible; what is left is
    /// found at the next opening.
    pub(super) fn discard(&self, record: &ContainerRecord) {
        if self.layout.shim_lives(&record.sandbox_id) {
            let _ = self.ask(&record.sandbox_id, &Request::Remove { id: record.id.clone() });
        }
        let _ = self.clear_container(record);
    }

    pub(super) fn containers_of(&self, sandbox: &str) -> Result<Vec<ContainerRecord>> {
        let mut list = Vec::new();
        for id in self.layout.container_ids()? {
            if let Some(record) = self.layout.load_container(&id)?
                && record.sandbox_id == sandbox
            {
                list.push(record);
            }
        }
        Ok(list)
    }

    /// Lets a created container run.
    ///
    /// # Errors
    /// [`RuntimeError::State`] unless it is created; the program's own errors (`ENOENT`).
    pub fn start_container(&self, id: &str) -> Result<()> {
        let record = self.container(id)?;
        if record.phase != Phase::Created {
            return Err(wrong_state(&record, "only a created one can be started"));
        }
        self.ask(&record.sandbox_id, &Request::Start { id: record.id }).map(drop)
    }

    /// Asks a container to stop with its stop signal, and kills it after `timeout`. Stopped before:
    /// no error.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`] for an unknown id.
    pub fn stop_container(&self, id: &str, timeout: Duration) -> Result<()> {
        let record = self.container(id)?;
        if record.phase == Phase::Ended {
            return Ok(());
        }
        let grace = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.ask(&record.sandbox_id, &Request::Stop { id: record.id, grace }).map(drop)
    }

    /// Kills a container if need be and removes it.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`] for an unknown id.
    pub fn remove_container(&self, id: &str) -> Result<()> {
        let record = self.container(id)?;
        if self.layout.shim_lives(&record.sandbox_id) {
            self.ask(&record.sandbox_id, &Request::Remove { id: record.id.clone() })?;
        }
        self.kill_cgroup(&record)?;
        remove_dir(&self.layout.container_dir(&record.id))
    }

    /// One container, by id or an unambiguous beginning of it.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`], [`RuntimeError::Ambiguous`].
    pub fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        let record = self.container(id)?;
        Ok(self.status(record))
    }

    /// All containers that match, newest first.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn list_containers(&self, filter: &ContainerFilter) -> Result<Vec<ContainerStatus>> {
        let mut list = Vec::new();
        for id in self.layout.container_ids()? {
            if filter.id.as_ref().is_some_and(|wanted| !id.starts_with(wanted.as_str())) {
                continue;
            }
            let Some(record) = self.layout.load_container(&id)? else { continue };
            if record.phase == Phase::Creating {
                continue;
            }
            let status = self.status(self.current(record)?);
            let labels = &status.config.labels;
            if filter.state.is_none_or(|state| state == status.state)
                && filter
                    .sandbox_id
                    .as_ref()
                    .is_none_or(|s| status.sandbox_id.starts_with(s.as_str()))
                && filter.labels.iter().all(|(k, v)| labels.get(k) == Some(v))
            {
                list.push(status);
            }
        }
        list.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
        Ok(list)
    }

    fn status(&self, record: ContainerRecord) -> ContainerStatus {
        let state = match record.phase {
            Phase::Created => ContainerState::Created,
            Phase::Running => ContainerState::Running,
            Phase::Ended => ContainerState::Exited,
            Phase::Creating | Phase::Ready => ContainerState::Unknown,
        };
        let cgroup = self.layout.container_cgroup(&record.sandbox_id, &record.id);
        ContainerStatus {
            bundle: self.layout.container_dir(&record.id),
            cgroup_paths: Cgroup::at(&cgroup).map(|c| c.dirs().collect()).unwrap_or_default(),
            state,
            pid: record.pid,
            sandbox_id: record.sandbox_id,
            pod: record.pod,
            resources: record.config.resources.clone(),
            config: record.config,
            created_at: record.created_at,
            started_at: record.started_at,
            finished_at: record.finished_at,
            exit_code: record.exit_code,
            reason: record.reason,
            message: record.message,
            image_id: record.image_id,
            log_path: record.log_path,
            restored_from: record.restore.as_ref().map(|r| r.archive.clone()),
            checkpointed_at: record.restore.as_ref().map(|r| r.checkpointed_at),
            id: record.id,
        }
    }

    /// Blocks until the container has exited and returns its status then.
    ///
    /// # Errors
    /// [`RuntimeError::Timeout`] after `timeout`.
    pub fn wait_container(&self, id: &str, timeout: Option<Duration>) -> Result<ContainerStatus> {
        let record = self.container(id)?;
        if record.phase == Phase::Ended {
            return Ok(self.status(record));
        }
        let limit = timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
        let request = Request::Wait { id: record.id.clone(), limit };
        match self.ask(&record.sandbox_id, &request) {
            Ok(Response::Answer(false)) => Err(RuntimeError::Timeout {
                what: "the end of the container",
                seconds: timeout.unwrap_or_default().as_secs(),
            }),
            Ok(_) => self.container_status(&record.id),
            // A shim that dies takes the container along.
            Err(_) if !self.layout.shim_lives(&record.sandbox_id) => {
                self.container_status(&record.id)
            }
            Err(error) => Err(error),
        }
    }

    /// Changes the limits of a created or running container.
    ///
    /// # Errors
    /// [`RuntimeError::State`], or what the kernel refused.
    pub fn update_container_resources(&self, id: &str, resources: &Resources) -> Result<()> {
        let record = self.container(id)?;
        if record.phase == Phase::Ended {
            return Err(wrong_state(&record, "it has no limits any more"));
        }
        let request = Request::Update { id: record.id, resources: resources.clone() };
        self.ask(&record.sandbox_id, &request).map(drop)
    }

    /// Runs a command in a running container and waits for its end; `None`: no time limit.
    ///
    /// # Errors
    /// [`ErrorKind::DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded) after `timeout` (the
    /// command is killed), [`RuntimeError::State`].
    pub fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecOutput> {
        if command.first().is_none_or(String::is_empty) {
            return Err(RuntimeError::InvalidArgument {
                field: "cmd",
                reason: "no program is named".into(),
            });
        }
        let record = self.container(id)?;
        if record.phase != Phase::Running {
            return Err(wrong_state(&record, "commands need a running one"));
        }
        let request = Request::Exec {
            id: record.id,
            command: command.to_vec(),
            limit: timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
        };
        ask_exec(&self.layout.shim_dir(&record.sandbox_id), &request)
    }

    /// Closes and opens the container's log again, after it was rotated.
    ///
    /// # Errors
    /// [`RuntimeError::State`] unless it runs.
    pub fn reopen_container_log(&self, id: &str) -> Result<()> {
        let record = self.container(id)?;
        if record.phase != Phase::Running {
            return Err(wrong_state(&record, "only a running one has a log open"));
        }
        self.ask(&record.sandbox_id, &Request::ReopenLog { id: record.id }).map(drop)
    }
}

pub(super) fn wrong_state(record: &ContainerRecord, reason: &str) -> RuntimeError {
    let state = match record.phase {
        Phase::Creating | Phase::Ready => "being made",
        Phase::Created => "created",
        Phase::Running => "running",
        Phase::Ended => "exited",
    };
    RuntimeError::State {
        what: "container",
        id: record.id.clone(),
        state: state.into(),
        reason: reason.into(),
    }
}

pub(super) fn root_error(error: crate::root::RootError) -> RuntimeError {
    RuntimeError::Io { action: error.action, path: error.path, source: error.source }
}

pub(super) fn check(config: &ContainerConfig) -> Result<()> {
    let invalid = |field: &'static str, reason: &str| {
        Err(RuntimeError::InvalidArgument { field, reason: reason.into() })
    };
    if config.name.is_empty() {
        return invalid("name", "it is empty");
    }
    let is_inside =
        |path: &Path| path.components().all(|c| matches!(c, std::path::Component::Normal(_)));
    if !is_inside(&config.log_path) {
        return invalid("log_path", "it leaves the log directory");
    }
    if config.env.iter().any(|(k, v)| k.is_empty() || k.contains(['=', '\0']) || v.contains('\0')) {
        return invalid("env", "a name is empty or holds `=` or a zero byte");
    }
    Ok(())
}
