//! `GET /metrics`: who may read it, in which format, and what a request adds to it.

use std::sync::Arc;

use cryopod_kubelet::runtime::{Code, Report, RpcError};
use cryopod_kubelet::{FeatureGates, Options};
use tokio::sync::Notify;

use crate::stage::{Act, Stage};

const COUNTER: &str = "/checkpoint/default/counter/counter";
const OPERATION: &str = "{operation_type=\"checkpoint_container\"}";

/// The value of a series; `None` when there is no such line.
pub(crate) fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(line.parse().unwrap())
}

/// Labels of the kubelet's HTTP metrics.
pub(crate) fn http(method: &str, path: &str) -> String {
    format!(
        "{{method=\"{method}\",path=\"{path}\",server_type=\"readwrite\",long_running=\"false\"}}"
    )
}

#[tokio::test]
async fn the_page_is_behind_the_door_and_in_two_formats() {
    let stage = Stage::new().await;
    let answer = stage.stranger().send("GET", "/metrics", &[]).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (401, "Unauthorized"));
    let client = stage.client();
    let text = client.send("GET", "/metrics", &[]).await;
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    assert_eq!((text.status.as_u16(), text.header("content-type")), (200, Some(kind)));
    assert!(text.body.contains("# TYPE cryopod_authentication_total counter\n"), "{}", text.body);
    assert!(!text.body.contains("# EOF"), "{}", text.body);
    let accept = [("accept", "application/openmetrics-text; version=1.0.0")];
    let open = client.send("GET", "/metrics", &accept).await;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!((open.status.as_u16(), open.header("content-type")), (200, Some(kind)));
    assert!(open.body.ends_with("# EOF\n"), "{}", open.body);
    let head = client.send("HEAD", "/metrics", &[]).await;
    assert_eq!((head.status.as_u16(), &*head.body), (200, ""));
}

#[tokio::test]
async fn every_name_and_label_is_the_kubelets() {
    let stage = Stage::new().await;
    let client = stage.client();
    client.post(COUNTER).await;
    stage.runtime.next(Act::Fail(RpcError { code: Code::Unknown, message: "no".into() }));
    client.post(COUNTER).await;
    let text = stage.metrics().await;
    for (name, kind) in [
        ("kubelet_runtime_operations_total", "counter"),
        ("kubelet_runtime_operations_errors_total", "counter"),
        ("kubelet_runtime_operations_duration_seconds", "histogram"),
        ("kubelet_http_requests_total", "counter"),
        ("kubelet_http_requests_duration_seconds", "histogram"),
        ("kubelet_http_inflight_requests", "gauge"),
    ] {
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name} in\n{text}");
    }
    let bounds = |name: &str, labels: &str| -> Vec<String> {
        let start = format!("{name}_bucket{{{labels},le=\"");
        let bound = |line: &str| Some(line.strip_prefix(&start)?.split('"').next()?.to_owned());
        text.lines().filter_map(bound).collect()
    };
    assert_eq!(
        bounds(
            "kubelet_http_requests_duration_seconds",
            http("POST", "checkpoint").trim_matches(['{', '}'])
        ),
        ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"]
    );
    let operations = bounds(
        "kubelet_runtime_operations_duration_seconds",
        "operation_type=\"checkpoint_container\"",
    );
    assert_eq!((operations.len(), &*operations[0], &*operations[1]), (15, "0.005", "0.0125"));
    for operation in ["list_podsandbox", "list_containers"] {
        let series = format!("kubelet_runtime_operations_total{{operation_type=\"{operation}\"}}");
        assert_eq!(value(&text, &series), Some(2.0), "{operation}");
    }
}

