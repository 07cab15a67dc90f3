//! Twins of the upstream tests of the endpoint: the same inputs, the same expected results, under
//! the same names. Each says in its comment which test it is, and where what is under test here
//! differs in kind (a kubelet's fakes stand behind a Go interface, ours behind the CRI).
//!
//! Not here: the e2e test of the node (`checkpoint_container.go`), whose twin needs a container
//! and stands with the tests of the program (`tests/node_e2e.rs`), and `TestCheckpointPod` and
//! `TestRestorePod`, which are of calls that no kubelet makes yet.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cryopod_kubelet::authn::{Authenticator, Presented, User};
use cryopod_kubelet::authz::{
    Attributes, Authorizer, Decision, NodeAttributes, RequestAttributes, is_subpath,
};
use cryopod_kubelet::routes::{self, Landing};
use cryopod_kubelet::runtime::{Code, RpcError};
use cryopod_kubelet::{BoxError, BoxFuture, Delegates, FeatureGates};
use http::Method;
use tokio::sync::Notify;

use crate::metrics::{http, value};
use crate::stage::{Act, Stage};

/// The node of upstream's tables.
const NODE: &str = "test";
/// The methods of upstream's tables, with their verbs.
const VERBS: [(&str, &str); 5] = [
    ("POST", "create"),
    ("GET", "get"),
    ("PUT", "update"),
    ("PATCH", "patch"),
    ("DELETE", "delete"),
];

/// `AuthzTestCases`: each path of a kubelet with its subresources, fine-grained or not.
fn authz_cases(fine_grained: bool) -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut paths: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (subresource, of) in [
        (
            "proxy",
            &[
                "/attach/{podNamespace}/{podID}/{containerName}",
                "/attach/{podNamespace}/{podID}/{uid}/{containerName}",
                "/configz",
                "/containerLogs/{podNamespace}/{podID}/{containerName}",
                "/debug/flags/v",
                "/debug/pprof/{subpath:*}",
                "/exec/{podNamespace}/{podID}/{containerName}",
                "/exec/{podNamespace}/{podID}/{uid}/{containerName}",
                "/healthz",
                "/healthz/log",
                "/healthz/ping",
                "/healthz/syncloop",
                "/pods/",
                "/portForward/{podNamespace}/{podID}",
                "/portForward/{podNamespace}/{podID}/{uid}",
                "/run/{podNamespace}/{podID}/{containerName}",
                "/run/{podNamespace}/{podID}/{uid}/{containerName}",
                "/runningpods/",
            ] as &[_],
        ),
        ("checkpoint", &["/checkpoint/{podNamespace}/{podID}/{containerName}"]),
        ("configz", &["/flagz"]),
        ("statusz", &["/statusz"]),
        ("log", &["/logs/", "/logs/{logpath:*}"]),
        (
            "metrics",
            &[
                "/metrics",
                "/metrics/slis",
                "/metrics/cadvisor",
                "/metrics/probes",
                "/metrics/resource",
            ],
        ),
        ("stats", &["/stats/", "/stats/summary"]),
    ] {
        for path in of {
            paths.entry(path).or_default().push(subresource);
        }
    }
    assert_eq!(paths.len(), 30);
    if fine_grained {
        for (path, first) in [
            ("/healthz", "healthz"),
            ("/healthz/log", "healthz"),
            ("/healthz/ping", "healthz"),
            ("/healthz/syncloop", "healthz"),
            ("/pods/", "pods"),
            ("/runningpods/", "pods"),
            ("/configz", "configz"),
        ] {
            paths.get_mut(path).unwrap().insert(0, first);
        }
    }
    paths
}

/// `AuthzTestUser`.
fn phibby() -> User {
    User { name: "phibby".into(), groups: Vec::new(), ..User::anonymous() }
}

/// What an authorizer says.
type Decide = dyn Fn(&Attributes) -> Result<Decision, &'static str> + Send + Sync;

