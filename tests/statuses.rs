//! The statuses of the checkpoint endpoint, as a caller of the real program meets them, each with
//! the kubelet's very body.

use std::path::Path;
use std::process::{Child, Stdio};

use cryopod_cri::server::{self, Nothing};
use cryopod_cri::v1::runtime_service_server::RuntimeService;
use cryopod_cri::v1::{self, ContainerState, PodSandboxState};
use http::{Method, Request, Response};
use tonic::Status;

use crate::certificates::Certificates;
use crate::client::post;
use crate::containers::counting;
use crate::door::{Door, told_address};
use crate::harness::{cryopod, wait_for};

const COUNTER: &str = "/checkpoint/default/counter/counter";
const TEXT: &str = "text/plain; charset=utf-8";

#[track_caller]
fn assert_is(answer: &Response<String>, status: u16, body: &str) {
    assert_eq!((answer.status().as_u16(), answer.body().as_str()), (status, body));
    assert_eq!(answer.headers()["content-type"], TEXT);
}

fn archives(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[tokio::test]
async fn a_checkpoint_is_200_with_the_path_of_the_archive() {
    let door = Door::open(&[]);
    counting(&door.node, "counter");
    let answer = door.post(&format!("{COUNTER}?timeout=300")).await;
    assert_eq!(answer.status().as_u16(), 200, "{}", answer.body());
    assert_eq!(answer.headers()["content-type"], "application/json");
    let folder = door.node.checkpoints();
    let start = format!(r#"{{"items":["{}/checkpoint-counter_default-counter-"#, folder.display());
    let rest = answer.body().strip_prefix(&start).unwrap();
    let time = rest.strip_suffix(r#".tar"]}"#).unwrap();
    time.parse::<jiff::Timestamp>().unwrap();
    assert_eq!(archives(&folder), 1);
}

#[tokio::test]
async fn what_is_not_there_is_404_and_nothing_is_made() {
    let door = Door::open(&[]);
    counting(&door.node, "counter");
    let bad_timeout = "cannot parse value of timeout parameter";
    for (path, body) in [
        ("/checkpoint/default/other/counter", "pod does not exist"),
        ("/checkpoint/other/counter/counter", "pod does not exist"),
        ("/checkpoint/default/other/counter?timeout=x", "pod does not exist"),
        ("/checkpoint/default/counter/other", "container other does not exist"),
        ("/checkpoint/default/counter/other?timeout=x", "container other does not exist"),
        ("/checkpoint/default/counter/counter?timeout=", bad_timeout),
        ("/checkpoint/default/counter/counter?timeout=1.5", bad_timeout),
        ("/checkpoint/default/counter/counter?timeout=5m", bad_timeout),
        ("/checkpoint/default/counter/counter?timeout=1&timeout=soon", bad_timeout),
        ("/checkpoint/default/counter", "404: Page Not Found"),
        ("/checkpoint/default/counter/counter/more", "404: Page Not Found"),
        ("/nothing", "404 page not found\n"),
    ] {
        assert_is(&door.post(path).await, 404, body);
    }
    assert_eq!(archives(&door.node.checkpoints()), 0);
}

#[tokio::test]
async fn with_the_gate_off_the_path_is_unknown() {
    let door = Door::open(&["--feature-gates", "ContainerCheckpoint=false"]);
    counting(&door.node, "counter");
    let answer = door.post(COUNTER).await;
    assert_is(&answer, 404, "404 page not found\n");
    assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
}

#[tokio::test]
async fn who_is_nobody_gets_401_and_learns_nothing() {
    let door = Door::open(&[]);
    counting(&door.node, "counter");
    for path in [COUNTER, "/checkpoint/default/other/counter", "/checkpoint/a"] {
        let answer = post(door.address, path, &door.certificates, false).await.unwrap();
        assert_is(&answer, 401, "Unauthorized");
    }
    assert_eq!(archives(&door.node.checkpoints()), 0);
}

#[tokio::test]
async fn other_methods_are_405_and_other_types_406() {
    let door = Door::open(&[]);
    counting(&door.node, "counter");
    for method in [Method::GET, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
        let answer = door.send(Request::builder().method(method).uri(COUNTER)).await;
        assert_is(&answer, 405, "405: Method Not Allowed");
        assert_eq!(answer.headers()["allow"], "POST");
    }
    for accept in ["text/html", "application/*", "application/yaml"] {
        let answer = door.send(Request::post(COUNTER).header("accept", accept)).await;
        let body = "406: Not Acceptable\n\nAvailable representations: application/json";
        assert_is(&answer, 406, body);
    }
    assert_eq!(archives(&door.node.checkpoints()), 0);
}

#[tokio::test]
async fn a_container_that_does_not_run_is_500() {
    let door = Door::open(&[]);
    let node = &door.node;
    counting(node, "counter");
    let keep = ["run", "--host-programs", "--pod", "counter", "--name", "other"];
    node.ok(keep.into_iter().chain(["--", "/bin/sleep", "600"]));
    let negative = "checkpointing of default/counter/counter failed \
                    (CheckpointContainer requires the timeout value to be > 0)";
    assert_is(&door.post(&format!("{COUNTER}?timeout=-1")).await, 500, negative);
    node.ok(["stop", "--grace", "0", "default/counter/counter"]);
    let body = "checkpointing of default/counter/counter failed (container counter not found)";
    assert_is(&door.post(COUNTER).await, 500, body);
    assert_eq!(archives(&node.checkpoints()), 0);
}

#[tokio::test]
async fn a_resource_that_cannot_be_carried_is_500_and_named() {
    let door = Door::open(&[]);
    let node = &door.node;
    let victim = cryopod_testkit::victim("sysv_shm");
    let cryopod_testkit::Fate::Refused(named) = victim.fate else { panic!("it is carried now") };
    let place = cryopod_testkit::Workplace::new(victim, &node.folder().join("victim")).unwrap();
    let (work, program) = (place.work(), place.executable());
    let (work, program) = (work.to_str().unwrap(), program.to_str().unwrap());
    let mounts = [format!("{work}:/work"), format!("{program}:/victim:ro")];
    node.ok(["run", "--host-programs", "--name", "shm", "--workdir", "/work"]
        .into_iter()
        .chain(["--mount", &mounts[0], "--mount", &mounts[1], "--", "/victim"]));
    wait_for("the victim", || {
        assert_eq!(place.verdict(), None);
        place.is_ready().then_some(())
    });
    let answer = door.post("/checkpoint/default/shm/shm").await;
    assert_eq!(answer.status().as_u16(), 500);
    assert_eq!(answer.headers()["content-type"], TEXT);
    let text = answer.body();
    let start =
        "checkpointing of default/shm/shm failed (rpc error: code = FailedPrecondition desc";
    assert!(text.starts_with(start) && text.contains(named), "{text}");
    assert_eq!(archives(&node.checkpoints()), 0);
    // It never noticed.
    place.go().unwrap();
    let verdict = wait_for("the victim's verdict", || place.verdict());
    assert_eq!(verdict, cryopod_testkit::Verdict::Ok);
}

/// A runtime with one running container and without CheckpointContainer.
pub(crate) struct Fake;

#[tonic::async_trait]
impl RuntimeService for Fake {
    async fn version(
        &self,
        _: tonic::Request<v1::VersionRequest>,
    ) -> Result<tonic::Response<v1::VersionResponse>, Status> {
        Ok(tonic::Response::new(v1::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "fake".into(),
            runtime_version: "1".into(),
            runtime_api_version: "v1".into(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        _: tonic::Request<v1::ListPodSandboxRequest>,
    ) -> Result<tonic::Response<v1::ListPodSandboxResponse>, Status> {
        let sandbox = v1::PodSandbox {
            id: "s".into(),
            metadata: Some(v1::PodSandboxMetadata {
                name: "counter".into(),
                uid: "u".into(),
                namespace: "default".into(),
                attempt: 0,
            }),
            state: PodSandboxState::SandboxReady.into(),
            ..Default::default()
        };
        Ok(tonic::Response::new(v1::ListPodSandboxResponse { items: vec![sandbox] }))
    }

    async fn list_containers(
        &self,
        _: tonic::Request<v1::ListContainersRequest>,
    ) -> Result<tonic::Response<v1::ListContainersResponse>, Status> {
        let container = v1::Container {
            id: "c".into(),
            pod_sandbox_id: "s".into(),
            metadata: Some(v1::ContainerMetadata { name: "counter".into(), attempt: 0 }),
            state: ContainerState::ContainerRunning.into(),
            ..Default::default()
        };
        Ok(tonic::Response::new(v1::ListContainersResponse { containers: vec![container] }))
    }
}

/// A process that ends with its holder.
pub(crate) struct Ended(pub(crate) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_knows_no_checkpoints_is_500_in_its_own_words() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let listener = server::listen(&at("cri.sock")).unwrap();
    tokio::spawn(server::serve(listener, Fake, Nothing, std::future::pending()));
    let certificates = Certificates::make().unwrap();
    std::fs::write(at("ca"), &certificates.authority).unwrap();
    std::fs::write(at("crt"), &certificates.server.certificate).unwrap();
    std::fs::write(at("key"), &certificates.server.key).unwrap();
    let log = std::fs::File::create(at("log")).unwrap();
    let mut command = cryopod(["serve", "--address", "127.0.0.1:0", "--root-dir"]);
    command.arg(at("kubelet")).arg("--client-ca-file").arg(at("ca"));
    command.arg("--tls-cert-file").arg(at("crt")).arg("--tls-private-key-file").arg(at("key"));
    command.arg("--container-runtime-endpoint").arg(at("cri.sock"));
    let server = Ended(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    let log = || std::fs::read_to_string(at("log")).unwrap();
    let address = wait_for("the address in the log", || told_address(&log()));
    let answer = post(address, COUNTER, &certificates, true).await.unwrap();
    let body = "checkpointing of default/counter/counter failed (rpc error: code = Unimplemented \
                desc = unknown method CheckpointContainer for service runtime.v1.RuntimeService)";
    assert_is(&answer, 500, body);
    assert_eq!(archives(&at("kubelet/checkpoints")), 0);
    drop(server);
}
