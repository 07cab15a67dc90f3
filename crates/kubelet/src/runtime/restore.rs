//! Restoring through CRI: a pod sandbox, a container whose image is the archive's path, started.
//!
//! CRI has no call for it that runtimes serve; ours takes an archive's absolute path where an image's
//! name would be (no name can look like that), and restores when the container is started. Another
//! runtime would look for such an image, or, as older containerd did, trust the archive: it is told
//! apart before anything is made, by what only ours tells in a verbose Status.
//!
//! What reaches out of the container is never taken from the archive: a new pod has a private
//! network, and no mounts of the host are made.

use std::path::{Path, PathBuf};

use cryopod_archive::{Archive, MetadataError};
use cryopod_cri::client::PLACES_KEY;
use cryopod_cri::{Code, labels, v1};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{CriRuntime, RpcError};
use crate::BoxFuture;

/// What is to be restored, as whom.
#[derive(Clone, Debug, PartialEq)]
pub struct RestoreCall {
    /// Absolute path of the archive.
    pub archive: PathBuf,
    /// Namespace of the pod.
    pub namespace: String,
    /// The pod; one that is there and ready is used.
    pub pod: String,
    /// The container.
    pub container: String,
    /// What the container was like.
    pub shape: Shape,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    /// The container's id at the runtime.
    pub id: String,
    /// The pod sandbox's id.
    pub sandbox_id: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name.
    pub container: String,
}

/// Why nothing was restored. Nothing is left of it, either.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The runtime is not ours.
    #[error(
        "the node's runtime cannot restore a container from an archive: run `cryopod serve` \
         without --container-runtime-endpoint for that"
    )]
    Foreign,
    /// The container's name is taken.
    #[error("container {namespace}/{pod}/{container} runs already: name another")]
    Runs {
        /// The pod's namespace.
        namespace: String,
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// The pod that is there has the host's network, which nobody asked for.
    #[error("pod {namespace}/{pod} is there with the host's network: name another pod")]
    HostNetwork {
        /// The pod's namespace.
        namespace: String,
        /// The pod.
        pod: String,
    },
    /// A call failed.
    #[error("cannot {action}: {source}")]
    Rpc {
        /// What was tried.
        action: &'static str,
        /// The runtime's own words.
        source: RpcError,
    },
    /// Nobody waits for it any more.
    #[error("the client hung up")]
    HungUp,
}

/// Tells whether somebody still waits for a restore. The other end is dropped when nobody does.
#[derive(Debug)]
pub struct Caller(oneshot::Receiver<()>);

/// Held by who waits.
#[derive(Debug)]
pub struct Waiting {
    _sender: oneshot::Sender<()>,
}

impl Caller {
    /// Both ends.
    #[must_use]
    pub fn pair() -> (Waiting, Self) {
        let (sender, receiver) = oneshot::channel();
        (Waiting { _sender: sender }, Self(receiver))
    }

    /// Whether nobody waits any more.
    pub fn is_gone(&mut self) -> bool {
        !matches!(self.0.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }

    /// Done when nobody waits any more.
    pub async fn gone(&mut self) {
        // An oneshot must not be polled again once it is done.
        if !self.is_gone() {
            let _ = (&mut self.0).await;
        }
    }
}

/// Lets containers go on from archives.
pub trait Restorer: Send + Sync + 'static {
    /// Restores. The future must be driven to its end, which comes soon once the caller is gone:
    /// what was made by then is removed.
    fn restore(
        &self,
        call: RestoreCall,
        caller: Caller,
    ) -> BoxFuture<'_, Result<Restored, RestoreError>>;
}

/// What a container was like, of what a restore takes over without being told to: its limits, a
/// read-only root, its host name. Nothing of it reaches out of the container. The archive is foreign:
/// numbers are checked by the runtime like those of any request.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Shape {
    /// The host name; empty: none.
    #[serde(default)]
    pub hostname: String,
    #[serde(default)]
    root: Root,
    #[serde(default)]
    linux: Linux,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