/// Upstream's fake of both judges: counts how often each is asked.
#[derive(Clone)]
struct FakeAuth {
    user: Option<User>,
    decisions: Arc<Decide>,
    fine_grained: bool,
    authenticated: Arc<AtomicUsize>,
    attributed: Arc<Mutex<Vec<Vec<Attributes>>>>,
    authorized: Arc<Mutex<Vec<String>>>,
}

impl FakeAuth {
    fn new(
        user: Option<User>,
        decisions: impl Fn(&Attributes) -> Result<Decision, &'static str> + Send + Sync + 'static,
    ) -> Self {
        Self {
            user,
            decisions: Arc::new(decisions),
            fine_grained: true,
            authenticated: Arc::default(),
            attributed: Arc::default(),
            authorized: Arc::default(),
        }
    }

    async fn stage(&self) -> Stage {
        let fake = Arc::new(self.clone());
        let delegates = Delegates {
            authenticators: vec![Arc::clone(&fake) as Arc<dyn Authenticator>],
            authorizer: Some(Arc::clone(&fake) as Arc<dyn Authorizer>),
            attributes: Some(fake),
            ..Delegates::default()
        };
        Stage::with_delegates(delegates, |_| {}).await
    }

    /// How often each of the three was asked.
    fn calls(&self) -> (usize, usize, usize) {
        (
            self.authenticated.load(Ordering::Relaxed),
            self.attributed.lock().unwrap().len(),
            self.authorized.lock().unwrap().len(),
        )
    }
}

impl Authenticator for FakeAuth {
    fn authenticate<'a>(
        &'a self,
        _presented: Presented<'a>,
    ) -> BoxFuture<'a, Result<Option<User>, BoxError>> {
        self.authenticated.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(self.user.clone()) })
    }
}

impl RequestAttributes for FakeAuth {
    fn attributes(&self, user: &User, method: &Method, path: &str) -> Vec<Attributes> {
        let node = NodeAttributes::new(NODE).fine_grained(self.fine_grained);
        let all = node.attributes(user, method, path);
        self.attributed.lock().unwrap().push(all.clone());
        all
    }
}

impl Authorizer for FakeAuth {
    fn authorize<'a>(
        &'a self,
        attributes: &'a Attributes,
    ) -> BoxFuture<'a, Result<Decision, BoxError>> {
        self.authorized.lock().unwrap().push(attributes.subresource.to_owned());
        let answer = (self.decisions)(attributes).map_err(BoxError::from);
        Box::pin(async { answer })
    }
}

/// `TestCheckpointContainer` of the server, (a) to (e): all by a POST without body, type or
/// `Accept`. In (c) upstream's fake kubelet returns a plain Go error; here it comes from the
/// runtime, where a plain Go error is one of code Unknown, and is printed as such.
#[tokio::test]
async fn test_checkpoint_container_of_the_server() {
    let stage = Stage::new().await;
    for container in ["baz", "checkpointingFailure"] {
        stage.runtime.add_container("other", "foo", container);
    }
    let client = stage.client();
    // (a) wrong pod namespace
    assert_eq!(client.post("/checkpoint/wrongNamespace/foo/baz").await.status, 404);
    // (b) wrong container name
    assert_eq!(client.post("/checkpoint/other/foo/wrongContainerName").await.status, 404);
    // (c) checkpointing fails
    let message = "Returning error for test".to_owned();
    stage.runtime.next(Act::Fail(RpcError { code: Code::Unknown, message }));
    let answer = client.post("/checkpoint/other/foo/checkpointingFailure").await;
    let body = "checkpointing of other/foo/checkpointingFailure failed \
                (rpc error: code = Unknown desc = Returning error for test)";
    assert_eq!((answer.status.as_u16(), &*answer.body), (500, body));
    // (d) checkpointing succeeds
    assert_eq!(client.post("/checkpoint/other/foo/baz").await.status, 200);
    // (e) checkpointing fails because disabled
    let stage = Stage::with(|options| {
        options.feature_gates = FeatureGates { container_checkpoint: false };
    })
    .await;
    stage.runtime.add_container("other", "foo", "baz");
    assert_eq!(stage.client().post("/checkpoint/other/foo/baz").await.status, 404);
}