#[tokio::test]
async fn a_cri_call_is_counted_only_when_it_is_reached() {
    let stage = Stage::new().await;
    let client = stage.client();
    let total = format!("kubelet_runtime_operations_total{OPERATION}");
    let errors = format!("kubelet_runtime_operations_errors_total{OPERATION}");
    for path in [
        "/checkpoint/default/nopod/counter",
        "/checkpoint/default/counter/nope",
        "/checkpoint/default/counter/done",
        "/checkpoint/default/counter/counter?timeout=-1",
    ] {
        assert!(client.post(path).await.status.as_u16() >= 400);
    }
    let text = stage.metrics().await;
    assert_eq!((value(&text, &total), value(&text, &errors)), (None, None));
    client.post(COUNTER).await;
    let text = stage.metrics().await;
    assert_eq!((value(&text, &total), value(&text, &errors)), (Some(1.0), None));
    stage.runtime.next(Act::Hang);
    let mut sender = client.try_http1().await.unwrap();
    let request = crate::client::request("POST", COUNTER, &[]);
    let pending = tokio::spawn(async move { sender.send_request(request).await });
    stage.runtime.called(2).await;
    pending.abort();
    stage.runtime.cancelled(1).await;
    // The played runtime notices a moment before the counter, within one drop.
    let (text, failed) = loop {
        let text = stage.metrics().await;
        if let Some(failed) = value(&text, &errors) {
            break (text, failed);
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((value(&text, &total), failed), (Some(2.0), 1.0));
}

#[tokio::test]
async fn requests_are_counted_before_anybody_is_asked_who_they_are() {
    let stage = Stage::new().await;
    for (method, path) in [
        ("POST", COUNTER),
        ("PATCH", COUNTER),
        ("GET", "/nowhere"),
        ("POST", "/checkpoint//x"),
        ("POST", "/%zz"),
    ] {
        stage.stranger().send(method, path, &[]).await;
    }
    let text = stage.metrics().await;
    let count =
        |method, path| value(&text, &format!("kubelet_http_requests_total{}", http(method, path)));
    assert_eq!(count("POST", "checkpoint"), Some(2.0));
    assert_eq!(count("other", "checkpoint"), Some(1.0));
    assert_eq!(count("GET", "other"), Some(1.0));
    // What is no path is refused before it is a request.
    assert_eq!(count("POST", "other"), None);
    // This very request.
    assert_eq!(count("GET", "metrics"), Some(1.0));
    let inflight = format!("kubelet_http_inflight_requests{}", http("GET", "metrics"));
    assert_eq!(value(&text, &inflight), Some(1.0));
}

#[tokio::test]
async fn without_the_route_its_path_is_another() {
    let gate_off = |options: &mut Options| {
        options.feature_gates = FeatureGates { container_checkpoint: false };
    };
    let stage = Stage::with(gate_off).await;
    stage.client().post(COUNTER).await;
    let text = stage.metrics().await;
    let series = |path| format!("kubelet_http_requests_total{}", http("POST", path));
    assert_eq!(value(&text, &series("other")), Some(1.0));
    assert_eq!(value(&text, &series("checkpoint")), None);
}

#[tokio::test]
async fn checkpoints_are_counted_by_result_and_phase() {
    let stage = Stage::new().await;
    let client = stage.client();
    let go = Arc::new(Notify::new());
    stage.runtime.next(Act::Wait(Arc::clone(&go)));
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.post(COUNTER).await }
    });
    stage.runtime.called(1).await;
    let second = tokio::spawn({
        let client = client.clone();
        async move { client.post(COUNTER).await }
    });
    loop {
        let text = stage.metrics().await;
        assert_eq!(value(&text, "cryopod_checkpoints_inflight"), Some(1.0));
        if value(&text, "cryopod_checkpoint_waiting") == Some(1.0) {
            break;
        }
        tokio::task::yield_now().await;
    }
    let report = Report { archive_bytes: 9, frozen_micros: 1500, ..Report::default() };
    stage.runtime.next(Act::Tell(report));
    go.notify_one();
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(second.await.unwrap().status, 200);
    client.post("/checkpoint/default/nopod/x").await;
    stage.runtime.next(Act::Fail(RpcError::deadline_exceeded()));
    client.post(COUNTER).await;
    let text = stage.metrics().await;
    let result = |result| {
        value(&text, &format!("cryopod_checkpoint_duration_seconds_count{{result=\"{result}\"}}"))
    };
    assert_eq!((result("done"), result("not_found"), result("deadline")), {
        (Some(2.0), Some(1.0), Some(1.0))
    });
    let phase = |phase| {
        value(&text, &format!("cryopod_checkpoint_phase_seconds_count{{phase=\"{phase}\"}}"))
    };
    // Who need not wait has waited for no time.
    assert_eq!((phase("waiting"), phase("runtime")), (Some(3.0), Some(3.0)));
    assert_eq!(value(&text, "cryopod_checkpoints_inflight"), Some(0.0));
    assert_eq!(value(&text, "cryopod_checkpoint_waiting"), Some(0.0));
    assert_eq!(value(&text, "cryopod_checkpoint_freeze_seconds_count"), Some(1.0));
    // The first archive's size is the file's, of the second's the runtime told.
    assert_eq!(value(&text, "cryopod_checkpoint_bytes_sum"), Some(16.0));
}

#[tokio::test]
async fn outcomes_of_both_judges_and_the_certificate_are_there() {
    let stage = Stage::with(|options| options.anonymous = true).await;
    stage.stranger().post(COUNTER).await;
    let foreign = crate::pki::Authority::new("x").client("mallory");
    stage.client_as(&foreign).post(COUNTER).await;
    let text = stage.metrics().await;
    for series in [
        "cryopod_authentication_total{result=\"success\",credential=\"anonymous\"}",
        "cryopod_authentication_total{result=\"failure\",credential=\"none\"}",
        "cryopod_authorization_total{decision=\"allowed\",resource=\"nodes\",subresource=\"checkpoint\"}",
        "cryopod_authorization_total{decision=\"allowed\",resource=\"nodes\",subresource=\"metrics\"}",
    ] {
        assert_eq!(value(&text, series), Some(1.0), "{series}");
    }
    let ends = value(&text, "cryopod_serving_certificate_expiration_timestamp_seconds").unwrap();
    #[expect(clippy::cast_precision_loss, reason = "a time of this century")]
    let now = jiff::Timestamp::now().as_second() as f64;
    assert!(ends > now && ends < now + 400.0 * 24.0 * 3600.0, "{ends}");
}
