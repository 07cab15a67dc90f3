//! [`Runtime`] over a CRI v1 unix socket: containerd, CRI-O, or our own.
//!
//! A kubelet asks a runtime for its version when it connects, and takes none that does not name
//! itself. So does this, before the first call and again after the runtime was gone: another one may
//! have come in its place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cryopod_cri::v1::{ContainerState, PodSandboxState};
use cryopod_cri::{Client, CriError, labels, v1};

use super::{CheckpointCall, Code, Container, RpcError, Runtime, Sandbox};
use crate::BoxFuture;

/// A runtime behind a CRI socket.
#[derive(Clone, Debug)]
pub struct CriRuntime {
    client: Client,
    /// Deadline of the calls other than a checkpoint.
    timeout: Duration,
    /// Whether the runtime has named itself, and was not gone since.
    known: Arc<AtomicBool>,
}

impl CriRuntime {
    /// `timeout` bounds the calls other than a checkpoint: the kubelet's `runtimeRequestTimeout`.
    pub fn new(client: Client, timeout: Duration) -> Self {
        Self { client, timeout, known: Arc::default() }
    }

    /// Asks the runtime who it is, as a kubelet does when it connects.
    ///
    /// # Errors
    /// The call's own error, verbatim; [`Code::FailedPrecondition`] for a runtime that leaves a field
    /// of the answer empty, since a kubelet would not work with it.
    pub async fn version(&self) -> Result<v1::VersionResponse, RpcError> {
        let version = self.client.version(self.timeout).await.map_err(RpcError::from)?;
        let fields = [
            ("version", &version.version),
            ("runtime_name", &version.runtime_name),
            ("runtime_version", &version.runtime_version),
            ("runtime_api_version", &version.runtime_api_version),
        ];
        if let Some((field, _)) = fields.iter().find(|(_, value)| value.is_empty()) {
            return Err(RpcError {
                code: Code::FailedPrecondition,
                message: format!("the runtime's answer to Version has an empty field {field}"),
            });
        }
        if !self.known.swap(true, Ordering::Relaxed) {
            tracing::info!(
                socket = %self.client.path().display(),
                name = version.runtime_name,
                version = version.runtime_version,
                api = version.runtime_api_version,
                "the runtime"
            );
        }
        Ok(version)
    }

    async fn know(&self) -> Result<(), RpcError> {
        if !self.known.load(Ordering::Relaxed) {
            self.version().await?;
        }
        Ok(())
    }

    fn failed(&self, error: CriError) -> RpcError {
        let error = RpcError::from(error);
        if error.code == Code::Unavailable {
            self.known.store(false, Ordering::Relaxed);
        }
        error
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }
}

impl Runtime for CriRuntime {
    fn sandboxes(&self) -> BoxFuture<'_, Result<Vec<Sandbox>, RpcError>> {
        Box::pin(async {
            self.know().await?;
            let listed = self.client.list_pod_sandbox(None, Some(self.timeout)).await;
            let listed = listed.map_err(|error| self.failed(error))?;
            Ok(listed.into_iter().map(Sandbox::from).collect())
        })
    }

    fn containers(&self) -> BoxFuture<'_, Result<Vec<Container>, RpcError>> {
        Box::pin(async {
            let listed = self.client.list_containers(None, Some(self.timeout)).await;
            let listed = listed.map_err(|error| self.failed(error))?;
            Ok(listed.into_iter().map(Container::from).collect())
        })
    }

    fn pid<'a>(&'a self, container_id: &'a str) -> BoxFuture<'a, Result<Option<u32>, RpcError>> {
        Box::pin(async move {
            let status = self.client.container_status(container_id, true).await;
            Ok(pid(&status.map_err(|error| self.failed(error))?.info))
        })
    }

    fn used_bytes<'a>(
        &'a self,
        container_id: &'a str,
    ) -> BoxFuture<'a, Result<Option<u64>, RpcError>> {
        Box::pin(async move {
            let stats = self.client.container_stats(container_id).await;
            Ok(stats.map_err(|error| self.failed(error))?.as_ref().and_then(used_bytes))
        })
    }

    fn checkpoint(&self, call: CheckpointCall) -> BoxFuture<'_, Result<(), RpcError>> {
        Box::pin(async move {
            let CheckpointCall { container_id, location, timeout_seconds, deadline } = call;
            self.client
                .checkpoint_container(&container_id, &location, timeout_seconds, Some(deadline))
                .await
                .map_err(|error| self.failed(error))
        })
    }
}

/// The pid in a verbose status: containerd, CRI-O and ours put a JSON object with it under `info`.
fn pid(info: &BTreeMap<String, String>) -> Option<u32> {
    #[derive(serde::Deserialize)]
    struct Info {
        pid: Option<u32>,
    }
    let info: Info = serde_json::from_str(info.get("info")?).ok()?;
    info.pid.filter(|pid| *pid > 0)
}

