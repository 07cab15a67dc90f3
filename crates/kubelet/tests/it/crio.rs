//! In front of a CRI-O played by the test: its error texts, its disregard of a cancelled call, its
//! way of opening the archive; and, where it differs, containerd's way of leaving a container frozen.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cryopod_cri::v1::image_service_server::ImageService;
use cryopod_cri::v1::runtime_service_server::RuntimeService;
use cryopod_cri::{Client, v1};
use cryopod_kubelet::{CriRuntime, Delegates, Options};
use tempfile::TempDir;
use tokio::sync::Notify;
use tonic::{Request, Response, Status};

use crate::client::Answer;
use crate::freezer::Freezers;
use crate::stage::{Played, Stage};

const COUNTER: &str = "/checkpoint/default/counter/counter";
const PID: u32 = 4711;

/// What the next CheckpointContainer does.
#[derive(Clone)]
enum Act {
    /// Writes these bytes, with this mode.
    Write(Vec<u8>, u32),
    /// Succeeds without an archive.
    Nothing,
    /// Writes a part, then fails.
    Fail(Status),
    /// CRI-O's way: pauses, and whether the caller is still there or not, dumps until told to go on,
    /// writes and lets the container go on.
    GoOn,
    /// containerd 2.1's way: pauses, writes a part and leaves it at that when the caller is gone.
    StayFrozen,
}

struct Inner {
    acts: Mutex<Vec<Act>>,
    seen: Mutex<Vec<v1::CheckpointContainerRequest>>,
    versions: Mutex<Vec<v1::VersionResponse>>,
    version_calls: Mutex<usize>,
    freezers: Freezers,
    /// One signal for each call that has paused the container.
    paused: Notify,
    /// Lets a dump go on.
    dumped: Notify,
    /// One signal for each archive written by a call that goes on.
    written: Notify,
}

#[derive(Clone)]
struct Crio(Arc<Inner>);

struct NoImages;

impl ImageService for NoImages {}

/// As CRI-O and containerd open it: without O_TRUNC and O_EXCL.
fn write(location: &str, bytes: &[u8], mode: u32) {
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(mode)
        .open(location)
        .unwrap();
    file.write_all(bytes).unwrap();
    file.set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
}

fn version(runtime_name: &str) -> v1::VersionResponse {
    v1::VersionResponse {
        version: "0.1.0".into(),
        runtime_name: runtime_name.into(),
        runtime_version: "1.35.6".into(),
        runtime_api_version: "v1".into(),
    }
}

