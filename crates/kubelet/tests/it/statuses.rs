//! Every status of the endpoint, with its headers and its body, byte for byte.

use std::time::Duration;

use cryopod_kubelet::runtime::{Code, RpcError};
use cryopod_kubelet::{FeatureGates, Options};

use crate::client::{Answer, Client};
use crate::stage::{Act, Stage};

const COUNTER: &str = "/checkpoint/default/counter/counter";
const TEXT: &str = "text/plain; charset=utf-8";

fn rpc(code: Code, message: &str) -> RpcError {
    RpcError { code, message: message.to_owned() }
}

/// The whole of an answer: nothing beyond these headers is sent.
fn assert_whole(answer: &Answer, status: u16, headers: &[(&str, &str)], body: &str, case: &str) {
    assert_eq!(answer.status.as_u16(), status, "{case}: {answer:?}");
    assert_eq!(answer.body, body, "{case}");
    let length = body.len().to_string();
    let mut expected = vec![("content-length", &*length)];
    expected.extend(headers);
    expected.sort_unstable();
    let mut seen: Vec<(&str, &str)> = answer
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .filter(|(name, _)| *name != "date")
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, expected, "{case}");
    assert!(answer.header("date").is_some(), "{case}");
}

/// Over both protocols.
async fn check(
    client: &Client,
    (method, path, sent): (&str, &str, &[(&str, &str)]),
    status: u16,
    headers: &[(&str, &str)],
    body: &str,
) {
    let case = format!("{method} {path} {sent:?}");
    assert_whole(&client.send(method, path, sent).await, status, headers, body, &case);
    let case = format!("h2 {case}");
    assert_whole(&client.send_h2(method, path, sent).await, status, headers, body, &case);
}