/// `TestAuthFilters`: for each of our paths, five methods and both gates, an authorizer without an
/// opinion is 403, and each judge was asked; so a DELETE of the checkpoint route is 403, not 405.
#[tokio::test]
async fn test_auth_filters() {
    for fine_grained in [false, true] {
        let fake = FakeAuth::new(Some(phibby()), |_| Ok(Decision::NoOpinion));
        let fake = FakeAuth { fine_grained, ..fake };
        let stage = fake.stage().await;
        let cases = authz_cases(fine_grained);
        for path in [
            "/checkpoint/{podNamespace}/{podID}/{containerName}",
            "/healthz",
            "/healthz/ping",
            "/metrics",
        ] {
            for (method, verb) in VERBS {
                let before = fake.calls();
                let sent = path.replace('{', "%7B").replace('}', "%7D");
                let answer = stage.stranger().send(method, &sent, &[]).await;
                let case = format!("{method} {path} {fine_grained}");
                assert_eq!(answer.status, 403, "{case}");
                let expected = expected(&user_as_seen(), verb, &cases[path], path);
                assert_eq!(*fake.attributed.lock().unwrap().last().unwrap(), expected, "{case}");
                let asked = cases[path].len();
                let after = (before.0 + 1, before.1 + 1, before.2 + asked);
                assert_eq!(fake.calls(), after, "{case}");
            }
        }
        assert!(stage.runtime.calls().is_empty());
    }
}

/// The chain adds the group of everybody, as a kubelet's does before the attributes are made.
fn user_as_seen() -> User {
    User { groups: vec!["system:authenticated".into()], ..phibby() }
}

fn expected(user: &User, verb: &'static str, all: &[&'static str], path: &str) -> Vec<Attributes> {
    let one = |subresource: &&'static str| Attributes {
        user: user.clone(),
        verb,
        api_group: "",
        api_version: "v1",
        resource: "nodes",
        subresource,
        name: NODE.into(),
        namespace: String::new(),
        resource_request: true,
        path: path.into(),
    };
    all.iter().map(one).collect()
}

/// `TestAuthenticationError`: an authorizer that errs is 500, and all three were asked.
#[tokio::test]
async fn test_authentication_error() {
    let fake = FakeAuth::new(Some(phibby()), |_| Err("Failed"));
    let stage = fake.stage().await;
    assert_eq!(stage.stranger().send("GET", "/healthz", &[]).await.status, 500);
    assert_eq!(fake.calls(), (1, 1, 1));
}

/// `TestAuthenticationFailure`: a caller whom nobody knows is 401, and neither attributes nor
/// authorizer were asked.
#[tokio::test]
async fn test_authentication_failure() {
    let fake = FakeAuth::new(None, |_| Ok(Decision::NoOpinion));
    let stage = fake.stage().await;
    assert_eq!(stage.stranger().send("GET", "/healthz", &[]).await.status, 401);
    assert_eq!(fake.calls(), (1, 0, 0));
}

/// `TestAuthorizationSuccess`: who is allowed gets `ok`, and all three were asked.
#[tokio::test]
async fn test_authorization_success() {
    let fake = FakeAuth::new(Some(phibby()), |_| Ok(Decision::Allow));
    let stage = fake.stage().await;
    let answer = stage.stranger().send("GET", "/healthz", &[]).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, "ok"));
    assert_eq!(fake.calls(), (1, 1, 1));
}

