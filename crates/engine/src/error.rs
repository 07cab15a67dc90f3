//! What can go wrong, told with process, resource and the way out.

use std::io;

/// One thing the engine will not carry, found before or in the freeze.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Pid of the process as the host sees it.
    pub pid: i32,
    /// Its name (comm).
    pub comm: String,
    /// What it holds: `descriptor 7: anon_inode:[io_uring]`.
    pub resource: String,
    /// What the caller can do about it.
    pub way_out: &'static str,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "process {} ({}) holds what cannot be checkpointed: {}; {}",
            self.pid, self.comm, self.resource, self.way_out
        )
    }
}

/// Why a dump failed. The container goes on in every case.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// An object kind the engine does not carry.
    #[error("{0}")]
    Refused(Refusal),
    /// The process to be dumped is not there.
    #[error("no process {pid}")]
    NoProcess {
        /// The pid asked for.
        pid: i32,
    },
    /// The caller cancelled or the time is over.
    #[error("cancelled")]
    Cancelled,
    /// A process or thread ended while it was being dumped.
    #[error("process {pid} ended during the checkpoint")]
    Vanished {
        /// Its pid.
        pid: i32,
    },
    /// A thread could not be stopped.
    #[error("thread {tid} of process {pid} does not stop: it is in uninterruptible sleep")]
    Stuck {
        /// Its process.
        pid: i32,
        /// The thread.
        tid: i32,
    },
    /// The tree kept changing while it was being stopped.
    #[error("the process tree of {pid} did not hold still in {rounds} rounds")]
    Restless {
        /// Pid of its first process.
        pid: i32,
        /// How often it was looked at.
        rounds: u32,
    },
    /// A call to the kernel failed.
    #[error("process {pid}: {what}")]
    Kernel {
        /// The process it was about.
        pid: i32,
        /// What was attempted.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A file of /proc was not understood.
    #[error("cannot read {path}")]
    Proc {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The images could not be written.
    #[error("cannot write image {name}")]
    Sink {
        /// The image.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The caller's own work before a stop, or inside the freeze, failed.
    #[error("work around the freeze failed")]
    WhileFrozen(#[source] io::Error),
}

/// Why a restore failed. Everything that was made is gone again.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// An image is missing.
    #[error("image {name} is missing")]
    Missing {
        /// Its name.
        name: String,
    },
    /// An image does not make sense.
    #[error("image {name}: {what}")]
    Image {
        /// Its name.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// The images could not be read.
    #[error("cannot read image {name}")]
    Source {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The machine lacks what the images need, or the images need what the engine does not carry.
    #[error("process {pid}: {what}; {way_out}")]
    Refused {
        /// Pid inside the container.
        pid: i32,
        /// What cannot be done.
        what: String,
        /// What the caller can do about it.
        way_out: &'static str,
    },
    /// A file differs from what it was at the checkpoint.
    #[error("file {path} is not the one of the checkpoint: {what}")]
    FileDiffers {
        /// Its path inside the container.
        path: String,
        /// The difference.
        what: String,
    },
    /// A call to the kernel failed.
    #[error("process {pid}: {what}")]
    Kernel {
        /// Pid inside the container (0: the helper itself).
        pid: i32,
        /// What was attempted.
        what: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Memory that comes late cannot be filled.
    #[error(transparent)]
    Fill(#[from] crate::lazy::FillError),
    /// A task under construction ended.
    #[error("process {pid} ended during its restore")]
    Vanished {
        /// Its pid.
        pid: i32,
    },
}
