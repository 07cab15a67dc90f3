//! Development tasks: `cargo xtask judge`, `coverage`, `e2e`, `bench`, `soak`, `schemathesis`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks on both")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod containerd;
mod coverage;
mod criu;
mod e2e;
mod golang;
mod judge;
mod pipeline;
mod processes;
mod readers;
mod redis;
mod report;
mod schemathesis;
mod sid;
mod soak;
mod stand;
mod workers;

/// Development tasks of Cryopod. All need root.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Proves the victim programs with stock criu in the Debian sid tree: criu dumps, ends and restores each, and the
    /// victim judges.
    Judge {
        /// Only these victims.
        victims: Vec<String>,
        /// Tries also those that criu is known not to carry.
        #[arg(long)]
        all: bool,
        /// Keeps the folders of those that fail, and says where.
        #[arg(long)]
        keep: bool,
    },
    /// Prints what the engine carries, kind by kind: dump, restore, to criu, from criu.
    Coverage {
        /// Only these victims.
        victims: Vec<String>,
        /// The engine's program with `dump --pid P --images DIR [--leave-running]` and `restore --images DIR`. By default
        /// the example `engine` of the engine crate, built first.
        #[arg(long, env = "CRYOPOD_ENGINE")]
        engine: Option<PathBuf>,
        /// Victims that are worked on at a time.
        #[arg(long, default_value_t = 1)]
        jobs: usize,
        /// Every Nth victim from the Kth on, for another of these processes.
        #[arg(long, value_name = "K/N", hide = true)]
        share: Option<coverage::Share>,
        /// Only the columns that need no criu.
        #[arg(long)]
        alone: bool,
        /// Keeps the folders of those that fail, and says where.
        #[arg(long)]
        keep: bool,
    },
    /// Everything that needs the sid tree: judge, coverage, and real programs on a node of their own. Makes the tree
    /// first; without the script that makes it, says so and counts the suites as skipped, or fails when CI=true.
    E2e {
        /// Only these suites.
        suites: Vec<e2e::Suite>,
        /// Cells of the coverage table that are worked on at a time.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// Tries the release build of `cryopod`.
        #[arg(long)]
        release: bool,
    },
    /// Measures how long a container stands still for a checkpoint, and what it costs, ours beside the peers'. Uses the
    /// release build. Needs free memory of three times the largest size, and twice so much disk.
    Bench {
        /// Memory of the container, in MiB.
        #[arg(default_values_t = [16, 256, 1024, 4096])]
        sizes: Vec<u64>,
        /// Runs of ours for each size.
        #[arg(long, default_value_t = 10)]
        runs: usize,
        /// Runs of each peer for each size.
        #[arg(long, default_value_t = 3)]
        peer_runs: usize,
        /// Runs of each peer for sizes of 4096 MiB and more.
        #[arg(long, default_value_t = 3)]
        large_peer_runs: usize,
        /// Which peers.
        #[arg(long, value_delimiter = ',', default_values = ["podman-crun", "podman-runc", "containerd"])]
        peers: Vec<bench::Peer>,
        /// No peers.
        #[arg(long, conflicts_with = "peers")]
        alone: bool,
        /// Only these parts.
        #[arg(long, value_delimiter = ',')]
        only: Vec<bench::Part>,
        /// Time for all: each part has a share, and after it but one more run of each cell.
        #[arg(long, default_value_t = 60)]
        minutes: u64,
        /// Largest container of the part `growth`, in MiB.
        #[arg(long, default_value_t = 8192)]
        largest: u64,
        /// Measures the debug build: to try the benchmark, not for figures.
        #[arg(long)]
        debug: bool,
        /// Writes docs/performance.md, docs/plots and docs/results.
        #[arg(long)]
        write: bool,
        /// To be said about the session, such as what else ran.
        #[arg(long)]
        remark: Option<String>,
    },
    /// Checkpoints a program whose memory makes sense at a single instant only, restores each, and lets it check itself.
    Soak {
        /// Checkpoints, for each size of --mib.
        #[arg(long, value_delimiter = ',', default_values_t = [300, 20])]
        checkpoints: Vec<usize>,
        /// Memory of the program in MiB; with --limit the container's limit.
        #[arg(long, value_delimiter = ',', default_values_t = [256, 1024])]
        mib: Vec<u64>,
        /// At most so long.
        #[arg(long, default_value_t = 60)]
        minutes: u64,
        /// By the engine's example program, without containers.
        #[arg(long)]
        engine_only: bool,
        /// There, copies memory in the freeze alone: tells whose fault a failure is.
        #[arg(long, requires = "engine_only")]
        untracked: bool,
        /// Kills the helper that takes a checkpoint so often, at moments by chance, instead.
        #[arg(long, default_value_t = 0, value_name = "N", conflicts_with_all = ["engine_only", "limit"])]
        kills: usize,
        /// Takes 20 checkpoints at 95 % of the memory limit, under writes, instead.
        #[arg(long, conflicts_with = "engine_only")]
        limit: bool,
        /// What chance begins with.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Tries the release build of `cryopod`.
        #[arg(long)]
        release: bool,
        /// Writes docs/results.
        #[arg(long)]
        write: bool,
    },
    /// Runs the fuzzer schemathesis, which it installs from PyPI, against the HTTPS API and its OpenAPI document.
    Schemathesis {
        /// Examples for each operation.
        #[arg(long, default_value_t = 30)]
        examples: u32,
        /// What chance begins with.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Folder of the virtual environment.
        #[arg(long, value_name = "DIR")]
        venv: Option<PathBuf>,
        /// Tries the release build of `cryopod`.
        #[arg(long)]
        release: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    let all_well = match task {
        Task::Judge { victims, all, keep } => {
            let sid = sid::Sid::find()?;
            judge::judge(&sid, &judge::Choice { victims, all, keep })?
        }
        Task::Coverage { victims, engine, alone, keep, jobs, share } => {
            let sid = if alone { None } else { Some(sid::Sid::find()?) };
            coverage::coverage(
                sid.as_ref(),
                &coverage::Choice { victims, engine, keep, jobs, share },
            )?
        }
        Task::Bench {
            sizes,
            runs,
            peer_runs,
            large_peer_runs,
            peers,
            alone,
            only,
            minutes,
            largest,
            debug,
            write,
            remark,
        } => {
            let peers = if alone { Vec::new() } else { peers };
            bench::bench(&bench::Choice {
                sizes,
                runs,
                peer_runs,
                large_peer_runs,
                peers,
                only,
                minutes,
                largest,
                debug,
                write,
                remark,
            })?
        }
        Task::Soak {
            checkpoints,
            mib,
            minutes,
            engine_only,
            untracked,
            kills,
            limit,
            seed,
            release,
            write,
        } => {
            // One count is for all sizes.
            let last = checkpoints.last().copied().unwrap_or(1);
            let counts = checkpoints.iter().copied().chain(std::iter::repeat(last));
            soak::soak(&soak::Choice {
                phases: mib.into_iter().zip(counts).collect(),
                minutes,
                engine_only,
                untracked,
                kills,
                limit,
                seed,
                release,
                write,
            })?
        }
        Task::Schemathesis { examples, seed, venv, release } => {
            schemathesis::schemathesis(&schemathesis::Choice { examples, seed, venv, release })?
        }
        Task::E2e { suites, jobs, release } => e2e::e2e(&suites, jobs, release)?,
    };
    Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
