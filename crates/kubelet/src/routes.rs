//! Which answer a path gets before and after authentication.
//!
//! Two layers, as in the kubelet. [`land`] is Go's `http.ServeMux`: it sees the path as sent,
//! redirects what is not clean, and answers unknown prefixes itself, without authentication.
//! [`select`] is go-restful: it sees the decoded path, and answers 404, 405 and 406 only to a
//! caller that has passed authentication and authorization. Escapes are decoded before the path
//! is cut into segments, so an escaped slash makes one more segment.

use http::Method;

/// The route's prefix.
pub const CHECKPOINT: &str = "checkpoint";

/// The prefix of what goes beyond the kubelet ([`crate::api`]).
pub const CRYOPOD: &str = "cryopod";

/// The paths of a kubelet's kind that this server knows, by what answers them. All are behind the
/// door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// `/checkpoint/…`, the kubelet's own route; 404 and 405 below it are [`select`]'s.
    Checkpoint,
    /// `/metrics`, exactly.
    Metrics,
    /// `/healthz` and `/healthz/ping`: the process answers.
    Healthz,
    /// `/readyz` and one page for each of its checks: a checkpoint could be made.
    Readyz,
}

impl Prefix {
    /// First segments that are counted apart; a kubelet counts `checkpoint` so only while it has
    /// the route.
    #[must_use]
    pub fn counted(registered: bool) -> &'static [&'static str] {
        const NAMES: [&str; 5] = [CHECKPOINT, CRYOPOD, "metrics", "healthz", "readyz"];
        if registered { &NAMES } else { &NAMES[2..] }
    }

    /// What answers a path of these decoded segments; `registered` is for the checkpoint route.
    fn of(segments: &[&[u8]], registered: bool) -> Option<Self> {
        match segments {
            [b"checkpoint", ..] if registered => Some(Self::Checkpoint),
            [b"metrics"] => Some(Self::Metrics),
            [b"healthz"] | [b"healthz", b"ping"] => Some(Self::Healthz),
            [b"readyz"] => Some(Self::Readyz),
            [b"readyz", check] if crate::health::is_check(check) => Some(Self::Readyz),
            _ => None,
        }
    }

    /// The route, as spans name it.
    #[must_use]
    pub fn route(self) -> &'static str {
        match self {
            Self::Checkpoint => "/checkpoint/{podNamespace}/{podID}/{containerName}",
            Self::Metrics => "/metrics",
            Self::Healthz => "/healthz",
            Self::Readyz => "/readyz",
        }
    }
}

/// What the outer layer does with a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Landing {
    /// Not a path at all: a bad escape.
    BadRequest,
    /// Not known here: 404 without authentication.
    NotFound,
    /// Answer `status` with this location (path and query).
    Redirect { status: u16, location: String },
    /// Behind the door; the decoded path goes on to authentication.
    Guarded { prefix: Prefix, path: String },
    /// Behind the door, below [`CRYOPOD`]; `None` for a bad escape.
    Beyond { path: Option<String> },
}

/// What the inner layer does with a decoded path.
#[derive(Debug, PartialEq, Eq)]
pub enum Selection {
    /// Wrong number of segments.
    NotFound,
    /// The path is right, the method is not.
    MethodNotAllowed,
    /// The caller accepts nothing we produce.
    NotAcceptable,
    /// The one route there is.
    Checkpoint { namespace: String, pod: String, container: String },
}

/// The outer layer. `registered` is whether the checkpoint route exists (feature gate on and
/// debugging handlers enabled).
pub fn land(method: &Method, path: &str, query: Option<&str>, registered: bool) -> Landing {
    let decoded = unescape(path.as_bytes(), false);
    let below = path.strip_prefix('/').and_then(|rest| rest.strip_prefix(CRYOPOD));
    if registered && below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        // Nothing is redirected there: a path is right or it is not there.
        let path = decoded.map(|path| String::from_utf8_lossy(&path).into_owned());
        return Landing::Beyond { path };
    }
    let Some(decoded) = decoded else { return Landing::BadRequest };
    let with_query = |path: &str| match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    // CONNECT has no path to clean.
    let clean = if method == Method::CONNECT { path.to_owned() } else { clean(path) };
    // Cut first, decoded then: an escaped slash is no border for the mux.
    let segments: Option<Vec<Vec<u8>>> = clean
        .strip_prefix('/')
        .map(|rest| rest.split('/').map(|one| unescape(one.as_bytes(), false)).collect())
        .unwrap_or_default();
    let segments = segments.unwrap_or_default();
    let segments: Vec<&[u8]> = segments.iter().map(Vec::as_slice).collect();
    match Prefix::of(&segments, registered) {
        Some(Prefix::Checkpoint) if segments.len() == 1 => {
            // Go 1.26 made the redirect to the folder a temporary one.
            Landing::Redirect { status: 307, location: with_query(&format!("{clean}/")) }
        }
        _ if clean != path => Landing::Redirect { status: 301, location: with_query(&clean) },
        Some(prefix) => {
            Landing::Guarded { prefix, path: String::from_utf8_lossy(&decoded).into_owned() }
        }
        None => Landing::NotFound,
    }
}

