//! The handler: one container, one archive.
//!
//! Checks in the kubelet's order: pod, container, timeout, running, sign of the timeout, then the
//! CRI call. The call is bounded by the effective timeout. One container is checkpointed by one
//! call at a time; a second caller waits for the first and then looks for the container anew.
//! Dropping the future at any point cancels the call and lets the next caller on.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use http::StatusCode;
use jiff::Zoned;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::location::{LocationError, Locations};
use crate::pods::Snapshot;
use crate::runtime::{CheckpointCall, RpcError, Runtime};
use crate::store::Store;
use crate::timeout::{self, BadTimeout};

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
    /// The runtime said no.
    #[error(transparent)]
    Rpc(#[from] RpcError),
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

/// Makes archives in one folder by one runtime.
pub struct Checkpointer {
    runtime: Arc<dyn Runtime>,
    locations: Locations,
    /// The timeout of a request that names none, and the least there is.
    default_timeout: Duration,
    turns: Turns,
    /// Told which names are being written.
    store: Option<Store>,
}

impl fmt::Debug for Checkpointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpointer")
            .field("locations", &self.locations)
            .field("default_timeout", &self.default_timeout)
            .finish_non_exhaustive()
    }
}

impl Checkpointer {
    /// `folder` must be absolute and UTF-8: its files are named to the runtime and the caller.
    pub fn new(runtime: Arc<dyn Runtime>, folder: &Path, default_timeout: Duration) -> Self {
        Self {
            runtime,
            locations: Locations::new(folder),
            default_timeout,
            turns: Turns::default(),
            store: None,
        }
    }

    /// With a store over the folder: what a runtime still writes is hidden from it.
    pub fn with_store(self, store: Store) -> Self {
        Self { store: Some(store), ..self }
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

        let turn = match self.turns.try_take(target) {
            Ok(turn) => turn,
            Err(queue) => {
                let turn = queue.take().await;
                snapshot = take().await?;
                turn
            }
        };
        let made = self.run(&snapshot, target, requested).await.map_err(failed);
        drop(turn);
        made
    }

    async fn run(
        &self,
        snapshot: &Snapshot,
        target: &Target,
        requested: i64,
    ) -> Result<String, Failure> {
        let Target { namespace, pod, container } = target;
        let container_id = snapshot
            .pod(namespace, pod)
            .and_then(|pod| pod.running_container(container))
            .map(|found| found.id.clone())
            .ok_or_else(|| Failure::NotRunning { container: container.clone() })?;
        let (timeout_seconds, deadline) =
            timeout::effective(requested, self.default_timeout).ok_or(Failure::NegativeTimeout)?;
        let location = self.locations.reserve(namespace, pod, container, &Zoned::now()).await?;
        let path = location.path().to_owned();
        let name = Path::new(&path).file_name().and_then(|name| name.to_str());
        let _writing = self.store.as_ref().zip(name).map(|(store, name)| store.writing(name));
        tracing::info!(%target, container_id, path, timeout_seconds, "checkpoint begins");
        let call = self.runtime.checkpoint(CheckpointCall {
            container_id,
            location: path.clone(),
            timeout_seconds,
            deadline,
        });
        match tokio::time::timeout(deadline, call).await {
            Ok(done) => done?,
            Err(_) => return Err(RpcError::deadline_exceeded().into()),
        }
        Ok(path)
    }
}

/// Who checkpoints which container now. An entry lives as long as somebody holds or awaits it.
#[derive(Debug, Default)]
struct Turns {
    queues: Mutex<HashMap<Target, Weak<AsyncMutex<()>>>>,
}

/// The right to checkpoint one container.
type Turn = OwnedMutexGuard<()>;

/// A place in the line for it.
#[derive(Debug)]
struct Queue(Arc<AsyncMutex<()>>);

impl Turns {
    fn try_take(&self, target: &Target) -> Result<Turn, Queue> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|_, queue| queue.strong_count() > 0);
        let queue = match queues.get(target).and_then(Weak::upgrade) {
            Some(queue) => queue,
            None => {
                let queue = Arc::new(AsyncMutex::new(()));
                queues.insert(target.clone(), Arc::downgrade(&queue));
                queue
            }
        };
        Arc::clone(&queue).try_lock_owned().map_err(|_| Queue(queue))
    }
}

impl Queue {
    async fn take(self) -> Turn {
        self.0.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(container: &str) -> Target {
        Target { namespace: "ns".into(), pod: "pod".into(), container: container.into() }
    }

    #[tokio::test]
    async fn turns_are_per_container_and_leave_nothing_behind() {
        let turns = Turns::default();
        let first = turns.try_take(&target("a")).unwrap();
        let other = turns.try_take(&target("b")).unwrap();
        let Err(waiting) = turns.try_take(&target("a")) else { panic!("two turns at once") };
        drop(first);
        let second = waiting.take().await;
        assert!(turns.try_take(&target("a")).is_err());
        drop((second, other));
        drop(turns.try_take(&target("c")));
        assert_eq!(turns.queues.lock().unwrap().len(), 1);
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
