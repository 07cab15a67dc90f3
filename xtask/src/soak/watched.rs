//! A verifier in a container: asked by SIGUSR1 to check all it owns, it prints a verdict.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use crate::processes;
use crate::stand::Stand;

/// The longest a check takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The verifier's word on a line, for a number of checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// With its figures.
    Well(String),
    /// With what it found.
    Wrong(String),
}

/// Its verdict on check `number`, or what it found before, or nothing yet.
pub(super) fn verdict<'l>(lines: impl Iterator<Item = &'l str>, number: u64) -> Option<Verdict> {
    let mut found = None;
    for line in lines {
        if let Some(what) = line.strip_prefix("FAIL ") {
            return Some(Verdict::Wrong(what.to_owned()));
        }
        let told = line.strip_prefix("checked ").and_then(|rest| rest.split_once(' '));
        match told {
            Some((count, rest)) if count == number.to_string() => {
                found = Some(match rest.strip_prefix("ok ") {
                    Some(figures) => Verdict::Well(figures.to_owned()),
                    None => Verdict::Wrong(line.to_owned()),
                });
            }
            _ => {}
        }
    }
    found
}

/// A verifier in a container of the stand.
#[derive(Debug)]
pub(super) struct Watched<'s> {
    stand: &'s Stand<'s>,
    /// The container's name, and its pod's.
    pub(super) name: String,
    /// Its first process, as the machine numbers it.
    pub(super) pid: u32,
    /// How often it was asked: in its memory, so that a copy goes on with it.
    pub(super) asked: u64,
}

impl<'s> Watched<'s> {
    /// Starts one and waits until it is ready.
    pub(super) fn start(stand: &'s Stand<'s>, name: &str, mib: u64) -> Result<Self> {
        stand.begin(name, &["--network", "host"], &["/verifier", &mib.to_string()])?;
        stand.wait("the verifier", || {
            Ok(stand.lines(name)?.iter().any(|line| line == "ready").then_some(()))
        })?;
        Self::find(stand, name, 0)
    }

    /// The one that was started last.
    pub(super) fn find(stand: &'s Stand<'s>, name: &str, asked: u64) -> Result<Self> {
        let pid = processes::first(&stand.cgroup(), "verifier").context("no verifier runs")?;
        Ok(Watched { stand, name: name.to_owned(), pid, asked })
    }

    /// Lets it check all; its figures.
    ///
    /// # Errors
    /// With what it found, and when it is gone or says nothing.
    pub(super) fn check(&mut self) -> Result<String> {
        processes::signal(self.pid, Signal::USR1)?;
        self.asked += 1;
        let end = Instant::now() + PATIENCE;
        loop {
            let lines = self.stand.lines(&self.name)?;
            match verdict(lines.iter().map(String::as_str), self.asked) {
                Some(Verdict::Well(figures)) => return Ok(figures),
                Some(Verdict::Wrong(what)) => bail!("{} found: {what}", self.name),
                None => {}
            }
            if processes::words(self.pid).first().is_none_or(|word| word != "/verifier") {
                bail!("{} is gone; its last line: {:?}", self.name, lines.last());
            }
            if Instant::now() > end {
                bail!("{} says nothing; its last line: {:?}", self.name, lines.last());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it printed.
    pub(super) fn printed(&self) -> String {
        self.stand.lines(&self.name).map_or_else(|error| error.to_string(), |all| all.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_that_of_its_number_and_a_failure_of_any() {
        let lines = ["ready", "checked 1 ok pages=5", "checked 2 FAIL"];
        let of = |number| verdict(lines.into_iter(), number);
        assert_eq!(of(1), Some(Verdict::Well("pages=5".to_owned())));
        assert!(matches!(of(2), Some(Verdict::Wrong(_))));
        assert_eq!(of(3), None);
        let failed = ["checked 1 ok pages=5", "FAIL own: page"];
        assert_eq!(verdict(failed.into_iter(), 1), Some(Verdict::Wrong("own: page".to_owned())));
    }
}
