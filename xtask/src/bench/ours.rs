//! Our own runtime: the release build, asked through the HTTPS door.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Runtime, written};
use crate::sid::Sid;
use crate::stand::{Program, Stand};

/// Its name in the tables.
pub(super) const NAME: &str = "cryopod";

const CONTAINER: &str = "bench";

pub(super) struct Ours<'a> {
    stand: Stand<'a>,
    program: PathBuf,
}

impl<'a> Ours<'a> {
    pub(super) fn start(sid: &'a Sid, ticker: &Path) -> Result<Self> {
        let program = Program::build(true)?;
        let stand = Stand::start_in(Path::new("/var/tmp"), sid, &program, &[])?;
        let root = stand.root();
        // The folders that every container's mounts need are made by the runtime.
        std::fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
        std::fs::copy(ticker, root.join("ticker")).context("copy the ticker")?;
        Ok(Ours { stand, program: program.path().to_owned() })
    }
}

impl Runtime for Ours<'_> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn begin(&mut self, mib: u64) -> Result<()> {
        self.stand.begin(CONTAINER, &["--network", "host"], &["/ticker", &mib.to_string()])
    }

    fn logs(&self) -> Result<Vec<PathBuf>> {
        let mut logs = Vec::new();
        let Ok(pods) = std::fs::read_dir(self.stand.folder().join("logs")) else { return Ok(logs) };
        for pod in pods {
            let Ok(files) = std::fs::read_dir(pod?.path().join(CONTAINER)) else { continue };
            logs.extend(files.flatten().map(|file| file.path()));
        }
        Ok(logs)
    }

    fn checkpoint(&mut self) -> Result<(PathBuf, Duration)> {
        self.stand.checkpoint_timed(CONTAINER)
    }

    fn destroy(&mut self) -> Result<()> {
        self.stand.run(&["rm", "--force", &format!("default/{CONTAINER}")]).map(drop)
    }

    fn restore(&mut self, archive: &Path) -> Result<()> {
        self.stand.restore(archive, &["--network", "host"])
    }

    fn written(&self) -> Result<i64> {
        written::of_all(|process| {
            std::fs::read_link(process.join("exe")).is_ok_and(|exe| exe == self.program)
        })
    }
}
