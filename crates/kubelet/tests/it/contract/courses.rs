//! What shows only over several steps, by the number of its row.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use cryopod_kubelet::runtime::Code;
use cryopod_kubelet::{Delegates, StartError};
use tokio::sync::Notify;

use super::{COUNTER, TEXT, fails};
use crate::authentication::{Recorder, with_authorizer};
use crate::metrics::{http, value};
use crate::pki::{Authority, Leaf};
use crate::stage::{Act, Played, Stage};
use crate::statuses::assert_whole;

/// F6.
pub(super) async fn timeouts() {
    let stage = Stage::new().await;
    let client = stage.client();
    let answer = client.post(&format!("{COUNTER}?timeout=-1")).await;
    let body = "checkpointing of default/counter/counter failed \
                (CheckpointContainer requires the timeout value to be > 0)";
    assert_whole(&answer, 500, &[TEXT], body, "F6 negative");
    for (asked, told, deadline) in [
        ("0", 120, 120),
        ("10", 120, 120),
        ("120", 120, 120),
        ("121", 121, 121),
        // Overflows in Go, and fails at once.
        ("9223372037", 9_223_372_037, 10 * 366 * 24 * 3600),
        ("9223372036854775807", i64::MAX, 10 * 366 * 24 * 3600),
    ] {
        assert_eq!(client.post(&format!("{COUNTER}?timeout={asked}")).await.status, 200, "{asked}");
        let call = stage.runtime.calls().pop().unwrap();
        let seen = (call.timeout_seconds, call.deadline);
        let expected = (
            told,
            Duration::from_secs(deadline).min(Duration::from_secs(u64::try_from(told).unwrap())),
        );
        assert_eq!(seen, expected, "{asked}");
    }
}

/// F14.
pub(super) async fn no_open_port() {
    // No port of its own without authentication: the plain health pages have no route but health.
    let stage = Stage::with(|options| {
        options.healthz_bind = Some(([127, 0, 0, 1], 0).into());
    })
    .await;
    let address = stage.healthz.unwrap();
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let request = crate::client::request("POST", COUNTER, &[]);
    assert_eq!(sender.send_request(request).await.unwrap().status(), 404);
    assert!(stage.runtime.calls().is_empty());
    let root = tempfile::tempdir().unwrap();
    let mut options = crate::stage::options(&root, &Authority::new("ca"));
    options.client_ca_file = None;
    let runtime = Arc::new(Played::default());
    let server = cryopod_kubelet::Server::bind(options, runtime, Delegates::default()).await;
    assert!(matches!(server, Err(StartError::NoAuthentication(_))));
}

/// F15.
pub(super) async fn attributes() {
    let recorder = Recorder::default();
    let stage = Stage::with_delegates(with_authorizer(recorder.clone()), |_| {}).await;
    stage.client().post(COUNTER).await;
    let asked = recorder.seen();
    let [one] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!(
        (one.verb, one.api_group, one.api_version, one.resource, one.subresource),
        ("create", "", "v1", "nodes", "checkpoint")
    );
    assert_eq!((&*one.name, &*one.namespace, &*one.path), ("node-1", "", COUNTER));
}

