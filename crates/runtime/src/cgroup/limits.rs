//! Limits: CRI's and OCI's numbers, which are those of cgroup v1, and what v2 makes of them.

use std::path::PathBuf;

use super::{Cgroup, CgroupError, Result, is_writable, write};
use crate::config::Resources;

/// One line of the v1 device list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceRule {
    pub(crate) allow: bool,
    /// `c 1:3 rwm`, `a`.
    pub(crate) rule: String,
}

impl Cgroup {
    /// The folder whose hierarchy carries a controller, with the version; `None`: none does.
    fn controller(&self, name: &'static str) -> Option<(PathBuf, bool)> {
        for hierarchy in &self.hierarchies {
            let dir = hierarchy.root.join(&self.path);
            match &hierarchy.v1 {
                Some(_) if hierarchy.has(name) => return Some((dir, false)),
                None => {
                    let list =
                        std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
                    if list.split_whitespace().any(|c| c == name) {
                        return Some((dir, true));
                    }
                }
                Some(_) => {}
            }
        }
        None
    }

    fn required(&self, limit: &'static str, controller: &'static str) -> Result<(PathBuf, bool)> {
        self.controller(controller).ok_or(CgroupError::NoController { limit, controller })
    }

    /// Sets the limits that are given; the others stay as they are.
    pub(crate) fn limit(&self, resources: &Resources) -> Result<()> {
        self.limit_cpu(resources)?;
        self.limit_memory(resources)?;
        if let Some(limit) = resources.pids_limit {
            let (dir, _) = self.required("pids_limit", "pids")?;
            write(&dir.join("pids.max"), &amount(limit, "max"))?;
        }
        for (name, value) in
            [("cpuset.cpus", &resources.cpuset_cpus), ("cpuset.mems", &resources.cpuset_mems)]
        {
            if let Some(value) = value.as_ref().filter(|v| !v.is_empty()) {
                let (dir, _) = self.required("cpuset_cpus", "cpuset")?;
                write(&dir.join(name), value)?;
            }
        }
        for (name, value) in &resources.unified {
            if name.contains('/') || !name.contains('.') {
                return Err(CgroupError::Io {
                    action: "write",
                    path: name.into(),
                    source: std::io::ErrorKind::InvalidInput.into(),
                });
            }
            let v2 = self.hierarchies.iter().find(|h| h.v1.is_none());
            let v2 = v2.ok_or(CgroupError::NoController { limit: "unified", controller: "v2" })?;
            write(&v2.root.join(&self.path).join(name), value)?;
        }
        Ok(())
    }

    fn limit_cpu(&self, resources: &Resources) -> Result<()> {
        if let Some(shares) = resources.cpu_shares.filter(|s| *s > 0) {
            let (dir, v2) = self.required("cpu_shares", "cpu")?;
            if v2 {
                write(&dir.join("cpu.weight"), &weight(shares).to_string())?;
            } else {
                write(&dir.join("cpu.shares"), &shares.to_string())?;
            }
        }
        if resources.cpu_quota.is_none() && resources.cpu_period.is_none() {
            return Ok(());
        }
        let (dir, v2) = self.required("cpu_quota", "cpu")?;
        let period = resources.cpu_period.filter(|p| *p > 0);
        if v2 {
            let quota = resources.cpu_quota.map_or_else(|| "max".into(), |q| amount(q, "max"));
            let text = match period {
                Some(period) => format!("{quota} {period}"),
                None => quota,
            };
            return write(&dir.join("cpu.max"), &text);
        }
        // The old quota may be too small for the new period: without a quota any period is taken.
        if let Some(period) = period {
            if resources.cpu_quota.is_some() {
                write(&dir.join("cpu.cfs_quota_us"), "-1")?;
            }
            write(&dir.join("cpu.cfs_period_us"), &period.to_string())?;
        }
        match resources.cpu_quota {
            Some(quota) => write(&dir.join("cpu.cfs_quota_us"), &amount(quota, "-1")),
            None => Ok(()),
        }
    }

    fn limit_memory(&self, resources: &Resources) -> Result<()> {
        if let Some(limit) = resources.memory_limit {
            let (dir, v2) = self.required("memory_limit", "memory")?;
            if v2 {
                write(&dir.join("memory.max"), &amount(limit, "max"))?;
                if let Some(both) = resources.memory_swap_limit {
                    let swap = if both > 0 { (both - limit).max(0) } else { -1 };
                    let text = if swap < 0 { "max".into() } else { swap.to_string() };
                    write(&dir.join("memory.swap.max"), &text)?;
                }
            } else {
                self.limit_memory_v1(&dir, limit, resources.memory_swap_limit)?;
            }
        }
        if let Some(low) = resources.memory_low {
            let (dir, v2) = self.required("memory_low", "memory")?;
            let name = if v2 { "memory.low" } else { "memory.soft_limit_in_bytes" };
            write(&dir.join(name), &amount(low, if v2 { "0" } else { "-1" }))?;
        }
        Ok(())
    }

    /// In v1 the limit of memory must never be above that of memory and swap: which of the two is
    /// written first depends on whether they grow or shrink.
    fn limit_memory_v1(&self, dir: &std::path::Path, limit: i64, both: Option<i64>) -> Result<()> {
        let memory = dir.join("memory.limit_in_bytes");
        let swap = dir.join("memory.memsw.limit_in_bytes");
        let (limit, both) = (amount(limit, "-1"), both.map(|b| amount(b, "-1")));
        match both {
            Some(both) if is_writable(&swap) => {
                if write(&memory, &limit).is_ok() {
                    return write(&swap, &both);
                }
                write(&swap, &both)?;
                write(&memory, &limit)
            }
            _ => write(&memory, &limit),
        }
    }

    /// Says which devices may be used. In v2 that takes a BPF program: there, devices are kept away
    /// by the missing capability and by file systems mounted without devices.
    pub(crate) fn allow_devices(&self, rules: &[DeviceRule]) -> Result<()> {
        let Some(hierarchy) = self.hierarchies.iter().find(|h| h.has("devices")) else {
            return Ok(());
        };
        let dir = hierarchy.root.join(&self.path);
        for rule in rules {
            let name = if rule.allow { "devices.allow" } else { "devices.deny" };
            write(&dir.join(name), &rule.rule)?;
        }
        Ok(())
    }
}

fn amount(value: i64, unlimited: &str) -> String {
    if value > 0 { value.to_string() } else { unlimited.into() }
}

/// cgroup v1 shares (2 to 262144, default 1024) as a v2 weight (1 to 10000, default 100).
///
/// The curve of the OCI runtimes since 2025, which maps the three pairs onto each other.
fn weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let l = (shares as f64).log2();
    let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
    (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights_end_to_end() {
        assert_eq!(weight(2), 1);
        assert_eq!(weight(1024), 100);
        assert_eq!(weight(262_144), 10_000);
    }

    #[test]
    fn nothing_and_negative_mean_no_limit() {
        assert_eq!(amount(-1, "max"), "max");
        assert_eq!(amount(0, "-1"), "-1");
        assert_eq!(amount(7, "max"), "7");
    }
}
