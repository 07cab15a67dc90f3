//! The commands. Each is a CRI client of `cryopod serve` (of any runtime, as far as it goes), except
//! `serve` itself.

mod checkpoint;
mod config;
mod delete;
mod describe;
mod download;
mod exec;
mod kubectl;
mod list;
mod logs;
mod pin;
mod prune;
mod ps;
mod remove;
mod restore;
pub(crate) mod run;
mod serve;
mod stop;
mod version;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use cryopod_cri::v1;
use cryopod_cri::{Client, CriError};

use crate::args::{Command, ConnectionArgs, Network};
use crate::cri_server::{PLACES_KEY, Places};

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(&args).await?,
        Command::Run(args) => run::run(&args).await?,
        Command::Ps(args) => ps::run(&args).await?,
        Command::Logs(args) => logs::run(&args).await?,
        Command::Stop(args) => stop::run(&args).await?,
        Command::Rm(args) => remove::run(&args).await?,
        Command::Exec(args) => return exec::run(&args).await,
        Command::Checkpoint(args) => checkpoint::run(&args).await?,
        Command::List(args) => list::run(&args).await?,
        Command::Describe(args) => describe::run(&args).await?,
        Command::Download(args) => download::run(&args).await?,
        Command::Delete(args) => delete::run(&args).await?,
        Command::KubectlCheckpoint(args) => kubectl::run(&args).await?,
        Command::Prune(args) => prune::run(&args).await?,
        Command::Pin(args) => pin::pin(&args).await?,
        Command::Unpin(args) => pin::unpin(&args).await?,
        Command::Restore(args) => restore::run(&args).await?,
        Command::Demo(args) => crate::demo::run(&args).await?,
        Command::Config(args) => return config::run(&args).await,
        Command::Version(args) => version::run(&args).await?,
        Command::Counter(args) => crate::counter::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Connects to the server a command is meant for.
async fn connect(args: &ConnectionArgs) -> anyhow::Result<Client> {
    Client::connect(&args.socket).await.map_err(|error| match error {
        CriError::Connect { .. } => anyhow::Error::new(error)
            .context("no server answers: start `cryopod serve`, or give its --socket"),
        other => other.into(),
    })
}

/// Where our own server keeps things; an error from another runtime, which has no such places.
pub(crate) async fn places(client: &Client) -> anyhow::Result<Places> {
    let answer = client.status(true).await.context("ask the server for its folders")?;
    let text = answer.info.get(PLACES_KEY).ok_or_else(|| {
        anyhow!("{} is not a `cryopod serve`: give the path as an option", client.path().display())
    })?;
    serde_json::from_str(text).context("understand the server's folders")
}

/// The folder of archives a command is about: the one given, or the server's.
async fn archives_folder(
    connection: &ConnectionArgs,
    given: Option<&Path>,
) -> anyhow::Result<PathBuf> {
    match given {
        Some(folder) => Ok(folder.to_owned()),
        None => Ok(places(&connect(connection).await?).await?.checkpoints_dir),
    }
}

/// `HOST:CONTAINER[:ro|:rw]`.
fn mount(text: &str) -> anyhow::Result<v1::Mount> {
    let mut parts = text.split(':');
    let (Some(host), Some(container), mode, None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(anyhow!("--mount {text:?} is not HOST:CONTAINER or HOST:CONTAINER:ro"));
    };
    let readonly = match mode {
        None | Some("rw") => false,
        Some("ro") => true,
        Some(mode) => return Err(anyhow!("--mount {text:?}: mode {mode:?} is neither ro nor rw")),
    };
    if !container.starts_with('/') {
        return Err(anyhow!("--mount {text:?}: {container:?} is not an absolute path"));
    }
    let host = std::path::absolute(host).with_context(|| format!("--mount {text:?}"))?;
    Ok(v1::Mount {
        container_path: container.to_owned(),
        host_path: host.to_str().context("--mount: the path is not UTF-8")?.to_owned(),
        readonly,
        ..Default::default()
    })
}

/// A mount at or under a folder, if there is one (proc_pid_mountinfo(5); spaces are octal there).
pub(crate) fn mount_point(folder: &Path) -> anyhow::Result<Option<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    Ok(text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(path.replace("\\040", " ")))
        .find(|path| path.starts_with(folder)))
}

/// `KEY=VALUE` pairs.
fn pair<'a>(option: &str, text: &'a str) -> anyhow::Result<(&'a str, &'a str)> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key, value)),
        _ => Err(anyhow!("{option} {text:?} is not KEY=VALUE")),
    }
}

/// The namespaces of a pod we make: its own everything, each container its own processes.
pub(crate) fn namespaces(network: Network) -> v1::NamespaceOption {
    v1::NamespaceOption {
        network: match network {
            Network::Private => v1::NamespaceMode::Pod,
            Network::Host => v1::NamespaceMode::Node,
        }
        .into(),
        pid: v1::NamespaceMode::Container.into(),
        ipc: v1::NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_host_then_container_then_mode() {
        let made = mount("/a:/b:ro").unwrap();
        assert_eq!((made.host_path.as_str(), made.container_path.as_str()), ("/a", "/b"));
        assert!(made.readonly);
        assert!(mount("rel:/b").unwrap().host_path.starts_with('/'));
        for wrong in ["/a", "/a:b", "/a:/b:rx", "/a:/b:ro:x", ""] {
            assert!(mount(wrong).is_err(), "{wrong}");
        }
    }
}
