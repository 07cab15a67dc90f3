//! Restore through the API, in front of a CRI runtime played by the test.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cryopod_cri::v1::image_service_server::ImageService;
use cryopod_cri::v1::runtime_service_server::RuntimeService;
use cryopod_cri::{Client as CriClient, v1};
use cryopod_kubelet::{CriRuntime, Delegates};
use http::Request;
use http_body_util::Full;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::{Notify, oneshot};
use tonic::{Response, Status};

use crate::beyond::{archive, problem};
use crate::client::{Answer, read};
use crate::stage::{Played, Stage};

const RESTORE: &str = "/cryopod/v1/restore";

/// What the played runtime does with StartContainer.
#[derive(Clone)]
enum Act {
    Start,
    Fail(Status),
    /// Says that it began, and never answers.
    Hang(Arc<Notify>),
}

#[derive(Clone)]
struct PlayedCri {
    inner: Arc<Inner>,
}

struct Inner {
    /// Whether it tells what only our own runtime tells.
    ours: bool,
    act: Mutex<Act>,
    /// Of the pod `default/there`.
    network: v1::NamespaceMode,
    /// The calls that change something, in order.
    calls: Mutex<Vec<String>>,
    created: Mutex<Vec<v1::CreateContainerRequest>>,
    pods: Mutex<Vec<v1::PodSandboxConfig>>,
    changed: Notify,
}

impl PlayedCri {
    fn called(&self, call: String) {
        self.inner.calls.lock().unwrap().push(call);
        self.inner.changed.notify_waiters();
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.inner.calls.lock().unwrap())
    }

    /// Waits until so many calls were made.
    async fn until(&self, count: usize) {
        loop {
            let changed = self.inner.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.inner.calls.lock().unwrap().len() >= count {
                return;
            }
            changed.await;
        }
    }
}

struct NoImages;

impl ImageService for NoImages {}

