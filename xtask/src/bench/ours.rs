//! Our own runtime: asked through the HTTPS door, or by the command where its report is wanted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use cryopod_testkit::loads;
use serde_json::Value;

use super::{How, Runtime, written};
use crate::sid::Sid;
use crate::stand::{Program, Stand};

/// Its name in the tables.
pub(super) const NAME: &str = "cryopod";

const CONTAINER: &str = "bench";

pub(super) struct Ours<'a> {
    stand: Stand<'a>,
    program: PathBuf,
    restore_options: String,
}

impl<'a> Ours<'a> {
    /// Starts a node; its root filesystem holds the ticker and these programs of the tree.
    pub(super) fn start(sid: &'a Sid, program: &Program, programs: &[&str]) -> Result<Self> {
        let stand = Stand::start_in(Path::new("/var/tmp"), sid, program, programs)?;
        let root = stand.root();
        // The folders that every container's mounts need are made by the runtime.
        std::fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
        std::fs::copy(loads::ticker(), root.join("ticker")).context("copy the ticker")?;
        let restore_options = stand.ok(&["restore", "--help"])?;
        Ok(Ours { stand, program: program.path().to_owned(), restore_options })
    }

    /// The root filesystem of its containers.
    pub(super) fn root(&self) -> PathBuf {
        self.stand.root()
    }

    /// Whether the binary can be asked for this kind of restore.
    pub(super) fn knows(&self, how: How) -> bool {
        how.option().is_none_or(|option| self.restore_options.contains(option))
    }

    /// Takes a checkpoint with the command; gives the archive and the runtime's report.
    pub(super) fn report(&self) -> Result<(PathBuf, Value)> {
        let archive = self.stand.folder().join("report.tar");
        let to = archive.to_str().context("the folder's path is not UTF-8")?;
        let target = format!("default/{CONTAINER}/{CONTAINER}");
        let text = self.stand.ok(&["checkpoint", &target, "--archive", to, "--output", "json"])?;
        let json = text.find('{').map_or("", |at| &text[at..]);
        let report = serde_json::Deserializer::from_str(json).into_iter().next();
        let report = report.with_context(|| format!("no report in {text:?}"))?;
        Ok((archive, report.with_context(|| format!("the report {text:?}"))?))
    }
}

impl Runtime for Ours<'_> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn begin(&mut self, words: &[&str]) -> Result<()> {
        self.stand.begin(CONTAINER, &["--network", "host"], words)
    }

    fn cgroup(&self) -> String {
        self.stand.cgroup()
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

    fn restore(&mut self, archive: &Path, how: How) -> Result<()> {
        let mut options = vec!["--network", "host"];
        options.extend(how.option().filter(|_| self.knows(how)));
        self.stand.restore(archive, &options)
    }

    fn written(&self) -> Result<i64> {
        written::of_all(|process| {
            std::fs::read_link(process.join("exe")).is_ok_and(|exe| exe == self.program)
        })
    }
}
