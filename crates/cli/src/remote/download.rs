//! Downloads: to a hidden file beside the wanted one, gone on with where it broke, checked, and only
//! then shown under its name.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use cryopod_archive::Archive;
use http::header::{CONTENT_RANGE, ETAG, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt as _;

use super::client::{Remote, RemoteError, segment};
use crate::exit::Refused;
use crate::print::{self, Bar};

/// Times that a download which breaks off without a byte more is begun again.
const ATTEMPTS: u32 = 5;

/// Downloads an archive to a file, which must not be there. Gives its size in bytes.
pub(crate) async fn download(remote: &Remote, name: &str, target: &Path) -> anyhow::Result<u64> {
    if target.symlink_metadata().is_ok() {
        let reason = format!("{} is there already: name another file", target.display());
        return Err(Refused { reason }.into());
    }
    let partial = Partial::create(target)?;
    let bytes = fetch(remote, name, &partial).await?;
    let (file, path) = (partial.file.try_clone(), partial.path.clone());
    let checked = tokio::task::spawn_blocking(move || check(file?, &path));
    checked.await.context("check the archive")??;
    partial.show(target)?;
    Ok(bytes)
}

async fn fetch(remote: &Remote, name: &str, partial: &Partial) -> anyhow::Result<u64> {
    let path = format!("/cryopod/v1/archives/{}/content", segment(name));
    let bar = Bar::bytes(format!("downloading {name}"));
    let mut at = 0;
    let mut tag: Option<HeaderValue> = None;
    let mut failures = 0;
    loop {
        let mut headers = HeaderMap::new();
        if let (1.., Some(tag)) = (at, &tag) {
            let range =
                HeaderValue::from_str(&format!("bytes={at}-")).context("ask for a range")?;
            headers.insert(RANGE, range);
            headers.insert(IF_RANGE, tag.clone());
        }
        let begun = at;
        let broken = match remote.send(Method::GET, &path, headers, Bytes::new()).await {
            Ok(answer) => {
                let (parts, mut body) = answer.into_parts();
                if parts.status == StatusCode::PARTIAL_CONTENT {
                    let range =
                        parts.headers.get(CONTENT_RANGE).and_then(|text| text.to_str().ok());
                    if !range.is_some_and(|text| text.starts_with(&format!("bytes {at}-"))) {
                        return Err(anyhow!("the server gave another range than it was asked for"));
                    }
                } else {
                    // Another archive, or a server without ranges.
                    at = 0;
                    partial.file.set_len(0).context("begin the download anew")?;
                }
                tag = parts.headers.get(ETAG).cloned();
                if let Some(rest) = hyper::body::Body::size_hint(&body).exact() {
                    bar.length(at + rest);
                }
                loop {
                    match body.frame().await {
                        None => return Ok(at),
                        Some(Ok(frame)) => {
                            let Ok(data) = frame.into_data() else { continue };
                            partial
                                .file
                                .write_all_at(&data, at)
                                .with_context(|| format!("write {}", partial.path.display()))?;
                            at += data.len() as u64;
                            bar.position(at);
                        }
                        Some(Err(error)) => break remote.broken(error.into()),
                    }
                }
            }
            Err(error @ RemoteError::Refused { .. }) => return Err(error.into()),
            Err(error) => error,
        };
        // Each piece is a new hope.
        failures = if at > begun { 1 } else { failures + 1 };
        if failures >= ATTEMPTS || (at == 0 && tag.is_none()) {
            return Err(broken.into());
        }
        print::note(format_args!("the download broke off at {at} bytes: going on"));
        tokio::time::sleep(std::time::Duration::from_secs(failures.into())).await;
    }
}

/// An archive with digests is what it was.
fn check(file: File, path: &Path) -> anyhow::Result<()> {
    let archive = Archive::from_file(file, path).context("the download is no archive")?;
    if archive.id().is_some() {
        archive.verify(&mut |_| {}).context("the download is damaged")?;
    }
    Ok(())
}

/// A file on its way, readable by its owner only: it holds secrets. Removed unless shown.
#[derive(Debug)]
struct Partial {
    file: File,
    path: PathBuf,
}

impl Partial {
    fn create(target: &Path) -> anyhow::Result<Self> {
        let name = target.file_name().with_context(|| format!("{}: no name", target.display()))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.partial", std::process::id()));
        let path = target.with_file_name(hidden);
        let mut options = File::options();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("make {}", path.display()))?;
        Ok(Self { file, path })
    }

    fn show(self, target: &Path) -> anyhow::Result<()> {
        let shown = || -> io::Result<()> {
            self.file.sync_all()?;
            rename_to_free(&self.path, target)?;
            let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        shown().with_context(|| format!("finish {}", target.display()))
    }
}

/// Replaces nothing.
fn rename_to_free(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot promise it.
        Err(Errno::INVAL | Errno::NOSYS) if to.symlink_metadata().is_err() => {
            std::fs::rename(from, to)
        }
        done => Ok(done?),
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}
