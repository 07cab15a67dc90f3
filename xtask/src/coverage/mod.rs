//! `cargo xtask coverage`: what the engine carries, kind by kind.
//!
//! | column | what is done |
//! |---|---|
//! | dump | our dump, the victim left running and then asked |
//! | restore | our dump, the victim ended, our restore |
//! | to criu | our dump, stock criu restores |
//! | from criu | stock criu dumps, our restore |
//!
//! The first two run in the host's namespaces, the others in the sid tree's. A victim that must be refused passes when the
//! dump fails and names what the table says, and the victim goes on unharmed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use cryopod_testkit::{Criu, Fate, Running, Verdict, Victim, adopt, gap, reap};

use crate::criu;
use crate::judge::chosen;
use crate::report::{cell, print_table};
use crate::sid::{Answer, Guest, Sid, checkout, sweep};

const LIMIT: Duration = Duration::from_secs(20);

/// What to run.
#[derive(Debug)]
pub(crate) struct Choice {
    /// Names; empty: all.
    pub(crate) victims: Vec<String>,
    /// The engine's program, when not the example.
    pub(crate) engine: Option<PathBuf>,
    /// Keep the folders of failures.
    pub(crate) keep: bool,
}

/// One cell of the table.
#[derive(Debug)]
enum Cell {
    /// As it must be.
    Passes,
    /// Not, and why.
    Fails(String),
    /// Nothing to try: why.
    Void(&'static str),
    /// The machine lacks something.
    Skipped(String),
}

impl Cell {
    fn of(outcome: Result<Verdict>) -> Cell {
        match outcome {
            Ok(Verdict::Ok) => Cell::Passes,
            Ok(Verdict::Skip(why)) => Cell::Skipped(why),
            Ok(Verdict::Fail(why)) => Cell::Fails(why),
            Err(error) => Cell::Fails(format!("{error:#}")),
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Cell::Passes => "yes",
            Cell::Fails(_) => "NO",
            Cell::Void(_) => "-",
            Cell::Skipped(_) => "SKIPPED",
        }
    }
}

/// The engine as a program.
#[derive(Debug)]
struct Engine {
    program: PathBuf,
}

impl Engine {
    fn find(given: Option<&Path>) -> Result<Self> {
        if let Some(program) = given {
            let program = program.canonicalize().with_context(|| program.display().to_string())?;
            return Ok(Engine { program });
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args(["build", "--quiet", "--package", "cryopod-engine", "--example", "engine"])
            .current_dir(checkout())
            .status()
            .context("start cargo build")?;
        ensure!(status.success(), "the example `engine` of the engine crate does not build");
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| checkout().join("target"), PathBuf::from);
        let program = target.join("debug/examples/engine");
        Ok(Engine { program: program.canonicalize().context("the engine example")? })
    }

    fn dump(&self, sid: Option<&Sid>, pid: u32, images: &Path, leave: bool) -> Result<()> {
        let pid = pid.to_string();
        let images = images.to_string_lossy().into_owned();
        let mut arguments = vec!["dump", "--pid", &pid, "--images", &images];
        if leave {
            arguments.push("--leave-running");
        }
        self.run(sid, &arguments)
    }

    fn restore(&self, sid: Option<&Sid>, images: &Path) -> Result<()> {
        self.run(sid, &["restore", "--images", &images.to_string_lossy()])
    }

