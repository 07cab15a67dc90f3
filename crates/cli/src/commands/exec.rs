//! `exec`: a command inside a container, its output when it has ended, its exit code as ours.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use super::connect;
use crate::args::ExecArgs;
use crate::exit;
use crate::target::Inventory;

pub(super) async fn run(args: &ExecArgs) -> anyhow::Result<ExitCode> {
    let client = connect(&args.connection).await?;
    let all = Inventory::load(&client).await?;
    let one = all.running(&args.target)?;
    let timeout = Duration::from_secs(args.timeout.into());
    let done = client
        .exec_sync(&one.id, args.command.clone(), timeout)
        .await
        .with_context(|| format!("run {:?} in container {}", args.command.join(" "), one.path()))?;
    std::io::stdout().write_all(&done.stdout).context("write to stdout")?;
    std::io::stdout().flush().context("write to stdout")?;
    std::io::stderr().write_all(&done.stderr).ok();
    Ok(ExitCode::from(u8::try_from(done.exit_code).unwrap_or(exit::EXEC_FAILED)))
}
