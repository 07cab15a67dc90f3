//! Which container or pod a command means, and finding it.

use std::fmt;
use std::str::FromStr;

use cryopod_cri::v1::{Container, ContainerState, PodSandbox, PodSandboxState};
use cryopod_cri::{Client, CriError, labels};

/// `NAMESPACE/POD/CONTAINER`, `NAMESPACE/POD`, or the beginning of an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Container { namespace: String, pod: String, container: String },
    Pod { namespace: String, pod: String },
    Id(String),
}

/// Why something is not found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    /// Not one of the forms.
    #[error("{text:?} is not NAMESPACE/POD/CONTAINER, NAMESPACE/POD or an id")]
    Form { text: String },
    /// Nothing there.
    #[error("{what} {target} does not exist (see `cryopod ps --all`)")]
    Missing { what: &'static str, target: Target },
    /// Several there.
    #[error("{target} fits {count} containers: name one of {names}")]
    Several { target: Target, count: usize, names: String },
    /// There, but not as needed.
    #[error("container {target} is {state}, and would have to run")]
    NotRunning { target: Target, state: &'static str },
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(TargetError::Form { text: text.to_owned() });
        }
        match parts[..] {
            [namespace, pod, container] => Ok(Self::Container {
                namespace: namespace.to_owned(),
                pod: pod.to_owned(),
                container: container.to_owned(),
            }),
            [namespace, pod] => {
                Ok(Self::Pod { namespace: namespace.to_owned(), pod: pod.to_owned() })
            }
            [id] => Ok(Self::Id(id.to_owned())),
            _ => Err(TargetError::Form { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container { namespace, pod, container } => {
                write!(f, "{namespace}/{pod}/{container}")
            }
            Self::Pod { namespace, pod } => write!(f, "{namespace}/{pod}"),
            Self::Id(id) => f.write_str(id),
        }
    }
}

/// A pod's sandbox as the commands see it.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) attempt: u32,
    pub(crate) ready: bool,
    pub(crate) created_at: i64,
}

impl From<PodSandbox> for Pod {
    fn from(sandbox: PodSandbox) -> Self {
        let ready = sandbox.state() == PodSandboxState::SandboxReady;
        let metadata = sandbox.metadata.unwrap_or_default();
        Self {
            id: sandbox.id,
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            attempt: metadata.attempt,
            ready,
            created_at: sandbox.created_at,
        }
    }
}

/// A container with its pod.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) id: String,
    pub(crate) sandbox_id: String,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) name: String,
    pub(crate) attempt: u32,
    pub(crate) state: ContainerState,
    pub(crate) image: String,
    pub(crate) created_at: i64,
}

impl Found {
    pub(crate) fn running(&self) -> bool {
        self.state == ContainerState::ContainerRunning
    }

    /// `NAMESPACE/POD/CONTAINER`.
    pub(crate) fn path(&self) -> String {
        format!("{}/{}/{}", self.namespace, self.pod, self.name)
    }
}

/// The state in one word.
pub(crate) fn state_name(state: ContainerState) -> &'static str {
    match state {
        ContainerState::ContainerCreated => "created",
        ContainerState::ContainerRunning => "running",
        ContainerState::ContainerExited => "exited",
        ContainerState::ContainerUnknown => "unknown",
    }
}

/// Everything a runtime has, newest first.
#[derive(Clone, Debug)]
pub(crate) struct Inventory {
    pub(crate) pods: Vec<Pod>,
    pub(crate) containers: Vec<Found>,
}

impl Inventory {
    pub(crate) async fn load(client: &Client) -> Result<Self, CriError> {
        let pods = client.list_pod_sandbox(None, None).await?;
        let containers = client.list_containers(None, None).await?;
        let mut pods: Vec<Pod> = pods.into_iter().map(Pod::from).collect();
        pods.sort_by_key(|pod| std::cmp::Reverse((pod.created_at, pod.attempt)));
        let mut containers: Vec<Found> =
            containers.into_iter().map(|container| found(container, &pods)).collect();
        containers.sort_by_key(|one| std::cmp::Reverse((one.created_at, one.attempt)));
        Ok(Self { pods, containers })
    }

    /// Containers a target means. Of several with one name (a restarted one) the newest.
    fn matching(&self, target: &Target) -> Vec<&Found> {
        let mut names = Vec::new();
        self.containers
            .iter()
            .filter(|one| match target {
                Target::Container { namespace, pod, container } => {
                    one.namespace == *namespace && one.pod == *pod && one.name == *container
                }
                Target::Pod { namespace, pod } => one.namespace == *namespace && one.pod == *pod,
                Target::Id(id) => one.id.starts_with(id),
            })
            .filter(|one| {
                let by_id = matches!(target, Target::Id(_));
                let first = !names.contains(&one.path());
                names.push(one.path());
                by_id || first
            })
            .collect()
    }

