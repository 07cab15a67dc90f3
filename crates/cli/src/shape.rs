//! The limits of a container as a command shows them.

use cryopod_cri::v1;

use crate::quantity::bytes_text;

/// Limits of a request for people; empty: none.
pub(crate) fn limits(resources: &v1::LinuxContainerResources) -> Vec<String> {
    let mut limits = Vec::new();
    if let Ok(bytes @ 1..) = u64::try_from(resources.memory_limit_in_bytes) {
        limits.push(format!("{} of memory", bytes_text(bytes)));
    }
    let (quota, period) = (resources.cpu_quota, resources.cpu_period);
    if quota > 0 && period > 0 {
        limits.push(format!("{quota} us of processor time in {period} us"));
    }
    if let Some(pids) = resources.unified.get("pids.max").filter(|pids| *pids != "max") {
        limits.push(format!("{pids} tasks"));
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_limits_is_shown() {
        assert!(limits(&v1::LinuxContainerResources::default()).is_empty());
        let pids = |text: &str| [("pids.max".to_owned(), text.to_owned())].into();
        let resources = v1::LinuxContainerResources {
            memory_limit_in_bytes: 1 << 20,
            cpu_quota: 5000,
            cpu_period: 10000,
            unified: pids("7"),
            ..Default::default()
        };
        assert_eq!(limits(&resources).len(), 3);
        assert_eq!(limits(&resources)[2], "7 tasks");
        let open = v1::LinuxContainerResources {
            memory_limit_in_bytes: -1,
            cpu_quota: -1,
            cpu_period: 10000,
            unified: pids("max"),
            ..Default::default()
        };
        assert!(limits(&open).is_empty());
    }
}
