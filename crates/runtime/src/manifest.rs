//! `cryopod.json`: what our archives say beyond CRI-O's entries.
//!
//! An archive without it (CRI-O's own) can be restored all the same, with less: its log goes on at
//! a whole line, its clocks are the machine's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cryopod_archive::{Archive, MAX_METADATA, MetadataError};
use serde::{Deserialize, Serialize};

use crate::config::{ContainerConfig, SandboxConfig};
use crate::image::{ImageDefaults, Origin};
use crate::shim::Partial;

/// Name of the entry.
pub(crate) const NAME: &str = "cryopod.json";

/// Folder of the embedded base image: an OCI image layout, or one tar.
pub(crate) const IMAGE_DIR: &str = "image";

/// The tar of an embedded folder image.
pub(crate) const IMAGE_TREE: &str = "image/rootfs.tar";

/// What our archives say beyond CRI-O's entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    pub(crate) sandbox: SandboxConfig,
    pub(crate) container: ContainerConfig,
    pub(crate) image: ImageManifest,
    pub(crate) stop_signal: i32,
    pub(crate) clocks: Clocks,
    /// Lines without an end when the checkpoint was taken.
    pub(crate) partial: Partial,
    /// Contents of memory file systems.
    pub(crate) tmpfs: Vec<Tmpfs>,
    /// Nanoseconds since 1970.
    pub(crate) checkpointed_at: i64,
}

/// The base image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageManifest {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) origin: Origin,
    pub(crate) defaults: ImageDefaults,
    pub(crate) repo_tags: Vec<String>,
    pub(crate) repo_digests: Vec<String>,
    /// It is in the archive.
    pub(crate) embedded: bool,
}

/// The clocks a container sees that do not tell the time of day, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Clocks {
    pub(crate) monotonic: i64,
    pub(crate) boottime: i64,
}

/// The content of one memory file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tmpfs {
    /// Where it is mounted in the container.
    pub(crate) destination: PathBuf,
    /// Entry that holds it, a tar.
    pub(crate) entry: String,
}

/// The manifest of an archive; `None`: it has none.
pub(crate) fn read(archive: &Archive) -> Result<Option<Manifest>, MetadataError> {
    let Some(bytes) = archive.read_optional(NAME, MAX_METADATA)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|source| MetadataError::Json {
        path: archive.path().into(),
        name: NAME,
        source,
    })
}

fn host_clocks() -> Clocks {
    use rustix::time::{ClockId, clock_gettime};
    let read = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
    };
    Clocks { monotonic: read(ClockId::Monotonic), boottime: read(ClockId::Boottime) }
}

impl Clocks {
    /// What a process of the machine sees, whatever time namespace it is in. Called outside of time
    /// namespaces.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/timens_offsets"))?;
        let offsets = parse_offsets(&text);
        let now = host_clocks();
        Ok(Self {
            monotonic: now.monotonic.saturating_add(offsets.monotonic),
            boottime: now.boottime.saturating_add(offsets.boottime),
        })
    }

    /// Makes the clocks of children of this process go on from these. The process must have made a
    /// time namespace, in which there is no process yet.
    pub(crate) fn set_for_children(self) -> io::Result<()> {
        const SECOND: i64 = 1_000_000_000;
        let now = host_clocks();
        let line = |name: &str, offset: i64| {
            format!("{name} {} {}\n", offset.div_euclid(SECOND), offset.rem_euclid(SECOND))
        };
        let text = line("monotonic", self.monotonic.saturating_sub(now.monotonic))
            + &line("boottime", self.boottime.saturating_sub(now.boottime));
        fs::write(Path::new("/proc/self/timens_offsets"), text)
    }
}

fn parse_offsets(text: &str) -> Clocks {
    let mut clocks = Clocks::default();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let (name, seconds, nanoseconds) = (fields.next(), fields.next(), fields.next());
        let number = |field: Option<&str>| field.and_then(|f| f.parse::<i64>().ok()).unwrap_or(0);
        let offset =
            number(seconds).saturating_mul(1_000_000_000).saturating_add(number(nanoseconds));
        match name {
            Some("monotonic") => clocks.monotonic = offset,
            Some("boottime") => clocks.boottime = offset,
            _ => {}
        }
    }
    clocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_a_time_namespace_are_read() {
        let clocks = parse_offsets("monotonic     -3  500000000\nboottime       10         7\n");
        assert_eq!(clocks, Clocks { monotonic: -2_500_000_000, boottime: 10_000_000_007 });
    }

    #[test]
    fn a_process_outside_of_time_namespaces_sees_the_machines_clocks() {
        let own = Clocks::of(std::process::id().try_into().unwrap()).unwrap();
        assert!(own.monotonic <= host_clocks().monotonic && own.monotonic > 0);
    }
}
