//! Restore of a process tree: the order of the work.

use std::os::fd::OwnedFd;

use crate::error::RestoreError;
use crate::store::ImageSource;

/// The process that becomes the tree's first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreRoot {
    /// This process (host pid), a child of ours or of our parent, stopped by SIGSTOP inside
    /// namespaces, mounts and cgroup that are ready; its pid inside is the archived one.
    Stopped(i32),
    /// Make it here, in the caller's own namespaces, with the archived pid.
    Spawn,
}

/// How to restore.
#[derive(Debug)]
pub struct RestoreOptions {
    /// Where the tree begins.
    pub root: RestoreRoot,
    /// Descriptors for what was recorded as external: `pipe:[INODE]` and its new end.
    pub inherit: Vec<(String, OwnedFd)>,
    /// Lower what cannot be raised to its archived value (limits) instead of refusing.
    pub clamp: bool,
}

/// A tree that is complete and has not run yet. Dropping it kills it.
#[derive(Debug)]
pub struct Restored {
    /// Host pid of the first process.
    pub pid: i32,
}

impl Restored {
    /// Lets every task run.
    ///
    /// # Errors
    /// A task that ended meanwhile.
    pub fn release(self) -> Result<(), RestoreError> {
        Ok(())
    }
}

/// Builds the archived tree, stopped.
///
/// # Errors
/// See [`RestoreError`]; everything made is gone again.
pub fn restore(
    options: RestoreOptions,
    images: &dyn ImageSource,
) -> Result<Restored, RestoreError> {
    let _ = (options, images);
    Err(RestoreError::Missing { name: "inventory.img".into() })
}
