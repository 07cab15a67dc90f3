//! `pin` and `unpin`: archives that no retention deletes.

use std::path::{Path, PathBuf};

use anyhow::Context;
use cryopod_kubelet::Store;

use super::archives_folder;
use crate::args::PinArgs;
use crate::print;
use crate::remote::{Remote, segment};

pub(super) async fn pin(args: &PinArgs) -> anyhow::Result<()> {
    if let Some(remote) = Remote::open(&args.server)? {
        return far_away(&remote, args, http::Method::PUT).await;
    }
    each(args, async |store: &Store, name: &str| {
        if !store.pin(name).await? {
            print::note(format_args!("{name} was pinned already"));
        }
        Ok(())
    })
    .await
}

pub(super) async fn unpin(args: &PinArgs) -> anyhow::Result<()> {
    if let Some(remote) = Remote::open(&args.server)? {
        return far_away(&remote, args, http::Method::DELETE).await;
    }
    each(args, async |store: &Store, name: &str| {
        if !store.unpin(name).await? {
            print::note(format_args!("{name} was not pinned"));
        }
        Ok(())
    })
    .await
}

/// The same on a node far away.
async fn far_away(remote: &Remote, args: &PinArgs, method: http::Method) -> anyhow::Result<()> {
    for archive in &args.archives {
        let name = archive.to_str().context("the archive's name is not UTF-8")?;
        let path = format!("/cryopod/v1/archives/{}/pin", segment(name));
        let headers = http::HeaderMap::new();
        remote.send(method.clone(), &path, headers, bytes::Bytes::new()).await?;
        print::line(name)?;
    }
    Ok(())
}

/// Stops at the first that fails: those before it are done, and printed.
async fn each(
    args: &PinArgs,
    work: impl AsyncFn(&Store, &str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut folder = None;
    for archive in &args.archives {
        let (own, name) = split(archive)?;
        let store = match (own, &folder) {
            (Some(own), _) => Store::at(own)?,
            (None, Some(folder)) => Store::at(folder)?,
            (None, None) => {
                let found = archives_folder(&args.connection, args.dir.as_deref()).await?;
                Store::at(folder.insert(found))?
            }
        };
        work(&store, name).await?;
        print::line(store.path(name).display())?;
    }
    Ok(())
}

/// A path's folder and name; no folder for a mere name.
fn split(archive: &Path) -> anyhow::Result<(Option<PathBuf>, &str)> {
    let text = archive.to_str().context("the archive's name is not UTF-8")?;
    Ok(match text.rsplit_once('/') {
        Some(("", name)) => (Some("/".into()), name),
        Some((folder, name)) => (Some(folder.into()), name),
        None => (None, text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_its_folder_and_a_name_does_not() {
        let split = |text: &'static str| {
            let (folder, name) = split(Path::new(text)).unwrap();
            (folder.map(|folder| folder.to_str().unwrap().to_owned()), name.to_owned())
        };
        assert_eq!(split("a.tar"), (None, "a.tar".into()));
        assert_eq!(split("./a.tar"), (Some(".".into()), "a.tar".into()));
        assert_eq!(split("/a.tar"), (Some("/".into()), "a.tar".into()));
        assert_eq!(split("/x/y/a.tar"), (Some("/x/y".into()), "a.tar".into()));
    }
}
