//! Health pages in the words of Kubernetes' own: `ok`, or a line for each check.
//!
//! `/healthz` says that the process answers. `/readyz` says that a checkpoint could be made: the
//! runtime answers, the folder of the archives can be written to, the serving certificate is in
//! its time. A reason is shown on a check's own page only, as in Kubernetes, and logged.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use jiff::Timestamp;
use rustix::fs::{Access, Mode, OFlags};
use rustix::io::Errno;
use tokio::sync::Mutex;

use crate::reply::{self, Reply};
use crate::runtime::Runtime;
use crate::tls::ServingCertificate;

/// How long the runtime may take to list its sandboxes.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer to "ready?" is good: askers in between get the same, and cost nothing.
const FRESH: Duration = Duration::from_secs(1);

/// One thing that must be well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// The process answers.
    Ping,
    /// The runtime lists its sandboxes.
    Runtime,
    /// The folder of the archives can be written to.
    Folder,
    /// The serving certificate is valid now.
    Certificate,
}

const HEALTHZ: [Check; 1] = [Check::Ping];
const READYZ: [Check; 4] = [Check::Ping, Check::Runtime, Check::Folder, Check::Certificate];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Runtime => "runtime",
            Self::Folder => "checkpoints",
            Self::Certificate => "certificate",
        }
    }
}

/// Whether `/readyz/NAME` is a page.
pub(crate) fn is_check(name: &[u8]) -> bool {
    READYZ.iter().any(|check| check.name().as_bytes() == name)
}

/// What came of the checks, in their order.
type Outcome = Vec<(Check, Result<(), String>)>;

/// Looks at runtime, folder and certificate.
pub(crate) struct Health {
    runtime: Arc<dyn Runtime>,
    /// `None` where there is no checkpoint route.
    folder: Option<PathBuf>,
    certificate: Arc<ServingCertificate>,
    last: Mutex<Option<(Instant, Outcome)>>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Health {
    pub(crate) fn new(
        runtime: Arc<dyn Runtime>,
        folder: Option<PathBuf>,
        certificate: Arc<ServingCertificate>,
    ) -> Self {
        Self { runtime, folder, certificate, last: Mutex::default() }
    }

    /// The answer to a path below `/healthz` or `/readyz`; `None` for another.
    pub(crate) async fn answer(&self, path: &str, query: Option<&str>) -> Option<Reply> {
        let (page, one) = match path.strip_prefix('/')?.split_once('/') {
            Some((page, check)) => (page, Some(check)),
            None => (&path[1..], None),
        };
        let outcome = match page {
            "healthz" => HEALTHZ.iter().map(|check| (*check, Ok(()))).collect(),
            "readyz" => self.ready().await,
            _ => return None,
        };
        match one {
            None => Some(root(page, &outcome, query)),
            Some(name) => {
                let (_, result) = outcome.into_iter().find(|(check, _)| check.name() == name)?;
                Some(match result {
                    Ok(()) => reply::text(StatusCode::OK, "ok"),
                    Err(reason) => reply::nosniff(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        format!("internal server error: {reason}\n"),
                    ),
                })
            }
        }
    }

    /// All checks of `/readyz`, not more often than once in [`FRESH`], and by one asker at a time.
    async fn ready(&self) -> Outcome {
        let mut last = self.last.lock().await;
        if let Some((since, outcome)) = &*last
            && since.elapsed() < FRESH
        {
            return outcome.clone();
        }
        let mut outcome = Vec::with_capacity(READYZ.len());
        for check in READYZ {
            let result = match check {
                Check::Ping => Ok(()),
                Check::Runtime => self.runtime_answers().await,
                Check::Folder => self.folder_is_writable().await,
                Check::Certificate => self.certificate_is_valid(),
            };
            if let Err(reason) = &result {
                tracing::warn!(check = check.name(), reason, "not ready");
            }
            outcome.push((check, result));
        }
        *last = Some((Instant::now(), outcome.clone()));
        outcome
    }

    async fn runtime_answers(&self) -> Result<(), String> {
        match tokio::time::timeout(PATIENCE, self.runtime.sandboxes()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("the container runtime: {error}")),
            Err(_) => Err(format!("the container runtime is silent for {PATIENCE:?}")),
        }
    }

