//! The audit file: a line for each request that was authenticated or refused, and request ids.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cryopod_kubelet::authn::{Authenticator, Credential, Presented, User};
use cryopod_kubelet::runtime::{Code, RpcError};
use cryopod_kubelet::{AuthorizationMode, BoxError, BoxFuture, Delegates};
use serde_json::{Value, json};

use crate::stage::{Act, Stage};

const COUNTER: &str = "/checkpoint/default/counter/counter";

/// Knows the bearer of one token, with its id.
struct Tokens;

impl Authenticator for Tokens {
    fn authenticate<'a>(
        &'a self,
        presented: Presented<'a>,
    ) -> BoxFuture<'a, Result<Option<User>, BoxError>> {
        let header = presented.headers.get("authorization").map(|value| value.to_str().unwrap());
        let user = (header == Some("Bearer hunter2")).then(|| User {
            name: "robot".to_owned(),
            uid: "u-1".to_owned(),
            groups: vec!["bots".to_owned()],
            extra: [("authentication.kubernetes.io/credential-id".into(), vec!["JTI=7".into()])]
                .into(),
            credential: Credential::Token,
        });
        Box::pin(async { Ok(user) })
    }
}

/// A server with an audit file, and the file's path.
async fn audited() -> (Stage, PathBuf) {
    let delegates = Delegates { authenticators: vec![Arc::new(Tokens)], ..Delegates::default() };
    let stage = Stage::with_delegates(delegates, |options| {
        options.audit_log = Some(options.root_dir.with_file_name("audit.log"));
        options.authorization = AuthorizationMode::AlwaysAllow;
    })
    .await;
    let path = stage.root.path().join("audit.log");
    (stage, path)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_checkpoint_is_told_with_who_what_and_where() {
    let (stage, path) = audited().await;
    let headers = [
        ("x-request-id", "req-1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let answer = stage.client().send("POST", &format!("{COUNTER}?timeout=5"), &headers).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-request-id")), (200, Some("req-1")));
    let all = lines(&path);
    assert_eq!(all.len(), 1);
    let line = &all[0];
    for (key, value) in [
        ("requestId", json!("req-1")),
        ("traceId", json!("0af7651916cd43dd8448eb211c80319c")),
        ("presented", json!(["certificate"])),
        ("method", json!("POST")),
        ("verb", json!("create")),
        ("path", json!(COUNTER)),
        ("namespace", json!("default")),
        ("pod", json!("counter")),
        ("container", json!("counter")),
        ("status", json!(200)),
        ("result", json!("done")),
    ] {
        assert_eq!(line[key], value, "{key} in {line}");
    }
    let user = &line["user"];
    assert_eq!((&user["name"], &user["credential"]), (&json!("alice"), &json!("certificate")));
    assert_eq!(user["groups"], json!(["dev", "system:authenticated"]));
    assert!(user["credentialId"].as_str().unwrap().starts_with("X509SHA256="), "{user}");
    assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    assert!(line["durationSeconds"].as_f64().unwrap() >= 0.0);
    line["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    // Not one of our archives: no digest.
    let location = &stage.runtime.calls()[0].location;
    assert_eq!(line["archive"], json!({ "path": location, "bytes": 7 }));
}

#[tokio::test]
async fn refusals_and_failures_are_told_with_their_reason_and_no_secret() {
    let (stage, path) = audited().await;
    let (client, stranger) = (stage.client(), stage.stranger());
    stranger.post(COUNTER).await;
    stranger.send("POST", COUNTER, &[("authorization", "Bearer hunter3")]).await;
    let token = [("authorization", "Bearer hunter2")];
    stranger.send("POST", "/checkpoint/default/nopod/x", &token).await;
    stage.runtime.next(Act::Fail(RpcError { code: Code::Unknown, message: "no criu".into() }));
    client.post(COUNTER).await;
    client.send("GET", COUNTER, &[]).await;
    client.send("GET", "/metrics", &[]).await;
    // Unknown pages are nobody's business: neither authenticated nor refused.
    stranger.send("GET", "/nowhere", &[]).await;
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("hunter"), "{text}");
    let all = lines(&path);
    let seen: Vec<Value> = all
        .iter()
        .map(|line| json!([line["status"], line["result"], line["presented"], line["reason"]]))
        .collect();
    let failed = "checkpointing of default/counter/counter failed \
                  (rpc error: code = Unknown desc = no criu)";
    let expected = [
        json!([401, "unauthenticated", [], null]),
        json!([401, "unauthenticated", ["token"], null]),
        json!([404, "not_found", ["token"], "pod does not exist"]),
        json!([500, "failed", ["certificate"], failed]),
        json!([405, "no_route", ["certificate"], null]),
        json!([200, "allowed", ["certificate"], null]),
    ];
    assert_eq!(seen, expected);
    assert!(all[0].get("user").is_none() && all[1].get("user").is_none());
    let robot = &all[2]["user"];
    assert_eq!(
        *robot,
        json!({
            "name": "robot",
            "uid": "u-1",
            "groups": ["bots", "system:authenticated"],
            "credential": "token",
            "credentialId": "JTI=7",
        })
    );
}

#[tokio::test]
async fn a_client_that_hangs_up_has_a_line() {
    let (stage, path) = audited().await;
    stage.runtime.next(Act::Hang);
    let mut sender = stage.client().try_http1().await.unwrap();
    let request = crate::client::request("POST", COUNTER, &[]);
    let pending = tokio::spawn(async move { sender.send_request(request).await });
    stage.runtime.called(1).await;
    pending.abort();
    let all = loop {
        let all = lines(&path);
        if !all.is_empty() {
            break all;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((&all[0]["result"], &all[0]["pod"]), (&json!("cancelled"), &json!("counter")));
    assert!(all[0].get("status").is_none());
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_a_bad_one_is_not_echoed() {
    let stage = Stage::new().await;
    for (path, client) in [
        (COUNTER, stage.client()),
        (COUNTER, stage.stranger()),
        ("/nowhere", stage.stranger()),
        ("/checkpoint", stage.stranger()),
    ] {
        let answer = client.post(path).await;
        assert_eq!(answer.header("x-request-id").unwrap().len(), 36, "{path}");
        let answer = client.send("POST", path, &[("x-request-id", "a;b")]).await;
        assert_eq!(answer.header("x-request-id").unwrap().len(), 36, "{path}");
        let answer = client.send("POST", path, &[("x-request-id", "a-b")]).await;
        assert_eq!(answer.header("x-request-id"), Some("a-b"), "{path}");
    }
}

#[tokio::test]
async fn an_audit_file_that_cannot_be_opened_is_said_at_the_start() {
    let root = tempfile::tempdir().unwrap();
    let authority = crate::pki::Authority::new("ca");
    let mut options = crate::stage::options(&root, &authority);
    options.audit_log = Some(root.path().join("missing/audit.log"));
    let runtime = Arc::new(crate::stage::Played::default());
    let server = cryopod_kubelet::Server::bind(options, runtime, Delegates::default()).await;
    let error = server.unwrap_err().to_string();
    assert_eq!(
        error,
        format!("cannot open the audit file {}/missing/audit.log", root.path().display())
    );
}
