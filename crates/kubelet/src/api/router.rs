//! Which operation of the table a request means.

use http::Method;

use super::table::{OPERATIONS, Operation, PREFIX};

/// What was found.
#[derive(Clone, Debug)]
pub(crate) enum Selection {
    /// No such path.
    NotFound,
    /// The path has other methods: the value of `Allow`.
    MethodNotAllowed { allow: String },
    /// This one.
    Found(Found),
}

/// An operation and what the path says to it.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) operation: &'static Operation,
    /// The segment in place of the one in braces; empty where the operation has none.
    pub(crate) argument: String,
    /// Asked for without its body.
    pub(crate) head: bool,
}

/// Finds the operation for a decoded path. HEAD is understood wherever GET is.
pub(crate) fn select(method: &Method, path: &str) -> Selection {
    let Some(path) = path.strip_prefix(PREFIX) else { return Selection::NotFound };
    let head = method == Method::HEAD;
    let wanted = if head { "GET" } else { method.as_str() };
    let mut methods = Vec::new();
    for operation in OPERATIONS {
        let Some(argument) = fit(operation.path, path) else { continue };
        if operation.method == wanted {
            return Selection::Found(Found { operation, argument: argument.to_owned(), head });
        }
        methods.push(operation.method);
        if operation.method == "GET" {
            methods.push("HEAD");
        }
    }
    if methods.is_empty() {
        return Selection::NotFound;
    }
    Selection::MethodNotAllowed { allow: methods.join(", ") }
}

/// Whether a path has a template's form; what stands for its segment in braces.
fn fit<'a>(template: &str, path: &'a str) -> Option<&'a str> {
    let mut argument = "";
    let mut segments = path.split('/');
    for expected in template.split('/') {
        let segment = segments.next()?;
        if expected.starts_with('{') {
            if segment.is_empty() {
                return None;
            }
            argument = segment;
        } else if segment != expected {
            return None;
        }
    }
    segments.next().is_none().then_some(argument)
}

#[cfg(test)]
mod tests {
    use super::super::table::Action;
    use super::*;

    fn found(method: Method, path: &str) -> (Action, String, bool) {
        match select(&method, path) {
            Selection::Found(found) => (found.operation.action, found.argument, found.head),
            other => panic!("{method} {path}: {other:?}"),
        }
    }

    #[test]
    fn a_path_and_its_method_are_one_operation() {
        let rows = [
            (Method::GET, "/archives", Action::ListArchives, ""),
            (Method::GET, "/archives/a:b+c.tar", Action::DescribeArchive, "a:b+c.tar"),
            (Method::GET, "/archives/pin", Action::DescribeArchive, "pin"),
            (Method::DELETE, "/archives/a", Action::DeleteArchive, "a"),
            (Method::GET, "/archives/a/content", Action::Download, "a"),
            (Method::PUT, "/archives/a/pin", Action::Pin, "a"),
            (Method::DELETE, "/archives/a/pin", Action::Unpin, "a"),
            (Method::GET, "/checkpoints", Action::ListCheckpoints, ""),
            (Method::GET, "/checkpoints/7", Action::DescribeCheckpoint, "7"),
            (Method::GET, "/checkpoints/7/events", Action::Events, "7"),
            (Method::POST, "/restore", Action::Restore, ""),
            (Method::GET, "/openapi.json", Action::Document, ""),
        ];
        for (method, path, action, argument) in rows {
            let path = format!("{PREFIX}{path}");
            assert_eq!(found(method, &path), (action, argument.to_owned(), false), "{path}");
        }
        let head = found(Method::HEAD, "/cryopod/v1/archives/a/content");
        assert_eq!(head, (Action::Download, "a".to_owned(), true));
    }

    #[test]
    fn other_paths_are_not_there_whatever_the_method() {
        for path in [
            "/cryopod",
            "/cryopod/v1",
            "/cryopod/v1/",
            "/cryopod/v2/archives",
            "/cryopod/v1/archives/",
            "/cryopod/v1//archives",
            "/cryopod/v1/archives//content",
            "/cryopod/v1/archives/a/b",
            "/cryopod/v1/archives/a/content/",
            "/cryopod/v1archives",
            "/checkpoint/a/b/c",
        ] {
            for method in [Method::GET, Method::DELETE, Method::POST] {
                let selection = select(&method, path);
                assert!(matches!(selection, Selection::NotFound), "{path}: {selection:?}");
            }
        }
    }

    #[test]
    fn a_wrong_method_is_told_the_right_ones() {
        let allow = |method: Method, path: &str| match select(&method, path) {
            Selection::MethodNotAllowed { allow } => allow,
            other => panic!("{other:?}"),
        };
        assert_eq!(allow(Method::POST, "/cryopod/v1/archives"), "GET, HEAD");
        assert_eq!(allow(Method::PATCH, "/cryopod/v1/archives/a"), "GET, HEAD, DELETE");
        assert_eq!(allow(Method::GET, "/cryopod/v1/archives/a/pin"), "PUT, DELETE");
        assert_eq!(allow(Method::HEAD, "/cryopod/v1/restore"), "POST");
        assert_eq!(allow(Method::OPTIONS, "/cryopod/v1/restore"), "POST");
    }
}
