//! `config check`: what would be in force, and why a start would fail.

use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use cryopod_kubelet::Retention;
use cryopod_kubelet::config::{self, CheckError, ConfigErrors, Row};
use serde::Serialize;

use crate::args::{ConfigArgs, ConfigCheckArgs, ConfigCommand, Output, ServeArgs};
use crate::{configuration, exit, print};

/// Everything that was found, as JSON has it.
#[derive(Serialize)]
struct Report {
    /// Whether a start would succeed, as far as can be seen.
    ok: bool,
    /// Every value in force.
    settings: Vec<Row>,
    /// What is no mistake and should be known.
    notes: Vec<String>,
    /// Why a start would fail: every reason.
    problems: Vec<String>,
}

pub(super) async fn run(args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        ConfigCommand::Check(args) => check(args).await,
    }
}

async fn check(args: &ConfigCheckArgs) -> anyhow::Result<ExitCode> {
    let (effective, errors) = config::load(&configuration::flags(&args.serve)?);
    let mut problems: Vec<String> =
        errors.into_iter().map(|error| ConfigErrors(vec![error]).to_string()).collect();
    problems.extend(config::check(&effective).await.iter().map(CheckError::text));
    if configuration::has_nothing_to_do(&effective) {
        problems.push(configuration::NOTHING_TO_DO.to_owned());
    }
    if effective.container_runtime_endpoint.value.is_none() {
        problems.extend(own_runtime(&args.serve));
    }
    if let Some(path) = &effective.extras.retention_policy
        && let Err(error) = Retention::from_file(path)
    {
        problems.push(format!("{:#}", anyhow::Error::new(error).context("retentionPolicy")));
    }
    let mut notes = effective.notes();
    if effective.stays_closed() {
        notes.push("no caller could be authenticated: the HTTPS API stays closed".to_owned());
    }
    let report = Report { ok: problems.is_empty(), settings: effective.rows(), notes, problems };
    match args.result.output {
        Output::Json => print::json(&report)?,
        Output::Table => table(&report)?,
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

fn table(report: &Report) -> anyhow::Result<()> {
    print::rows(Output::Table, &report.settings, &["SETTING", "VALUE", "ORIGIN"], |row| {
        vec![row.name.clone(), row.text(), row.origin.clone()]
    })?;
    for note in &report.notes {
        print::line(format_args!("note: {note}"))?;
    }
    for problem in &report.problems {
        print::line(format_args!("problem: {problem}"))?;
    }
    match report.problems.len() {
        0 => print::line("A start would succeed."),
        1 => print::line("A start would fail, for one reason."),
        many => print::line(format_args!("A start would fail, for {many} reasons.")),
    }
}

/// What stands in the way of the embedded runtime.
fn own_runtime(args: &ServeArgs) -> Vec<String> {
    let mut problems = Vec::new();
    if UnixStream::connect(&args.socket).is_ok() {
        problems.push(format!(
            "another server listens on {}: stop it, or choose another --socket",
            args.socket.display()
        ));
    }
    let folders = [Some(&*args.state_dir), Some(&*args.run_dir), args.socket.parent()];
    for folder in folders.into_iter().flatten() {
        problems.extend(config::writable(folder).err().as_ref().map(CheckError::text));
    }
    problems
}