    async fn folder_is_writable(&self) -> Result<(), String> {
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        let tried = tokio::task::spawn_blocking(move || try_writing(&folder)).await;
        tried.unwrap_or_else(|error| Err(format!("cannot look at the folder: {error}")))
    }

    fn certificate_is_valid(&self) -> Result<(), String> {
        let Some((begins, ends)) = self.certificate.validity() else {
            return Err("the serving certificate cannot be read".to_owned());
        };
        let time = |seconds| {
            Timestamp::from_second(seconds)
                .map_or_else(|_| seconds.to_string(), |at| at.to_string())
        };
        match Timestamp::now().as_second() {
            now if now < begins => {
                Err(format!("the serving certificate begins at {} only", time(begins)))
            }
            now if now > ends => Err(format!("the serving certificate ended at {}", time(ends))),
            _ => Ok(()),
        }
    }
}

/// Makes a file without a name, which nobody who watches the folder sees: open(2), `O_TMPFILE`.
/// Where the file system has none, only permissions and a read-only mount are looked at.
fn try_writing(folder: &Path) -> Result<(), String> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let tried = match rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) {
        Ok(_) => Ok(()),
        // EISDIR: a kernel or file system that takes the flag for a folder to be opened.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOSYS) => {
            rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK)
        }
        Err(errno) => Err(errno),
    };
    tried.map_err(|errno| format!("cannot write to {}: {errno}", folder.display()))
}

/// The page of all checks. `?verbose` lists them, `?exclude=NAME` leaves one out.
fn root(page: &str, outcome: &Outcome, query: Option<&str>) -> Reply {
    let parameters: Vec<(&str, &str)> = query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .collect();
    let mut excluded: Vec<&str> =
        parameters.iter().filter(|(key, _)| *key == "exclude").map(|(_, name)| *name).collect();
    let mut lines = String::new();
    let mut failed = false;
    for (check, result) in outcome {
        let name = check.name();
        let before = excluded.len();
        excluded.retain(|one| *one != name);
        let line = match result {
            _ if excluded.len() < before => format!("[+]{name} excluded: ok\n"),
            Ok(()) => format!("[+]{name} ok\n"),
            Err(_) => {
                failed = true;
                format!("[-]{name} failed: reason withheld\n")
            }
        };
        lines.push_str(&line);
    }
    if !excluded.is_empty() {
        let quoted: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        let quoted = quoted.join(",");
        lines.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {quoted}\n"
        ));
    }
    if failed {
        let body = format!("{lines}{page} check failed\n");
        return reply::nosniff(StatusCode::INTERNAL_SERVER_ERROR, body);
    }
    if parameters.iter().any(|(key, _)| *key == "verbose") {
        return reply::nosniff(StatusCode::OK, format!("{lines}{page} check passed\n"));
    }
    reply::nosniff(StatusCode::OK, "ok")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    async fn body(reply: Reply) -> (u16, String) {
        let status = reply.status().as_u16();
        let bytes = reply.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_failed_check_is_named_and_its_reason_withheld() {
        let outcome = vec![(Check::Ping, Ok(())), (Check::Runtime, Err("secret".to_owned()))];
        for query in [None, Some("verbose"), Some("verbose=1&x")] {
            let expected = "[+]ping ok\n[-]runtime failed: reason withheld\nreadyz check failed\n";
            assert_eq!(body(root("readyz", &outcome, query)).await, (500, expected.to_owned()));
        }
        let excluded = root("readyz", &outcome, Some("exclude=runtime&exclude=x&verbose"));
        let expected = "[+]ping ok\n[+]runtime excluded: ok\n\
                        warn: some health checks cannot be excluded: no matches for \"x\"\n\
                        readyz check passed\n";
        assert_eq!(body(excluded).await, (200, expected.to_owned()));
        let excluded = root("readyz", &outcome, Some("exclude=runtime"));
        assert_eq!(body(excluded).await, (200, "ok".to_owned()));
    }

    #[test]
    fn a_folder_is_tried_and_nothing_stays_in_it() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(try_writing(folder.path()), Ok(()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let missing = folder.path().join("missing");
        let error = try_writing(&missing).unwrap_err();
        assert!(error.starts_with(&format!("cannot write to {}: ", missing.display())), "{error}");
    }
}