/// F16.
pub(super) async fn authentication() {
    let recorder = Recorder::default();
    let stage = Stage::with_delegates(with_authorizer(recorder.clone()), |options| {
        options.anonymous = true;
    })
    .await;
    let identity = stage.authority.issue(&Leaf::client(&["bob"], &["dev", "ops"]));
    assert_eq!(stage.client_as(&identity).post(COUNTER).await.status, 200);
    assert_eq!(stage.stranger().post(COUNTER).await.status, 200);
    // A credential that is bad is never an anonymous caller.
    let foreign = Authority::new("client-ca").client("mallory");
    assert_eq!(stage.client_as(&foreign).post(COUNTER).await.status, 401);
    let users: Vec<(String, Vec<String>)> =
        recorder.seen().into_iter().map(|one| (one.user.name, one.user.groups)).collect();
    let user = |name: &str, groups: &[&str]| {
        (name.to_owned(), groups.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(
        users,
        [
            user("bob", &["dev", "ops", "system:authenticated"]),
            user("system:anonymous", &["system:unauthenticated"]),
        ]
    );
}

/// F18.
pub(super) async fn certificates() {
    let stage = Stage::with(|options| options.limits.reload = Duration::from_millis(20)).await;
    // Not required.
    let answer = stage.stranger().post("/nowhere").await;
    assert_eq!(answer.status, 404);
    // A bad one gets an answer and no broken connection.
    let foreign = Authority::new("client-ca").client("mallory");
    let answer = stage.client_as(&foreign).post(COUNTER).await;
    assert_whole(&answer, 401, &[TEXT], "Unauthorized", "F18");
    // The CA file is read again.
    let next = Authority::new("next");
    std::fs::write(stage.root.path().join("next"), next.pem()).unwrap();
    let file = stage.root.path().join("client-ca.crt");
    std::fs::rename(stage.root.path().join("next"), file).unwrap();
    let client = stage.client_as(&next.client("bob"));
    while client.post(COUNTER).await.status != 200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// F20.
pub(super) async fn file_names() {
    let stage = Stage::new().await;
    let client = stage.client();
    for _ in 0..5 {
        assert_eq!(client.post(COUNTER).await.status, 200);
    }
    let folder = format!("{}/", stage.checkpoints().display());
    let mut names = std::collections::BTreeSet::new();
    for call in stage.runtime.calls() {
        let name = call.location.strip_prefix(&folder).unwrap().to_owned();
        let stem = name.strip_prefix("checkpoint-counter_default-counter-").unwrap();
        let stem = stem.strip_suffix(".tar").unwrap();
        // 2025-11-27T13:50:33, then Z or an offset.
        let offset = if stem.as_bytes()[19] == b'Z' { 1 } else { 6 };
        let (time, number) = stem.split_at(19 + offset);
        time.parse::<jiff::Timestamp>().unwrap();
        assert!(number.is_empty() || number[1..].parse::<u32>().is_ok(), "{name}");
        names.insert(name);
    }
    assert_eq!(names.len(), 5);
}

/// F21.
pub(super) async fn folder() {
    let stage = Stage::new().await;
    let mode = std::fs::metadata(stage.checkpoints()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("kubelet")).unwrap();
    std::fs::write(root.path().join("kubelet/checkpoints"), "").unwrap();
    let options = crate::stage::options(&root, &Authority::new("ca"));
    let runtime = Arc::new(Played::default());
    let server = cryopod_kubelet::Server::bind(options, runtime, Delegates::default()).await;
    let error = server.unwrap_err().to_string();
    assert!(error.starts_with("error creating checkpoint directory: "), "{error}");
}

/// F25.
pub(super) async fn cri_request() {
    let stage = Stage::new().await;
    assert_eq!(stage.client().post(&format!("{COUNTER}?timeout=200")).await.status, 200);
    let call = stage.runtime.calls().remove(0);
    assert_eq!((&*call.container_id, call.timeout_seconds), ("id-counter", 200));
    assert_eq!(call.deadline, Duration::from_secs(200));
    assert!(call.location.starts_with('/'), "{}", call.location);
}

/// F26.
pub(super) async fn cancelled() {
    let stage = Stage::with(|options| {
        options.runtime_request_timeout = Duration::from_millis(50);
    })
    .await;
    stage.runtime.next(Act::Hang);
    let answer = stage.client().post(COUNTER).await;
    let body = "checkpointing of default/counter/counter failed \
                (rpc error: code = DeadlineExceeded desc = context deadline exceeded)";
    assert_whole(&answer, 500, &[TEXT], body, "F26 deadline");
    stage.runtime.cancelled(1).await;
    let stage = Stage::new().await;
    stage.runtime.next(Act::Hang);
    let client = stage.client();
    let mut sender = client.try_http1().await.unwrap();
    let request = crate::client::request("POST", COUNTER, &[]);
    let pending = tokio::spawn(async move { sender.send_request(request).await });
    stage.runtime.called(1).await;
    pending.abort();
    stage.runtime.cancelled(1).await;
    assert_eq!(client.post(COUNTER).await.status, 200);
}

/// F27.
pub(super) async fn operations() {
    let stage = Stage::new().await;
    let client = stage.client();
    let counts = async || {
        let text = stage.metrics().await;
        let series = |name: &str| {
            let name = format!("kubelet_runtime_operations_{name}");
            value(&text, &format!("{name}{{operation_type=\"checkpoint_container\"}}"))
        };
        (series("total"), series("errors_total"), series("duration_seconds_count"))
    };
    assert_eq!(counts().await, (None, None, None));
    client.post("/checkpoint/default/nopod/x").await;
    client.post("/checkpoint/default/counter/done").await;
    assert_eq!(counts().await, (None, None, None));
    client.post(COUNTER).await;
    assert_eq!(counts().await, (Some(1.0), None, Some(1.0)));
    stage.runtime.next(fails(Code::Unknown, "no"));
    client.post(COUNTER).await;
    assert_eq!(counts().await, (Some(2.0), Some(1.0), Some(2.0)));
}

/// F28.
pub(super) async fn http_metrics() {
    let stage = Stage::new().await;
    stage.client().post(COUNTER).await;
    stage.stranger().post(COUNTER).await;
    let text = stage.metrics().await;
    let labels = http("POST", "checkpoint");
    for (series, count) in [
        ("requests_total", 2.0),
        ("requests_duration_seconds_count", 2.0),
        ("inflight_requests", 0.0),
    ] {
        assert_eq!(value(&text, &format!("kubelet_http_{series}{labels}")), Some(count));
    }
}

/// F29.
pub(super) async fn parallel() {
    let stage = Stage::new().await;
    let go = Arc::new(Notify::new());
    stage.runtime.next(Act::Wait(Arc::clone(&go)));
    let client = stage.client();
    let post = |path: &'static str| {
        let client = client.clone();
        tokio::spawn(async move { client.post(path).await.status.as_u16() })
    };
    let first = post(COUNTER);
    stage.runtime.called(1).await;
    let second = post(COUNTER);
    // Another container does not wait.
    assert_eq!(post("/checkpoint/default/counter/second").await.unwrap(), 200);
    assert_eq!(stage.runtime.calls().len(), 2);
    go.notify_one();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (200, 200));
    let ids: Vec<String> =
        stage.runtime.calls().into_iter().map(|call| call.container_id).collect();
    assert_eq!(ids, ["id-counter", "id-second", "id-counter"]);
}

/// F30.
pub(super) async fn nothing_deleted() {
    let stage = Stage::new().await;
    let old = stage.checkpoints().join("checkpoint-old_default-c-2001-01-01T00:00:00Z.tar");
    std::fs::write(&old, b"archive").unwrap();
    for _ in 0..3 {
        assert_eq!(stage.client().post(COUNTER).await.status, 200);
    }
    assert_eq!(std::fs::read_dir(stage.checkpoints()).unwrap().count(), 4);
}

/// F38.
pub(super) async fn settings() {
    let stage = Stage::with(|options| {
        options.runtime_request_timeout = Duration::from_secs(7);
        options.healthz_bind = Some(([127, 0, 0, 1], 0).into());
        options.node_name = "other".into();
    })
    .await;
    assert_eq!(stage.client().post(COUNTER).await.status, 200);
    assert_eq!(stage.runtime.calls()[0].timeout_seconds, 7);
    assert!(stage.healthz.is_some());
}