    /// The one container a target means; a running one goes before others of a pod.
    pub(crate) fn container(&self, target: &Target) -> Result<&Found, TargetError> {
        let mut all = self.matching(target);
        if matches!(target, Target::Pod { .. })
            && all.iter().filter(|one| one.running()).count() == 1
        {
            all.retain(|one| one.running());
        }
        match all[..] {
            [] => Err(TargetError::Missing { what: "container", target: target.clone() }),
            [one] => Ok(one),
            _ => {
                let names = match target {
                    Target::Id(_) => all.iter().map(|one| one.id.clone()).collect::<Vec<_>>(),
                    _ => all.iter().map(|one| one.path()).collect(),
                };
                Err(TargetError::Several {
                    target: target.clone(),
                    count: names.len(),
                    names: names.join(", "),
                })
            }
        }
    }

    /// [`Inventory::container`], which must run.
    pub(crate) fn running(&self, target: &Target) -> Result<&Found, TargetError> {
        let one = self.container(target)?;
        if one.running() {
            return Ok(one);
        }
        Err(TargetError::NotRunning { target: target.clone(), state: state_name(one.state) })
    }

    /// The sandboxes of a pod, newest first.
    pub(crate) fn sandboxes(&self, namespace: &str, name: &str) -> Vec<&Pod> {
        self.pods.iter().filter(|pod| pod.namespace == namespace && pod.name == name).collect()
    }

    /// The containers of a sandbox.
    pub(crate) fn within(&self, sandbox_id: &str) -> impl Iterator<Item = &Found> {
        self.containers.iter().filter(move |one| one.sandbox_id == sandbox_id)
    }
}

fn found(container: Container, pods: &[Pod]) -> Found {
    let state = container.state();
    let pod = pods.iter().find(|pod| pod.id == container.pod_sandbox_id);
    // Another runtime may list a container whose sandbox is gone; its labels know the pod still.
    let label = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
    let metadata = container.metadata.unwrap_or_default();
    Found {
        namespace: pod.map_or_else(|| label(labels::POD_NAMESPACE), |pod| pod.namespace.clone()),
        pod: pod.map_or_else(|| label(labels::POD_NAME), |pod| pod.name.clone()),
        id: container.id,
        sandbox_id: container.pod_sandbox_id,
        name: metadata.name,
        attempt: metadata.attempt,
        state,
        image: container.image.unwrap_or_default().image,
        created_at: container.created_at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(id: &str, name: &str, state: ContainerState, created_at: i64) -> Found {
        Found {
            id: id.into(),
            sandbox_id: "s".into(),
            namespace: "default".into(),
            pod: "p".into(),
            name: name.into(),
            attempt: 0,
            state,
            image: String::new(),
            created_at,
        }
    }

    fn inventory(containers: Vec<Found>) -> Inventory {
        Inventory { pods: vec![], containers }
    }

    fn target(text: &str) -> Target {
        text.parse().unwrap()
    }

    #[test]
    fn forms_are_told_apart_by_their_slashes() {
        assert_eq!(target("abc"), Target::Id("abc".into()));
        assert_eq!(target("a/b"), Target::Pod { namespace: "a".into(), pod: "b".into() });
        assert_eq!(target("a/b/c").to_string(), "a/b/c");
        for wrong in ["", "/", "a/", "/b/c", "a//c", "a/b/c/d"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_newest_of_one_name_is_meant() {
        use ContainerState::{ContainerExited, ContainerRunning};
        let all = inventory(vec![
            one("b2", "c", ContainerRunning, 2),
            one("b1", "c", ContainerExited, 1),
        ]);
        assert_eq!(all.container(&target("default/p/c")).unwrap().id, "b2");
        assert_eq!(all.container(&target("default/p")).unwrap().id, "b2");
        assert_eq!(all.container(&target("b1")).unwrap().id, "b1");
        assert!(matches!(all.container(&target("b")), Err(TargetError::Several { count: 2, .. })));
        assert!(matches!(all.container(&target("x")), Err(TargetError::Missing { .. })));
        assert!(matches!(all.running(&target("b1")), Err(TargetError::NotRunning { .. })));
    }

    #[test]
    fn a_pods_only_running_container_is_meant() {
        use ContainerState::{ContainerExited, ContainerRunning};
        let mut all = inventory(vec![
            one("1", "init", ContainerExited, 1),
            one("2", "app", ContainerRunning, 2),
        ]);
        assert_eq!(all.container(&target("default/p")).unwrap().id, "2");
        all.containers.push(one("3", "side", ContainerRunning, 3));
        assert!(matches!(all.container(&target("default/p")), Err(TargetError::Several { .. })));
    }
}
