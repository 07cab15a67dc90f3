//! podman with crun or runc, and criu.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::private::{CGROUP, Private};
use super::{How, Runtime};
use crate::stand::inside;

const CONTAINER: &str = "bench";

/// The image's name in podman's own store.
pub(super) const IMAGE: &str = "localhost/cryopod-bench";

/// Makes an image of a root filesystem; gives its name.
pub(super) fn image(private: &Private, root: &Path) -> Result<String> {
    let tar = private.folder().join("image.tar");
    let (tar_inside, folder) = (inside(&tar)?, inside(root)?);
    let (tar_inside, folder) = (tar_inside.to_string_lossy(), folder.to_string_lossy());
    private.ok(&["tar", "-C", &folder, "-cf", &tar_inside, "."])?;
    // What containerd pins as the pod's own image has to start by itself.
    private.ok(&[
        "podman",
        "import",
        "--change",
        "ENTRYPOINT [\"/ticker\"]",
        &tar_inside,
        IMAGE,
    ])?;
    std::fs::remove_file(&tar).with_context(|| tar.display().to_string())?;
    Ok(IMAGE.to_owned())
}

#[derive(Debug)]
pub(super) struct Podman<'a> {
    private: &'a Private,
    runtime: &'static str,
    /// It has connections that criu must be told to take along.
    connected: bool,
}

impl<'a> Podman<'a> {
    pub(super) fn new(private: &'a Private, runtime: &'static str) -> Self {
        Podman { private, runtime, connected: false }
    }
}

impl Runtime for Podman<'_> {
    fn name(&self) -> &'static str {
        if self.runtime == "crun" { "podman + crun + criu" } else { "podman + runc + criu" }
    }

    fn begin(&mut self, program: &[&str]) -> Result<()> {
        let parent = format!("/{CGROUP}");
        let (entry, arguments) = program.split_first().context("no program")?;
        self.connected = *entry != "/ticker";
        let mut words = vec!["podman", "--runtime", self.runtime, "run", "--detach"];
        words.extend(["--name", CONTAINER, "--network", "host", "--log-driver", "k8s-file"]);
        words.extend(["--cgroup-parent", &parent, "--entrypoint", entry, IMAGE]);
        words.extend(arguments);
        self.private.ok(&words).map(drop)
    }

    fn cgroup(&self) -> String {
        CGROUP.to_owned()
    }

    fn logs(&self) -> Result<Vec<PathBuf>> {
        let folder = self.private.outside("/var/lib/containers/storage/overlay-containers");
        let Ok(containers) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
        Ok(containers.flatten().map(|entry| entry.path().join("userdata/ctr.log")).collect())
    }

    fn checkpoint(&mut self) -> Result<(PathBuf, Duration)> {
        let archive = self.private.folder().join("podman.tar");
        let to = inside(&archive)?;
        let mut words = vec!["podman", "--runtime", self.runtime, "container", "checkpoint"];
        let to = to.to_string_lossy();
        words.extend(["--leave-running", "--compress", "none", "--export", &to]);
        words.extend(self.connected.then_some("--tcp-established"));
        words.push(CONTAINER);
        let begun = Instant::now();
        self.private.ok(&words)?;
        Ok((archive, begun.elapsed()))
    }

    fn destroy(&mut self) -> Result<()> {
        self.private
            .ok(&["podman", "rm", "--force", "--ignore", "--time", "0", CONTAINER])
            .map(drop)
    }

    fn restore(&mut self, archive: &Path, _: How) -> Result<()> {
        let from = inside(archive)?;
        let from = from.to_string_lossy();
        let mut words = vec!["podman", "--runtime", self.runtime, "container", "restore"];
        words.extend(self.connected.then_some("--tcp-established"));
        words.extend(["--import", &from]);
        self.private.ok(&words).map(drop)
    }

    fn written(&self) -> Result<i64> {
        self.private.written()
    }
}