struct Root {
    #[serde(default)]
    readonly: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
struct Linux {
    #[serde(default)]
    resources: Resources,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Resources {
    memory: Memory,
    cpu: Cpu,
    pids: Pids,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Memory {
    limit: i64,
    swap: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Cpu {
    shares: i64,
    quota: i64,
    period: i64,
    cpus: String,
    mems: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Pids {
    limit: i64,
}

impl Shape {
    /// Reads it from an archive's OCI spec. Blocking.
    ///
    /// # Errors
    /// When there is no such entry, it is damaged, or is no OCI spec.
    pub fn of(archive: &Archive) -> Result<Self, MetadataError> {
        archive.spec()
    }

    /// [`Shape::of`] the archive at a path. Blocking.
    ///
    /// # Errors
    /// Also when it cannot be opened.
    pub fn read(path: &Path) -> Result<Self, MetadataError> {
        Self::of(&Archive::open(path)?)
    }

    /// Whether the root filesystem was read-only.
    #[must_use]
    pub fn readonly_root(&self) -> bool {
        self.root.readonly
    }

    /// Its limits as a request has them; 0: none.
    #[must_use]
    pub fn resources(&self) -> v1::LinuxContainerResources {
        let Resources { memory, cpu, pids } = &self.linux.resources;
        v1::LinuxContainerResources {
            memory_limit_in_bytes: memory.limit,
            memory_swap_limit_in_bytes: memory.swap,
            cpu_shares: cpu.shares,
            cpu_quota: cpu.quota,
            cpu_period: cpu.period,
            cpuset_cpus: cpu.cpus.clone(),
            cpuset_mems: cpu.mems.clone(),
            unified: match pids.limit {
                0 => Default::default(),
                limit if limit < 0 => [("pids.max".to_owned(), "max".to_owned())].into(),
                limit => [("pids.max".to_owned(), limit.to_string())].into(),
            },
            ..Default::default()
        }
    }
}

impl Restorer for CriRuntime {
    fn restore(
        &self,
        call: RestoreCall,
        mut caller: Caller,
    ) -> BoxFuture<'_, Result<Restored, RestoreError>> {
        Box::pin(async move {
            let log_dir = self.log_dir().await?;
            let place = self.place(&call, &log_dir).await?;
            if caller.is_gone() {
                return Err(RestoreError::HungUp);
            }
            let (sandbox_id, fresh) = match place.sandbox_id {
                Some(id) => (id, false),
                None => {
                    let made = self.client().run_pod_sandbox(place.sandbox.clone()).await;
                    (made.map_err(failed("make the pod"))?, true)
                }
            };
            let started = self
                .start(&sandbox_id, place.sandbox, place.container, &mut caller)
                .await
                .map(|id| Restored {
                    id,
                    sandbox_id: sandbox_id.clone(),
                    namespace: call.namespace,
                    pod: call.pod,
                    container: call.container,
                });
            if started.is_err() && fresh {
                // A kubelet stops before it removes; ours does both.
                self.client().stop_pod_sandbox(&sandbox_id).await.ok();
                if let Err(error) = self.client().remove_pod_sandbox(&sandbox_id).await {
                    tracing::error!(sandbox_id, %error, "a pod of a failed restore stays");
                }
            }
            started
        })
    }
}

/// Where a container goes, and the messages for it.
struct Place {
    /// The sandbox, if it is there.
    sandbox_id: Option<String>,
    sandbox: v1::PodSandboxConfig,
    container: v1::ContainerConfig,
}

impl CriRuntime {
    /// Where our own runtime keeps logs; [`RestoreError::Foreign`] from another.
    async fn log_dir(&self) -> Result<PathBuf, RestoreError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Places {
            log_dir: PathBuf,
        }
        let status = self.client().status(true).await.map_err(failed("ask the runtime"))?;
        let places = status.info.get(PLACES_KEY).and_then(|text| serde_json::from_str(text).ok());
        places.map(|Places { log_dir }| log_dir).ok_or(RestoreError::Foreign)
    }

    async fn place(&self, call: &RestoreCall, log_dir: &Path) -> Result<Place, RestoreError> {
        let RestoreCall { archive, namespace, pod, container, shape } = call;
        let listed = self.client().list_pod_sandbox(None, Some(self.timeout())).await;
        let listed = listed.map_err(failed("list the pods"))?;
        let mut namesakes: Vec<(v1::PodSandboxMetadata, v1::PodSandbox)> = listed
            .into_iter()
            .filter_map(|sandbox| Some((sandbox.metadata.clone()?, sandbox)))
            .filter(|(of, _)| of.name == *pod && of.namespace == *namespace)
            .collect();
        namesakes.sort_by_key(|(_, sandbox)| std::cmp::Reverse(sandbox.created_at));
        let ready = namesakes
            .iter()
            .find(|(_, sandbox)| sandbox.state() == v1::PodSandboxState::SandboxReady);
        let sandbox_id = ready.map(|(_, sandbox)| sandbox.id.clone());
        let (uid, attempt) = match ready {
            Some((of, _)) => (of.uid.clone(), of.attempt),
            None => (
                new_uid().map_err(|error| RestoreError::Rpc {
                    action: "make the pod",
                    source: RpcError {
                        code: Code::Internal,
                        message: format!("no random id: {error}"),
                    },
                })?,
                namesakes.iter().map(|(of, _)| of.attempt + 1).max().unwrap_or(0),
            ),
        };
        let mut container_attempt = 0;
        if let Some(sandbox_id) = &sandbox_id {
            self.refuse_host_network(sandbox_id, call).await?;
            let filter =
                v1::ContainerFilter { pod_sandbox_id: sandbox_id.clone(), ..Default::default() };
            let listed = self.client().list_containers(Some(filter), Some(self.timeout())).await;
            for one in listed.map_err(failed("list the containers"))? {
                let Some(of) = one.metadata.as_ref().filter(|of| of.name == *container) else {
                    continue;
                };
                if one.pod_sandbox_id == *sandbox_id
                    && one.state() == v1::ContainerState::ContainerRunning
                {
                    return Err(RestoreError::Runs {
                        namespace: namespace.clone(),
                        pod: pod.clone(),
                        container: container.clone(),
                    });
                }
                container_attempt = container_attempt.max(of.attempt + 1);
            }
        }
        let named = |more: Option<(&str, &String)>| {
            [(labels::POD_NAME, pod), (labels::POD_NAMESPACE, namespace), (labels::POD_UID, &uid)]
                .into_iter()
                .chain(more)
                .map(|(key, value)| (key.to_owned(), value.clone()))
                .collect()
        };
        let hostname = if shape.hostname.is_empty() { pod } else { &shape.hostname };
        let folder = log_dir.join(format!("{namespace}_{pod}_{uid}"));
        Ok(Place {
            sandbox_id,
            sandbox: v1::PodSandboxConfig {
                metadata: Some(v1::PodSandboxMetadata {
                    name: pod.clone(),
                    uid: uid.clone(),
                    namespace: namespace.clone(),
                    attempt,
                }),
                hostname: hostname.clone(),
                log_directory: folder.to_string_lossy().into_owned(),
                labels: named(None),
                linux: Some(v1::LinuxPodSandboxConfig {
                    security_context: Some(v1::LinuxSandboxSecurityContext {
                        namespace_options: Some(namespaces()),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            },
            container: v1::ContainerConfig {
                metadata: Some(v1::ContainerMetadata {
                    name: container.clone(),
                    attempt: container_attempt,
                }),
                image: Some(v1::ImageSpec {
                    image: archive.to_string_lossy().into_owned(),
                    ..Default::default()
                }),
                log_path: format!("{container}/{container_attempt}.log"),
                labels: named(Some((labels::CONTAINER_NAME, container))),
                linux: Some(v1::LinuxContainerConfig {
                    resources: Some(shape.resources()),
                    security_context: Some(v1::LinuxContainerSecurityContext {
                        namespace_options: Some(namespaces()),
                        readonly_rootfs: shape.readonly_root(),
                        ..Default::default()
                    }),
                }),
                ..Default::default()
            },
        })
    }

    async fn refuse_host_network(&self, id: &str, call: &RestoreCall) -> Result<(), RestoreError> {
        let status = self.client().pod_sandbox_status(id, false).await;
        let status = status.map_err(failed("look at the pod"))?.status.unwrap_or_default();
        let options = status.linux.and_then(|linux| linux.namespaces).and_then(|all| all.options);
        if options.is_some_and(|all| all.network() == v1::NamespaceMode::Node) {
            return Err(RestoreError::HostNetwork {
                namespace: call.namespace.clone(),
                pod: call.pod.clone(),
            });
        }
        Ok(())
    }

    /// Makes and starts the container; removes it when that fails or the caller goes.
    async fn start(
        &self,
        sandbox_id: &str,
        sandbox: v1::PodSandboxConfig,
        container: v1::ContainerConfig,
        caller: &mut Caller,
    ) -> Result<String, RestoreError> {
        let made = self.client().create_container(sandbox_id, container, sandbox).await;
        let id = made.map_err(failed("make the container"))?;
        let started = tokio::select! {
            started = self.client().start_container(&id) => {
                started.map_err(failed("restore the container"))
            }
            () = caller.gone() => Err(RestoreError::HungUp),
        };
        if let Err(error) = started {
            if let Err(error) = self.client().remove_container(&id).await {
                tracing::error!(container_id = id, %error, "a container of a failed restore stays");
            }
            return Err(error);
        }
        Ok(id)
    }
}

/// Its own everything; each container its own processes.
fn namespaces() -> v1::NamespaceOption {
    v1::NamespaceOption {
        network: v1::NamespaceMode::Pod.into(),
        pid: v1::NamespaceMode::Container.into(),
        ipc: v1::NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

fn failed(action: &'static str) -> impl FnOnce(cryopod_cri::CriError) -> RestoreError {
    move |error| RestoreError::Rpc { action, source: error.into() }
}

fn new_uid() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_taken_over_and_what_reaches_out_is_not() {
        let spec = r#"{"hostname": "h", "root": {"path": "rootfs", "readonly": true},
            "process": {"capabilities": {"bounding": ["CAP_SYS_ADMIN"]}},
            "mounts": [{"destination": "/x", "source": "/"}],
            "linux": {"resources": {"memory": {"limit": 1048576}, "pids": {"limit": 7},
                "cpu": {"quota": 5000, "period": 10000}, "devices": [{"allow": true}]}}}"#;
        let shape: Shape = serde_json::from_str(spec).unwrap();
        assert!(shape.readonly_root());
        assert_eq!(shape.hostname, "h");
        let expected = v1::LinuxContainerResources {
            memory_limit_in_bytes: 1 << 20,
            cpu_quota: 5000,
            cpu_period: 10000,
            unified: [("pids.max".to_owned(), "7".to_owned())].into(),
            ..Default::default()
        };
        assert_eq!(shape.resources(), expected);
        let none: Shape = serde_json::from_str("{}").unwrap();
        assert_eq!(none.resources(), v1::LinuxContainerResources::default());
    }

    #[tokio::test]
    async fn a_caller_that_is_gone_stays_gone() {
        let (waiting, mut caller) = Caller::pair();
        assert!(!caller.is_gone());
        drop(waiting);
        caller.gone().await;
        caller.gone().await;
        assert!(caller.is_gone());
    }
}
