//! The client and the server of this crate against each other over a real unix socket.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use cryopod_cri::client::CheckpointOptions;
use cryopod_cri::server::{self, Nothing, ServerError};
use cryopod_cri::v1::runtime_service_server::RuntimeService;
use cryopod_cri::v1::{
    CheckpointContainerRequest, CheckpointContainerResponse, ListContainersRequest,
    ListContainersResponse, VersionRequest, VersionResponse,
};
use cryopod_cri::{Client, Code, CriError};
use tonic::{Request, Response, Status};

/// A runtime that says what it was asked.
struct Fake;

#[tonic::async_trait]
impl RuntimeService for Fake {
    async fn version(
        &self,
        request: Request<VersionRequest>,
    ) -> Result<Response<VersionResponse>, Status> {
        assert_eq!(request.into_inner().version, "v1");
        Ok(Response::new(VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "fake".into(),
            runtime_version: "1.0.0".into(),
            runtime_api_version: "v1".into(),
        }))
    }

    async fn list_containers(
        &self,
        _: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        tokio::time::sleep(Duration::from_secs(600)).await;
        Err(Status::internal("slept to the end"))
    }

    async fn checkpoint_container(
        &self,
        request: Request<CheckpointContainerRequest>,
    ) -> Result<Response<CheckpointContainerResponse>, Status> {
        let key = |name| request.metadata().get(name).map(|v| v.to_str().unwrap().to_owned());
        Err(Status::unknown(format!(
            "{} 100% {} {} {:?} {:?} {:?}",
            request.get_ref().container_id,
            request.get_ref().location,
            request.get_ref().timeout,
            key("cryopod-stop"),
            key("cryopod-with-image"),
            key("cryopod-self-check"),
        )))
    }
}

async fn with_fake(test: impl AsyncFnOnce(Client, &Path)) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("cri.sock");
    let listener = server::listen(&socket).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(server::serve(listener, Fake, Nothing, async {
        stopped.await.ok();
    }));
    let client = Client::connect(socket.to_str().unwrap()).await.unwrap();
    test(client, &socket).await;
    stop.send(()).ok();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn calls_go_through_and_errors_keep_code_and_text() {
    with_fake(async |client, _| {
        let version = client.version(Duration::from_secs(60)).await.unwrap();
        assert_eq!(version.runtime_name, "fake");
        let err = client.checkpoint_container("c1", "/a.tar", 120, None).await.unwrap_err();
        assert_eq!(err.code(), Code::Unknown);
        assert_eq!(
            err.to_string(),
            "rpc error: code = Unknown desc = c1 100% /a.tar 120 None None None"
        );
    })
    .await;
}

