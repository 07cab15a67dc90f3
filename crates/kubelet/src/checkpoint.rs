//! The handler: one container, one archive.
//!
//! Checks in the kubelet's order: pod, container, timeout, running, sign of the timeout, then the
//! CRI call. One container is checkpointed by one call at a time, the node by a limited number; who
//! waits looks for the container anew afterwards. The effective timeout bounds the CRI call and
//! nothing else: it begins with the call, so that a caller who waited has as much of it as one who did
//! not, and how long to wait is for the caller to know, who can hang up. Bringing the archive to the
//! disk afterwards is not counted either, since the container runs by then.
//!
//! Dropping the future at any point cancels the call; what must be done then does not depend on it
//! (`attempt.rs`).

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use jiff::Zoned;

use crate::attempt::{Aftermaths, Attempt};
use crate::deposit::{self, DepositError, Latecomers};
use crate::location::{Location, LocationError, Locations};
use crate::pods::Snapshot;
use crate::progress::{Board, Ticket};
use crate::room::{self, Claim, NoRoom, Room};
use crate::runtime::{CheckpointCall, RpcError, Runtime};
use crate::store::Store;
use crate::thaw::{Care, Thaw, Ward};
use crate::timeout::{self, BadTimeout};
use crate::turns::{Leave, Turns};

/// How long what is asked of the runtime besides the checkpoint may take: the archive does not depend
/// on it.
const ASIDE: Duration = Duration::from_secs(10);

/// A container as the request names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name.
    pub container: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.pod, self.container)
    }
}

/// Why there is no archive. The messages are the answer's bodies, which is why they hold their
/// cause: clients search in them.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The runtime knows no such pod.
    #[error("pod does not exist")]
    NoPod,
    /// The pod has no such container, in any state.
    #[error("container {container} does not exist")]
    NoContainer {
        /// As requested.
        container: String,
    },
    /// The parameter is not a number of seconds.
    #[error(transparent)]
    Timeout(#[from] BadTimeout),
    /// Everything after that.
    #[error("checkpointing of {target} failed ({cause})")]
    Failed {
        /// As requested.
        target: Target,
        /// What went wrong.
        #[source]
        cause: Failure,
    },
}

/// What can go wrong with an existing container.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It is not running.
    #[error("container {container} not found")]
    NotRunning {
        /// As requested.
        container: String,
    },
    /// A negative timeout.
    #[error("CheckpointContainer requires the timeout value to be > 0")]
    NegativeTimeout,
    /// No name for the archive.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// No space for it.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The runtime said no.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// The runtime said yes, and there is no archive.
    #[error(transparent)]
    Deposit(#[from] DepositError),
}

impl CheckpointError {
    /// The answer's status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoPod | Self::NoContainer { .. } | Self::Timeout(_) => StatusCode::NOT_FOUND,
            Self::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// How checkpoints are made, beyond what a request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Checkpoints at the same time on this node; more wait.
    pub at_once: NonZeroUsize,
    /// Bytes that must stay free on the file system of the archives, beyond the estimate of the
    /// archive to come.
    pub free_reserve: u64,
    /// How a container is looked after when a call ended without an answer. Matters only with a
    /// [`Thaw`].
    pub care: Care,
    /// How long a location is watched for an archive that nobody waits for any more.
    pub late_archives: Duration,
    /// How often it is looked at.
    pub late_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            at_once: NonZeroUsize::MIN.saturating_add(3),
            free_reserve: 256 << 20,
            care: Care::default(),
            late_archives: Duration::from_secs(3600),
            late_interval: Duration::from_secs(1),
        }
    }
}

/// Makes archives in one folder by one runtime.
pub struct Checkpointer {
    runtime: Arc<dyn Runtime>,
    thaw: Option<Arc<dyn Thaw>>,
    locations: Locations,
    room: Room,
    /// The timeout of a request that names none, and the least there is.
    default_timeout: Duration,
    turns: Turns,
    board: Board,
    aftermaths: Aftermaths,
    /// Told which names are being written.
    store: Option<Store>,
}

