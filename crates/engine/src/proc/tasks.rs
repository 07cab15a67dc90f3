//! Threads and children of a process, and the processes of a cgroup.

use std::path::Path;

use super::{malformed, read};
use crate::error::DumpError;

/// Thread ids of a process, in the kernel's order (leader first).
///
/// # Errors
/// [`DumpError::Proc`].
pub fn threads(pid: i32) -> Result<Vec<i32>, DumpError> {
    let path = format!("/proc/{pid}/task");
    let entries = std::fs::read_dir(&path)
        .map_err(|source| DumpError::Proc { path: path.clone(), source })?;
    let mut tids = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| DumpError::Proc { path: path.clone(), source })?;
        if let Some(tid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) {
            tids.push(tid);
        }
    }
    Ok(tids)
}

/// Children of all threads of a process, as the reader's pid namespace numbers them
/// (CONFIG_PROC_CHILDREN).
///
/// # Errors
/// [`DumpError::Proc`].
pub fn children(pid: i32) -> Result<Vec<i32>, DumpError> {
    let mut all = Vec::new();
    for tid in threads(pid)? {
        let name = format!("{pid}/task/{tid}/children");
        let text = match read(&name) {
            Ok(text) => text,
            // The thread ended between the listing and now.
            Err(DumpError::Proc { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound
                    || source.raw_os_error() == Some(libc::ESRCH) =>
            {
                continue;
            }
            Err(e) => return Err(e),
        };
        for pid in String::from_utf8_lossy(&text).split_whitespace() {
            all.push(pid.parse().map_err(|_| malformed(&name, "not a pid"))?);
        }
    }
    Ok(all)
}

/// Process ids in a `cgroup.procs` file.
///
/// # Errors
/// [`DumpError::Proc`].
pub fn of_cgroup(procs: &Path) -> Result<Vec<i32>, DumpError> {
    let err = |source| DumpError::Proc { path: procs.display().to_string(), source };
    let text = std::fs::read_to_string(procs).map_err(err)?;
    text.split_whitespace()
        .map(|n| {
            n.parse()
                .map_err(|_| err(std::io::Error::new(std::io::ErrorKind::InvalidData, "not a pid")))
        })
        .collect()
}
