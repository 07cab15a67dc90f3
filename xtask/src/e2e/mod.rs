//! `cargo xtask e2e`: everything that needs the sid tree.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;

use crate::sid::Sid;
use crate::stand::{Program, Stand};
use crate::{containerd, coverage, golang, judge, pipeline, readers, redis, soak, workers};

/// A part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// The victims before stock criu
    Judge,
    /// The kinds of kernel objects, to and from criu
    Coverage,
    /// redis-server with 100,000 keys
    Redis,
    /// A Python program of processes, pipes, threads and timers
    Workers,
    /// A shell pipeline, its file and its log
    Pipeline,
    /// A Go program under an engine that dies
    Golang,
    /// The HTTPS API in front of containerd, runc and criu
    Containerd,
    /// A few checkpoints of a program whose memory makes sense at a single instant only
    Soak,
}

/// Runs these suites (all when there are none); true when all pass.
pub(crate) fn e2e(suites: &[Suite], jobs: usize, release: bool) -> Result<bool> {
    let suites = if suites.is_empty() { Suite::value_variants() } else { suites };
    let sid = match Sid::find() {
        Ok(sid) => sid,
        Err(error) if std::env::var("CI").is_ok_and(|ci| ci == "true") => return Err(error),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            println!("SKIPPED {} suites (no sid tree)", suites.len());
            return Ok(true);
        }
    };
    let mut told = Vec::new();
    let mut all_well = true;
    for suite in suites {
        let begun = Instant::now();
        let name = suite.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
        println!("\n== {name}");
        let well = match run(&sid, *suite, jobs, release) {
            Ok(well) => well,
            Err(error) => {
                println!("{name}: {error:#}");
                false
            }
        };
        all_well &= well;
        let word = if well { "passed" } else { "FAILED" };
        told.push(format!("{name:<10} {word} in {:.1} s", begun.elapsed().as_secs_f64()));
    }
    println!("\n{}", told.join("\n"));
    Ok(all_well)
}

fn run(sid: &Sid, suite: Suite, jobs: usize, release: bool) -> Result<bool> {
    let (name, needed, names) = match suite {
        Suite::Judge => {
            let choice = judge::Choice { victims: Vec::new(), all: false, keep: false };
            return judge::judge(sid, &choice);
        }
        Suite::Coverage => {
            let choice = coverage::Choice {
                victims: Vec::new(),
                engine: None,
                keep: false,
                jobs,
                share: None,
            };
            return coverage::coverage(Some(sid), &choice);
        }
        Suite::Golang => return golang::run(sid, &coverage::engine()?),
        Suite::Containerd => return containerd::run(sid, &Program::build(release)?),
        Suite::Soak => return soak::smoke(sid, &Program::build(release)?),
        Suite::Redis => ("redis", redis::PROGRAMS, redis::NAMES),
        Suite::Workers => ("workers", workers::PROGRAMS, workers::NAMES),
        Suite::Pipeline => ("pipeline", pipeline::PROGRAMS, pipeline::NAMES),
    };
    let program = Program::build(release)?;
    let stand = Stand::start(sid, &program, needed)?;
    let archives: Vec<PathBuf> = match suite {
        Suite::Workers => workers::run(&stand)?,
        Suite::Pipeline => pipeline::run(&stand)?,
        _ => vec![redis::run(&stand)?],
    };
    for archive in &archives {
        readers::check(&stand, archive, name, names)?;
    }
    println!("{name}: {} archives, each read by tar, checkpointctl and crit", archives.len());
    Ok(true)
}