impl fmt::Debug for Checkpointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpointer")
            .field("locations", &self.locations)
            .field("room", &self.room)
            .field("default_timeout", &self.default_timeout)
            .finish_non_exhaustive()
    }
}

impl Checkpointer {
    /// `folder` must be absolute and UTF-8: its files are named to the runtime and the caller.
    /// Without `thaw` it is the runtime alone that lets a container go on.
    pub fn new(
        runtime: Arc<dyn Runtime>,
        thaw: Option<Arc<dyn Thaw>>,
        folder: &Path,
        default_timeout: Duration,
        settings: Settings,
    ) -> Self {
        let latecomers = Latecomers::new(settings.late_interval, settings.late_archives);
        Self {
            runtime,
            thaw,
            locations: Locations::new(folder),
            room: Room::new(folder, settings.free_reserve),
            default_timeout,
            turns: Turns::new(settings.at_once),
            board: Board::default(),
            aftermaths: Aftermaths::new(settings.care, latecomers),
            store: None,
        }
    }

    /// With a store over the folder: what a runtime still writes is hidden from it.
    pub fn with_store(self, store: Store) -> Self {
        Self { store: Some(store), ..self }
    }

    /// The checkpoints under way and just ended.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Done when every container of an ended call was seen to. Needs no new call to begin meanwhile.
    pub async fn settled(&self) {
        self.aftermaths.settled().await;
    }

    /// Makes an archive and returns its absolute path. `query` is the request's query string.
    ///
    /// # Errors
    /// [`CheckpointError`], whose message is the answer's body.
    pub async fn checkpoint(
        &self,
        target: &Target,
        query: Option<&str>,
    ) -> Result<String, CheckpointError> {
        let failed = |cause: Failure| CheckpointError::Failed { target: target.clone(), cause };
        let take = async || {
            Snapshot::take(&*self.runtime).await.map_err(|error| failed(Failure::Rpc(error)))
        };
        let mut snapshot = take().await?;
        let pod = snapshot.pod(&target.namespace, &target.pod).ok_or(CheckpointError::NoPod)?;
        let container = &target.container;
        if !pod.has_container(container) {
            return Err(CheckpointError::NoContainer { container: container.clone() });
        }
        let requested = timeout::parse_query(query)?;

        let ticket = self.board.begin(target);
        let leave = self.turns.take(target).await;
        let made = async {
            if leave.waited {
                snapshot = take().await?;
            }
            self.run(&snapshot, target, requested, leave, &ticket).await.map_err(failed)
        };
        let made = made.await;
        ticket.ended(made.as_ref().map(|_| ()).map_err(ToString::to_string));
        made
    }

    async fn run(
        &self,
        snapshot: &Snapshot,
        target: &Target,
        requested: i64,
        leave: Leave,
        ticket: &Ticket,
    ) -> Result<String, Failure> {
        let Target { namespace, pod, container } = target;
        let container_id = snapshot
            .pod(namespace, pod)
            .and_then(|pod| pod.running_container(container))
            .map(|found| found.id.clone())
            .ok_or_else(|| Failure::NotRunning { container: container.clone() })?;
        let (timeout_seconds, deadline) =
            timeout::effective(requested, self.default_timeout).ok_or(Failure::NegativeTimeout)?;
        let mut location = self.locations.reserve(namespace, pod, container, &Zoned::now()).await?;
        let path = location.path().to_owned();
        let name = Path::new(&path).file_name().and_then(|name| name.to_str());
        if let Some((store, name)) = self.store.as_ref().zip(name) {
            location.hide(store.writing(name));
        }
        let estimate = self.estimate(&container_id).await;
        let claim = match estimate {
            Some(bytes) => Some(self.claim(&location, bytes).await?),
            None => None,
        };
        let ward = self.ward(&container_id).await;
        ticket.running(&path, estimate);
        tracing::info!(%target, container_id, path, timeout_seconds, estimate, "checkpoint begins");

        let Leave { turn, place, .. } = leave;
        // From here on the container may be stopped and the file be there.
        let mut attempt = Attempt::arm(turn, location, ward, &self.aftermaths);
        let call = self.runtime.checkpoint(CheckpointCall {
            container_id,
            location: path.clone(),
            timeout_seconds,
            deadline,
        });
        let answer = match tokio::time::timeout(deadline, call).await {
            Ok(answer) => answer,
            Err(_) => Err(RpcError::deadline_exceeded()),
        };
        attempt.answered(&answer);
        drop(place);
        let done = match answer {
            Ok(()) => seal(&path).await.map_err(Failure::from),
            Err(error) => Err(error.into()),
        };
        drop(claim);
        match done {
            Ok(()) => attempt.keep().await,
            Err(_) => attempt.discard().await,
        }
        done.map(|()| path)
    }