#[tonic::async_trait]
impl RuntimeService for Crio {
    async fn version(
        &self,
        _request: Request<v1::VersionRequest>,
    ) -> Result<Response<v1::VersionResponse>, Status> {
        *self.0.version_calls.lock().unwrap() += 1;
        Ok(Response::new(self.0.versions.lock().unwrap().pop().unwrap_or(version("cri-o"))))
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
        let containers = vec![v1::Container {
            id: "id-counter".into(),
            pod_sandbox_id: "s".into(),
            metadata: Some(v1::ContainerMetadata { name: "counter".into(), attempt: 0 }),
            state: v1::ContainerState::ContainerRunning.into(),
            ..Default::default()
        }];
        Ok(Response::new(v1::ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Result<Response<v1::ContainerStatusResponse>, Status> {
        assert!(request.into_inner().verbose);
        let info = serde_json::json!({ "sandboxID": "s", "pid": PID }).to_string();
        Ok(Response::new(v1::ContainerStatusResponse {
            status: None,
            info: [("info".to_owned(), info)].into(),
        }))
    }

    async fn container_stats(
        &self,
        _request: Request<v1::ContainerStatsRequest>,
    ) -> Result<Response<v1::ContainerStatsResponse>, Status> {
        let stats = v1::ContainerStats {
            memory: Some(v1::MemoryUsage {
                working_set_bytes: Some(v1::UInt64Value { value: 4096 }),
                ..Default::default()
            }),
            ..Default::default()
        };
        Ok(Response::new(v1::ContainerStatsResponse { stats: Some(stats) }))
    }

    async fn checkpoint_container(
        &self,
        request: Request<v1::CheckpointContainerRequest>,
    ) -> Result<Response<v1::CheckpointContainerResponse>, Status> {
        let message = request.into_inner();
        self.0.seen.lock().unwrap().push(message.clone());
        let act = self.0.acts.lock().unwrap().pop();
        match act.unwrap_or(Act::Write(b"archive".to_vec(), 0o600)) {
            Act::Write(bytes, mode) => write(&message.location, &bytes, mode),
            Act::Nothing => {}
            Act::Fail(status) => {
                write(&message.location, b"part", 0o600);
                return Err(status);
            }
            Act::GoOn => {
                let inner = Arc::clone(&self.0);
                let work = tokio::spawn(async move {
                    inner.freezers.set_frozen(true);
                    inner.paused.notify_one();
                    inner.dumped.notified().await;
                    write(&message.location, b"late archive", 0o600);
                    inner.freezers.set_frozen(false);
                    inner.written.notify_one();
                });
                work.await.unwrap();
            }
            Act::StayFrozen => {
                self.0.freezers.set_frozen(true);
                write(&message.location, b"part", 0o600);
                self.0.paused.notify_one();
                std::future::pending::<()>().await;
            }
        }
        Ok(Response::new(v1::CheckpointContainerResponse {}))
    }
}

struct Scene {
    stage: Stage,
    crio: Arc<Inner>,
    _folder: TempDir,
    _stop: tokio::sync::oneshot::Sender<()>,
}

async fn scene(acts: &[Act], change: impl FnOnce(&mut Options)) -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("cri.sock");
    let freezers = Freezers::default();
    let inner = Arc::new(Inner {
        acts: Mutex::new(acts.iter().rev().cloned().collect()),
        seen: Mutex::default(),
        versions: Mutex::default(),
        version_calls: Mutex::default(),
        freezers: freezers.clone(),
        paused: Notify::new(),
        dumped: Notify::new(),
        written: Notify::new(),
    });
    let listener = cryopod_cri::server::listen(&socket).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let service = Crio(Arc::clone(&inner));
    tokio::spawn(cryopod_cri::server::serve(listener, service, NoImages, async {
        let _ = stopped.await;
    }));
    let client = Client::connect_lazy(&format!("unix://{}", socket.display())).unwrap();
    let runtime = Arc::new(CriRuntime::new(client, Duration::from_secs(120)));
    let delegates = Delegates { thaw: Some(Arc::new(freezers)), ..Delegates::default() };
    let stage = Stage::over(Played::default(), runtime, delegates, |options| {
        options.checkpoints.care.interval = Duration::from_millis(2);
        options.checkpoints.care.calm = Duration::from_millis(20);
        options.checkpoints.late_interval = Duration::from_millis(2);
        change(options);
    })
    .await;
    Scene { stage, crio: inner, _folder: folder, _stop: stop }
}

impl Scene {
    fn archives(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.stage.checkpoints()).unwrap();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    fn location(&self, call: usize) -> PathBuf {
        PathBuf::from(&self.crio.seen.lock().unwrap()[call].location)
    }

    /// Asks, and hangs up once the container is paused.
    async fn hang_up(&self) {
        let client = self.stage.client();
        let asked = tokio::spawn(async move { client.post(COUNTER).await });
        self.crio.paused.notified().await;
        asked.abort();
        let _ = asked.await;
    }
}

/// Nothing signals a file that is gone.
async fn until_gone(path: &Path) {
    while path.exists() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn assert_failed(answer: &Answer, reason: &str) {
    let body = format!("checkpointing of default/counter/counter failed ({reason})");
    assert_eq!((answer.status.as_u16(), &*answer.body), (500, &*body));
}

fn item(answer: &Answer) -> PathBuf {
    assert_eq!(answer.status, 200, "{answer:?}");
    let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    body["items"][0].as_str().unwrap().into()
}

#[tokio::test]
async fn the_texts_of_both_runtimes_come_through_and_upstreams_test_finds_its_reasons_to_skip() {
    let skips = [
        "(rpc error: code = Unimplemented desc = unknown method CheckpointContainer",
        "(rpc error: code = Unimplemented desc = method CheckpointContainer not implemented)",
        "(rpc error: code = Unknown desc = checkpoint/restore support not available)",
        "(rpc error: code = Unknown desc = CRIU binary not found or too old (<31600). \
         Failed to checkpoint container",
    ];
    let rows = [
        (
            Status::unimplemented(
                "unknown method CheckpointContainer for service runtime.v1.RuntimeService",
            ),
            Some(0),
        ),
        (Status::unimplemented("method CheckpointContainer not implemented"), Some(1)),
        (Status::unknown("checkpoint/restore support not available"), Some(2)),
        (
            Status::unknown(
                "CRIU binary not found or too old (<31600). Failed to checkpoint container \
                 \"id-counter\"",
            ),
            Some(3),
        ),
        (
            Status::not_found(
                "could not find container \"id-counter\": container with ID starting with \
                 id-counter not found: ID does not exist",
            ),
            None,
        ),
        (Status::unknown("container id-counter is not running"), None),
        (
            Status::unknown(
                "failed to checkpoint container \"id-counter\": criu binary not found in shim path \
                 or system PATH",
            ),
            None,
        ),
        (
            Status::unknown(
                "container \"id-counter\" is in CONTAINER_EXITED state. only CONTAINER_RUNNING \
                 containers can be checkpointed",
            ),
            None,
        ),
    ];
    let acts: Vec<Act> = rows.iter().map(|(status, _)| Act::Fail(status.clone())).collect();
    let scene = scene(&acts, |_| {}).await;
    let client = scene.stage.client();
    for (status, skip) in rows {
        let answer = client.post(COUNTER).await;
        let code = cryopod_cri::code_name(status.code());
        let text = format!("rpc error: code = {code} desc = {}", status.message());
        assert_failed(&answer, &text);
        if let Some(skip) = skip {
            assert!(answer.body.contains(skips[skip]), "{}", answer.body);
        }
        // What was written before the failure is gone with the answer.
        assert_eq!(scene.archives(), [] as [PathBuf; 0]);
    }
}

#[tokio::test]
async fn crio_goes_on_after_a_hang_up_and_its_late_archive_is_removed() {
    let scene = scene(&[Act::GoOn, Act::Write(b"good".to_vec(), 0o600)], |_| {}).await;
    scene.hang_up().await;
    // Nobody waits for the dump: the container need not stand still for it.
    scene.crio.freezers.thawed(1).await;
    // The next caller waits for that, then gets an archive of its own while the first goes on.
    let kept = item(&scene.stage.client().post(COUNTER).await);
    assert!(!scene.crio.freezers.is_frozen());
    let late = scene.location(0);
    assert_ne!(kept, late);
    scene.crio.dumped.notify_one();
    scene.crio.written.notified().await;
    until_gone(&late).await;
    assert_eq!(std::fs::read(&kept).unwrap(), b"good");
    assert_eq!(scene.archives(), [kept]);
    assert_eq!(scene.crio.freezers.asked_for()[0], ("id-counter".to_owned(), PID));
}

#[tokio::test]
async fn crio_goes_on_after_a_deadline_and_its_late_archive_is_removed() {
    let scene = scene(&[Act::GoOn], |options| {
        options.runtime_request_timeout = Duration::from_millis(100);
    })
    .await;
    let answer = scene.stage.client().post(COUNTER).await;
    assert_failed(&answer, "rpc error: code = DeadlineExceeded desc = context deadline exceeded");
    // Told with the answer: it runs.
    assert_eq!((scene.crio.freezers.thaws(), scene.crio.freezers.is_frozen()), (1, false));
    scene.crio.dumped.notify_one();
    scene.crio.written.notified().await;
    until_gone(&scene.location(0)).await;
}

#[tokio::test]
async fn a_container_left_frozen_after_a_deadline_or_a_hang_up_goes_on() {
    let scene = scene(&[Act::StayFrozen, Act::StayFrozen], |options| {
        options.runtime_request_timeout = Duration::from_secs(2);
    })
    .await;
    scene.hang_up().await;
    scene.crio.freezers.thawed(1).await;
    until_gone(&scene.location(0)).await;
    let answer = scene.stage.client().post(COUNTER).await;
    assert_failed(&answer, "rpc error: code = DeadlineExceeded desc = context deadline exceeded");
    assert_eq!((scene.crio.freezers.thaws(), scene.crio.freezers.is_frozen()), (2, false));
    assert_eq!(scene.archives(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_container_frozen_late_is_thawed_too() {
    let scene = scene(&[Act::StayFrozen], |options| {
        options.checkpoints.care.calm = Duration::from_secs(60);
    })
    .await;
    scene.hang_up().await;
    scene.crio.freezers.thawed(1).await;
    // What was left behind freezes again at its end.
    scene.crio.freezers.set_frozen(true);
    scene.crio.freezers.thawed(2).await;
}

#[tokio::test]
async fn a_container_paused_before_the_call_stays_paused() {
    let scene = scene(&[Act::StayFrozen, Act::Fail(Status::unknown("no"))], |options| {
        options.runtime_request_timeout = Duration::from_millis(50);
    })
    .await;
    scene.crio.freezers.set_frozen(true);
    let client = scene.stage.client();
    for reason in [
        "rpc error: code = DeadlineExceeded desc = context deadline exceeded",
        "rpc error: code = Unknown desc = no",
    ] {
        assert_failed(&client.post(COUNTER).await, reason);
    }
    assert_eq!((scene.crio.freezers.thaws(), scene.crio.freezers.is_frozen()), (0, true));
}

#[tokio::test]
async fn no_container_stays_frozen_when_the_server_is_stopped() {
    let mut scene = scene(&[Act::StayFrozen], |options| {
        options.limits.shutdown = Duration::from_millis(300);
    })
    .await;
    let client = scene.stage.client();
    let asked = tokio::spawn(async move { client.post(COUNTER).await });
    scene.crio.paused.notified().await;
    scene.stage.stop();
    (&mut scene.stage.server).await.unwrap();
    assert_eq!((scene.crio.freezers.thaws(), scene.crio.freezers.is_frozen()), (1, false));
    assert_eq!(scene.archives(), [] as [PathBuf; 0]);
    asked.abort();
}

#[tokio::test]
async fn archives_of_one_second_do_not_run_into_each_other() {
    let acts = [Act::Write(vec![b'x'; 5000], 0o600), Act::Write(b"short".to_vec(), 0o600)];
    let scene = scene(&acts, |_| {}).await;
    let client = scene.stage.client();
    let (long, short) = (item(&client.post(COUNTER).await), item(&client.post(COUNTER).await));
    assert_eq!(std::fs::read(long).unwrap().len(), 5000);
    assert_eq!(std::fs::read(short).unwrap(), b"short");
}

#[tokio::test]
async fn an_archive_that_others_could_read_is_made_roots_alone() {
    let scene = scene(&[Act::Write(b"archive".to_vec(), 0o644)], |_| {}).await;
    let archive = item(&scene.stage.client().post(COUNTER).await);
    let mode = std::fs::metadata(archive).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[tokio::test]
async fn a_success_without_an_archive_is_a_failure() {
    let scene = scene(&[Act::Nothing, Act::Write(Vec::new(), 0o600)], |_| {}).await;
    let client = scene.stage.client();
    let (missing, empty) = (client.post(COUNTER).await, client.post(COUNTER).await);
    let path = scene.location(0).display().to_string();
    let reason = format!("the runtime reported success, but there is no archive at {path}");
    assert_failed(&missing, &reason);
    let path = scene.location(1).display().to_string();
    let reason =
        format!("the runtime reported success, but {path} is an empty file and no archive");
    assert_failed(&empty, &reason);
    assert_eq!(scene.archives(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn the_runtime_is_asked_for_its_version_once_and_must_name_itself() {
    let scene = scene(&[], |_| {}).await;
    scene.crio.versions.lock().unwrap().push(version(""));
    let client = scene.stage.client();
    assert_failed(
        &client.post(COUNTER).await,
        "rpc error: code = FailedPrecondition desc = the runtime's answer to Version has an empty \
         field runtime_name",
    );
    for _ in 0..3 {
        item(&client.post(COUNTER).await);
    }
    assert_eq!(*scene.crio.version_calls.lock().unwrap(), 2);
}
