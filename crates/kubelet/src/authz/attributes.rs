//! From a request to the attributes that are decided on.

use http::Method;

use super::Attributes;
use crate::api::{self, Selection};
use crate::authn::User;

/// Works out what a request asks for. Several attributes are tried in order until one is
/// allowed; none at all is a refusal (403).
pub trait RequestAttributes: Send + Sync {
    /// `path` is the decoded path.
    fn attributes(&self, user: &User, method: &Method, path: &str) -> Vec<Attributes>;
}

/// The kubelet's rule: a path under `/checkpoint` is `nodes/checkpoint`, and nothing else. What goes
/// beyond the kubelet has an attribute for each operation ([`crate::api::rules`]).
#[derive(Clone, Debug)]
pub struct NodeAttributes {
    node: String,
}

impl NodeAttributes {
    /// For requests to the node of that name.
    pub fn new(node: impl Into<String>) -> Self {
        Self { node: node.into() }
    }
}

impl RequestAttributes for NodeAttributes {
    fn attributes(&self, user: &User, method: &Method, path: &str) -> Vec<Attributes> {
        let (verb, subresource) = if is_subpath(path, "/checkpoint") {
            let verb = match *method {
                Method::POST => "create",
                Method::GET => "get",
                Method::PUT => "update",
                Method::PATCH => "patch",
                Method::DELETE => "delete",
                _ => "",
            };
            (verb, "checkpoint")
        } else if let Selection::Found(found) = api::select(method, path) {
            (found.operation.verb, found.operation.subresource)
        } else {
            return Vec::new();
        };
        vec![Attributes {
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
        }]
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
    }

    #[test]
    fn other_paths_have_no_attributes() {
        for path in ["/", "/checkpoints", "/Checkpoint/a/b/c", "/pods", "/cryopod/v1", "/cryopod"] {
            let all = NodeAttributes::new("n").attributes(&User::anonymous(), &Method::GET, path);
            assert!(all.is_empty(), "{path}");
        }
    }
}
