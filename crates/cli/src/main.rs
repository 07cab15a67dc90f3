//! The one binary `cryopod`: node agent, commands, and the hidden helpers the runtime starts.
//!
//! The helpers come first: they make namespaces and trace others, so they must run before any
//! thread exists, and see the command line before anything else does.

mod args;
mod commands;
mod configuration;
mod counter;
mod cri_server;
mod demo;
mod exit;
mod print;
mod quantity;
mod reference;
mod remote;
mod shape;
mod target;
mod telemetry;
mod thaw;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use remote::{Kubectl, PLUGIN};

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == cryopod_runtime::entry::FLAG) {
        let rest: Vec<_> = words.collect();
        return code(cryopod_runtime::entry::run(&rest));
    }
    let cli = parse();
    // No runtime, no threads: what a checkpoint captures should be the counter and nothing else.
    if let Command::Counter(args) = &cli.command {
        return report(counter::run(args).map(|()| ExitCode::SUCCESS), exit::FAILED);
    }
    let failed_exec = matches!(cli.command, Command::Exec(_)).then_some(exit::EXEC_FAILED);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let error = anyhow::Error::new(error).context("start the threads of this program");
            return report(Err(error), exit::FAILED);
        }
    };
    let done = runtime.block_on(commands::run(cli.command));
    // An operation that nobody waits for any more must not keep the program.
    runtime.shutdown_background();
    let fallback = match &done {
        Err(error) => failed_exec.unwrap_or_else(|| exit::code(error)),
        Ok(_) => exit::FAILED,
    };
    report(done, fallback)
}

/// The command line; of kubectl's plugin, when the program is called by that name.
fn parse() -> Cli {
    let called = std::env::args_os().next().unwrap_or_default();
    if Path::new(&called).file_stem().is_some_and(|name| name == PLUGIN) {
        let args = Kubectl::parse().args;
        return Cli { command: Command::KubectlCheckpoint(Box::new(args)) };
    }
    Cli::parse()
}

/// Prints an error once, with all its causes.
#[expect(clippy::print_stderr, reason = "the one place where errors reach the user")]
fn report(done: anyhow::Result<ExitCode>, failure: u8) -> ExitCode {
    match done {
        Ok(code) => code,
        Err(error) if exit::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cryopod: {error:#}");
            ExitCode::from(failure)
        }
    }
}

fn code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(exit::FAILED))
}
