//! What a cgroup has used.

use std::fs;
use std::path::Path;

use super::Cgroup;
use crate::record::now;
use crate::status::{CpuUsage, MemoryUsage};

/// Processor time, memory and tasks of one cgroup with all below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) cpu: CpuUsage,
    pub(crate) memory: MemoryUsage,
    pub(crate) pids: u64,
}

impl Cgroup {
    /// What it has used so far. What no hierarchy counts is 0.
    pub(crate) fn usage(&self) -> Usage {
        let timestamp = now();
        let mut usage = Usage {
            cpu: CpuUsage { timestamp, usage_core_nanoseconds: 0 },
            memory: MemoryUsage { timestamp, ..MemoryUsage::default() },
            pids: self.processes().len() as u64,
        };
        for hierarchy in &self.hierarchies {
            let dir = hierarchy.root.join(&self.path);
            if hierarchy.has("cpuacct") {
                usage.cpu.usage_core_nanoseconds = number(&dir, "cpuacct.usage").unwrap_or(0);
            }
            if hierarchy.has("memory") {
                usage.memory = memory_v1(&dir, timestamp);
            }
            if hierarchy.has("pids")
                && let Some(pids) = number(&dir, "pids.current")
            {
                usage.pids = pids;
            }
            if hierarchy.v1.is_none() {
                if usage.cpu.usage_core_nanoseconds == 0 {
                    usage.cpu.usage_core_nanoseconds =
                        field(&dir, "cpu.stat", "usage_usec").unwrap_or(0) * 1000;
                }
                if dir.join("memory.current").exists() {
                    usage.memory = memory_v2(&dir, timestamp);
                }
                if let Some(pids) = number(&dir, "pids.current") {
                    usage.pids = pids;
                }
            }
        }
        usage
    }

    /// How often the kernel killed a process of it because memory ran out.
    pub(crate) fn oom_kills(&self) -> u64 {
        self.dirs()
            .filter_map(|dir| {
                field(&dir, "memory.oom_control", "oom_kill")
                    .or_else(|| field(&dir, "memory.events", "oom_kill"))
            })
            .sum()
    }
}

fn memory_v1(dir: &Path, timestamp: i64) -> MemoryUsage {
    let usage = number(dir, "memory.usage_in_bytes").unwrap_or(0);
    let stat = |name| field(dir, "memory.stat", name).unwrap_or(0);
    let limit = stat("hierarchical_memory_limit");
    MemoryUsage {
        timestamp,
        usage_bytes: usage,
        working_set_bytes: usage.saturating_sub(stat("total_inactive_file")),
        rss_bytes: stat("total_rss"),
        // v1 knows no word for "none": the largest page-aligned number stands for it.
        limit_bytes: (limit > 0 && limit < u64::MAX / 4).then_some(limit),
        page_faults: stat("total_pgfault"),
        major_page_faults: stat("total_pgmajfault"),
    }
}

fn memory_v2(dir: &Path, timestamp: i64) -> MemoryUsage {
    let usage = number(dir, "memory.current").unwrap_or(0);
    let stat = |name| field(dir, "memory.stat", name).unwrap_or(0);
    MemoryUsage {
        timestamp,
        usage_bytes: usage,
        working_set_bytes: usage.saturating_sub(stat("inactive_file")),
        rss_bytes: stat("anon"),
        limit_bytes: number(dir, "memory.max"),
        page_faults: stat("pgfault"),
        major_page_faults: stat("pgmajfault"),
    }
}

fn number(dir: &Path, name: &str) -> Option<u64> {
    fs::read_to_string(dir.join(name)).ok()?.trim().parse().ok()
}

fn field(dir: &Path, file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(dir.join(file)).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == name).then(|| value.trim().parse().ok())?
    })
}