#[tokio::test]
async fn checkpoint_options_travel_beside_the_message() {
    with_fake(async |client, _| {
        let options = CheckpointOptions { stop: true, with_image: true, self_check: true };
        let err = client.checkpoint_container_with("c", "/a", 0, None, options).await.unwrap_err();
        assert!(err.to_string().ends_with(r#"Some("true") Some("true") Some("true")"#), "{err}");
    })
    .await;
}

#[tokio::test]
async fn a_passed_deadline_reads_as_a_go_client_says_it() {
    with_fake(async |client, _| {
        let err = client.list_containers(None, Some(Duration::from_millis(20))).await.unwrap_err();
        assert_eq!(
            err.to_string(),
            "rpc error: code = DeadlineExceeded desc = context deadline exceeded"
        );
    })
    .await;
}

#[tokio::test]
async fn unknown_calls_are_named_as_a_go_server_names_them() {
    with_fake(async |client, _| {
        let err = client.exec_sync("c", vec![], Duration::ZERO).await.unwrap_err();
        assert_eq!(
            err.to_string(),
            "rpc error: code = Unimplemented desc = \
             unknown method ExecSync for service runtime.v1.RuntimeService"
        );
        let err = client.image_fs_info().await.unwrap_err();
        assert_eq!(
            err.to_string(),
            "rpc error: code = Unimplemented desc = \
             unknown method ImageFsInfo for service runtime.v1.ImageService"
        );
        // Streams too: a stream's refusal comes in the same place.
        let status = client
            .runtime()
            .get_container_events(cryopod_cri::v1::GetEventsRequest {})
            .await
            .unwrap_err();
        assert_eq!(
            status.message(),
            "unknown method GetContainerEvents for service runtime.v1.RuntimeService"
        );
    })
    .await;
}

#[tokio::test]
async fn the_socket_is_the_owners_only() {
    with_fake(async |_, socket| {
        let meta = std::fs::symlink_metadata(socket).unwrap();
        assert!(meta.file_type().is_socket());
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    })
    .await;
}

#[tokio::test]
async fn a_listened_socket_is_left_alone() {
    with_fake(async |client, socket| {
        assert!(matches!(server::listen(socket), Err(ServerError::InUse { .. })));
        client.version(Duration::from_secs(60)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_stale_socket_is_replaced_but_a_file_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("deep/er/cri.sock");
    drop(server::listen(&socket).unwrap());
    assert!(socket.exists());
    drop(server::listen(&socket).unwrap());

    let file = folder.path().join("file");
    std::fs::write(&file, "kept").unwrap();
    assert!(matches!(server::listen(&file), Err(ServerError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
}

#[tokio::test]
async fn nobody_there_is_said_with_the_socket_and_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("cri.sock");
    let endpoint = format!("unix://{}", socket.display());
    let err = Client::connect(&endpoint).await.unwrap_err();
    assert!(matches!(&err, CriError::Connect { path, .. } if *path == socket), "{err}");

    // Where the connection is made by a call, the text is the one a Go client gives.
    let client = Client::connect_lazy(&endpoint).unwrap();
    let err = client.version(Duration::from_secs(60)).await.unwrap_err();
    assert_eq!(err.code(), Code::Unavailable);
    assert_eq!(
        err.to_string(),
        format!(
            "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error \
             while dialing: dial unix {}: connect: no such file or directory\"",
            socket.display()
        )
    );
}

#[tokio::test]
async fn a_client_outlives_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("cri.sock");
    let client = Client::connect_lazy(socket.to_str().unwrap()).unwrap();
    for _ in 0..2 {
        let listener = server::listen(&socket).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn(server::serve(listener, Fake, Nothing, async {
            stopped.await.ok();
        }));
        let answer = client.version(Duration::from_secs(60)).await.unwrap();
        assert_eq!(answer.runtime_name, "fake");
        stop.send(()).unwrap();
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_open_call_is_answered_before_the_end_but_an_idle_connection_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("cri.sock");
    let listener = server::listen(&socket).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let slow = Slow::default();
    let task = tokio::spawn(server::serve(listener, slow.clone(), Nothing, async {
        stopped.await.ok();
    }));
    // Connected, and silent: it does not even read the server's farewell.
    let idle = tokio::net::UnixStream::connect(&socket).await.unwrap();
    let client = Client::connect(socket.to_str().unwrap()).await.unwrap();
    let call = tokio::spawn(async move { client.status(false).await });
    slow.begun.notified().await;
    stop.send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!task.is_finished());
    slow.end.notify_one();
    call.await.unwrap().unwrap();
    tokio::time::timeout(Duration::from_secs(60), task).await.unwrap().unwrap().unwrap();
    drop(idle);
}

/// A runtime whose Status takes as long as the test wants.
#[derive(Clone, Default)]
struct Slow {
    begun: std::sync::Arc<tokio::sync::Notify>,
    end: std::sync::Arc<tokio::sync::Notify>,
}

#[tonic::async_trait]
impl RuntimeService for Slow {
    async fn status(
        &self,
        _: Request<cryopod_cri::v1::StatusRequest>,
    ) -> Result<Response<cryopod_cri::v1::StatusResponse>, Status> {
        self.begun.notify_one();
        self.end.notified().await;
        Ok(Response::new(Default::default()))
    }
}