    /// Bytes that the archive of a container is expected to have, if the runtime tells what it uses.
    async fn estimate(&self, container_id: &str) -> Option<u64> {
        let used = aside(self.runtime.used_bytes(container_id)).await;
        match used {
            Ok(Some(used)) => Some(room::estimate(used)),
            Ok(None) => {
                tracing::info!(container_id, "the runtime does not tell the container's memory");
                None
            }
            Err(error) => {
                tracing::warn!(container_id, %error, "free space is not checked");
                None
            }
        }
    }

    async fn claim(&self, location: &Location, bytes: u64) -> Result<Claim, NoRoom> {
        let (room, path) = (self.room.clone(), PathBuf::from(location.path()));
        let claimed = tokio::task::spawn_blocking(move || room.claim(&path, bytes)).await;
        claimed.expect("looking for space does not panic")
    }

    /// The container, if it is to be looked after.
    async fn ward(&self, container_id: &str) -> Option<Ward> {
        let thaw = self.thaw.as_deref()?;
        match aside(self.runtime.pid(container_id)).await {
            Ok(Some(pid)) => Ward::find(thaw, container_id, pid).await,
            Ok(None) => {
                tracing::warn!(container_id, "the runtime does not tell the container's process");
                None
            }
            Err(error) => {
                tracing::warn!(container_id, %error, "the container's process is not known");
                None
            }
        }
    }
}

async fn aside<T>(call: impl Future<Output = Result<T, RpcError>>) -> Result<T, RpcError> {
    match tokio::time::timeout(ASIDE, call).await {
        Ok(answer) => answer,
        Err(_) => Err(RpcError::deadline_exceeded()),
    }
}

async fn seal(path: &str) -> Result<(), DepositError> {
    let path = PathBuf::from(path);
    let sealed = tokio::task::spawn_blocking(move || deposit::seal(&path)).await;
    sealed.expect("looking at an archive does not panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(container: &str) -> Target {
        Target { namespace: "ns".into(), pod: "pod".into(), container: container.into() }
    }

    #[test]
    fn errors_have_the_statuses_of_the_kubelet() {
        let failed = |cause| CheckpointError::Failed { target: target("ctr"), cause };
        let rows = [
            (CheckpointError::NoPod, 404, "pod does not exist"),
            (
                CheckpointError::NoContainer { container: "x".into() },
                404,
                "container x does not exist",
            ),
            (BadTimeout.into(), 404, "cannot parse value of timeout parameter"),
            (
                failed(Failure::NotRunning { container: "ctr".into() }),
                500,
                "checkpointing of ns/pod/ctr failed (container ctr not found)",
            ),
            (
                failed(Failure::NegativeTimeout),
                500,
                "checkpointing of ns/pod/ctr failed \
                 (CheckpointContainer requires the timeout value to be > 0)",
            ),
            (
                failed(RpcError::deadline_exceeded().into()),
                500,
                "checkpointing of ns/pod/ctr failed \
                 (rpc error: code = DeadlineExceeded desc = context deadline exceeded)",
            ),
        ];
        for (error, status, body) in rows {
            assert_eq!((error.status().as_u16(), &*error.to_string()), (status, body));
        }
    }
}