    fn run(&self, sid: Option<&Sid>, arguments: &[&str]) -> Result<()> {
        // in the tree the host's files are below /host
        let mut command = match sid {
            None => {
                let mut command = Command::new("timeout");
                command.args(["-s", "KILL", "20"]).arg(&self.program);
                command
            }
            Some(sid) => {
                let mut command = sid.command("timeout");
                let program = Path::new("/host").join(self.program.strip_prefix("/")?);
                command.args(["-s", "KILL", "20"]).arg(program);
                command
            }
        };
        command.args(arguments);
        let answer = Answer::of(command)?;
        if answer.status.success() {
            return Ok(());
        }
        bail!("our {}: {}: {}", arguments[0], answer.status, answer.text)
    }
}

/// Prints the table; true when no cell says NO.
pub(crate) fn coverage(sid: Option<&Sid>, choice: &Choice) -> Result<bool> {
    let engine = Engine::find(choice.engine.as_deref())?;
    adopt()?;
    let mut gaps = 0;
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    let mut passed = 0;
    let mut skipped = 0;
    for victim in chosen(&choice.victims)? {
        let keep = choice.keep;
        let cells = match victim.fate {
            Fate::Refused(named) => {
                let dump = Cell::of(refuse(&engine, victim, named));
                [dump, Cell::Void("refused"), Cell::Void("refused"), Cell::Void("refused")]
            }
            Fate::Carried => {
                let dump = Cell::of(alone(&engine, victim, true, keep));
                let restore = Cell::of(alone(&engine, victim, false, keep));
                let (to, from) = match (sid, victim.criu) {
                    (None, _) => (Cell::Void("not asked"), Cell::Void("not asked")),
                    (_, Criu::No(reason)) => (Cell::Void(reason), Cell::Void(reason)),
                    (Some(sid), Criu::Supported(options)) => (
                        Cell::of(crossed(&engine, sid, victim, options, true, keep)),
                        Cell::of(crossed(&engine, sid, victim, options, false, keep)),
                    ),
                };
                [dump, restore, to, from]
            }
        };
        let missing = gap(victim.name);
        if missing.is_some() && cells[..2].iter().all(|c| matches!(c, Cell::Passes)) {
            failures.push(format!("{} passes: it has no place among the gaps", victim.name));
        }
        let mut row = vec![victim.kind.to_owned(), victim.name.to_owned()];
        let columns = ["dump", "restore", "to criu", "from criu"];
        let mut note = match victim.fate {
            Fate::Refused(named) => format!("must be refused: {named}"),
            Fate::Carried => String::new(),
        };
        for (column, cell) in columns.iter().zip(&cells) {
            if let (Cell::Fails(_), Some(why)) = (cell, missing) {
                gaps += 1;
                note = why.to_owned();
                row.push("gap".to_owned());
                continue;
            }
            row.push(cell.word().to_owned());
            match cell {
                Cell::Passes => passed += 1,
                Cell::Fails(why) => failures.push(format!("{} {column}: {why}", victim.name)),
                Cell::Skipped(why) => {
                    skipped += 1;
                    note.clone_from(why);
                }
                Cell::Void(why) if note.is_empty() => note = (*why).to_owned(),
                Cell::Void(_) => {}
            }
        }
        eprintln!("{}", row.join(" "));
        row.push(cell(&note));
        rows.push(row);
    }
    print_table(&["kind", "victim", "dump", "restore", "to criu", "from criu", "note"], &rows);
    println!("{gaps} cells are known gaps");
    println!("{passed} passed, {} failed, {skipped} skipped", failures.len());
    for failure in &failures {
        println!("\n{failure}");
    }
    Ok(failures.is_empty())
}

/// In the host's namespaces: our dump, and the victim either left running or restored by us.
fn alone(engine: &Engine, victim: &Victim, leave: bool, keep: bool) -> Result<Verdict> {
    if let Some(need) = victim.unmet() {
        return Ok(Verdict::Skip(format!("needs {need:?}")));
    }
    let mut folder = tempfile::tempdir()?;
    let images = folder.path().join("images");
    std::fs::create_dir(&images)?;
    let mut running = match Running::ready(victim, &folder.path().join("run"), &[]) {
        Ok(running) => running,
        Err(cryopod_testkit::VictimError::Early { verdict, .. }) => return Ok(verdict),
        Err(error) => return Err(error.into()),
    };
    let mut steps = || {
        engine.dump(None, running.pid(), &images, leave)?;
        if leave {
            return Ok(running.finish(LIMIT)?);
        }
        running.kill();
        reap();
        engine.restore(None, &images)?;
        running.place().go()?;
        Ok(running.place().await_verdict(running.pid(), LIMIT)?)
    };
    let outcome: Result<Verdict> = steps();
    drop(running);
    sweep(&images);
    reap();
    if keep && !matches!(outcome, Ok(Verdict::Ok | Verdict::Skip(_))) {
        folder.disable_cleanup(true);
        eprintln!("kept {}", folder.path().display());
    }
    outcome
}

/// Our dump must fail with these words, and the victim must go on.
fn refuse(engine: &Engine, victim: &Victim, named: &str) -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let images = folder.path().join("images");
    std::fs::create_dir(&images)?;
    let mut running = match Running::ready(victim, &folder.path().join("run"), &[]) {
        Ok(running) => running,
        Err(cryopod_testkit::VictimError::Early { verdict, .. }) => return Ok(verdict),
        Err(error) => return Err(error.into()),
    };
    match engine.dump(None, running.pid(), &images, true) {
        Ok(()) => bail!("was dumped and must be refused"),
        Err(error) => {
            let text = format!("{error:#}");
            ensure!(text.contains(named), "refused without naming {named:?}: {text}");
        }
    }
    Ok(running.finish(LIMIT)?)
}

/// In the sid tree: one side is ours, the other criu's.
fn crossed(
    engine: &Engine,
    sid: &Sid,
    victim: &Victim,
    options: &[&str],
    to_criu: bool,
    keep: bool,
) -> Result<Verdict> {
    if let Some(need) = victim.unmet() {
        return Ok(Verdict::Skip(format!("needs {need:?}")));
    }
    let mut guest = match Guest::start(sid, victim)? {
        Ok(guest) => guest,
        Err(verdict) => return Ok(verdict),
    };
    let steps = || {
        let images = guest.images()?;
        if to_criu {
            engine.dump(Some(sid), guest.pid, &images, false)?;
            guest.place.kill_all();
            criu::restore(sid, &guest, options)?;
        } else {
            criu::dump(sid, &guest, options)?;
            engine.restore(Some(sid), &images)?;
        }
        guest.finish()
    };
    let outcome = steps();
    guest.keep = keep && !matches!(outcome, Ok(Verdict::Ok | Verdict::Skip(_)));
    outcome
}
