//! [`Runtime`] over a CRI v1 unix socket: containerd, CRI-O, or our own.

use std::time::Duration;

use cryopod_cri::v1::{ContainerState, PodSandboxState};
use cryopod_cri::{Client, CriError, labels, v1};

use super::{CheckpointCall, Container, RpcError, Runtime, Sandbox};
use crate::BoxFuture;

/// A runtime behind a CRI socket.
#[derive(Clone, Debug)]
pub struct CriRuntime {
    client: Client,
    /// Deadline of the list calls.
    timeout: Duration,
}

impl CriRuntime {
    /// `timeout` bounds the list calls: the kubelet's `runtimeRequestTimeout`.
    pub fn new(client: Client, timeout: Duration) -> Self {
        Self { client, timeout }
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
            let listed = self.client.list_pod_sandbox(None, Some(self.timeout)).await;
            Ok(listed.map_err(RpcError::from)?.into_iter().map(Sandbox::from).collect())
        })
    }

    fn containers(&self) -> BoxFuture<'_, Result<Vec<Container>, RpcError>> {
        Box::pin(async {
            let listed = self.client.list_containers(None, Some(self.timeout)).await;
            Ok(listed.map_err(RpcError::from)?.into_iter().map(Container::from).collect())
        })
    }

    fn checkpoint(&self, call: CheckpointCall) -> BoxFuture<'_, Result<(), RpcError>> {
        Box::pin(async move {
            let CheckpointCall { container_id, location, timeout_seconds, deadline } = call;
            self.client
                .checkpoint_container(&container_id, &location, timeout_seconds, Some(deadline))
                .await
                .map_err(RpcError::from)
        })
    }
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
    fn names_come_from_the_metadata_and_else_from_the_labels() {
        let labels = [
            (labels::POD_NAME, "lp"),
            (labels::POD_NAMESPACE, "ln"),
            (labels::POD_UID, "lu"),
            (labels::CONTAINER_NAME, "lc"),
        ];
        let labels: std::collections::BTreeMap<_, _> =
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
