//! The doors of `cryopod serve`: who may open them, and what is said there.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use cryopod_cri::{Client, Code, v1};
use rustix::process::Signal;

use crate::harness::{Node, stderr};

async fn client(node: &Node) -> Client {
    Client::connect(node.socket().to_str().unwrap()).await.unwrap()
}

#[tokio::test]
async fn the_cri_door_says_who_it_is() {
    let node = Node::start();
    let client = client(&node).await;
    let version = client.version(Duration::from_secs(60)).await.unwrap();
    assert_eq!(version.runtime_name, "cryopod");
    assert_eq!(version.runtime_api_version, "v1");
    assert_eq!(version.runtime_version, env!("CARGO_PKG_VERSION"));
    assert_eq!(version.version, "0.1.0");

    let status = client.status(false).await.unwrap();
    let ready: Vec<_> =
        status.status.unwrap().conditions.into_iter().map(|c| (c.r#type, c.status)).collect();
    assert_eq!(ready, [("RuntimeReady".into(), true), ("NetworkReady".into(), true)]);
    assert!(status.info.is_empty(), "only a verbose status tells more");

    let config = client.runtime_config().await.unwrap().linux.unwrap();
    assert_eq!(config.cgroup_driver(), v1::CgroupDriver::Cgroupfs);
    client.update_runtime_config("10.0.0.0/8").await.unwrap();
}

#[tokio::test]
async fn calls_it_does_not_serve_are_named() {
    let node = Node::start();
    let client = client(&node).await;
    let status = client.runtime().exec(v1::ExecRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(status.message(), "unknown method Exec for service runtime.v1.RuntimeService");
}

#[tokio::test]
async fn wrong_requests_are_refused_by_field() {
    let node = Node::start();
    let client = client(&node).await;
    let code = |result: Result<(), cryopod_cri::CriError>| result.unwrap_err().code();
    let empty = v1::PodSandboxConfig::default();
    let err = client.run_pod_sandbox(empty.clone()).await.unwrap_err();
    assert_eq!(err.code(), Code::InvalidArgument);
    assert!(err.to_string().contains("config.metadata"), "{err}");
    let err = client.create_container("s", v1::ContainerConfig::default(), empty).await;
    assert_eq!(err.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(
        code(client.checkpoint_container("c", "relative.tar", 0, None).await),
        Code::InvalidArgument
    );
    assert_eq!(
        code(client.checkpoint_container("c", "/a.tar", -1, None).await),
        Code::InvalidArgument
    );
    let err = client.exec_sync("c", vec![], Duration::ZERO).await.unwrap_err();
    assert_eq!(err.code(), Code::InvalidArgument);
}

#[test]
fn the_socket_and_its_folder_are_the_owners_only() {
    let node = Node::start();
    let mode = |path: &std::path::Path| path.symlink_metadata().unwrap().permissions().mode();
    assert_eq!(mode(&node.socket()) & 0o777, 0o600);
    assert_eq!(mode(node.socket().parent().unwrap()) & 0o777, 0o700);
}

#[test]
fn a_second_server_on_the_socket_is_refused() {
    let node = Node::start();
    let output = node.serve_command().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("another server listens"), "{}", stderr(&output));
    node.ok(["version"]);
}

#[test]
fn sigterm_and_sigint_end_it_in_order() {
    let mut node = Node::start();
    for signal in [Signal::TERM, Signal::INT] {
        let status = node.end_server(signal);
        assert_eq!(status.code(), Some(0), "{}", node.log());
        node.restart();
    }
}

#[test]
fn a_killed_server_leaves_a_socket_the_next_one_takes_over() {
    let mut node = Node::start();
    for _ in 0..3 {
        assert_eq!(node.end_server(Signal::KILL).code(), None);
        assert!(node.socket().exists());
        node.restart();
    }
    node.ok(["version"]);
}