/// The decoded path, for counting; empty for a broken one.
pub(crate) fn decoded(path: &str) -> String {
    let plain = unescape(path.as_bytes(), false).unwrap_or_default();
    String::from_utf8_lossy(&plain).into_owned()
}

/// The inner layer: segments, then method, then `Accept` (its first header line).
pub fn select(method: &Method, path: &str, accept: Option<&str>) -> Selection {
    let mut segments = path.trim_matches('/').split('/');
    let (Some(CHECKPOINT), Some(namespace), Some(pod), Some(container), None) =
        (segments.next(), segments.next(), segments.next(), segments.next(), segments.next())
    else {
        return Selection::NotFound;
    };
    if method != Method::POST {
        return Selection::MethodNotAllowed;
    }
    if !accepts_json(accept.unwrap_or("")) {
        return Selection::NotAcceptable;
    }
    Selection::Checkpoint {
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
        container: container.to_owned(),
    }
}

/// Whether an `Accept` value takes JSON: only `*/*` and the exact type do, whatever the quality.
fn accepts_json(accept: &str) -> bool {
    accept.is_empty()
        || accept
            .split(',')
            .map(|range| range.split(';').next().unwrap_or("").trim())
            .any(|range| range == "*/*" || range == "application/json")
}

/// The shortest equal path: no empty, `.` or `..` segments; a final slash stays.
fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            other => kept.push(other),
        }
    }
    let mut cleaned = String::with_capacity(path.len() + 1);
    for segment in &kept {
        cleaned.push('/');
        cleaned.push_str(segment);
    }
    if kept.is_empty() || path.ends_with('/') {
        cleaned.push('/');
    }
    cleaned
}

