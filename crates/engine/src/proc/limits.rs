//! /proc/PID/limits: resource limits, readable without CAP_SYS_RESOURCE.

use super::{malformed, read};
use crate::error::DumpError;

/// No limit.
pub const UNLIMITED: u64 = u64::MAX;

/// Names as the kernel prints them, in the order of RLIMIT_*.
const NAMES: [&str; 16] = [
    "Max cpu time",
    "Max file size",
    "Max data size",
    "Max stack size",
    "Max core file size",
    "Max resident set",
    "Max processes",
    "Max open files",
    "Max locked memory",
    "Max address space",
    "Max file locks",
    "Max pending signals",
    "Max msgqueue size",
    "Max nice priority",
    "Max realtime priority",
    "Max realtime timeout",
];

fn value(text: &str) -> Option<u64> {
    if text == "unlimited" { Some(UNLIMITED) } else { text.parse().ok() }
}

fn parse(text: &str) -> Option<Vec<(u64, u64)>> {
    NAMES
        .iter()
        .map(|name| {
            let mut parts =
                text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace();
            Some((value(parts.next()?)?, value(parts.next()?)?))
        })
        .collect()
}

/// Soft and hard limits, indexed by RLIMIT_*.
///
/// # Errors
/// [`DumpError::Proc`].
pub fn of(pid: i32) -> Result<Vec<(u64, u64)>, DumpError> {
    let name = format!("{pid}/limits");
    let text = read(&name)?;
    parse(&String::from_utf8_lossy(&text)).ok_or_else(|| malformed(&name, "a limit is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_getrlimit() {
        let limits = of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let own = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert_eq!(limits[7].0, own.current.unwrap_or(UNLIMITED));
        assert_eq!(limits[7].1, own.maximum.unwrap_or(UNLIMITED));
        assert_eq!(limits.len(), 16);
    }
}
