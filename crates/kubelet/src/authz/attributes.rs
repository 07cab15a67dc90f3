//! From a request to the attributes that are decided on.

use http::Method;

use super::Attributes;
use crate::api::{self, Selection};
use crate::authn::User;
use crate::checkpoint::Target;
use crate::kubernetes_version::KubernetesVersion;

/// Works out what a request asks for. Several attributes are tried in order until one is
/// allowed; none at all is a refusal (403).
pub trait RequestAttributes: Send + Sync {
    /// `path` is the decoded path.
    fn attributes(&self, user: &User, method: &Method, path: &str) -> Vec<Attributes>;
}

/// The kubelet's rule, by the path's beginning: `/checkpoint` is `nodes/checkpoint` and nothing
/// else, `/metrics` is `nodes/metrics`, and what is not named is `nodes/proxy`. Health, pods and
/// configuration have a subresource of their own, too, which is asked for first (the feature gate
/// KubeletFineGrainedAuthz, locked on since Kubernetes 1.36). `/readyz`, which a kubelet lacks, is
/// as `/healthz`. What goes beyond the kubelet has an attribute for each operation
/// ([`crate::api::rules`]); what is not there below that prefix has none.
#[derive(Clone, Debug)]
pub struct NodeAttributes {
    node: String,
    fine_grained: bool,
    checkpoint: [&'static str; 1],
}

impl NodeAttributes {
    /// For requests to the node of that name, as in the newest Kubernetes.
    pub fn new(node: impl Into<String>) -> Self {
        Self::of_version(node, KubernetesVersion::NEWEST)
    }

    /// As in that version: before 1.30 the endpoint's subresource was `proxy`, and before 1.33 the
    /// feature gate KubeletFineGrainedAuthz was off.
    pub fn of_version(node: impl Into<String>, version: KubernetesVersion) -> Self {
        Self {
            node: node.into(),
            fine_grained: version.has_fine_grained_authorization(),
            checkpoint: [version.subresource()],
        }
    }

    /// With the feature gate KubeletFineGrainedAuthz on or off, whatever the version.
    #[must_use]
    pub fn fine_grained(self, fine_grained: bool) -> Self {
        Self { fine_grained, ..self }
    }

    /// The subresources of a path, in the order they are tried.
    fn subresources(&self, path: &str) -> &[&'static str] {
        let below = |parents: &[&str]| parents.iter().any(|parent| is_subpath(path, parent));
        if below(&["/stats"]) {
            &["stats"]
        } else if below(&["/metrics"]) {
            &["metrics"]
        } else if below(&["/logs"]) {
            &["log"]
        } else if below(&["/checkpoint"]) {
            &self.checkpoint
        } else if below(&["/statusz"]) {
            &["statusz"]
        } else if below(&["/flagz"]) {
            &["configz"]
        } else if !self.fine_grained {
            &["proxy"]
        } else if below(&["/healthz", "/readyz"]) {
            &["healthz", "proxy"]
        } else if below(&["/configz"]) {
            &["configz", "proxy"]
        } else if below(&["/pods", "/runningpods"]) {
            &["pods", "proxy"]
        } else {
            &["proxy"]
        }
    }
}

impl RequestAttributes for NodeAttributes {
    fn attributes(&self, user: &User, method: &Method, path: &str) -> Vec<Attributes> {
        let verb = match *method {
            Method::POST => "create",
            Method::GET => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        };
        let (verb, subresources) = if !is_subpath(path, "/cryopod") {
            (verb, self.subresources(path))
        } else if let Selection::Found(found) = api::select(method, path) {
            (found.operation.verb, std::slice::from_ref(&found.operation.subresource))
        } else {
            return Vec::new();
        };
        let attributes = |subresource: &&'static str| Attributes {
            user: user.clone(),
            verb,
            api_group: "",
            api_version: "v1",
            resource: "nodes",
            subresource,
            name: self.node.clone(),
            namespace: String::new(),
            resource_request: true,
            path: path.to_owned(),
        };
        subresources.iter().map(attributes).collect()
    }
}

/// The second check, which the kubelet lacks: `create pods/checkpoint` of that pod, in its
/// namespace. Without it, whoever may checkpoint one container of a node may checkpoint all.
pub fn pod_attributes(user: &User, target: &Target, path: &str) -> Attributes {
    Attributes {
        user: user.clone(),
        verb: "create",
        api_group: "",
        api_version: "v1",
        resource: "pods",
        subresource: "checkpoint",
        name: target.pod.clone(),
        namespace: target.namespace.clone(),
        resource_request: true,
        path: path.to_owned(),
    }
}