/// The working set (which leaves out file pages that could be dropped and are in no archive; the whole
/// usage where there is none), what is swapped out, and the container's own layer.
fn used_bytes(stats: &v1::ContainerStats) -> Option<u64> {
    let memory = stats.memory.as_ref()?;
    let known = |value: &Option<v1::UInt64Value>| value.as_ref().map(|value| value.value);
    let used = [&memory.working_set_bytes, &memory.usage_bytes, &memory.rss_bytes];
    let used = used.into_iter().find_map(|value| known(value).filter(|bytes| *bytes > 0))?;
    let swapped = stats.swap.as_ref().and_then(|swap| known(&swap.swap_usage_bytes));
    let layer = stats.writable_layer.as_ref().and_then(|layer| known(&layer.used_bytes));
    Some(used.saturating_add(swapped.unwrap_or(0)).saturating_add(layer.unwrap_or(0)))
}

impl From<v1::PodSandbox> for Sandbox {
    fn from(mut sandbox: v1::PodSandbox) -> Self {
        let ready = sandbox.state() == PodSandboxState::SandboxReady;
        let mut label = |key| sandbox.labels.remove(key).unwrap_or_default();
        let (pod, namespace, uid) = match sandbox.metadata {
            Some(metadata) => (metadata.name, metadata.namespace, metadata.uid),
            None => (label(labels::POD_NAME), label(labels::POD_NAMESPACE), label(labels::POD_UID)),
        };
        Self { id: sandbox.id, pod, namespace, uid, ready, created_at: sandbox.created_at }
    }
}

impl From<v1::Container> for Container {
    fn from(mut container: v1::Container) -> Self {
        let running = container.state() == ContainerState::ContainerRunning;
        let name = match container.metadata {
            Some(metadata) => metadata.name,
            None => container.labels.remove(labels::CONTAINER_NAME).unwrap_or_default(),
        };
        Self {
            id: container.id,
            sandbox_id: container.pod_sandbox_id,
            name,
            running,
            created_at: container.created_at,
        }
    }
}

impl From<CriError> for RpcError {
    fn from(error: CriError) -> Self {
        match error {
            CriError::Rpc { code, message } => Self { code, message },
            // Not from a call: the message has the facts, the cause is one line more.
            other => {
                let cause = std::error::Error::source(&other).map(ToString::to_string);
                let message = match cause {
                    Some(cause) => format!("{other}: {cause}"),
                    None => other.to_string(),
                };
                Self { code: other.code(), message }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pid_is_found_in_the_verbose_status_and_nothing_else_is_taken_for_one() {
        let of = |text: &str| pid(&[("info".to_owned(), text.to_owned())].into());
        assert_eq!(of(r#"{"sandboxID":"s","pid":4711,"config":{"pid":1}}"#), Some(4711));
        for text in [r#"{"pid":0}"#, r#"{"pid":-1}"#, r#"{"pid":"7"}"#, "{}", "", "7"] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(pid(&BTreeMap::new()), None);
    }

    #[test]
    fn what_is_used_is_memory_swap_and_the_layer() {
        let some = |value| Some(v1::UInt64Value { value });
        let mut stats = v1::ContainerStats {
            memory: Some(v1::MemoryUsage {
                working_set_bytes: some(100),
                usage_bytes: some(1000),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(used_bytes(&stats), Some(100));
        stats.writable_layer =
            Some(v1::FilesystemUsage { used_bytes: some(7), ..Default::default() });
        stats.swap = Some(v1::SwapUsage { swap_usage_bytes: some(20), ..Default::default() });
        assert_eq!(used_bytes(&stats), Some(127));
        stats.memory.as_mut().unwrap().working_set_bytes = None;
        assert_eq!(used_bytes(&stats), Some(1027));
        stats.memory = None;
        assert_eq!(used_bytes(&stats), None);
    }

    #[test]
    fn names_come_from_the_metadata_and_else_from_the_labels() {
        let labels = [
            (labels::POD_NAME, "lp"),
            (labels::POD_NAMESPACE, "ln"),
            (labels::POD_UID, "lu"),
            (labels::CONTAINER_NAME, "lc"),
        ];
        let labels: BTreeMap<_, _> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let mut sandbox = v1::PodSandbox {
            id: "s".into(),
            labels: labels.clone(),
            state: PodSandboxState::SandboxNotready.into(),
            created_at: 7,
            ..Default::default()
        };
        let seen = Sandbox::from(sandbox.clone());
        assert_eq!((&*seen.pod, &*seen.namespace, &*seen.uid), ("lp", "ln", "lu"));
        assert!(!seen.ready);
        sandbox.metadata = Some(v1::PodSandboxMetadata {
            name: "p".into(),
            namespace: "n".into(),
            uid: "u".into(),
            ..Default::default()
        });
        sandbox.state = PodSandboxState::SandboxReady.into();
        let seen = Sandbox::from(sandbox);
        assert_eq!((&*seen.pod, &*seen.namespace, &*seen.uid), ("p", "n", "u"));
        assert!(seen.ready);

        let mut container = v1::Container {
            id: "c".into(),
            pod_sandbox_id: "s".into(),
            labels,
            state: ContainerState::ContainerExited.into(),
            ..Default::default()
        };
        let seen = Container::from(container.clone());
        assert_eq!((&*seen.name, seen.running), ("lc", false));
        container.metadata = Some(v1::ContainerMetadata { name: "c".into(), ..Default::default() });
        container.state = ContainerState::ContainerRunning.into();
        let seen = Container::from(container);
        assert_eq!((&*seen.name, seen.running), ("c", true));
    }
}
