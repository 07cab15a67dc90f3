//! Strict readers for the files of /proc that the engine relies on (proc(5)).
//!
//! Every reader takes bytes, so that it can be tested without a process; the `of` functions name
//! the path in their error.

pub mod btf;
pub mod fdinfo;
pub mod kernel;
pub mod limits;
pub mod maps;
pub mod stat;
pub mod status;
pub mod tasks;
pub mod vmflags;

use std::io;

use crate::error::DumpError;

/// Reads `/proc/NAME` whole.
///
/// # Errors
/// [`DumpError::Proc`] with the path.
pub fn read(name: &str) -> Result<Vec<u8>, DumpError> {
    let path = format!("/proc/{name}");
    std::fs::read(&path).map_err(|source| DumpError::Proc { path, source })
}

/// The target of the link `/proc/NAME`.
///
/// # Errors
/// [`DumpError::Proc`] with the path.
pub fn link(name: &str) -> Result<std::path::PathBuf, DumpError> {
    let path = format!("/proc/{name}");
    std::fs::read_link(&path).map_err(|source| DumpError::Proc { path, source })
}

/// Builds the error for a file that was read and not understood.
pub(crate) fn malformed(name: &str, what: &str) -> DumpError {
    DumpError::Proc {
        path: format!("/proc/{name}"),
        source: io::Error::new(io::ErrorKind::InvalidData, what.to_owned()),
    }
}

/// Value of the line `KEY:\tvalue`, trimmed.
pub(crate) fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':').map(str::trim))
}