/// Undoes percent escapes, and `+` as a space when `plus` is set; `None` for a broken escape.
pub(crate) fn unescape(text: &[u8], plus: bool) -> Option<Vec<u8>> {
    let hex = |byte: &u8| char::from(*byte).to_digit(16);
    let mut plain = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'%' => {
                let high = text.get(at + 1).and_then(hex)?;
                let low = text.get(at + 2).and_then(hex)?;
                plain.push(u8::try_from(high * 16 + low).ok()?);
                at += 2;
            }
            b'+' if plus => plain.push(b' '),
            other => plain.push(*other),
        }
        at += 1;
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(path: &str) -> Landing {
        land(&Method::POST, path, None, true)
    }

    fn guarded(path: &str) -> Landing {
        Landing::Guarded { prefix: Prefix::Checkpoint, path: path.to_owned() }
    }

    fn moved(status: u16, location: &str) -> Landing {
        Landing::Redirect { status, location: location.to_owned() }
    }

    #[test]
    fn only_the_registered_prefix_is_behind_the_door() {
        assert_eq!(post("/checkpoint/a/b/c"), guarded("/checkpoint/a/b/c"));
        assert_eq!(post("/checkpoint/"), guarded("/checkpoint/"));
        assert_eq!(post("/checkpoint/a"), guarded("/checkpoint/a"));
        for path in ["/", "/checkpoints/a/b/c", "/Checkpoint/a/b/c", "/pods", "/check", "*", ""] {
            let landing = post(path);
            assert!(!matches!(landing, Landing::Guarded { .. }), "{path}: {landing:?}");
        }
        assert_eq!(post("/pods"), Landing::NotFound);
        assert_eq!(land(&Method::POST, "/checkpoint/a/b/c", None, false), Landing::NotFound);
        assert_eq!(land(&Method::POST, "/checkpoint", None, false), Landing::NotFound);
        assert_eq!(land(&Method::CONNECT, "", None, true), Landing::NotFound);
    }

    #[test]
    fn health_and_metrics_are_exact_pages_whatever_the_gate() {
        for registered in [true, false] {
            let get = |path| land(&Method::GET, path, None, registered);
            let at = |prefix, path: &str| Landing::Guarded { prefix, path: path.to_owned() };
            assert_eq!(get("/metrics"), at(Prefix::Metrics, "/metrics"));
            assert_eq!(get("/%6detrics"), at(Prefix::Metrics, "/metrics"));
            assert_eq!(get("/healthz"), at(Prefix::Healthz, "/healthz"));
            assert_eq!(get("/healthz/ping"), at(Prefix::Healthz, "/healthz/ping"));
            assert_eq!(get("/readyz"), at(Prefix::Readyz, "/readyz"));
            assert_eq!(get("/readyz/runtime"), at(Prefix::Readyz, "/readyz/runtime"));
            assert_eq!(get("//metrics"), moved(301, "/metrics"));
            for path in [
                "/metrics/",
                "/metrics/cadvisor",
                "/healthz/",
                "/healthz/log",
                "/healthz%2Fping",
                "/healthz/ping/",
                "/readyz/nothing",
                "/readyz/",
                "/Metrics",
            ] {
                assert_eq!(get(path), Landing::NotFound, "{path}");
            }
        }
    }

    #[test]
    fn unclean_paths_are_redirected_with_their_query() {
        assert_eq!(post("//checkpoint/a/b/c"), moved(301, "/checkpoint/a/b/c"));
        assert_eq!(post("/checkpoint//a/b/c"), moved(301, "/checkpoint/a/b/c"));
        assert_eq!(post("/checkpoint/a/../b/c"), moved(301, "/checkpoint/b/c"));
        assert_eq!(post("/checkpoint/./a/b/c/"), moved(301, "/checkpoint/a/b/c/"));
        assert_eq!(post("/../../etc//x"), moved(301, "/etc/x"));
        assert_eq!(post("//evil.example/x"), moved(301, "/evil.example/x"));
        assert_eq!(post("/checkpoint/.."), moved(301, "/"));
        let with_query = land(&Method::POST, "/checkpoint//a/b/c", Some("timeout=5"), true);
        assert_eq!(with_query, moved(301, "/checkpoint/a/b/c?timeout=5"));
    }

    #[test]
    fn the_bare_prefix_is_redirected_to_the_folder() {
        assert_eq!(post("/checkpoint"), moved(307, "/checkpoint/"));
        assert_eq!(post("//checkpoint"), moved(307, "/checkpoint/"));
        let with_query = land(&Method::GET, "/checkpoint", Some("timeout=5"), true);
        assert_eq!(with_query, moved(307, "/checkpoint/?timeout=5"));
    }

    #[test]
    fn escapes_are_decoded_before_the_path_is_cut() {
        assert_eq!(post("/%63heckpoint/a/b/c"), guarded("/checkpoint/a/b/c"));
        assert_eq!(post("/checkpoint/a%2Fb/c"), guarded("/checkpoint/a/b/c"));
        assert_eq!(post("/checkpoint%2Fa/b/c"), Landing::NotFound);
        assert_eq!(post("/checkpoint/%2e%2e/b/c"), guarded("/checkpoint/../b/c"));
        assert_eq!(post("/checkpoint/%zz/b/c"), Landing::BadRequest);
        assert_eq!(post("/checkpoint/a/b/%2"), Landing::BadRequest);
        assert_eq!(post("/nowhere/%"), Landing::BadRequest);
    }

    #[test]
    fn below_our_own_prefix_nothing_is_redirected() {
        let beyond = |path: &str| Landing::Beyond { path: Some(path.to_owned()) };
        assert_eq!(post("/cryopod/v1/archives"), beyond("/cryopod/v1/archives"));
        assert_eq!(post("/cryopod"), beyond("/cryopod"));
        assert_eq!(post("/cryopod//v1/../x"), beyond("/cryopod//v1/../x"));
        assert_eq!(post("/cryopod/v1/archives/a%2Fb"), beyond("/cryopod/v1/archives/a/b"));
        assert_eq!(post("/cryopod/v1/%zz"), Landing::Beyond { path: None });
        assert_eq!(post("/cryopods"), Landing::NotFound);
        assert_eq!(land(&Method::GET, "/cryopod/v1", None, false), Landing::NotFound);
    }

    fn found(namespace: &str, pod: &str, container: &str) -> Selection {
        Selection::Checkpoint {
            namespace: namespace.into(),
            pod: pod.into(),
            container: container.into(),
        }
    }

    #[test]
    fn exactly_three_segments_are_the_route() {
        let at = |path| select(&Method::POST, path, None);
        assert_eq!(at("/checkpoint/a/b/c"), found("a", "b", "c"));
        assert_eq!(at("/checkpoint/a/b/c/"), found("a", "b", "c"));
        assert_eq!(at("/checkpoint//b/c"), found("", "b", "c"));
        for path in ["/checkpoint/", "/checkpoint/a", "/checkpoint/a/b", "/checkpoint/a/b/c/d"] {
            assert_eq!(at(path), Selection::NotFound, "{path}");
        }
    }

    #[test]
    fn the_path_is_judged_before_the_method_and_the_method_before_accept() {
        let none = Some("text/html");
        assert_eq!(select(&Method::GET, "/checkpoint/a", none), Selection::NotFound);
        assert_eq!(select(&Method::GET, "/checkpoint/a/b/c", none), Selection::MethodNotAllowed);
        assert_eq!(select(&Method::POST, "/checkpoint/a/b/c", none), Selection::NotAcceptable);
    }

    #[test]
    fn accept_knows_two_ranges_only() {
        for yes in ["", "*/*", "application/json", "text/html, application/json;q=0.1", " */* ;q=0"]
        {
            assert!(accepts_json(yes), "{yes:?}");
        }
        for no in ["application/*", "text/html", "application/JSON", ",", "application/json2"] {
            assert!(!accepts_json(no), "{no:?}");
        }
    }
}
