//! The engine by itself, without containers: `engine dump --pid P --images DIR [--leave-running] [--track]`,
//! `engine restore --images DIR`. For tests and for comparison with other engines.
#![allow(clippy::print_stdout, reason = "a command line tool")]

use std::path::Path;

use anyhow::{Context, bail};
use cryopod_engine::{
    DirectorySink, DirectorySource, DumpOptions, RestoreOptions, RestoreRoot, dump, restore,
};

fn value<'a>(args: &'a [String], name: &str) -> anyhow::Result<&'a str> {
    let at = args.iter().position(|a| a == name).with_context(|| format!("{name} is missing"))?;
    args.get(at + 1).map(String::as_str).with_context(|| format!("{name} needs a value"))
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
            let options =
                RestoreOptions { root: RestoreRoot::Spawn, inherit: Vec::new(), clamp: false };
            let restored = restore(options, &DirectorySource::new(images))?;
            let pid = restored.pid;
            restored.release()?;
            println!("{pid}");
        }
        _ => bail!("usage: engine dump|restore ..."),
    }
    Ok(())
}
