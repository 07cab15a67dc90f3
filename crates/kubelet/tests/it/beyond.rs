//! What goes beyond the kubelet's endpoint: archives, their download, and who may.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cryopod_archive::{ArchiveWriter, ConfigDump, to_json};
use cryopod_kubelet::authz::{Attributes, Authorizer, Decision};
use cryopod_kubelet::runtime::{Code, RpcError};
use cryopod_kubelet::{BoxError, BoxFuture, Delegates};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::client::{Answer, Client, request};
use crate::stage::{Act, Stage};

const ARCHIVES: &str = "/cryopod/v1/archives";

/// An archive as our own engine makes one.
pub(crate) fn archive(folder: &Path, name: &str, pod: &str) {
    let mut writer = ArchiveWriter::create(folder).unwrap();
    let config = ConfigDump {
        id: "ab12".into(),
        name: format!("k8s_counter_{pod}_default_uid_0"),
        rootfs_image: "docker.io/library/redis:8".into(),
        checkpointed_time: "2026-11-22T10:00:00Z".into(),
        ..ConfigDump::default()
    };
    let spec = json!({
        "hostname": "h",
        "annotations": {
            "io.container.manager": "cri-o",
            "io.kubernetes.pod.name": pod,
            "io.kubernetes.pod.namespace": "default",
            "io.kubernetes.container.name": "counter",
        },
        "linux": { "resources": { "memory": { "limit": 1 << 30 } } },
    });
    writer.put("config.dump", &to_json(&config).unwrap(), 0o600).unwrap();
    writer.put("spec.dump", spec.to_string().as_bytes(), 0o600).unwrap();
    writer.put("dump.log", b"cryopod 0.1.0\ntasks 2\nfrozen 71 us\nnote: a\n", 0o600).unwrap();
    writer.put("checkpoint/pages-1.img", &[1; 8192], 0o600).unwrap();
    writer.finish(OsStr::new(name)).unwrap();
}

fn parsed(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap()
}

/// A refusal: its status, twice, and its detail.
#[track_caller]
pub(crate) fn problem(answer: &Answer) -> (u16, String) {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let problem = parsed(answer);
    assert_eq!(problem["status"], answer.status.as_u16());
    (answer.status.as_u16(), problem["detail"].as_str().unwrap().to_owned())
}

async fn get(client: &Client, path: &str) -> Answer {
    client.send("GET", path, &[]).await
}