type Answered<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl RuntimeService for PlayedCri {
    async fn version(
        &self,
        _: tonic::Request<v1::VersionRequest>,
    ) -> Answered<v1::VersionResponse> {
        Ok(Response::new(v1::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "played".into(),
            runtime_version: "1".into(),
            runtime_api_version: "v1".into(),
        }))
    }

    async fn status(&self, _: tonic::Request<v1::StatusRequest>) -> Answered<v1::StatusResponse> {
        let mut answer = v1::StatusResponse::default();
        if self.inner.ours {
            let places = json!({ "logDir": "/var/log/pods", "stateDir": "/s" }).to_string();
            answer.info.insert("cryopod".to_owned(), places);
        }
        Ok(Response::new(answer))
    }

    async fn list_pod_sandbox(
        &self,
        _: tonic::Request<v1::ListPodSandboxRequest>,
    ) -> Answered<v1::ListPodSandboxResponse> {
        let there = v1::PodSandbox {
            id: "s-there".into(),
            metadata: Some(v1::PodSandboxMetadata {
                name: "there".into(),
                namespace: "default".into(),
                uid: "u".into(),
                attempt: 0,
            }),
            state: v1::PodSandboxState::SandboxReady.into(),
            ..Default::default()
        };
        Ok(Response::new(v1::ListPodSandboxResponse { items: vec![there] }))
    }

    async fn pod_sandbox_status(
        &self,
        _: tonic::Request<v1::PodSandboxStatusRequest>,
    ) -> Answered<v1::PodSandboxStatusResponse> {
        let options =
            v1::NamespaceOption { network: self.inner.network.into(), ..Default::default() };
        let namespaces = v1::Namespace { options: Some(options) };
        let linux = v1::LinuxPodSandboxStatus { namespaces: Some(namespaces) };
        Ok(Response::new(v1::PodSandboxStatusResponse {
            status: Some(v1::PodSandboxStatus { linux: Some(linux), ..Default::default() }),
            ..Default::default()
        }))
    }

    async fn list_containers(
        &self,
        _: tonic::Request<v1::ListContainersRequest>,
    ) -> Answered<v1::ListContainersResponse> {
        let one = |name: &str, state: v1::ContainerState| v1::Container {
            id: format!("c-{name}"),
            pod_sandbox_id: "s-there".into(),
            metadata: Some(v1::ContainerMetadata { name: name.into(), attempt: 4 }),
            state: state.into(),
            ..Default::default()
        };
        let containers = vec![
            one("runs", v1::ContainerState::ContainerRunning),
            one("ended", v1::ContainerState::ContainerExited),
        ];
        Ok(Response::new(v1::ListContainersResponse { containers }))
    }

    async fn run_pod_sandbox(
        &self,
        request: tonic::Request<v1::RunPodSandboxRequest>,
    ) -> Answered<v1::RunPodSandboxResponse> {
        self.called("run pod".to_owned());
        self.inner.pods.lock().unwrap().push(request.into_inner().config.unwrap());
        Ok(Response::new(v1::RunPodSandboxResponse { pod_sandbox_id: "s-new".into() }))
    }

    async fn create_container(
        &self,
        request: tonic::Request<v1::CreateContainerRequest>,
    ) -> Answered<v1::CreateContainerResponse> {
        let request = request.into_inner();
        self.called(format!("create in {}", request.pod_sandbox_id));
        self.inner.created.lock().unwrap().push(request);
        Ok(Response::new(v1::CreateContainerResponse { container_id: "c-new".into() }))
    }

    async fn start_container(
        &self,
        request: tonic::Request<v1::StartContainerRequest>,
    ) -> Answered<v1::StartContainerResponse> {
        self.called(format!("start {}", request.into_inner().container_id));
        let act = self.inner.act.lock().unwrap().clone();
        match act {
            Act::Start => Ok(Response::new(v1::StartContainerResponse {})),
            Act::Fail(status) => Err(status),
            Act::Hang(began) => {
                began.notify_one();
                std::future::pending().await
            }
        }
    }

    async fn remove_container(
        &self,
        request: tonic::Request<v1::RemoveContainerRequest>,
    ) -> Answered<v1::RemoveContainerResponse> {
        self.called(format!("remove {}", request.into_inner().container_id));
        Ok(Response::new(v1::RemoveContainerResponse {}))
    }

    async fn stop_pod_sandbox(
        &self,
        request: tonic::Request<v1::StopPodSandboxRequest>,
    ) -> Answered<v1::StopPodSandboxResponse> {
        self.called(format!("stop pod {}", request.into_inner().pod_sandbox_id));
        Ok(Response::new(v1::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: tonic::Request<v1::RemovePodSandboxRequest>,
    ) -> Answered<v1::RemovePodSandboxResponse> {
        self.called(format!("remove pod {}", request.into_inner().pod_sandbox_id));
        Ok(Response::new(v1::RemovePodSandboxResponse {}))
    }
}

struct Scene {
    stage: Stage,
    cri: PlayedCri,
    _folder: TempDir,
    _stop: oneshot::Sender<()>,
}

async fn scene(ours: bool, act: Act, network: v1::NamespaceMode) -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("cri.sock");
    let cri = PlayedCri {
        inner: Arc::new(Inner {
            ours,
            act: Mutex::new(act),
            network,
            calls: Mutex::default(),
            created: Mutex::default(),
            pods: Mutex::default(),
            changed: Notify::new(),
        }),
    };
    let listener = cryopod_cri::server::listen(&socket).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(cryopod_cri::server::serve(listener, cri.clone(), NoImages, async {
        let _ = stopped.await;
    }));
    let client = CriClient::connect_lazy(&format!("unix://{}", socket.display())).unwrap();
    let runtime = Arc::new(CriRuntime::new(client, Duration::from_secs(120)));
    let delegates = Delegates { restorer: Some(runtime.clone()), ..Delegates::default() };
    let stage = Stage::over(Played::default(), runtime, delegates, |_| {}).await;
    archive(&stage.checkpoints(), "web.tar", "web");
    Scene { stage, cri, _folder: folder, _stop: stop }
}

async fn ours(act: Act) -> Scene {
    scene(true, act, v1::NamespaceMode::Pod).await
}

fn body(text: impl Into<String>, media: &str) -> Request<Full<Bytes>> {
    Request::post(RESTORE)
        .header("host", "localhost")
        .header("content-type", media)
        .body(Full::from(text.into()))
        .unwrap()
}

