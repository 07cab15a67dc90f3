//! The twin of Kubernetes' own e2e test of the endpoint (`checkpoint_container.go`): the same
//! steps and checks, against a real container; and what `crictl checkpoint` does.

use std::path::PathBuf;

use cryopod_cri::Client;
use http::Request;

use crate::containers::{counting, last_count};
use crate::door::Door;
use crate::harness::{Node, PATIENCE, wait_for};

/// The value of a series; 0 when it is absent, as the e2e test has it.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// Calls and errors of the operation.
async fn operations(door: &Door) -> (f64, f64) {
    let answer = door.send(Request::get("/metrics")).await;
    assert_eq!(answer.status(), 200);
    let labels = "{operation_type=\"checkpoint_container\"}";
    let text = answer.body();
    (
        value(text, &format!("kubelet_runtime_operations_total{labels}")),
        value(text, &format!("kubelet_runtime_operations_errors_total{labels}")),
    )
}

#[tokio::test]
async fn the_checkpoint_container_e2e_test_passes() {
    let audit_folder = tempfile::tempdir().unwrap();
    let audit = audit_folder.path().join("audit.log");
    let door = Door::open(&["--audit-log", audit.to_str().unwrap()]);
    counting(&door.node, "counter");
    wait_for("some numbers", || (last_count(&door.node, "counter") > 3).then_some(()));
    assert_eq!(operations(&door).await, (0.0, 0.0));

    let answer = door.post("/checkpoint/default/counter/counter").await;
    assert_eq!(answer.status(), 200, "{}", answer.body());
    let at = last_count(&door.node, "counter");
    let answer: serde_json::Value = serde_json::from_str(answer.body()).unwrap();
    let items = answer["items"].as_array().unwrap();
    assert_eq!(items.len(), 1);
    let mut bytes = 0;
    for item in items {
        let path = PathBuf::from(item.as_str().unwrap());
        bytes = path.metadata().unwrap().len();
        let mut tar = tar::Archive::new(std::fs::File::open(&path).unwrap());
        let names: Vec<String> = tar
            .entries()
            .unwrap()
            .map(|entry| String::from_utf8(entry.unwrap().path_bytes().to_vec()).unwrap())
            .collect();
        for needed in ["spec.dump", "config.dump", "checkpoint/inventory.img"] {
            assert!(names.iter().any(|name| name == needed), "{needed} in {names:?}");
        }
        std::fs::remove_file(path).unwrap();
    }
    assert_eq!(operations(&door).await, (1.0, 0.0));
    wait_for("it to go on", || (last_count(&door.node, "counter") > at + 3).then_some(()));

    // Beyond the e2e test: what our own runtime tells is counted and audited.
    let text = door.send(Request::get("/metrics")).await.into_body();
    assert_eq!(value(&text, "cryopod_checkpoint_freeze_seconds_count"), 1.0, "{text}");
    assert!(value(&text, "cryopod_checkpoint_freeze_seconds_sum") > 0.0, "{text}");
    let lines = std::fs::read_to_string(&audit).unwrap();
    let line = lines.lines().find(|line| line.contains("/checkpoint/")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["archive"]["path"], items[0], "{line}");
    assert_eq!(line["archive"]["bytes"], bytes, "{line}");
    let digest = line["archive"]["digest"].as_str().unwrap();
    assert_eq!((digest.len(), digest.starts_with("blake3:")), (7 + 64, true), "{line}");
    assert_eq!(line["archive"]["digestOf"], "cryopod.digests", "{line}");
}

/// `crictl checkpoint --export=PATH ID`: Version, then the call with id and path and nothing else.
#[tokio::test]
async fn crictl_takes_a_checkpoint_with_two_calls() {
    let node = Node::start();
    counting(&node, "counter");
    wait_for("some numbers", || (last_count(&node, "counter") > 3).then_some(()));
    let client = Client::connect(&format!("unix://{}", node.socket().display())).await.unwrap();
    let version = client.version(PATIENCE).await.unwrap();
    assert_eq!(version.runtime_api_version, "v1");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.tar");
    let id = node.ps()[0]["id"].as_str().unwrap().to_owned();
    let location = path.to_str().unwrap();
    client.checkpoint_container(&id, location, 0, Some(PATIENCE)).await.unwrap();
    assert!(path.metadata().unwrap().len() > 0);
}
