//! Finding a pod and its containers in what the runtime knows.
//!
//! A pod is every sandbox with its name, namespace and UID; a pod that was replaced by another of
//! the same name is a different one, and the newest (a ready one first) is meant. Any container
//! of those sandboxes, in any state, counts as in the pod's spec; only a running one can be
//! checkpointed. As for a kubelet, its sandbox need not be ready: what counts is that the container
//! runs. Of several the newest is meant, one in a ready sandbox first.

use crate::runtime::{Container, RpcError, Runtime, Sandbox};

/// The runtime's sandboxes and containers at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    sandboxes: Vec<Sandbox>,
    containers: Vec<Container>,
}

/// A pod found in a [`Snapshot`].
#[derive(Debug)]
pub(crate) struct Pod<'a> {
    sandboxes: Vec<&'a Sandbox>,
    containers: &'a [Container],
}

impl Snapshot {
    /// Asks the runtime.
    pub(crate) async fn take(runtime: &dyn Runtime) -> Result<Self, RpcError> {
        // Sandboxes first: a container listed afterwards always has its sandbox in the list,
        // unless both are newer than the request.
        let sandboxes = runtime.sandboxes().await?;
        let containers = runtime.containers().await?;
        Ok(Self { sandboxes, containers })
    }

    /// The pod of that name, if the runtime knows one.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<Pod<'_>> {
        let named = || {
            self.sandboxes
                .iter()
                .filter(|sandbox| sandbox.pod == name && sandbox.namespace == namespace)
        };
        let uid = &named().max_by_key(|sandbox| (sandbox.ready, sandbox.created_at))?.uid;
        let sandboxes = named().filter(|sandbox| sandbox.uid == *uid).collect();
        Some(Pod { sandboxes, containers: &self.containers })
    }
}

impl<'a> Pod<'a> {
    /// Whether a container of that name was ever made in the pod.
    pub(crate) fn has_container(&self, name: &str) -> bool {
        self.named(name).next().is_some()
    }

    /// The running container of that name.
    pub(crate) fn running_container(&self, name: &str) -> Option<&'a Container> {
        self.named(name)
            .filter(|(_, container)| container.running)
            .max_by_key(|(sandbox, container)| {
                (sandbox.ready, sandbox.created_at, container.created_at)
            })
            .map(|(_, container)| container)
    }

    fn named(&self, name: &str) -> impl Iterator<Item = (&'a Sandbox, &'a Container)> {
        self.containers.iter().filter(move |container| container.name == name).filter_map(
            |container| {
                let sandbox =
                    self.sandboxes.iter().find(|sandbox| sandbox.id == container.sandbox_id)?;
                Some((*sandbox, container))
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(id: &str, uid: &str, ready: bool, created_at: i64) -> Sandbox {
        Sandbox {
            id: id.into(),
            pod: "pod".into(),
            namespace: "ns".into(),
            uid: uid.into(),
            ready,
            created_at,
        }
    }

    fn container(id: &str, sandbox_id: &str, running: bool, created_at: i64) -> Container {
        Container {
            id: id.into(),
            sandbox_id: sandbox_id.into(),
            name: "ctr".into(),
            running,
            created_at,
        }
    }

    #[test]
    fn a_pod_is_known_by_name_and_namespace() {
        let snapshot =
            Snapshot { sandboxes: vec![sandbox("s", "u", false, 1)], containers: vec![] };
        assert!(snapshot.pod("ns", "pod").is_some());
        assert!(snapshot.pod("ns", "po").is_none());
        assert!(snapshot.pod("pod", "ns").is_none());
        assert!(!snapshot.pod("ns", "pod").unwrap().has_container("ctr"));
    }

    #[test]
    fn the_newest_running_container_is_meant_of_a_ready_sandbox_first() {
        let snapshot = Snapshot {
            sandboxes: vec![sandbox("old", "u", false, 1), sandbox("new", "u", true, 2)],
            containers: vec![
                container("c0", "old", true, 9),
                container("c1", "new", false, 8),
                container("c2", "new", true, 3),
                container("c3", "new", true, 4),
                container("c4", "gone", true, 9),
            ],
        };
        let pod = snapshot.pod("ns", "pod").unwrap();
        assert!(pod.has_container("ctr"));
        assert_eq!(pod.running_container("ctr").unwrap().id, "c3");
        assert!(pod.running_container("other").is_none());
    }

    #[test]
    fn a_running_container_counts_whatever_its_sandbox_is_and_a_stopped_one_does_not() {
        let mut snapshot = Snapshot {
            sandboxes: vec![sandbox("s", "u", false, 1)],
            containers: vec![container("c", "s", true, 1)],
        };
        assert_eq!(snapshot.pod("ns", "pod").unwrap().running_container("ctr").unwrap().id, "c");
        snapshot.containers[0].running = false;
        let pod = snapshot.pod("ns", "pod").unwrap();
        assert!(pod.has_container("ctr"));
        assert!(pod.running_container("ctr").is_none());
    }

    #[test]
    fn a_replaced_pod_of_the_same_name_is_another_pod() {
        let snapshot = Snapshot {
            sandboxes: vec![sandbox("old", "u1", false, 5), sandbox("new", "u2", true, 2)],
            containers: vec![container("c", "old", false, 1)],
        };
        assert!(!snapshot.pod("ns", "pod").unwrap().has_container("ctr"));
    }
}
