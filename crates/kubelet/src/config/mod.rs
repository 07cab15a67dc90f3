//! Configuration: the kubelet's own file, its drop-ins, our own document, and flags over them.
//!
//! [`load`] makes one [`Effective`] of them, in which every value knows where it comes from, and
//! finds everything that is wrong at once. [`check`] looks further, at the files, sockets and
//! addresses named, without changing anything.
//!
//! Where defaults differ, a kubelet has two sets: weak ones for flags without a file (anonymous
//! access, everything allowed) and secure ones for the file. Here the secure ones hold in either
//! case. Without a kubelet's file and without a kubeconfig the node stands alone: loopback, and
//! whoever holds a certificate of the client CA may.

mod check;
mod decode;
mod delegates;
mod document;
mod duration;
mod effective;
mod error;
mod extras;
mod flags;
mod kubelet;
mod load;
mod report;

pub use check::{CheckError, check, writable};
pub use decode::{FieldError, Unknown};
pub use delegates::DelegatesError;
pub use document::Origin;
pub(crate) use duration::nanos;
pub use duration::{DurationError, GoDuration};
pub use effective::{Authorization, Effective, Setting};
pub use error::{ConfigError, ConfigErrors};
pub use extras::Extras;
pub use flags::Flags;
pub use load::load;
pub use report::Row;