async fn send(scene: &Scene, request: Request<Full<Bytes>>) -> Answer {
    let mut sender = scene.stage.client().try_http1().await.unwrap();
    read(sender.send_request(request).await.unwrap()).await
}

async fn restore(scene: &Scene, request: serde_json::Value) -> Answer {
    send(scene, body(request.to_string(), "application/json; charset=utf-8")).await
}

#[tokio::test]
async fn a_container_goes_on_in_a_new_pod_with_what_the_archive_says() {
    let scene = ours(Act::Start).await;
    let answer = restore(&scene, json!({ "archive": "web.tar" })).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let made: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let expected = json!({ "id": "c-new", "sandboxId": "s-new", "namespace": "default",
                           "pod": "web", "container": "counter" });
    assert_eq!(made, expected);
    assert_eq!(scene.cri.calls(), ["run pod", "create in s-new", "start c-new"]);
    let pod = scene.cri.inner.pods.lock().unwrap().remove(0);
    let uid = pod.metadata.clone().unwrap().uid;
    assert_eq!(pod.hostname, "h");
    assert_eq!(pod.log_directory, format!("/var/log/pods/default_web_{uid}"));
    assert_eq!(pod.labels["io.kubernetes.pod.uid"], uid);
    let created = scene.cri.inner.created.lock().unwrap().remove(0);
    let container = created.config.unwrap();
    let path = scene.stage.checkpoints().join("web.tar");
    assert_eq!(container.image.unwrap().image, path.to_str().unwrap());
    assert!(container.mounts.is_empty());
    assert_eq!(container.labels["io.kubernetes.container.name"], "counter");
    let limits = container.linux.unwrap().resources.unwrap();
    assert_eq!(limits.memory_limit_in_bytes, 1 << 30);
    assert_eq!(created.sandbox_config.unwrap(), pod);
}

#[tokio::test]
async fn other_names_and_a_pod_that_is_there_are_taken() {
    let scene = ours(Act::Start).await;
    let request = json!({ "archive": "web.tar", "pod": "there", "container": "ended" });
    let answer = restore(&scene, request).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(scene.cri.calls(), ["create in s-there", "start c-new"]);
    let container = scene.cri.inner.created.lock().unwrap().remove(0).config.unwrap();
    assert_eq!(container.metadata.unwrap().attempt, 5);
    assert_eq!(container.log_path, "ended/5.log");

    let request = json!({ "archive": "web.tar", "pod": "there", "container": "runs" });
    let (status, detail) = problem(&restore(&scene, request).await);
    assert_eq!(status, 409);
    assert!(detail.contains("default/there/runs runs already"), "{detail}");
    assert!(scene.cri.calls().is_empty());
}

#[tokio::test]
async fn the_hosts_network_is_never_had_by_the_way() {
    let scene = scene(true, Act::Start, v1::NamespaceMode::Node).await;
    let request = json!({ "archive": "web.tar", "pod": "there", "container": "new" });
    let (status, detail) = problem(&restore(&scene, request).await);
    assert_eq!(status, 409);
    assert!(detail.contains("the host's network"), "{detail}");
    assert!(scene.cri.calls().is_empty());
}