/// `TestFineGrainedAuthz`: the second subresource is tried after the first was denied, and the
/// first alone is enough; without the gate there is only `proxy`. On `/checkpoint` there is no
/// second one in either mode.
#[tokio::test]
async fn test_fine_grained_authz() {
    let granted = Arc::new(Mutex::new(""));
    let decisions = {
        let granted = Arc::clone(&granted);
        move |attributes: &Attributes| {
            let is_granted = attributes.subresource == *granted.lock().unwrap();
            Ok(if is_granted { Decision::Allow } else { Decision::NoOpinion })
        }
    };
    let fake = FakeAuth::new(Some(phibby()), decisions);
    let checkpoint = "/checkpoint/default/nopod/x";
    for (fine_grained, path, grant, status, asked) in [
        (true, "/healthz", "healthz", 200, &["healthz"] as &[_]),
        (true, "/healthz", "proxy", 200, &["healthz", "proxy"]),
        (true, "/healthz", "pods", 403, &["healthz", "proxy"]),
        (false, "/healthz", "healthz", 403, &["proxy"]),
        (false, "/healthz", "proxy", 200, &["proxy"]),
        (true, "/metrics", "proxy", 403, &["metrics"]),
        (true, checkpoint, "proxy", 403, &["checkpoint"]),
        (false, checkpoint, "proxy", 403, &["checkpoint"]),
        (true, checkpoint, "checkpoint", 404, &["checkpoint"]),
    ] {
        let fake = FakeAuth { fine_grained, authorized: Arc::default(), ..fake.clone() };
        *granted.lock().unwrap() = grant;
        let stage = fake.stage().await;
        let method = if path == checkpoint { "POST" } else { "GET" };
        let answer = stage.stranger().send(method, path, &[]).await;
        let case = format!("{fine_grained} {path} {grant}");
        assert_eq!(answer.status.as_u16(), status, "{case}: {answer:?}");
        assert_eq!(*fake.authorized.lock().unwrap(), asked, "{case}");
    }
}

/// Every page of this server.
const PAGES: [(&str, &[&str]); 9] = [
    ("/checkpoint/{podNamespace}/{podID}/{containerName}", &["checkpoint"]),
    ("/checkpoint/", &["checkpoint"]),
    ("/metrics", &["metrics"]),
    ("/healthz", &["healthz", "proxy"]),
    ("/healthz/ping", &["healthz", "proxy"]),
    ("/readyz", &["healthz", "proxy"]),
    ("/readyz/runtime", &["healthz", "proxy"]),
    ("/readyz/checkpoints", &["healthz", "proxy"]),
    ("/readyz/certificate", &["healthz", "proxy"]),
];

/// `TestAuthzCoverage`: every page that is registered stands behind authentication, and has a case
/// in the table of attributes.
#[tokio::test]
async fn test_authz_coverage() {
    let stage = Stage::new().await;
    for (path, subresources) in PAGES {
        let sent = path.replace('{', "%7B").replace('}', "%7D");
        let landing = routes::land(&Method::GET, &sent, None, true);
        assert!(matches!(landing, Landing::Guarded { .. }), "{path}: {landing:?}");
        let node = NodeAttributes::new(NODE);
        let all = node.attributes(&phibby(), &Method::GET, path);
        assert_eq!(all, expected(&phibby(), "get", subresources, path), "{path}");
        assert_eq!(stage.stranger().send("GET", &sent, &[]).await.status, 401, "{path}");
    }
}

/// `TestInstallAuthNotRequiredHandlers`: with the debugging handlers off, what a kubelet serves
/// without authentication are health, metrics, pods and stats; `/checkpoint` must not be among
/// them. Here nothing at all is served without it: known pages are 401, all else is not there.
/// (The 405 of a kubelet's own disabled handlers belongs to handlers this server never has.)
#[tokio::test]
async fn test_install_auth_not_required_handlers() {
    let stage = Stage::with(|options| {
        options.debugging_handlers = false;
        options.healthz_bind = Some(([127, 0, 0, 1], 0).into());
    })
    .await;
    for (path, _) in PAGES {
        let sent = path.replace('{', "%7B").replace('}', "%7D");
        for (method, _) in VERBS {
            let status = stage.stranger().send(method, &sent, &[]).await.status.as_u16();
            let expected = if path.starts_with("/checkpoint") { 404 } else { 401 };
            assert_eq!(status, expected, "{method} {path}");
        }
    }
    for path in [
        "/run/",
        "/exec/",
        "/attach/",
        "/portForward/",
        "/containerLogs/",
        "/runningpods/",
        "/debug/pprof/",
        "/logs/",
        "/pods/",
        "/stats/",
    ] {
        for (method, _) in VERBS {
            let status = stage.stranger().send(method, path, &[]).await.status;
            assert_eq!(status, 404, "{method} {path}");
        }
    }
}

