//! Bytes that processes have written to disks (proc_pid_io(5)).

use std::path::Path;

use anyhow::Result;

/// Those of this process and of the children it has waited for.
pub(super) fn own() -> Result<i64> {
    Ok(of("self").unwrap_or_default())
}

/// Those of every process for which `belongs` holds, given its folder below /proc.
pub(super) fn of_all(belongs: impl Fn(&Path) -> bool) -> Result<i64> {
    let mut sum = 0;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().filter(|name| name.parse::<u32>().is_ok()) else { continue };
        if belongs(&entry.path()) {
            sum += of(pid).unwrap_or_default();
        }
    }
    Ok(sum)
}

fn of(process: &str) -> Option<i64> {
    sum(&std::fs::read_to_string(format!("/proc/{process}/io")).ok()?)
}

fn sum(text: &str) -> Option<i64> {
    let field = |name: &str| -> Option<i64> {
        text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
    };
    Some(field("write_bytes:")? - field("cancelled_write_bytes:")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_back_is_not_written() {
        let text =
            "rchar: 1\nwchar: 2\nread_bytes: 3\nwrite_bytes: 100\ncancelled_write_bytes: 30\n";
        assert_eq!(sum(text), Some(70));
        assert_eq!(sum("rchar: 1\n"), None);
    }
}