#[tokio::test]
async fn another_runtime_is_not_asked_to_restore() {
    let scene = scene(false, Act::Start, v1::NamespaceMode::Pod).await;
    let (status, detail) = problem(&restore(&scene, json!({ "archive": "web.tar" })).await);
    assert_eq!(status, 501);
    assert!(detail.contains("cannot restore"), "{detail}");
    assert!(scene.cri.calls().is_empty());
    // Nor is a server without a restorer.
    let stage = Stage::new().await;
    archive(&stage.checkpoints(), "web.tar", "web");
    let mut sender = stage.client().try_http1().await.unwrap();
    let request = body(r#"{"archive":"web.tar"}"#, "application/json");
    let answer = read(sender.send_request(request).await.unwrap()).await;
    assert_eq!(problem(&answer).0, 501);
}

#[tokio::test]
async fn a_failure_leaves_nothing_and_keeps_its_words() {
    let scene = ours(Act::Fail(Status::failed_precondition("no such CPU feature"))).await;
    let (status, detail) = problem(&restore(&scene, json!({ "archive": "web.tar" })).await);
    assert_eq!(status, 409);
    let text = "cannot restore the container: rpc error: code = FailedPrecondition desc = no such \
                CPU feature";
    assert_eq!(detail, text);
    let calls = [
        "run pod",
        "create in s-new",
        "start c-new",
        "remove c-new",
        "stop pod s-new",
        "remove pod s-new",
    ];
    assert_eq!(scene.cri.calls(), calls);
    // A pod that was there stays.
    *scene.cri.inner.act.lock().unwrap() = Act::Fail(Status::internal("boom"));
    let request = json!({ "archive": "web.tar", "pod": "there", "container": "new" });
    assert_eq!(problem(&restore(&scene, request).await).0, 502);
    assert_eq!(scene.cri.calls(), ["create in s-there", "start c-new", "remove c-new"]);
}

#[tokio::test]
async fn a_hang_up_leaves_nothing_and_nobody_restores_into_one_pod_twice() {
    let began = Arc::new(Notify::new());
    let scene = ours(Act::Hang(Arc::clone(&began))).await;
    let mut sender = scene.stage.client().try_http1().await.unwrap();
    let request = body(r#"{"archive":"web.tar"}"#, "application/json");
    let waiting = tokio::spawn(async move { sender.send_request(request).await });
    began.notified().await;
    let (status, detail) = problem(&restore(&scene, json!({ "archive": "web.tar" })).await);
    assert_eq!(status, 409);
    assert!(detail.contains("under way"), "{detail}");
    // The archive cannot be deleted meanwhile.
    let delete =
        async || scene.stage.client().send("DELETE", "/cryopod/v1/archives/web.tar", &[]).await;
    assert_eq!(problem(&delete().await).0, 409);
    waiting.abort();
    scene.cri.until(6).await;
    assert_eq!(scene.cri.calls()[3..], ["remove c-new", "stop pod s-new", "remove pod s-new"]);
    while delete().await.status != 204 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn requests_that_cannot_be_meant_are_refused_before_anything_is_asked() {
    let scene = ours(Act::Start).await;
    let json = "application/json";
    let name = |field: &str, value: &str| json!({ "archive": "web.tar", field: value }).to_string();
    let rows = [
        ("{}".to_owned(), json, 400),
        ("[]".to_owned(), json, 400),
        ("no json".to_owned(), json, 400),
        (String::new(), json, 400),
        (r#"{"archive":7}"#.to_owned(), json, 400),
        (r#"{"archive":"web.tar","pods":"x"}"#.to_owned(), json, 400),
        (name("namespace", "../x"), json, 400),
        (name("pod", "UPPER"), json, 400),
        (name("container", ""), json, 400),
        (r#"{"archive":"../web.tar"}"#.to_owned(), json, 404),
        (r#"{"archive":"/etc/passwd"}"#.to_owned(), json, 404),
        (r#"{"archive":"gone.tar"}"#.to_owned(), json, 404),
        (r#"{"archive":"web.tar"}"#.to_owned(), "text/plain", 415),
        (" ".repeat(70_000), json, 413),
    ];
    for (text, media, expected) in rows {
        let answer = send(&scene, body(text.clone(), media)).await;
        assert_eq!(problem(&answer).0, expected, "{}", &text[..text.len().min(60)]);
    }
    let without = Request::post(RESTORE)
        .header("host", "localhost")
        .body(Full::from(r#"{"archive":"web.tar"}"#))
        .unwrap();
    assert_eq!(problem(&send(&scene, without).await).0, 415);
    std::fs::write(scene.stage.checkpoints().join("broken.tar"), "no tar").unwrap();
    let (status, detail) = problem(&restore(&scene, json!({ "archive": "broken.tar" })).await);
    assert_eq!(status, 422);
    assert!(detail.starts_with("broken.tar cannot be read"), "{detail}");
    // What an archive calls itself is no more trusted.
    archive(&scene.stage.checkpoints(), "evil.tar", "../../evil");
    let (status, detail) = problem(&restore(&scene, json!({ "archive": "evil.tar" })).await);
    assert_eq!(status, 422);
    assert!(detail.contains("give another"), "{detail}");
    assert!(scene.cri.calls().is_empty());
}
