//! podman with crun or runc, and criu.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Runtime;
use super::private::{CGROUP, Private};
use crate::stand::inside;

const CONTAINER: &str = "bench";

/// The image's name in podman's own store.
pub(super) const IMAGE: &str = "localhost/cryopod-bench";

/// Makes the image of the ticker; gives its name.
pub(super) fn image(private: &Private, ticker: &Path) -> Result<String> {
    let tar = private.folder().join("ticker.tar");
    let folder = ticker.parent().context("the ticker lies nowhere")?;
    let (tar_inside, folder) = (inside(&tar)?, inside(folder)?);
    let (tar, folder) = (tar_inside.to_string_lossy(), folder.to_string_lossy());
    private.ok(&["tar", "-C", &folder, "-cf", &tar, "ticker"])?;
    private.ok(&["podman", "import", "--change", "ENTRYPOINT [\"/ticker\"]", &tar, IMAGE])?;
    Ok(IMAGE.to_owned())
}

#[derive(Debug)]
pub(super) struct Podman<'a> {
    private: &'a Private,
    runtime: &'static str,
}

impl<'a> Podman<'a> {
    pub(super) fn new(private: &'a Private, runtime: &'static str) -> Self {
        Podman { private, runtime }
    }
}

impl Runtime for Podman<'_> {
    fn name(&self) -> &'static str {
        if self.runtime == "crun" { "podman + crun + criu" } else { "podman + runc + criu" }
    }

    fn begin(&mut self, mib: u64) -> Result<()> {
        let (parent, mib) = (format!("/{CGROUP}"), mib.to_string());
        let mut words = vec!["podman", "--runtime", self.runtime, "run", "--detach"];
        words.extend(["--name", CONTAINER, "--network", "host", "--log-driver", "k8s-file"]);
        words.extend(["--cgroup-parent", &parent, IMAGE, &mib]);
        self.private.ok(&words).map(drop)
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
        words.extend(["--leave-running", "--compress", "none", "--export", &to, CONTAINER]);
        let begun = Instant::now();
        self.private.ok(&words)?;
        Ok((archive, begun.elapsed()))
    }

    fn destroy(&mut self) -> Result<()> {
        self.private
            .ok(&["podman", "rm", "--force", "--ignore", "--time", "0", CONTAINER])
            .map(drop)
    }

    fn restore(&mut self, archive: &Path) -> Result<()> {
        let from = inside(archive)?;
        let from = from.to_string_lossy();
        let words =
            ["podman", "--runtime", self.runtime, "container", "restore", "--import", &from];
        self.private.ok(&words).map(drop)
    }

    fn written(&self) -> Result<i64> {
        self.private.written()
    }
}