/// `TestDebuggingDisabledHandlers`: with the debugging handlers off the route is not there, by any
/// method, whoever asks.
#[tokio::test]
async fn test_debugging_disabled_handlers() {
    let stage = Stage::with(|options| options.debugging_handlers = false).await;
    for client in [stage.client(), stage.stranger()] {
        for (method, _) in VERBS {
            let answer = client.send(method, "/checkpoint/a/b/c", &[]).await;
            assert_eq!((answer.status.as_u16(), &*answer.body), (404, "404 page not found\n"));
        }
    }
}

/// `TestMetricBuckets` and `TestMetricMethodBuckets`, as seen in what is counted:
/// `/checkpoint/a/b/c` is `checkpoint` only where the route is registered; what only begins like a
/// known name is `other`, and so is a method nobody knows.
#[tokio::test]
async fn test_metric_buckets() {
    for registered in [true, false] {
        let stage = Stage::with(|options| options.debugging_handlers = registered).await;
        let checkpoint = if registered { "checkpoint" } else { "other" };
        let rows = [
            ("GET", "/healthz", "GET", "healthz"),
            ("GET", "/healthz/", "GET", "healthz"),
            ("GET", "/healthz/log", "GET", "healthz"),
            ("PUT", "/metrics", "PUT", "metrics"),
            ("PUT", "/metrics/cadvisor", "PUT", "other"),
            ("POST", "/checkpoint/a/b/c", "POST", checkpoint),
            ("OPTIONS", "/checkpoint/a/b/c", "OPTIONS", checkpoint),
            ("HEAD", "/junk", "HEAD", "other"),
            ("DELETE", "/healthzjunk", "DELETE", "other"),
            ("TRACE", "/pods", "TRACE", "other"),
            ("WEIRD", "/checkpoint/a/b/c", "other", checkpoint),
            ("PATCH", "/checkpoint/a/b/c", "other", checkpoint),
        ];
        let mut expected: BTreeMap<(&str, &str), f64> = BTreeMap::new();
        for (method, path, label, bucket) in rows {
            stage.stranger().send(method, path, &[]).await;
            *expected.entry((label, bucket)).or_default() += 1.0;
        }
        let text = stage.metrics().await;
        for ((label, bucket), count) in expected {
            let series = format!("kubelet_http_requests_total{}", http(label, bucket));
            assert_eq!(value(&text, &series), Some(count), "{series}");
        }
    }
}

/// `TestServeHTTPRequestDurationMetric`: the duration is that of the handler. Upstream's handler
/// sleeps for 50 ms; only "not less" is asserted, as there.
#[tokio::test]
async fn test_serve_http_request_duration_metric() {
    let stage = Stage::new().await;
    let delay = Duration::from_millis(50);
    let go = Arc::new(Notify::new());
    stage.runtime.next(Act::Wait(Arc::clone(&go)));
    let client = stage.client();
    let posted =
        tokio::spawn(async move { client.post("/checkpoint/default/counter/counter").await });
    stage.runtime.called(1).await;
    tokio::time::sleep(delay).await;
    go.notify_one();
    assert_eq!(posted.await.unwrap().status, 200);
    let text = stage.metrics().await;
    let labels = http("POST", "checkpoint");
    let series = |part| format!("kubelet_http_requests_duration_seconds_{part}{labels}");
    assert_eq!(value(&text, &series("count")), Some(1.0));
    let sum = value(&text, &series("sum")).unwrap();
    assert!(sum >= delay.as_secs_f64(), "{sum}");
}