#[tokio::test]
async fn archives_are_listed_by_what_is_inside_them() {
    let stage = Stage::new().await;
    let client = stage.client();
    assert_eq!(parsed(&get(&client, ARCHIVES).await), json!({ "items": [], "leftOut": 0 }));
    archive(&stage.checkpoints(), "one.tar", "web");
    archive(&stage.checkpoints(), "two.tar", "redis");
    std::fs::write(stage.checkpoints().join("broken.tar"), "no tar").unwrap();
    let list = async |query: &str| {
        let answer = get(&client, &format!("{ARCHIVES}{query}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let answer = parsed(&answer);
        let mut names: Vec<String> = answer["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        (names.join(" "), answer["leftOut"].as_u64().unwrap())
    };
    assert_eq!(list("").await, ("broken.tar one.tar two.tar".to_owned(), 0));
    assert_eq!(list("?pod=web").await, ("one.tar".to_owned(), 0));
    assert_eq!(list("?namespace=default&container=counter").await.0, "one.tar two.tar");
    assert_eq!(list("?namespace=other").await, (String::new(), 0));
    assert_eq!(list("?limit=1").await.1, 2);
    for query in ["?limit=0", "?limit=x", "?pods=web", "?pod=a&pod=b", "?pod=%zz"] {
        let answer = get(&client, &format!("{ARCHIVES}{query}")).await;
        assert_eq!(problem(&answer).0, 400, "{query}");
    }
}

#[tokio::test]
async fn an_archive_is_described_with_what_the_engine_noted() {
    let stage = Stage::new().await;
    archive(&stage.checkpoints(), "one.tar", "web");
    std::fs::write(stage.checkpoints().join("broken.tar"), "no tar").unwrap();
    let client = stage.client();
    let one = parsed(&get(&client, "/cryopod/v1/archives/one.tar").await);
    let identity = json!({ "namespace": "default", "pod": "web", "container": "counter" });
    assert_eq!(one["identity"], identity);
    assert_eq!((&one["pinned"], &one["inUse"]), (&json!(false), &json!(false)));
    assert_eq!(one["digest"].as_str().unwrap().len(), 64);
    assert_eq!(one["engine"], "cryopod");
    assert_eq!(one["memoryBytes"], 8192);
    assert_eq!(one["image"], "docker.io/library/redis:8");
    assert_eq!(one["checkpointedAt"], "2026-11-22T10:00:00Z");
    let dump = json!({ "version": "0.1.0", "tasks": 2, "frozenMicros": 71, "notes": ["a"] });
    assert_eq!(one["dump"], dump);
    let entries = one["entries"].as_array().unwrap();
    let pages = json!({ "name": "checkpoint/pages-1.img", "directory": false, "bytes": 8192 });
    assert!(entries.contains(&pages), "{entries:?}");
    let broken = parsed(&get(&client, "/cryopod/v1/archives/broken.tar").await);
    assert!(broken["unreadable"].is_string() && broken["entries"].is_null(), "{broken}");
    for name in ["gone.tar", "passwd", ".cryopod-1.partial", "..", "a%2Fb.tar", "%00.tar"] {
        let answer = get(&client, &format!("/cryopod/v1/archives/{name}")).await;
        assert_eq!(problem(&answer).0, 404, "{name}");
    }
}

#[tokio::test]
async fn pinned_archives_and_open_ones_are_not_deleted() {
    let stage = Stage::new().await;
    archive(&stage.checkpoints(), "one.tar", "web");
    let path = "/cryopod/v1/archives/one.tar";
    let client = stage.client();
    let send = async |method: &str, path: &str| client.send(method, path, &[]).await;
    let pin = format!("{path}/pin");
    for _ in 0..2 {
        assert_eq!(send("PUT", &pin).await.status, 204);
    }
    assert_eq!(parsed(&get(&client, path).await)["pinned"], true);
    let (status, detail) = problem(&send("DELETE", path).await);
    assert_eq!(status, 409);
    assert!(detail.contains("pinned"), "{detail}");
    for _ in 0..2 {
        assert_eq!(send("DELETE", &pin).await.status, 204);
    }

    // Open: larger than what is on its way at once, and not taken.
    let large = std::fs::File::options().write(true).open(stage.checkpoints().join("one.tar"));
    large.unwrap().set_len(64 << 20).unwrap();
    let mut sender = client.try_http1().await.unwrap();
    let download = request("GET", &format!("{path}/content"), &[]);
    let answer = sender.send_request(download).await.unwrap();
    assert_eq!(answer.status(), 200);
    let (status, detail) = problem(&send("DELETE", path).await);
    assert_eq!(status, 409);
    assert!(detail.contains("in use"), "{detail}");
    assert_eq!(parsed(&get(&client, path).await)["inUse"], true);
    // Who hangs up lets it go.
    drop((answer, sender));
    while send("DELETE", path).await.status != 204 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(!stage.checkpoints().join("one.tar").exists());
    assert_eq!(problem(&send("DELETE", path).await).0, 404);
    assert_eq!(problem(&send("PUT", &pin).await).0, 404);
    assert_eq!(problem(&send("DELETE", &pin).await).0, 404);
}

#[tokio::test]
async fn a_download_is_the_archive_and_goes_on_where_it_broke() {
    let stage = Stage::new().await;
    let content: String =
        (0..300_000).map(|number| char::from(b'a' + (number % 23) as u8)).collect();
    std::fs::write(stage.checkpoints().join("a.tar"), &content).unwrap();
    let path = "/cryopod/v1/archives/a.tar/content";
    let client = stage.client();
    let whole = get(&client, path).await;
    assert_eq!(whole.status, 200);
    assert_eq!(whole.body, content);
    assert_eq!(whole.header("content-length"), Some("300000"));
    assert_eq!(whole.header("content-type"), Some("application/x-tar"));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    assert_eq!(whole.header("content-disposition"), Some("attachment; filename=\"a.tar\""));
    assert_eq!(whole.header("cache-control"), Some("no-store"));
    let tag = whole.header("etag").unwrap().to_owned();
    assert!(tag.starts_with('"') && tag.len() > 2 && tag.ends_with('"'), "{tag}");
    let modified = whole.header("last-modified").unwrap().to_owned();
    assert!(modified.ends_with(" GMT"), "{modified}");
    assert_eq!(client.send_h2("GET", path, &[]).await.body, content);

    let range = async |text: &str, more: &[(&str, &str)]| {
        let mut headers = vec![("range", text)];
        headers.extend(more);
        client.send("GET", path, &headers).await
    };
    for validator in [&*tag, &*modified] {
        let rest = range("bytes=299990-", &[("if-range", validator)]).await;
        assert_eq!((rest.status.as_u16(), &*rest.body), (206, &content[299_990..]));
        assert_eq!(rest.header("content-range"), Some("bytes 299990-299999/300000"));
        assert_eq!(rest.header("content-length"), Some("10"));
        assert_eq!(rest.header("etag"), Some(&*tag));
    }
    let other = range("bytes=299990-", &[("if-range", "\"other\"")]).await;
    assert_eq!((other.status.as_u16(), other.body.len()), (200, 300_000));
    assert_eq!(range("bytes=-3", &[]).await.body, content[299_997..]);
    assert_eq!(range("bytes=0-1,4-5", &[]).await.status, 200);
    let beyond = range("bytes=300000-", &[]).await;
    assert_eq!(problem(&beyond).0, 416);
    assert_eq!(beyond.header("content-range"), Some("bytes */300000"));
    let same = client.send("GET", path, &[("if-none-match", &*tag)]).await;
    assert_eq!((same.status.as_u16(), &*same.body), (304, ""));
    assert_eq!(same.header("etag"), Some(&*tag));

    for headers in [vec![], vec![("range", "bytes=0-4")]] {
        for head in [
            client.send("HEAD", path, &headers).await,
            client.send_h2("HEAD", path, &headers).await,
        ] {
            assert_eq!((head.status.as_u16(), &*head.body), (200, ""));
            assert_eq!(head.header("content-length"), Some("300000"));
            assert_eq!(head.header("etag"), Some(&*tag));
        }
    }
    let missing = get(&client, "/cryopod/v1/archives/b.tar/content").await;
    assert_eq!(problem(&missing).0, 404);

    // Another content is another archive.
    std::fs::write(stage.checkpoints().join("a.tar"), "short").unwrap();
    let changed = range("bytes=2-", &[("if-range", &tag)]).await;
    assert_eq!((changed.status.as_u16(), &*changed.body), (200, "short"));
}

#[tokio::test]
async fn an_archive_that_shrinks_breaks_its_download_off() {
    let stage = Stage::new().await;
    let file = stage.checkpoints().join("a.tar");
    std::fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
    let mut sender = stage.client().try_http1().await.unwrap();
    let download = request("GET", "/cryopod/v1/archives/a.tar/content", &[]);
    let answer = sender.send_request(download).await.unwrap();
    std::fs::File::options().write(true).open(&file).unwrap().set_len(10).unwrap();
    assert!(answer.into_body().collect().await.is_err());
}

#[tokio::test]
async fn many_large_downloads_at_once_are_each_whole() {
    let stage = Stage::new().await;
    let file = stage.checkpoints().join("a.tar");
    std::fs::File::create(&file).unwrap().set_len(16 << 20).unwrap();
    let downloads: Vec<_> = (0..16)
        .map(|number| {
            let client = stage.client();
            tokio::spawn(async move {
                let path = "/cryopod/v1/archives/a.tar/content";
                if number % 2 == 0 {
                    client.send("GET", path, &[]).await.body.len()
                } else {
                    client.send_h2("GET", path, &[]).await.body.len()
                }
            })
        })
        .collect();
    for download in downloads {
        assert_eq!(download.await.unwrap(), 16 << 20);
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_told_after_authentication_only() {
    let stage = Stage::new().await;
    let client = stage.client();
    let stranger = stage.stranger();
    for path in ["/cryopod", "/cryopod/", "/cryopod/v1", "/cryopod/v2/archives", "/cryopod//v1"] {
        let answer = get(&client, path).await;
        assert_eq!(problem(&answer).0, 404, "{path}");
        let answer = get(&stranger, path).await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (401, "Unauthorized"), "{path}");
    }
    let answer = client.post(ARCHIVES).await;
    assert_eq!(problem(&answer), (405, "this path takes GET, HEAD".to_owned()));
    assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    assert_eq!(problem(&get(&client, "/cryopod/v1/archives/%zz").await).0, 400);
    assert_eq!(get(&stranger, "/cryopod/v1/archives/%zz").await.status, 401);
    // Nothing of it is there with the gate off.
    let off = Stage::with(|options| options.feature_gates.container_checkpoint = false).await;
    let answer = get(&off.client(), ARCHIVES).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (404, "404 page not found\n"));
}

/// Remembers what it was asked and allows what it was told to.
struct Only {
    allowed: &'static str,
    asked: Mutex<Vec<String>>,
}

impl Authorizer for Only {
    fn authorize<'a>(
        &'a self,
        attributes: &'a Attributes,
    ) -> BoxFuture<'a, Result<Decision, BoxError>> {
        let rule =
            format!("{} {}/{}", attributes.verb, attributes.resource, attributes.subresource);
        let decision = if rule == self.allowed { Decision::Allow } else { Decision::NoOpinion };
        self.asked.lock().unwrap().push(format!("{rule} {}", attributes.name));
        Box::pin(async move { Ok(decision) })
    }
}

#[tokio::test]
async fn who_may_see_archives_may_not_read_them() {
    let only = Arc::new(Only { allowed: "get nodes/checkpointarchives", asked: Mutex::default() });
    let delegates = Delegates { authorizer: Some(only.clone()), ..Delegates::default() };
    let stage = Stage::with_delegates(delegates, |_| {}).await;
    archive(&stage.checkpoints(), "one.tar", "web");
    let client = stage.client();
    let path = "/cryopod/v1/archives/one.tar";
    assert_eq!(get(&client, path).await.status, 200);
    let content = format!("{path}/content");
    let pin = format!("{path}/pin");
    for (method, path, verb, subresource) in [
        ("GET", &*content, "get", "checkpointcontent"),
        ("HEAD", &*content, "get", "checkpointcontent"),
        ("GET", ARCHIVES, "list", "checkpointarchives"),
        ("DELETE", path, "delete", "checkpointarchives"),
        ("PUT", &*pin, "update", "checkpointarchives"),
        ("DELETE", &*pin, "update", "checkpointarchives"),
        ("GET", "/cryopod/v1/checkpoints", "list", "checkpointprogress"),
        ("GET", "/cryopod/v1/checkpoints/1/events", "get", "checkpointprogress"),
        ("POST", "/cryopod/v1/restore", "create", "checkpointrestore"),
        ("GET", "/cryopod/v1/openapi.json", "get", "checkpointprogress"),
    ] {
        let answer = client.send(method, path, &[]).await;
        assert_eq!(answer.status, 403, "{method} {path}");
        if method != "HEAD" {
            let text = format!(
                "Forbidden (user=alice, verb={verb}, resource=nodes, \
                 subresource(s)=[{subresource}])\n"
            );
            assert_eq!(answer.body, text, "{method} {path}");
        }
        let asked = only.asked.lock().unwrap().pop().unwrap();
        assert_eq!(asked, format!("{verb} nodes/{subresource} node-1"));
    }
    assert!(stage.checkpoints().join("one.tar").exists());
}

#[tokio::test]
async fn the_document_is_served_and_is_the_one_of_the_library() {
    let stage = Stage::new().await;
    let answer = get(&stage.client(), "/cryopod/v1/openapi.json").await;
    assert_eq!(answer.status, 200);
    assert_eq!(parsed(&answer), cryopod_kubelet::api::document());
    assert_eq!(get(&stage.stranger(), "/cryopod/v1/openapi.json").await.status, 401);
}

/// The next piece of an event stream as it came in; `None` at its end.
async fn piece(body: &mut hyper::body::Incoming) -> Option<String> {
    let frame = body.frame().await?.unwrap();
    Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
}

#[tokio::test]
async fn a_checkpoint_is_watched_from_its_beginning_to_its_end() {
    let stage = Stage::new().await;
    let client = stage.client();
    let empty = parsed(&get(&client, "/cryopod/v1/checkpoints").await);
    assert_eq!(empty, json!({ "items": [] }));
    let go_on = Arc::new(Notify::new());
    stage.runtime.next(Act::Wait(Arc::clone(&go_on)));
    let poster = stage.client();
    let made =
        tokio::spawn(async move { poster.post("/checkpoint/default/counter/counter").await });
    stage.runtime.called(1).await;

    let list = parsed(&get(&client, "/cryopod/v1/checkpoints").await);
    let one = &list["items"][0];
    assert_eq!((&one["phase"], &one["container"]), (&json!("running"), &json!("counter")));
    let path = format!("/cryopod/v1/checkpoints/{}", one["id"].as_str().unwrap());
    let described = parsed(&get(&client, &path).await);
    assert_eq!(described["location"], one["location"]);

    let events = format!("{path}/events");
    let mut first = stage.client().try_http1().await.unwrap();
    let answer = first.send_request(request("GET", &events, &[])).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut body = answer.into_body();
    let begun = piece(&mut body).await.unwrap();
    assert!(begun.starts_with("event: phase\ndata: {") && begun.contains("\"running\""), "{begun}");
    // Written in place, as a foreign runtime does.
    let location = described["location"].as_str().unwrap();
    std::fs::write(location, "12345").unwrap();
    let bytes = piece(&mut body).await.unwrap();
    assert_eq!(bytes, "event: bytes\ndata: {\"bytesWritten\":5}\n\n");
    // What is still written is no archive yet.
    assert_eq!(parsed(&get(&client, ARCHIVES).await)["items"], json!([]));
    // One who reads nothing, and one who goes, change nothing.
    let mut asleep = stage.client().http2().await;
    let target = format!("https://localhost{events}");
    let _unread = asleep.send_request(request("GET", &target, &[])).await.unwrap();
    let mut gone = stage.client().try_http1().await.unwrap();
    drop(gone.send_request(request("GET", &events, &[])).await.unwrap());
    drop(gone);

    std::fs::remove_file(location).unwrap();
    go_on.notify_one();
    assert_eq!(made.await.unwrap().status, 200);
    let mut last = String::new();
    while let Some(text) = piece(&mut body).await {
        last = text;
    }
    assert!(last.starts_with("event: phase\n") && last.contains("\"done\""), "{last}");
    assert_eq!(parsed(&get(&client, &path).await)["phase"], "done");
    // There at once, for who was told of it.
    let name = location.rsplit('/').next().unwrap();
    assert_eq!(get(&client, &format!("{ARCHIVES}/{name}/content")).await.body, "archive");
    let unknown = get(&client, "/cryopod/v1/checkpoints/999/events").await;
    assert_eq!(problem(&unknown).0, 404);
}

#[tokio::test]
async fn a_server_that_stops_does_not_wait_for_watchers() {
    let mut stage = Stage::new().await;
    stage.runtime.next(Act::Fail(RpcError { code: Code::Internal, message: "no".into() }));
    let client = stage.client();
    assert_eq!(client.post("/checkpoint/default/counter/counter").await.status, 500);
    let list = parsed(&get(&client, "/cryopod/v1/checkpoints").await);
    assert_eq!(list["items"][0]["phase"], "failed");
    let go_on = Arc::new(Notify::new());
    stage.runtime.next(Act::Wait(Arc::clone(&go_on)));
    let poster = stage.client();
    let made =
        tokio::spawn(async move { poster.post("/checkpoint/default/counter/counter").await });
    stage.runtime.called(2).await;
    let list = parsed(&get(&client, "/cryopod/v1/checkpoints").await);
    let events =
        format!("/cryopod/v1/checkpoints/{}/events", list["items"][0]["id"].as_str().unwrap());
    let mut sender = client.try_http1().await.unwrap();
    let answer = sender.send_request(request("GET", &events, &[])).await.unwrap();
    let mut body = answer.into_body();
    assert!(piece(&mut body).await.unwrap().contains("running"));
    stage.stop();
    // The watcher is told off while the request under way still runs.
    while piece(&mut body).await.is_some() {}
    assert!(!made.is_finished());
    go_on.notify_one();
    assert_eq!(made.await.unwrap().status, 200);
    (&mut stage.server).await.unwrap();
}
