//! Why an archive cannot be written.

use std::io;
use std::path::PathBuf;

/// Why an archive cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The directory is not one, or somebody else may change what is in it.
    #[error("{path}: {what}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A system call failed.
    #[error("{path}: cannot {action}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The archive's name is taken; another may be tried.
    #[error("{path} exists")]
    Exists {
        /// The name.
        path: PathBuf,
    },
    /// An entry's name is not exact, or taken.
    #[error("entry {name:?}: {what}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A call that does not fit the state: data without an entry, an entry within another.
    #[error("entry {name:?}: {what}")]
    Order {
        /// The entry.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
}

/// The same error once more.
pub(crate) fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
