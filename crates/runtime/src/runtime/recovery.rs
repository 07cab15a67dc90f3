//! What is found after somebody died: half-made things, and containers whose shim is gone.

use std::fs;
use std::path::Path;

use super::{Result, Runtime};
use crate::cgroup::Cgroup;
use crate::record::{ContainerRecord, Phase, SandboxRecord, io_error, now, try_lock};
use crate::shim::{Request, Response};

impl Runtime {
    /// Looks at everything on disk once, at the opening.
    pub(super) fn recover(&self) -> Result<()> {
        for id in self.layout.container_ids()? {
            match self.layout.load_container(&id)? {
                Some(record) if record.phase == Phase::Creating => self.drop_half_made(&record)?,
                Some(record) => drop(self.current(record)?),
                // Not even a record yet: its maker holds a lock on the folder for as long as it lives.
                None => self.remove_abandoned(&self.layout.container_dir(&id))?,
            }
        }
        for id in self.layout.sandbox_ids()? {
            match self.layout.load_sandbox(&id)? {
                Some(record) if record.phase == Phase::Creating => {
                    if self.is_abandoned(&self.layout.sandbox_dir(&id))? {
                        self.clear_sandbox(&id)?;
                    }
                }
                Some(record) => drop(self.current_sandbox(record)?),
                None => self.remove_abandoned(&self.layout.sandbox_dir(&id))?,
            }
        }
        Ok(())
    }

    fn is_abandoned(&self, dir: &Path) -> Result<bool> {
        Ok(try_lock(&dir.join("lock"))?.is_some())
    }

    fn remove_abandoned(&self, dir: &Path) -> Result<()> {
        if self.is_abandoned(dir)? {
            remove_dir(dir)?;
        }
        Ok(())
    }

    /// A container without a maker: its shim may have finished it all the same.
    fn drop_half_made(&self, record: &ContainerRecord) -> Result<()> {
        let dir = self.layout.container_dir(&record.id);
        let Some(_lock) = try_lock(&dir.join("lock"))? else { return Ok(()) };
        if self.layout.shim_lives(&record.sandbox_id) {
            let request = Request::Knows { id: record.id.clone() };
            if self.ask(&record.sandbox_id, &request)? == Response::Answer(true) {
                return Ok(());
            }
        }
        self.clear_container(record)
    }

    /// A record as it is now: a container whose shim is gone is gone as well.
    pub(super) fn current(&self, mut record: ContainerRecord) -> Result<ContainerRecord> {
        if !matches!(record.phase, Phase::Created | Phase::Running)
            || self.layout.shim_lives(&record.sandbox_id)
        {
            return Ok(record);
        }
        // The shim may have written the end between the two looks.
        if let Some(newer) = self.layout.load_container(&record.id)? {
            record = newer;
        }
        if !matches!(record.phase, Phase::Created | Phase::Running) {
            return Ok(record);
        }
        self.kill_cgroup(&record)?;
        record.phase = Phase::Ended;
        record.pid = None;
        record.finished_at = now();
        record.exit_code = 255;
        record.reason = "ShimLost".into();
        record.message = "the process that held the container ended (machine restarted?)".into();
        self.layout.save_container(&record)?;
        Ok(record)
    }

    /// A sandbox whose shim is gone is not ready.
    pub(super) fn current_sandbox(&self, mut record: SandboxRecord) -> Result<SandboxRecord> {
        if record.phase != Phase::Ready || self.layout.shim_lives(&record.id) {
            return Ok(record);
        }
        if let Some(newer) = self.layout.load_sandbox(&record.id)? {
            record = newer;
        }
        if record.phase == Phase::Ready {
            record.phase = Phase::Ended;
            record.shim_pid = None;
            self.layout.save_sandbox(&record)?;
        }
        Ok(record)
    }

    /// Kills what is left of a container, without its shim.
    pub(super) fn kill_cgroup(&self, record: &ContainerRecord) -> Result<()> {
        let cgroup = Cgroup::at(&self.layout.container_cgroup(&record.sandbox_id, &record.id))?;
        cgroup.kill()?;
        cgroup.remove()?;
        Ok(())
    }

    /// Removes everything of a container that no shim holds.
    pub(super) fn clear_container(&self, record: &ContainerRecord) -> Result<()> {
        self.kill_cgroup(record)?;
        remove_dir(&self.layout.container_dir(&record.id))
    }

    /// Removes everything of a sandbox whose shim is gone.
    pub(super) fn clear_sandbox(&self, id: &str) -> Result<()> {
        let cgroup = Cgroup::at(&self.layout.sandbox_cgroup(id))?;
        cgroup.kill()?;
        cgroup.remove()?;
        remove_dir(&self.layout.shim_dir(id))?;
        remove_dir(&self.layout.sandbox_dir(id))
    }
}

/// Removes a folder with all it holds; not there: no error.
pub(super) fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(io_error("remove", dir)(e)),
    }
}
