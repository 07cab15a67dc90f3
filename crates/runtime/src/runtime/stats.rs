//! Statistics.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::containers::wrong_state;
use super::{Result, Runtime};
use crate::cgroup::Cgroup;
use crate::record::{ContainerRecord, Phase, now};
use crate::status::{
    ContainerFilter, ContainerState, ContainerStats, FilesystemUsage, PodFilter, PodSandboxStats,
};

impl Runtime {
    /// Statistics of one container that is created or running.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`](crate::RuntimeError::NotFound),
    /// [`RuntimeError::State`](crate::RuntimeError::State).
    pub fn container_stats(&self, id: &str) -> Result<ContainerStats> {
        let record = self.container(id)?;
        if !matches!(record.phase, Phase::Created | Phase::Running) {
            return Err(wrong_state(&record, "it uses nothing any more"));
        }
        self.stats(record)
    }

    /// Statistics of all containers that match and are created or running.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn list_container_stats(&self, filter: &ContainerFilter) -> Result<Vec<ContainerStats>> {
        let mut list = Vec::new();
        for status in self.list_containers(filter)? {
            if matches!(status.state, ContainerState::Created | ContainerState::Running)
                && let Some(record) = self.layout.load_container(&status.id)?
            {
                list.push(self.stats(record)?);
            }
        }
        Ok(list)
    }

    fn stats(&self, record: ContainerRecord) -> Result<ContainerStats> {
        let path = self.layout.container_cgroup(&record.sandbox_id, &record.id);
        let usage = Cgroup::at(&path)?.usage();
        let upper = self.layout.container_dir(&record.id).join("upper");
        Ok(ContainerStats {
            writable_layer: folder_usage(&upper),
            cpu: usage.cpu,
            memory: usage.memory,
            pids: usage.pids,
            id: record.id,
            sandbox_id: record.sandbox_id,
            config: record.config,
        })
    }

    /// Statistics of one sandbox.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`](crate::RuntimeError::NotFound).
    pub fn pod_sandbox_stats(&self, id: &str) -> Result<PodSandboxStats> {
        let record = self.sandbox(id)?;
        let filter =
            ContainerFilter { sandbox_id: Some(record.id.clone()), ..ContainerFilter::default() };
        let containers = self.list_container_stats(&filter)?;
        let usage = Cgroup::at(&self.layout.sandbox_cgroup(&record.id))?.usage();
        let pids = containers.iter().map(|c| c.pids).sum();
        Ok(PodSandboxStats {
            id: record.id,
            config: record.config,
            cpu: usage.cpu,
            memory: usage.memory,
            pids,
            containers,
        })
    }

    /// Statistics of all sandboxes that match.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn list_pod_sandbox_stats(&self, filter: &PodFilter) -> Result<Vec<PodSandboxStats>> {
        self.list_pod_sandboxes(filter)?.iter().map(|s| self.pod_sandbox_stats(&s.id)).collect()
    }
}

/// Disk used by a folder with all it holds. What vanishes meanwhile is not counted.
pub(super) fn folder_usage(dir: &Path) -> FilesystemUsage {
    let mut usage =
        FilesystemUsage { timestamp: now(), mountpoint: dir.into(), ..FilesystemUsage::default() };
    add(dir, &mut usage);
    usage
}

fn add(dir: &Path, usage: &mut FilesystemUsage) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        usage.inodes_used += 1;
        usage.used_bytes += meta.blocks() * 512;
        if meta.is_dir() {
            add(&entry.path(), usage);
        }
    }
}
