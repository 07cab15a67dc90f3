//! The same over a real unix socket, with a CRI server played by the test.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cryopod_cri::v1::image_service_server::ImageService;
use cryopod_cri::v1::runtime_service_server::RuntimeService;
use cryopod_cri::{Client, v1};
use cryopod_kubelet::{CriRuntime, Delegates};
use tempfile::TempDir;
use tokio::sync::Notify;
use tonic::{Request, Response, Status};

use crate::stage::{Played, Stage};

const COUNTER: &str = "/checkpoint/default/counter/counter";

/// What the played runtime does with CheckpointContainer.
#[derive(Clone)]
enum Act {
    Write,
    Fail(Status),
    /// Signals its start and its being dropped.
    Hang(Arc<Notify>, Arc<Notify>),
}

/// A request and its deadline as told.
type Seen = (v1::CheckpointContainerRequest, Option<String>);

#[derive(Clone)]
struct PlayedCri {
    act: Arc<Mutex<Act>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

struct PlayedImages;

impl ImageService for PlayedImages {}

#[tonic::async_trait]
impl RuntimeService for PlayedCri {
    async fn version(
        &self,
        _request: Request<v1::VersionRequest>,
    ) -> Result<Response<v1::VersionResponse>, Status> {
        Ok(Response::new(v1::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "played".into(),
            runtime_version: "1".into(),
            runtime_api_version: "v1".into(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        _request: Request<v1::ListPodSandboxRequest>,
    ) -> Result<Response<v1::ListPodSandboxResponse>, Status> {
        let sandbox = v1::PodSandbox {
            id: "s".into(),
            metadata: Some(v1::PodSandboxMetadata {
                name: "counter".into(),
                namespace: "default".into(),
                uid: "u".into(),
                attempt: 0,
            }),
            state: v1::PodSandboxState::SandboxReady.into(),
            ..Default::default()
        };
        Ok(Response::new(v1::ListPodSandboxResponse { items: vec![sandbox] }))
    }

    async fn list_containers(
        &self,
        _request: Request<v1::ListContainersRequest>,
    ) -> Result<Response<v1::ListContainersResponse>, Status> {
        let container = |name: &str, state: v1::ContainerState| v1::Container {
            id: format!("id-{name}"),
            pod_sandbox_id: "s".into(),
            metadata: Some(v1::ContainerMetadata { name: name.into(), attempt: 0 }),
            state: state.into(),
            ..Default::default()
        };
        let containers = vec![
            container("counter", v1::ContainerState::ContainerRunning),
            container("done", v1::ContainerState::ContainerExited),
            container("new", v1::ContainerState::ContainerCreated),
        ];
        Ok(Response::new(v1::ListContainersResponse { containers }))
    }

    async fn checkpoint_container(
        &self,
        request: Request<v1::CheckpointContainerRequest>,
    ) -> Result<Response<v1::CheckpointContainerResponse>, Status> {
        let timeout = request.metadata().get("grpc-timeout");
        let timeout = timeout.map(|value| value.to_str().unwrap().to_owned());
        let message = request.into_inner();
        self.seen.lock().unwrap().push((message.clone(), timeout));
        let act = self.act.lock().unwrap().clone();
        match act {
            Act::Write => {
                std::fs::write(&message.location, b"archive").unwrap();
                Ok(Response::new(v1::CheckpointContainerResponse {}))
            }
            Act::Fail(status) => Err(status),
            Act::Hang(began, dropped) => {
                struct OnDrop(Arc<Notify>);
                impl Drop for OnDrop {
                    fn drop(&mut self) {
                        self.0.notify_one();
                    }
                }
                let _on_drop = OnDrop(dropped);
                began.notify_one();
                std::future::pending().await
            }
        }
    }
}

/// A runtime without the call.
struct Old(PlayedCri);

#[tonic::async_trait]
impl RuntimeService for Old {
    async fn version(
        &self,
        request: Request<v1::VersionRequest>,
    ) -> Result<Response<v1::VersionResponse>, Status> {
        self.0.version(request).await
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Result<Response<v1::ListPodSandboxResponse>, Status> {
        self.0.list_pod_sandbox(request).await
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Result<Response<v1::ListContainersResponse>, Status> {
        self.0.list_containers(request).await
    }
}

struct Scene {
    stage: Stage,
    cri: PlayedCri,
    _folder: TempDir,
    _stop: tokio::sync::oneshot::Sender<()>,
}

async fn scene<R: RuntimeService>(
    act: Act,
    timeout: Duration,
    runtime: impl FnOnce(PlayedCri) -> R,
) -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("cri.sock");
    let cri = PlayedCri { act: Arc::new(Mutex::new(act)), seen: Arc::default() };
    let listener = cryopod_cri::server::listen(&socket).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let service = runtime(cri.clone());
    tokio::spawn(cryopod_cri::server::serve(listener, service, PlayedImages, async {
        let _ = stopped.await;
    }));
    let client = Client::connect_lazy(&format!("unix://{}", socket.display())).unwrap();
    let runtime = Arc::new(CriRuntime::new(client, timeout));
    let stage = Stage::over(Played::default(), runtime, Delegates::default(), |options| {
        options.runtime_request_timeout = timeout;
    })
    .await;
    Scene { stage, cri, _folder: folder, _stop: stop }
}

const MINUTES: Duration = Duration::from_secs(120);

fn failed(container: &str, reason: &str) -> String {
    format!("checkpointing of default/counter/{container} failed ({reason})")
}

#[tokio::test]
async fn a_checkpoint_goes_through_the_socket_and_back() {
    let scene = scene(Act::Write, MINUTES, |cri| cri).await;
    let answer = scene.stage.client().post(&format!("{COUNTER}?timeout=200")).await;
    let (request, timeout) = scene.cri.seen.lock().unwrap().remove(0);
    assert_eq!(answer.body, format!(r#"{{"items":["{}"]}}"#, request.location));
    assert_eq!((&*request.container_id, request.timeout), ("id-counter", 200));
    assert!(timeout.is_some_and(|text| text.starts_with("200")), "deadline is told");
    assert!(std::fs::exists(&request.location).unwrap());
    let client = scene.stage.client();
    for (container, status, body) in [
        ("nope", 404, "container nope does not exist".to_owned()),
        ("done", 500, failed("done", "container done not found")),
        ("new", 500, failed("new", "container new not found")),
    ] {
        let answer = client.post(&format!("/checkpoint/default/counter/{container}")).await;
        assert_eq!((answer.status.as_u16(), answer.body), (status, body));
    }
}

#[tokio::test]
async fn a_timeout_beyond_what_grpc_can_say_still_goes_through() {
    let scene = scene(Act::Write, MINUTES, |cri| cri).await;
    let answer = scene.stage.client().post(&format!("{COUNTER}?timeout={}", i64::MAX)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(scene.cri.seen.lock().unwrap()[0].0.timeout, i64::MAX);
}

#[tokio::test]
async fn the_runtimes_errors_come_through_verbatim() {
    let scene = scene(Act::Write, MINUTES, |cri| cri).await;
    let client = scene.stage.client();
    for (status, text) in [
        (
            Status::unknown("checkpoint/restore support not available"),
            "rpc error: code = Unknown desc = checkpoint/restore support not available",
        ),
        (
            Status::not_found("could not find container \"x\": 100% gone\nörk"),
            "rpc error: code = NotFound desc = could not find container \"x\": 100% gone\nörk",
        ),
        (Status::internal(""), "rpc error: code = Internal desc = "),
        (
            Status::unimplemented("method CheckpointContainer not implemented"),
            "rpc error: code = Unimplemented desc = method CheckpointContainer not implemented",
        ),
    ] {
        *scene.cri.act.lock().unwrap() = Act::Fail(status);
        let answer = client.post(COUNTER).await;
        assert_eq!((answer.status.as_u16(), answer.body), (500, failed("counter", text)));
    }
}

#[tokio::test]
async fn a_runtime_without_the_call_is_500_in_the_words_clients_look_for() {
    let scene = scene(Act::Write, MINUTES, Old).await;
    let answer = scene.stage.client().post(COUNTER).await;
    let reason = "rpc error: code = Unimplemented desc = unknown method CheckpointContainer \
                  for service runtime.v1.RuntimeService";
    assert_eq!((answer.status.as_u16(), answer.body), (500, failed("counter", reason)));
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
}

#[tokio::test]
async fn a_deadline_has_one_text_and_reaches_the_runtime() {
    let (began, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let act = Act::Hang(began, Arc::clone(&dropped));
    let scene = scene(act, Duration::from_millis(200), |cri| cri).await;
    let answer = scene.stage.client().post(COUNTER).await;
    let reason = "rpc error: code = DeadlineExceeded desc = context deadline exceeded";
    assert_eq!((answer.status.as_u16(), answer.body), (500, failed("counter", reason)));
    dropped.notified().await;
}

#[tokio::test]
async fn a_hang_up_reaches_the_runtime() {
    let (began, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let act = Act::Hang(Arc::clone(&began), Arc::clone(&dropped));
    let scene = scene(act, MINUTES, |cri| cri).await;
    let client = scene.stage.client();
    let waiting = tokio::spawn(async move { client.post(COUNTER).await });
    began.notified().await;
    waiting.abort();
    dropped.notified().await;
}

#[tokio::test]
async fn a_runtime_that_is_not_there_is_500() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("nothing.sock");
    let client = Client::connect_lazy(&socket.display().to_string()).unwrap();
    let runtime = Arc::new(CriRuntime::new(client, MINUTES));
    let stage = Stage::over(Played::default(), runtime, Delegates::default(), |_| {}).await;
    let answer = stage.client().post(COUNTER).await;
    let reason = format!(
        "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while \
         dialing: dial unix {}: connect: no such file or directory\"",
        socket.display()
    );
    assert_eq!((answer.status.as_u16(), answer.body), (500, failed("counter", &reason)));
}
