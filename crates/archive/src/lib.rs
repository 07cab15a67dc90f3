//! The checkpoint tar: layout, written once, read by seeking, verified. Blocking std code.
//!
//! - [`ArchiveWriter`] writes an archive front to back under a hidden name and shows it whole.
//! - [`Archive`] opens one that anybody may have made, reads headers only, and finds damage by the
//!   digests that the writer left ([`DIGESTS_NAME`]).
//! - [`pack_upper`] and [`pack_tree`] make the tars that are entries of it; [`unpack_diff`] and
//!   [`unpack_tree`] put them back.
//! - [`metadata`] says what the small entries mean, [`list_dir`] what a directory of archives holds.

mod chunks;
mod digests;
mod listing;
pub mod metadata;
mod partial;
mod pipe;
mod reader;
mod revise;
mod tar;
mod tree;
mod verify;
mod write_error;
mod writer;

pub use blake3::Hash;
pub use cryopod_sys::revise::{Content, Edit};
pub use digests::{CHUNK, DIGESTS_NAME, TableError};
pub use listing::{Listed, list_dir};
pub use metadata::{
    BindMount, ConfigDump, Engine, Identity, MAX_METADATA, MetadataError, Summary, ZERO_TIME,
    names, to_json,
};
pub use partial::{is_partial, remove_partial};
pub use reader::{Archive, Entry, EntryReader, MAX_ENTRIES, MAX_NAME, ReadError, Verified};
pub use tar::Kind;
pub use tar::decode::TarError;
pub use tree::pack::{Packed, pack_tree, pack_upper};
pub use tree::unpack::{Limits, Unpacked, remove_deleted, unpack_diff, unpack_tree};
pub use tree::{Note, NoteKind, TreeError};
pub use write_error::WriteError;
pub use writer::{ArchiveWriter, DATA_ALIGN, EntryData, Finished};
