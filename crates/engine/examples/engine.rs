//! The engine by itself, without containers: `engine dump --pid P --images DIR [--leave-running]
//! [--track]`,
//! `engine restore --images DIR [--lazy [--least BYTES] [--pause MICROSECONDS]]`. For tests and for comparison with other engines.
#![allow(clippy::print_stdout, reason = "a command line tool")]

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use cryopod_engine::{
    DirectorySink, DirectorySource, DumpOptions, Filling, Lazy, RestoreOptions, RestoreRoot,
    Watcher, dump, restore,
};

fn value<'a>(args: &'a [String], name: &str) -> anyhow::Result<&'a str> {
    let at = args.iter().position(|a| a == name).with_context(|| format!("{name} is missing"))?;
    args.get(at + 1).map(String::as_str).with_context(|| format!("{name} needs a value"))
}

fn late(args: &[String]) -> anyhow::Result<Lazy> {
    let number = |name: &str, or: u64| match args.iter().any(|a| a == name) {
        true => value(args, name)?.parse().with_context(|| name.to_owned()),
        false => Ok(or),
    };
    let usual = Lazy::default();
    let pause = Duration::from_micros(number("--pause", 0)?);
    Ok(Lazy { least: number("--least", usual.least)?, pause })
}

/// Prints what happens to the memory, and kills the tree when it cannot be filled.
struct Teller {
    pid: i32,
    failed: bool,
}

/// Prints a line, for whoever still reads.
fn say(line: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

impl Watcher for Teller {
    fn tell(&mut self, what: Filling) {
        match what {
            Filling::Released => say(&self.pid),
            Filling::Filled => say(&"filled"),
            Filling::Failed(error) => {
                say(&format_args!("failed: {:#}", anyhow::Error::new(error)));
                self.failed = true;
                if let Some(pid) = rustix::process::Pid::from_raw(self.pid) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
    }

    fn is_over(&mut self) -> bool {
        true
    }
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|a| a == "--stopped") {
        // For a test that wants to trace the engine from its first step, but for the thousand reads of
        // the kernel's type information.
        let _ = cryopod_engine::waits::Waits::prepared();
        if args.first().is_some_and(|a| a == "dump") {
            let _ = cryopod_engine::proc::vmflags::VmFlags::prepared();
        }
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP)?;
    }
    let images = Path::new(value(&args, "--images")?);
    match args.first().map(String::as_str) {
        Some("dump") => {
            let options = DumpOptions {
                pid: value(&args, "--pid")?.parse().context("--pid")?,
                leave_running: args.iter().any(|a| a == "--leave-running"),
                track: args.iter().any(|a| a == "--track"),
                ..DumpOptions::default()
            };
            let report = dump(&options, &mut DirectorySink::new(images), &mut || Ok(()))?;
            println!("{report:?}");
        }
        Some("restore") => {
            let lazy = args.iter().any(|a| a == "--lazy").then(|| late(&args)).transpose()?;
            let options = RestoreOptions {
                root: RestoreRoot::Spawn,
                inherit: Vec::new(),
                clamp: false,
                lazy,
            };
            let restored = restore(options, &DirectorySource::new(images))?;
            for note in restored.notes() {
                println!("{note}");
            }
            let mut teller = Teller { pid: restored.pid, failed: false };
            restored.release_and_fill(&mut teller)?;
            if teller.failed {
                bail!("the memory was not filled");
            }
        }
        _ => bail!("usage: engine dump|restore ..."),
    }
    Ok(())
}