/// Whether `path` is `parent` or lies below it, by whole segments; a final slash on the parent
/// does not count. Case matters.
pub fn is_subpath(path: &str, parent: &str) -> bool {
    let parent = parent.strip_suffix('/').unwrap_or(parent);
    match path.strip_prefix(parent) {
        Some(rest) => rest.is_empty() || rest.starts_with('/'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subpaths_are_what_upstream_says_they_are() {
        let inside = [
            ("", ""),
            ("foo", "foo"),
            ("/foo", "/foo"),
            ("/foo/", "/foo/"),
            ("/foo/bar", "/foo/bar"),
            ("/foo", "/"),
            ("/foo/", "/"),
            ("/foo/bar", "/"),
            ("/foo", "/foo"),
            ("/foo/", "/foo"),
            ("/foo/bar", "/foo"),
        ];
        for (path, parent) in inside {
            assert!(is_subpath(path, parent), "{path:?} is below {parent:?}");
        }
        let outside = [("/foo", "/bar"), ("/foo", "/foobar"), ("/foobar", "/foo")];
        for (path, parent) in outside {
            assert!(!is_subpath(path, parent), "{path:?} is not below {parent:?}");
        }
    }

    #[test]
    fn every_method_has_its_verb_on_nodes_checkpoint() {
        let user = User::anonymous();
        let verbs = [
            (Method::POST, "create"),
            (Method::GET, "get"),
            (Method::PUT, "update"),
            (Method::PATCH, "patch"),
            (Method::DELETE, "delete"),
            (Method::HEAD, ""),
            (Method::OPTIONS, ""),
        ];
        for path in ["/checkpoint", "/checkpoint/", "/checkpoint/ns/pod/ctr"] {
            for (method, verb) in &verbs {
                let expected = Attributes {
                    user: user.clone(),
                    verb,
                    api_group: "",
                    api_version: "v1",
                    resource: "nodes",
                    subresource: "checkpoint",
                    name: "test".to_owned(),
                    namespace: String::new(),
                    resource_request: true,
                    path: path.to_owned(),
                };
                let all = NodeAttributes::new("test").attributes(&user, method, path);
                assert_eq!(all, [expected], "{method} {path}");
            }
        }
    }

    #[test]
    fn each_operation_beyond_the_kubelet_has_its_own() {
        let rows = [
            (Method::GET, "archives", "list nodes/checkpointarchives"),
            (Method::GET, "archives/a.tar", "get nodes/checkpointarchives"),
            (Method::HEAD, "archives/a.tar", "get nodes/checkpointarchives"),
            (Method::DELETE, "archives/a.tar", "delete nodes/checkpointarchives"),
            (Method::GET, "archives/a.tar/content", "get nodes/checkpointcontent"),
            (Method::HEAD, "archives/a.tar/content", "get nodes/checkpointcontent"),
            (Method::PUT, "archives/a.tar/pin", "update nodes/checkpointarchives"),
            (Method::DELETE, "archives/a.tar/pin", "update nodes/checkpointarchives"),
            (Method::GET, "checkpoints", "list nodes/checkpointprogress"),
            (Method::GET, "checkpoints/1", "get nodes/checkpointprogress"),
            (Method::GET, "checkpoints/1/events", "get nodes/checkpointprogress"),
            (Method::POST, "restore", "create nodes/checkpointrestore"),
            (Method::GET, "openapi.json", "get nodes/checkpointprogress"),
        ];
        for (method, path, expected) in rows {
            let path = format!("/cryopod/v1/{path}");
            let all = NodeAttributes::new("n").attributes(&User::anonymous(), &method, &path);
            let [one] = all.as_slice() else { panic!("{path}: {all:?}") };
            let rule = format!("{} {}/{}", one.verb, one.resource, one.subresource);
            assert_eq!((&*rule, &*one.name, &*one.path), (expected, "n", &*path), "{method}");
        }
        for path in ["/cryopod/v1", "/cryopod", "/cryopod/v2/archives"] {
            let all = NodeAttributes::new("n").attributes(&User::anonymous(), &Method::GET, path);
            assert!(all.is_empty(), "{path}");
        }
    }

    #[test]
    fn other_paths_are_for_those_who_may_everything() {
        for path in ["/", "/checkpoints", "/Checkpoint/a/b/c", "/healthzjunk", "/exec/a/b/c"] {
            let all = NodeAttributes::new("n").attributes(&User::anonymous(), &Method::GET, path);
            let subresources: Vec<&str> = all.iter().map(|one| one.subresource).collect();
            assert_eq!(subresources, ["proxy"], "{path}");
        }
    }
}