/// `TestIsSubPath`: its 14 cases.
#[test]
fn test_is_sub_path() {
    for (subpath, path, expected) in [
        ("", "", true),
        ("foo", "foo", true),
        ("/foo", "/foo", true),
        ("/foo/", "/foo/", true),
        ("/foo/bar", "/foo/bar", true),
        ("/foo", "/", true),
        ("/foo/", "/", true),
        ("/foo/bar", "/", true),
        ("/foo", "/foo", true),
        ("/foo/", "/foo", true),
        ("/foo/bar", "/foo", true),
        ("/foo", "/bar", false),
        ("/foo", "/foobar", false),
        ("/foobar", "/foo", false),
    ] {
        assert_eq!(is_subpath(subpath, path), expected, "{subpath:?} below {path:?}");
    }
}

/// `TestGetRequestAttributes`: five methods, thirty paths, both gates; whole records.
#[test]
fn test_get_request_attributes() {
    for fine_grained in [false, true] {
        let node = NodeAttributes::new(NODE).fine_grained(fine_grained);
        for (path, subresources) in authz_cases(fine_grained) {
            for (method, verb) in VERBS {
                let method: Method = method.parse().unwrap();
                let all = node.attributes(&phibby(), &method, path);
                assert_eq!(all, expected(&phibby(), verb, &subresources, path), "{method} {path}");
            }
        }
    }
}

/// `TestCheckpointContainer` of the kubelet: a container that does not run is named in the error;
/// the location begins with folder, pod, namespace and container, also when the caller asks for
/// another one; the container's id is the runtime's own.
#[tokio::test]
async fn test_checkpoint_container_of_the_kubelet() {
    let stage = Stage::new().await;
    stage.runtime.add_container("nsFoo", "podFoo", "containerFoo");
    stage.runtime.add_container("nsFoo", "podFoo", "wrongContainerName");
    stage.runtime.stop_container("wrongContainerName");
    let client = stage.client();
    let answer = client.post("/checkpoint/nsFoo/podFoo/wrongContainerName").await;
    assert_eq!(answer.status, 500);
    assert!(answer.body.contains("(container wrongContainerName not found)"), "{}", answer.body);
    for query in ["", "?location=somethingThatWillBeIgnored"] {
        let path = format!("/checkpoint/nsFoo/podFoo/containerFoo{query}");
        assert_eq!(client.post(&path).await.status, 200);
        let call = stage.runtime.calls().pop().unwrap();
        let prefix =
            format!("{}/checkpoint-podFoo_nsFoo-containerFoo", stage.checkpoints().display());
        assert!(call.location.starts_with(&prefix), "{}", call.location);
        assert_eq!(call.container_id, "id-containerFoo");
    }
}

/// The timeout rule of the CRI client, for which upstream has no test: a shorter timeout becomes
/// the default, a longer one counts, and 0 is the default; a negative one is an error.
#[tokio::test]
async fn the_rule_of_the_cri_clients_timeout() {
    let stage = Stage::new().await;
    let client = stage.client();
    for (asked, told) in [(0, 120_i64), (1, 120), (119, 120), (120, 120), (121, 121), (7200, 7200)]
    {
        let path = format!("/checkpoint/default/counter/counter?timeout={asked}");
        assert_eq!(client.post(&path).await.status, 200);
        let call = stage.runtime.calls().pop().unwrap();
        assert_eq!(
            (call.timeout_seconds, call.deadline),
            (told, { Duration::from_secs(told.unsigned_abs()) })
        );
    }
    let answer = client.post("/checkpoint/default/counter/counter?timeout=-1").await;
    let reason = "CheckpointContainer requires the timeout value to be > 0";
    assert!(answer.body.contains(reason), "{}", answer.body);
}
