//! What still exists: for policies that let archives go with what they are of.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::runtime::Runtime;
use crate::store::Identity;
use crate::{BoxError, BoxFuture};

use super::plan::Scope;

/// Pods, their containers, and namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Residents {
    /// Containers by namespace and pod.
    pub pods: HashMap<(String, String), HashSet<String>>,
    /// All namespaces. `None` when only the pods are known: then none is taken for gone.
    pub namespaces: Option<HashSet<String>>,
}

impl Residents {
    /// Adds a container and its pod.
    pub fn add(&mut self, one: Identity) {
        self.pods.entry((one.namespace, one.pod)).or_default().insert(one.container);
    }

    /// Whether it does not exist any more.
    pub(super) fn are_without(&self, scope: &Scope) -> bool {
        let pod =
            |namespace: &str, pod: &str| self.pods.get(&(namespace.to_owned(), pod.to_owned()));
        match scope {
            Scope::Container(one) => !pod(&one.namespace, &one.pod)
                .is_some_and(|containers| containers.contains(&one.container)),
            Scope::Pod { namespace, pod: name } => pod(namespace, name).is_none(),
            Scope::Namespace(name) => {
                self.namespaces.as_ref().is_some_and(|all| !all.contains(name))
            }
            Scope::Node => false,
        }
    }
}

/// Who knows what exists.
pub trait Census: Send + Sync {
    /// What exists now. After an error nothing is taken for gone.
    fn residents(&self) -> BoxFuture<'_, Result<Residents, BoxError>>;
}

/// What the node's runtime knows, in whatever state: a pod that went to another node is gone here.
/// Namespaces it cannot know.
pub struct RuntimeCensus(pub Arc<dyn Runtime>);

impl std::fmt::Debug for RuntimeCensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RuntimeCensus").finish_non_exhaustive()
    }
}

impl Census for RuntimeCensus {
    fn residents(&self) -> BoxFuture<'_, Result<Residents, BoxError>> {
        Box::pin(async {
            // Containers first: a sandbox listed afterwards is there for each of them, unless it was
            // removed in between, together with them.
            let containers = self.0.containers().await?;
            let sandboxes = self.0.sandboxes().await?;
            let mut residents = Residents::default();
            let mut places = HashMap::new();
            for sandbox in sandboxes {
                let place = (sandbox.namespace, sandbox.pod);
                residents.pods.entry(place.clone()).or_default();
                places.insert(sandbox.id, place);
            }
            for container in containers {
                if let Some((namespace, pod)) = places.get(&container.sandbox_id).cloned() {
                    residents.add(Identity { namespace, pod, container: container.name });
                }
            }
            Ok(residents)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{CheckpointCall, Container, RpcError, Sandbox};

    struct Fixed;

    impl Runtime for Fixed {
        fn pid<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<u32>, RpcError>> {
            Box::pin(async { Ok(None) })
        }

        fn used_bytes<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<u64>, RpcError>> {
            Box::pin(async { Ok(None) })
        }

        fn sandboxes(&self) -> BoxFuture<'_, Result<Vec<Sandbox>, RpcError>> {
            let sandbox = |id: &str, pod: &str| Sandbox {
                id: id.into(),
                pod: pod.into(),
                namespace: "n".into(),
                uid: String::new(),
                ready: false,
                created_at: 0,
            };
            Box::pin(async move { Ok(vec![sandbox("1", "p"), sandbox("2", "empty")]) })
        }

        fn containers(&self) -> BoxFuture<'_, Result<Vec<Container>, RpcError>> {
            let container = |name: &str, sandbox_id: &str| Container {
                id: name.into(),
                sandbox_id: sandbox_id.into(),
                name: name.into(),
                running: false,
                created_at: 0,
            };
            Box::pin(async move { Ok(vec![container("c", "1"), container("lost", "3")]) })
        }

        fn checkpoint(&self, _: CheckpointCall) -> BoxFuture<'_, Result<(), RpcError>> {
            Box::pin(async { Err(RpcError::deadline_exceeded()) })
        }
    }

    #[tokio::test]
    async fn whatever_the_runtime_knows_exists_in_whatever_state() {
        let residents = RuntimeCensus(Arc::new(Fixed)).residents().await.unwrap();
        let container = |pod: &str, container: &str| {
            Scope::Container(Identity {
                namespace: "n".into(),
                pod: pod.into(),
                container: container.into(),
            })
        };
        let pod = |pod: &str| Scope::Pod { namespace: "n".into(), pod: pod.into() };
        for (scope, gone) in [
            (container("p", "c"), false),
            (container("p", "other"), true),
            (container("empty", "c"), true),
            (pod("empty"), false),
            (pod("other"), true),
            (Scope::Namespace("other".into()), false),
            (Scope::Node, false),
        ] {
            assert_eq!(residents.are_without(&scope), gone, "{scope}");
        }
    }
}
