//! The HTTPS door as `serve` opens it: certificates, statuses and bodies. What each status means is
//! proven in the crate behind it; here, that the options of `serve` reach it.

use std::os::unix::fs::PermissionsExt;

use crate::certificates::Certificates;
use crate::client::post;
use crate::door::Door;
use crate::harness::{Node, cryopod, stderr};

#[tokio::test]
async fn a_caller_needs_a_certificate_and_a_pod_must_exist() {
    let door = Door::open(&[]);
    let path = "/checkpoint/default/counter/counter";
    let answer = post(door.address, path, &door.certificates, false).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.body().as_str()), (401, "Unauthorized"));
    let answer = door.post(path).await;
    assert_eq!((answer.status().as_u16(), answer.body().as_str()), (404, "pod does not exist"));
    let answer = door.post("/checkpoint/default/counter").await;
    assert_eq!((answer.status().as_u16(), answer.body().as_str()), (404, "404: Page Not Found"));
    // The folder of archives is root's.
    let mode = door.node.checkpoints().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn the_feature_gate_takes_the_route_away() {
    let door = Door::open(&["--feature-gates", "ContainerCheckpoint=false"]);
    let answer = door.post("/checkpoint/default/counter/counter").await;
    assert_eq!((answer.status().as_u16(), answer.body().as_str()), (404, "404 page not found\n"));
}

#[tokio::test]
async fn a_strangers_certificate_is_no_better_than_none() {
    let door = Door::open(&[]);
    let mut stranger = Certificates::make().unwrap();
    // The server is still to be trusted: only the client is the stranger.
    stranger.authority.clone_from(&door.certificates.authority);
    let path = "/checkpoint/default/counter/counter";
    let answer = post(door.address, path, &stranger, true).await.unwrap();
    assert_eq!(answer.status().as_u16(), 401);
}

#[test]
fn without_a_way_to_authenticate_the_door_stays_closed() {
    let node = Node::start();
    let log = node.log();
    assert!(log.contains("the HTTPS API stays closed"), "{log}");
    assert!(!log.contains("serving HTTPS"), "{log}");
}

#[test]
fn wrong_options_are_said_before_anything_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let serve = |more: &[&str]| {
        let mut command = cryopod(["serve", "--address", "127.0.0.1:0"]);
        for (option, name) in
            [("--socket", "s"), ("--root-dir", "r"), ("--state-dir", "t"), ("--run-dir", "u")]
        {
            command.args([option, &at(name)]);
        }
        command.args(more).output().unwrap()
    };
    let output = serve(&["--feature-gates", "CheckpointContainer=true"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("\"CheckpointContainer\" is unknown"), "{}", stderr(&output));
    let output = serve(&["--client-ca-file", "/no/such/ca"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/no/such/ca"), "{}", stderr(&output));
    let output = serve(&["--container-runtime-endpoint", "tcp://1.2.3.4:5"]);
    assert_ne!(output.status.code(), Some(0));
    let output = serve(&["--tls-cert-file", "/crt"]);
    assert_eq!(output.status.code(), Some(2), "a certificate needs its key");
    assert!(!folder.path().join("s").exists(), "no socket was made");
}
