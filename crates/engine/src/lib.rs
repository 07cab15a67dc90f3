//! Dump and restore of a process tree.
//!
//! A stopped thread is made to run system calls chosen by the engine ([`inject`]); the same
//! mechanism serves dump and restore. Everything here is blocking and single-threaded: ptrace
//! belongs to one thread. One module holds one kind of kernel object, with how it is seen, what is
//! stored (CRIU's messages) and how it is made again, side by side.
//!
//! Relies on Linux >= 6.7, x86_64.

pub mod areas;
pub mod credentials;
pub mod dump;
pub mod error;
pub mod files;
pub mod inject;
pub mod lazy;
pub mod memory;
pub mod proc;
pub mod registers;
pub mod restore;
pub mod scheduling;
pub mod seccomp;
pub mod segments;
pub mod seize;
pub mod signals;
pub mod spans;
pub mod staging;
pub mod store;
pub mod timers;
pub mod tracking;
pub mod waits;
pub mod witness;

pub use dump::{DumpOptions, DumpReport, Moments, Phases, dump};
pub use error::{DumpError, Refusal, RestoreError};
pub use lazy::{FillError, Filling, Lazy, Watcher};
pub use restore::{RestoreOptions, RestoreRoot, Restored, restore};
pub use store::{
    CheckPages, Content, DirectorySink, DirectorySource, Edit, ImageSink, ImageSource, Pages,
};
pub use witness::{Witness, WitnessError};
