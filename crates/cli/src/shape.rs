//! What an archive's container was like, of what a restore by command takes over without being told
//! to: its limits, its read-only root, its host name. Nothing of it reaches out of the container. The
//! archive is foreign: numbers are checked by the runtime like those of any request.

use std::path::Path;

use cryopod_archive::{Archive, MetadataError};
use cryopod_cri::v1;
use serde::Deserialize;

use crate::quantity::bytes_text;

/// The parts of an OCI spec that matter here.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Shape {
    #[serde(default)]
    pub(crate) hostname: String,
    #[serde(default)]
    root: Root,
    #[serde(default)]
    linux: Linux,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Root {
    #[serde(default)]
    readonly: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Linux {
    #[serde(default)]
    resources: Resources,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Resources {
    memory: Memory,
    cpu: Cpu,
    pids: Pids,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Memory {
    limit: i64,
    swap: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Cpu {
    shares: i64,
    quota: i64,
    period: i64,
    cpus: String,
    mems: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Pids {
    limit: i64,
}

/// Reads it from an archive.
pub(crate) fn read(path: &Path) -> Result<Shape, MetadataError> {
    Archive::open(path)?.spec()
}

impl Shape {
    pub(crate) fn readonly_root(&self) -> bool {
        self.root.readonly
    }

    /// Its limits as a request has them; 0: none.
    pub(crate) fn resources(&self) -> v1::LinuxContainerResources {
        let Resources { memory, cpu, pids } = &self.linux.resources;
        v1::LinuxContainerResources {
            memory_limit_in_bytes: memory.limit,
            memory_swap_limit_in_bytes: memory.swap,
            cpu_shares: cpu.shares,
            cpu_quota: cpu.quota,
            cpu_period: cpu.period,
            cpuset_cpus: cpu.cpus.clone(),
            cpuset_mems: cpu.mems.clone(),
            unified: match pids.limit {
                0 => Default::default(),
                limit if limit < 0 => [("pids.max".to_owned(), "max".to_owned())].into(),
                limit => [("pids.max".to_owned(), limit.to_string())].into(),
            },
            ..Default::default()
        }
    }

    /// Its limits for people; empty: none.
    pub(crate) fn limits(&self) -> Vec<String> {
        let Resources { memory, cpu, pids } = &self.linux.resources;
        let mut limits = Vec::new();
        if let Ok(bytes @ 1..) = u64::try_from(memory.limit) {
            limits.push(format!("{} of memory", bytes_text(bytes)));
        }
        if cpu.quota > 0 && cpu.period > 0 {
            limits.push(format!("{} us of processor time in {} us", cpu.quota, cpu.period));
        }
        if pids.limit > 0 {
            limits.push(format!("{} tasks", pids.limit));
        }
        limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_taken_over_and_what_reaches_out_is_not() {
        let spec = r#"{"hostname": "h", "root": {"path": "rootfs", "readonly": true},
            "process": {"capabilities": {"bounding": ["CAP_SYS_ADMIN"]}},
            "mounts": [{"destination": "/x", "source": "/"}],
            "linux": {"resources": {"memory": {"limit": 1048576}, "pids": {"limit": 7},
                "cpu": {"quota": 5000, "period": 10000}, "devices": [{"allow": true}]}}}"#;
        let shape: Shape = serde_json::from_str(spec).unwrap();
        assert!(shape.readonly_root());
        assert_eq!(shape.hostname, "h");
        let expected = v1::LinuxContainerResources {
            memory_limit_in_bytes: 1 << 20,
            cpu_quota: 5000,
            cpu_period: 10000,
            unified: [("pids.max".to_owned(), "7".to_owned())].into(),
            ..Default::default()
        };
        assert_eq!(shape.resources(), expected);
        assert_eq!(shape.limits().len(), 3);
        let none: Shape = serde_json::from_str("{}").unwrap();
        assert_eq!(none.resources(), v1::LinuxContainerResources::default());
        assert!(none.limits().is_empty());
    }
}
