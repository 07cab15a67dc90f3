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
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use cryopod_testkit::{Criu, Fate, Running, Verdict, Victim, adopt, gap, reap};
use serde_json::{Value, json};

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
    /// Victims at a time.
    pub(crate) jobs: usize,
    /// Only a part of them, told in a form for [`coverage`] itself.
    pub(crate) share: Option<Share>,
}

/// Every `of`th victim from the `number`th on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    number: usize,
    of: usize,
}

impl std::str::FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let numbers = text.split_once('/').map(|(number, of)| (number.parse(), of.parse()));
        match numbers {
            Some((Ok(number), Ok(of))) if number < of => Ok(Share { number, of }),
            _ => Err(format!("{text:?} is no share such as 0/2")),
        }
    }
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

/// The engine's own program, built now.
pub(crate) fn engine() -> Result<PathBuf> {
    Ok(Engine::find(None)?.program)
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
        // As the runtime does it.
        let mut arguments = vec!["dump", "--track", "--pid", &pid, "--images", &images];
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
        command.args(arguments).env("RUST_BACKTRACE", "0");
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
    let victims = chosen(&choice.victims)?;
    let found = if let Some(share) = choice.share {
        let mine = victims.into_iter().skip(share.number).step_by(share.of);
        println!("{}", tally(&engine, sid, mine, choice.keep)?.to_json());
        return Ok(true);
    } else if choice.jobs > 1 {
        shared_out(&engine, sid, &victims, choice)?
    } else {
        tally(&engine, sid, victims.into_iter(), choice.keep)?
    };
    print_table(
        &["kind", "victim", "dump", "restore", "to criu", "from criu", "note"],
        &found.rows,
    );
    println!("{} cells are known gaps", found.gaps);
    println!("{} passed, {} failed, {} skipped", found.passed, found.failures.len(), found.skipped);
    for failure in &found.failures {
        println!("\n{failure}");
    }
    Ok(found.failures.is_empty())
}

/// Several of these processes, each with its share of the victims: one reaps all its children, so it can have but one
/// victim at a time.
fn shared_out(
    engine: &Engine,
    sid: Option<&Sid>,
    victims: &[&'static Victim],
    choice: &Choice,
) -> Result<Tally> {
    let mut workers = Vec::new();
    for number in 0..choice.jobs {
        let mut command = Command::new("/proc/self/exe");
        command.arg("coverage").arg("--share").arg(format!("{number}/{}", choice.jobs));
        command.arg("--engine").arg(&engine.program);
        command.args(sid.is_none().then_some("--alone")).args(choice.keep.then_some("--keep"));
        command.args(victims.iter().map(|victim| victim.name)).stdout(Stdio::piped());
        workers.push(command.spawn().context("start a worker")?);
    }
    let mut found = Tally::default();
    for worker in workers {
        let output = worker.wait_with_output()?;
        ensure!(output.status.success(), "a worker ended with {}", output.status);
        found.add(Tally::from_json(&output.stdout)?);
    }
    found.rows.sort_by_key(|row| victims.iter().position(|victim| victim.name == row[1]));
    Ok(found)
}

/// What came out of it.
#[derive(Debug, Default)]
struct Tally {
    rows: Vec<Vec<String>>,
    failures: Vec<String>,
    passed: u64,
    gaps: u64,
    skipped: u64,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.rows.extend(other.rows);
        self.failures.extend(other.failures);
        self.passed += other.passed;
        self.gaps += other.gaps;
        self.skipped += other.skipped;
    }

    fn to_json(&self) -> Value {
        json!([self.rows, self.failures, [self.passed, self.gaps, self.skipped]])
    }

    fn from_json(bytes: &[u8]) -> Result<Self> {
        let (rows, failures, [passed, gaps, skipped]) =
            serde_json::from_slice(bytes).context("what a worker found")?;
        Ok(Tally { rows, failures, passed, gaps, skipped })
    }

    /// Takes in the cells of one victim.
    fn take(&mut self, victim: &Victim, cells: &[Cell; 4]) {
        let missing = gap(victim.name);
        if missing.is_some() && cells[..2].iter().all(|c| matches!(c, Cell::Passes)) {
            self.failures.push(format!("{} passes: it has no place among the gaps", victim.name));
        }
        let mut row = vec![victim.kind.to_owned(), victim.name.to_owned()];
        let columns = ["dump", "restore", "to criu", "from criu"];
        let mut note = match victim.fate {
            Fate::Refused(named) => format!("must be refused: {named}"),
            Fate::Carried => String::new(),
        };
        for (column, cell) in columns.iter().zip(cells) {
            if let (Cell::Fails(_), Some(why)) = (cell, missing) {
                self.gaps += 1;
                note = why.to_owned();
                row.push("gap".to_owned());
                continue;
            }
            row.push(cell.word().to_owned());
            match cell {
                Cell::Passes => self.passed += 1,
                Cell::Fails(why) => self.failures.push(format!("{} {column}: {why}", victim.name)),
                Cell::Skipped(why) => {
                    self.skipped += 1;
                    note.clone_from(why);
                }
                Cell::Void(why) if note.is_empty() => note = (*why).to_owned(),
                Cell::Void(_) => {}
            }
        }
        eprintln!("{}", row.join(" "));
        row.push(cell(&note));
        self.rows.push(row);
    }
}

/// Tries these victims one by one.
fn tally(
    engine: &Engine,
    sid: Option<&Sid>,
    victims: impl Iterator<Item = &'static Victim>,
    keep: bool,
) -> Result<Tally> {
    adopt()?;
    let mut found = Tally::default();
    for victim in victims {
        let cells = match victim.fate {
            Fate::Refused(named) => {
                let dump = Cell::of(refuse(engine, victim, named));
                [dump, Cell::Void("refused"), Cell::Void("refused"), Cell::Void("refused")]
            }
            Fate::Carried => {
                let dump = Cell::of(alone(engine, victim, true, keep));
                let restore = Cell::of(alone(engine, victim, false, keep));
                let (to, from) = match (sid, victim.criu) {
                    (None, _) => (Cell::Void("not asked"), Cell::Void("not asked")),
                    (_, Criu::No(reason)) => (Cell::Void(reason), Cell::Void(reason)),
                    (Some(sid), Criu::Supported(options)) => (
                        Cell::of(crossed(engine, sid, victim, options, true, keep)),
                        Cell::of(crossed(engine, sid, victim, options, false, keep)),
                    ),
                };
                [dump, restore, to, from]
            }
        };
        found.take(victim, &cells);
    }
    Ok(found)
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
            criu::restore(sid, &guest, &for_ours(options))?;
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

/// Options for a restore of what we dumped: connections are recorded by us, not carried.
fn for_ours<'o>(options: &[&'o str]) -> Vec<&'o str> {
    let ours =
        |option: &&'o str| if *option == "--tcp-established" { "--tcp-close" } else { option };
    options.iter().map(ours).collect()
}