#[tokio::test]
async fn done_is_200_with_one_absolute_path() {
    let stage = Stage::new().await;
    let before = jiff::Zoned::now();
    let answer = stage.client().post(COUNTER).await;
    let call = stage.runtime.calls().remove(0);
    let body = format!(r#"{{"items":["{}"]}}"#, call.location);
    assert_whole(&answer, 200, &[("content-type", "application/json")], &body, "done");
    assert_eq!(call.container_id, "id-counter");
    assert_eq!(call.timeout_seconds, 120);
    assert_eq!(call.deadline, Duration::from_secs(120));
    let prefix = format!("{}/checkpoint-counter_default-counter-", stage.checkpoints().display());
    let time = call.location.strip_prefix(&prefix).unwrap().strip_suffix(".tar").unwrap();
    let time: jiff::Timestamp = time.parse().unwrap();
    let (earliest, latest) = (before.timestamp().as_second(), jiff::Timestamp::now().as_second());
    assert!((earliest..=latest).contains(&time.as_second()), "{time}");
    assert!(std::fs::exists(&call.location).unwrap());
}

#[tokio::test]
async fn a_running_container_counts_though_its_sandbox_is_not_ready() {
    let stage = Stage::new().await;
    let answer = stage.client().post("/checkpoint/default/dead/late").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(stage.runtime.calls()[0].container_id, "id-late");
}

#[tokio::test]
async fn a_trailing_slash_any_content_type_and_any_body_are_200() {
    let stage = Stage::new().await;
    let client = stage.client();
    let slashed = format!("{COUNTER}/");
    let cases: [(&str, &[(&str, &str)]); 8] = [
        (&slashed, &[]),
        (COUNTER, &[("content-type", "application/x-whatever")]),
        (COUNTER, &[("content-type", "nonsense")]),
        (COUNTER, &[("accept", "*/*")]),
        (COUNTER, &[("accept", "application/json")]),
        (COUNTER, &[("accept", "text/html;q=0.9, application/json;q=0.1")]),
        (COUNTER, &[("accept", "")]),
        ("/%63heckpoint/default/c%6funter/counter?timeout=5", &[]),
    ];
    for (path, headers) in cases {
        let answer = client.send("POST", path, headers).await;
        assert_eq!(answer.status, 200, "{path} {headers:?}: {answer:?}");
        let answer = client.send_h2("POST", path, headers).await;
        assert_eq!(answer.status, 200, "h2 {path} {headers:?}: {answer:?}");
    }
    let mut request = crate::client::request("POST", COUNTER, &[]);
    *request.body_mut() = bytes::Bytes::from(vec![b'x'; 3 << 20]).into();
    let mut sender = client.try_http1().await.unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
}

#[tokio::test]
async fn what_is_not_there_is_404_in_the_order_pod_container_timeout() {
    let stage = Stage::new().await;
    let client = stage.client();
    let text = [("content-type", TEXT)];
    let no_pod = "pod does not exist";
    let bad_timeout = "cannot parse value of timeout parameter";
    for (path, body) in [
        ("/checkpoint/default/nopod/counter", no_pod),
        ("/checkpoint/other/counter/counter", no_pod),
        ("/checkpoint/default/nopod/counter?timeout=x", no_pod),
        ("/checkpoint/%2Fcounter/counter", no_pod),
        ("/checkpoint/default/%00/counter", no_pod),
        ("/checkpoint/default/%FF/counter", no_pod),
        ("/checkpoint/%2e%2e/counter/counter", no_pod),
        ("/checkpoint/default/counter/nope", "container nope does not exist"),
        ("/checkpoint/default/counter/nope?timeout=x", "container nope does not exist"),
        ("/checkpoint/default/counter/%3Cb%3E", "container <b> does not exist"),
        ("/checkpoint/default/dead/counter", "container counter does not exist"),
        ("/checkpoint/default/counter/counter?timeout=", bad_timeout),
        ("/checkpoint/default/counter/counter?timeout=5m", bad_timeout),
        ("/checkpoint/default/counter/counter?timeout=1.5", bad_timeout),
        ("/checkpoint/default/counter/counter?timeout=0x10", bad_timeout),
        ("/checkpoint/default/counter/counter?timeout=5&timeout=abc", bad_timeout),
        ("/checkpoint/default/counter/counter?timeout=9223372036854775808", bad_timeout),
        // Before it is known whether the container runs.
        ("/checkpoint/default/counter/done?timeout=x", bad_timeout),
    ] {
        check(&client, ("POST", path, &[]), 404, &text, body).await;
    }
    assert!(stage.runtime.calls().is_empty());
}

#[tokio::test]
async fn what_fails_is_500_with_the_reason() {
    let stage = Stage::new().await;
    let client = stage.client();
    let text = [("content-type", TEXT)];
    for (path, reason) in [
        ("default/counter/done", "container done not found"),
        ("default/counter/done?timeout=-1", "container done not found"),
        (
            "default/counter/counter?timeout=-1",
            "CheckpointContainer requires the timeout value to be > 0",
        ),
        (
            "default/counter/counter?timeout=-9223372036854775808",
            "CheckpointContainer requires the timeout value to be > 0",
        ),
    ] {
        let target = path.split('?').next().unwrap();
        let body = format!("checkpointing of {target} failed ({reason})");
        let path = format!("/checkpoint/{path}");
        check(&client, ("POST", &path, &[]), 500, &text, &body).await;
    }
    assert!(stage.runtime.calls().is_empty());
    for error in [
        rpc(Code::Unknown, "checkpoint/restore support not available"),
        rpc(
            Code::Unimplemented,
            "unknown method CheckpointContainer for service runtime.v1.RuntimeService",
        ),
        rpc(Code::NotFound, "could not find container \"id\": not found"),
        rpc(Code::Cancelled, ""),
        rpc(Code::Internal, "two\nlines"),
    ] {
        let body = format!("checkpointing of default/counter/counter failed ({error})");
        stage.runtime.next(Act::Fail(error.clone()));
        stage.runtime.next(Act::Fail(error));
        check(&client, ("POST", COUNTER, &[]), 500, &text, &body).await;
    }
    // Nothing half-done is there.
    assert_eq!(std::fs::read_dir(stage.checkpoints()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_runtime_that_does_not_even_list_is_500_with_its_error() {
    let stage = Stage::new().await;
    stage.runtime.fail_lists(rpc(Code::Unavailable, "connection refused"));
    check(
        &stage.client(),
        ("POST", COUNTER, &[]),
        500,
        &[("content-type", TEXT)],
        "checkpointing of default/counter/counter failed \
         (rpc error: code = Unavailable desc = connection refused)",
    )
    .await;
}

#[tokio::test]
async fn a_deadline_is_500_in_the_words_of_a_go_client() {
    let stage = Stage::with(|options| {
        options.runtime_request_timeout = Duration::from_millis(50);
    })
    .await;
    stage.runtime.next(Act::Hang);
    let answer = stage.client().post(COUNTER).await;
    assert_whole(
        &answer,
        500,
        &[("content-type", TEXT)],
        "checkpointing of default/counter/counter failed \
         (rpc error: code = DeadlineExceeded desc = context deadline exceeded)",
        "deadline",
    );
    stage.runtime.cancelled(1).await;
}

#[tokio::test]
async fn the_runtime_is_told_the_effective_timeout() {
    let stage = Stage::new().await;
    let client = stage.client();
    let rows = [
        ("", 120),
        ("?timeout=10", 120),
        ("?timeout=%2B300", 300),
        ("?timeout=abc&timeout=121", 121),
        ("?timeout=5m0s", 300),
        ("?timeout=9223372037", 9_223_372_037),
        ("?timeout=9223372036854775807", i64::MAX),
    ];
    for (query, _) in rows {
        let answer = client.post(&format!("{COUNTER}{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {answer:?}");
    }
    let told: Vec<i64> = stage.runtime.calls().iter().map(|call| call.timeout_seconds).collect();
    assert_eq!(told, rows.map(|(_, seconds)| seconds));
}

#[tokio::test]
async fn without_credentials_it_is_401_whatever_is_asked_for_below_the_prefix() {
    let stage = Stage::new().await;
    let stranger = stage.stranger();
    let text = [("content-type", TEXT)];
    for (method, path) in [
        ("POST", COUNTER),
        ("GET", COUNTER),
        ("DELETE", COUNTER),
        ("OPTIONS", COUNTER),
        ("POST", "/checkpoint/default/nopod/x?timeout=x"),
        ("POST", "/checkpoint/"),
        ("POST", "/checkpoint/a/b/c/d/e"),
    ] {
        check(&stranger, (method, path, &[]), 401, &text, "Unauthorized").await;
    }
    // A token nobody judges is no credential.
    let token = [("authorization", "Bearer abc")];
    check(&stranger, ("POST", COUNTER, &token), 401, &text, "Unauthorized").await;
    assert!(stage.runtime.calls().is_empty());
}

#[tokio::test]
async fn the_wrong_method_is_405_with_the_right_one() {
    let stage = Stage::new().await;
    let client = stage.client();
    let headers = [("content-type", TEXT), ("allow", "POST")];
    for method in ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
        let sent: &[(&str, &str)] = &[("accept", "text/html")];
        check(&client, (method, COUNTER, sent), 405, &headers, "405: Method Not Allowed").await;
    }
    let head = client.send("HEAD", COUNTER, &[]).await;
    assert_eq!((head.status.as_u16(), head.header("allow")), (405, Some("POST")));
    assert_eq!(head.body, "");
}

#[tokio::test]
async fn a_caller_who_takes_no_json_gets_406() {
    let stage = Stage::new().await;
    let client = stage.client();
    let body = "406: Not Acceptable\n\nAvailable representations: application/json";
    for accept in ["text/html", "application/*", "application/yaml;q=1", "text/*,image/png"] {
        let sent = [("accept", accept)];
        check(&client, ("POST", COUNTER, &sent), 406, &[("content-type", TEXT)], body).await;
    }
    // Before the pod is looked for.
    let sent = [("accept", "text/html")];
    let path = "/checkpoint/default/nopod/x";
    check(&client, ("POST", path, &sent), 406, &[("content-type", TEXT)], body).await;
}

#[tokio::test]
async fn the_wrong_number_of_segments_is_404_of_the_route_after_authentication() {
    let stage = Stage::new().await;
    let client = stage.client();
    for path in [
        "/checkpoint/",
        "/checkpoint/default",
        "/checkpoint/default/counter",
        "/checkpoint/default/counter/",
        "/checkpoint/default/counter/counter/x",
        "/checkpoint/default/counter/counter%2Fx",
        "/checkpoint/default/a%2Fb/counter",
    ] {
        for method in ["POST", "GET"] {
            let sent: &[(&str, &str)] = &[("accept", "text/html")];
            let text = [("content-type", TEXT)];
            check(&client, (method, path, sent), 404, &text, "404: Page Not Found").await;
        }
    }
}

#[tokio::test]
async fn unknown_paths_are_404_of_the_mux_without_authentication() {
    let stage = Stage::new().await;
    let headers = [("content-type", TEXT), ("x-content-type-options", "nosniff")];
    for client in [stage.client(), stage.stranger()] {
        for path in [
            "/",
            "/pods",
            "/Checkpoint/default/counter/counter",
            "/checkpoints/default/counter/counter",
            "/checkpoint%2Fdefault/counter/counter",
        ] {
            for method in ["POST", "GET"] {
                let sent: &[(&str, &str)] = &[];
                check(&client, (method, path, sent), 404, &headers, "404 page not found\n").await;
            }
        }
    }
}

#[tokio::test]
async fn gate_off_or_debugging_handlers_off_is_an_unknown_path() {
    fn gate_off(options: &mut Options) {
        options.feature_gates = FeatureGates { container_checkpoint: false };
    }
    fn handlers_off(options: &mut Options) {
        options.debugging_handlers = false;
    }
    let headers = [("content-type", TEXT), ("x-content-type-options", "nosniff")];
    let cases = [(gate_off as fn(&mut Options), false), (handlers_off, true)];
    for (change, folder) in cases {
        let stage = Stage::with(change).await;
        for client in [stage.client(), stage.stranger()] {
            for path in [COUNTER, "/checkpoint", "/checkpoint/"] {
                let sent: &[(&str, &str)] = &[];
                check(&client, ("POST", path, sent), 404, &headers, "404 page not found\n").await;
            }
        }
        assert_eq!(std::fs::exists(stage.checkpoints()).unwrap(), folder);
    }
}

#[tokio::test]
async fn unclean_paths_are_redirected_without_authentication() {
    let stage = Stage::new().await;
    let stranger = stage.stranger();
    for (path, status, location) in [
        ("/checkpoint", 307, "/checkpoint/"),
        ("/checkpoint?timeout=5", 307, "/checkpoint/?timeout=5"),
        ("/checkpoint//default/counter/counter", 301, COUNTER),
        (
            "/checkpoint/x/../default/counter/counter?timeout=5",
            301,
            "/checkpoint/default/counter/counter?timeout=5",
        ),
        ("/x//y", 301, "/x/y"),
        ("/checkpoint/default/counter/.", 301, "/checkpoint/default/counter"),
        ("/checkpoint/..", 301, "/"),
    ] {
        let sent: &[(&str, &str)] = &[];
        let headers = [("location", location)];
        check(&stranger, ("POST", path, sent), status, &headers, "").await;
        let phrase = if status == 307 { "Temporary Redirect" } else { "Moved Permanently" };
        let body = format!("<a href=\"{location}\">{phrase}</a>.\n\n");
        let headers = [("location", location), ("content-type", "text/html; charset=utf-8")];
        check(&stranger, ("GET", path, sent), status, &headers, &body).await;
    }
}

#[tokio::test]
async fn a_path_that_is_no_path_is_400_of_the_server() {
    let stage = Stage::new().await;
    for path in ["/checkpoint/default/counter/%zz", "/checkpoint/default/%2", "/%"] {
        let sent: &[(&str, &str)] = &[];
        let text = [("content-type", TEXT)];
        check(&stage.client(), ("POST", path, sent), 400, &text, "400 Bad Request").await;
    }
}

#[tokio::test]
async fn names_that_need_it_are_escaped_in_the_answer() {
    let stage = Stage::with(|options| {
        let odd = options.root_dir.join("a \"quoted\"\\folder");
        options.root_dir = odd;
    })
    .await;
    let answer = stage.client().post(COUNTER).await;
    let parsed: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(parsed["items"][0], *stage.runtime.calls()[0].location);
    assert!(answer.body.contains(r#"a \"quoted\"\\folder"#), "{}", answer.body);
}
