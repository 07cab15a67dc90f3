//! /proc/PID/fdinfo/FD: position and flags, and the lines each kind of file adds.

use super::{field, malformed, read};
use crate::error::DumpError;

/// The text of one fdinfo file with its common fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FdInfo {
    /// File position in bytes.
    pub position: u64,
    /// Open flags (octal in the file), O_CLOEXEC included.
    pub flags: u32,
    /// Id of the mount the file was opened on.
    pub mount_id: i32,
    /// The whole text.
    pub text: String,
}

impl FdInfo {
    /// Value of the line `key:`, trimmed.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        field(&self.text, key)
    }

    /// All lines that begin with `key:`, each the rest of its line.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.text
            .lines()
            .filter_map(move |line| line.strip_prefix(key)?.strip_prefix(':').map(str::trim))
    }

    fn parse(text: String) -> Option<Self> {
        Some(Self {
            position: field(&text, "pos")?.parse().ok()?,
            flags: u32::from_str_radix(field(&text, "flags")?, 8).ok()?,
            mount_id: field(&text, "mnt_id")?.parse().ok()?,
            text,
        })
    }
}

/// Reads the fdinfo of one descriptor.
///
/// # Errors
/// [`DumpError::Proc`].
pub fn of(pid: i32, fd: i32) -> Result<FdInfo, DumpError> {
    let name = format!("{pid}/fdinfo/{fd}");
    let text = String::from_utf8_lossy(&read(&name)?).into_owned();
    FdInfo::parse(text).ok_or_else(|| malformed(&name, "a field is missing or malformed"))
}

/// Descriptor numbers of a process, ascending.
///
/// # Errors
/// [`DumpError::Proc`].
pub fn descriptors(pid: i32) -> Result<Vec<i32>, DumpError> {
    let path = format!("/proc/{pid}/fd");
    let entries = std::fs::read_dir(&path)
        .map_err(|source| DumpError::Proc { path: path.clone(), source })?;
    let mut fds = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| DumpError::Proc { path: path.clone(), source })?;
        if let Some(fd) = entry.file_name().to_str().and_then(|n| n.parse().ok()) {
            fds.push(fd);
        }
    }
    fds.sort_unstable();
    Ok(fds)
}
