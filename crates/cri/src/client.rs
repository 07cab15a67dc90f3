//! A client of a runtime: one connection, made again when it breaks, and one method per call.
//!
//! Every method takes what the kubelet or a command needs and gives the answer's body. A call that
//! is dropped is cancelled on the other side.

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::metadata::AsciiMetadataKey;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Response, Status};

use crate::MAX_MESSAGE;
use crate::endpoint::socket_path;
use crate::error::{CriError, DialError};
use crate::v1::image_service_client::ImageServiceClient;
use crate::v1::runtime_service_client::RuntimeServiceClient;
use crate::v1::{CheckpointContainerRequest, NetworkConfig, RuntimeConfig};
use crate::v1::{
    Container, ContainerConfig, ContainerFilter, ContainerStats, ContainerStatsFilter,
    ContainerStatsRequest, ContainerStatusRequest, ContainerStatusResponse, CreateContainerRequest,
    ExecSyncRequest, ExecSyncResponse, Image, ImageFilter, ImageFsInfoRequest, ImageFsInfoResponse,
    ImageSpec, ImageStatusRequest, ImageStatusResponse, LinuxContainerResources,
    ListContainerStatsRequest, ListContainersRequest, ListImagesRequest, ListPodSandboxRequest,
    ListPodSandboxStatsRequest, PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxStats,
    PodSandboxStatsFilter, PodSandboxStatsRequest, PodSandboxStatusRequest,
    PodSandboxStatusResponse, PullImageRequest, RemoveContainerRequest, RemoveImageRequest,
    RemovePodSandboxRequest, ReopenContainerLogRequest, RunPodSandboxRequest, RuntimeConfigRequest,
    RuntimeConfigResponse, StartContainerRequest, StatusRequest, StatusResponse,
    StopContainerRequest, StopPodSandboxRequest, UpdateContainerResourcesRequest,
    UpdateRuntimeConfigRequest, VersionRequest, VersionResponse,
};

/// How long to wait for a runtime to take the connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Metadata key of a CheckpointContainer call to `cryopod serve`: `true` stops the container in
/// the same freeze. The message itself has no options.
pub const STOP_KEY: &str = "cryopod-stop";

/// Metadata key of a CheckpointContainer call to `cryopod serve`: `true` embeds the image.
pub const WITH_IMAGE_KEY: &str = "cryopod-with-image";

/// Metadata key of a CheckpointContainer call to `cryopod serve`: `true` looks at all memory in the
/// freeze and compares it with the archive.
pub const SELF_CHECK_KEY: &str = "cryopod-self-check";

/// Metadata key of the answer of `cryopod serve` to a CheckpointContainer call: what was done, as
/// JSON.
pub const REPORT_KEY: &str = "cryopod-report-bin";

/// Key in the `info` of the verbose Status of `cryopod serve`: where it keeps things, as JSON. Another
/// runtime has no such key.
pub const PLACES_KEY: &str = "cryopod";

/// Options of our own runtime for a checkpoint; another runtime does not see them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// Capture and stop in one freeze.
    pub stop: bool,
    /// Put the container's image into the archive.
    pub with_image: bool,
    /// Compare the archive with all memory as it was in the freeze, which takes longer for it.
    pub self_check: bool,
}

/// What goes along with a call beside its message, as keys and values: asked for at each call.
pub type Metadata = fn() -> Vec<(String, String)>;

/// A connection to one runtime. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
    metadata: Option<Metadata>,
    runtime: RuntimeServiceClient<Channel>,
    image: ImageServiceClient<Channel>,
}

impl Client {
    /// Connects to a runtime now.
    ///
    /// # Errors
    /// [`CriError::Endpoint`] for an address that is no unix socket, [`CriError::Connect`] when
    /// nobody answers within [`CONNECT_TIMEOUT`].
    pub async fn connect(endpoint: &str) -> Result<Self, CriError> {
        let path = socket_path(endpoint).map_err(CriError::Endpoint)?;
        // Asked directly first: the transport's own error would hide what the kernel said.
        dial(&path)
            .await
            .map_err(|DialError { path, source }| CriError::Connect { path, source })?;
        Ok(Self::over(path))
    }

    /// Makes a client that connects with its first call, and again after each break.
    ///
    /// # Errors
    /// [`CriError::Endpoint`] for an address that is no unix socket.
    pub fn connect_lazy(endpoint: &str) -> Result<Self, CriError> {
        Ok(Self::over(socket_path(endpoint).map_err(CriError::Endpoint)?))
    }

    fn over(path: PathBuf) -> Self {
        let target = path.clone();
        // The address gives only the `:authority` here: Go servers insist on a valid one.
        let channel = Endpoint::from_static("http://localhost")
            .connect_timeout(CONNECT_TIMEOUT)
            .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let target = target.clone();
                async move { dial(&target).await.map(TokioIo::new) }
            }));
        Self {
            path,
            metadata: None,
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE),
            image: ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
        }
    }

    /// Sends `metadata` along with each call that takes a deadline: trace context, for one. Pairs
    /// that cannot be metadata are left out.
    #[must_use]
    pub fn with_metadata(self, metadata: Metadata) -> Self {
        Self { metadata: Some(metadata), ..self }
    }

    /// The runtime's socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks the runtime who it is. `deadline` also bounds a runtime that took the connection and
    /// then says nothing.
    ///
    /// # Errors
    /// [`CriError::Rpc`].
    pub async fn version(&self, deadline: Duration) -> Result<VersionResponse, CriError> {
        let mut client = self.runtime.clone();
        let request = VersionRequest { version: "v1".to_owned() };
        self.within(Some(deadline), request, |r| async move { client.version(r).await }).await
    }

    /// Lists pod sandboxes.
    ///
    /// # Errors
    /// [`CriError::Rpc`].
    pub async fn list_pod_sandbox(
        &self,
        filter: Option<PodSandboxFilter>,
        deadline: Option<Duration>,
    ) -> Result<Vec<PodSandbox>, CriError> {
        let mut client = self.runtime.clone();
        self.within(deadline, ListPodSandboxRequest { filter }, |r| async move {
            client.list_pod_sandbox(r).await
        })
        .await
        .map(|answer| answer.items)
    }

    /// Lists containers.
    ///
    /// # Errors
    /// [`CriError::Rpc`].
    pub async fn list_containers(
        &self,
        filter: Option<ContainerFilter>,
        deadline: Option<Duration>,
    ) -> Result<Vec<Container>, CriError> {
        let mut client = self.runtime.clone();
        self.within(deadline, ListContainersRequest { filter }, |r| async move {
            client.list_containers(r).await
        })
        .await
        .map(|answer| answer.containers)
    }

    /// Takes a checkpoint of a container into the file `location`.
    ///
    /// `timeout` is the message's field, in seconds (0: the runtime's default); `deadline` bounds
    /// the call itself.
    ///
    /// # Errors
    /// [`CriError::Rpc`], with [`tonic::Code::DeadlineExceeded`] when `deadline` passed.
    pub async fn checkpoint_container(
        &self,
        container_id: &str,
        location: &str,
        timeout: i64,
        deadline: Option<Duration>,
    ) -> Result<(), CriError> {
        self.checkpoint_container_with(
            container_id,
            location,
            timeout,
            deadline,
            CheckpointOptions::default(),
        )
        .await
        .map(drop)
    }

    /// [`Client::checkpoint_container`] with the options of our own runtime; gives its report (JSON),
    /// `None` from another runtime.
    ///
    /// # Errors
    /// As [`Client::checkpoint_container`].
    pub async fn checkpoint_container_with(
        &self,
        container_id: &str,
        location: &str,
        timeout: i64,
        deadline: Option<Duration>,
        options: CheckpointOptions,
    ) -> Result<Option<Vec<u8>>, CriError> {
        let mut client = self.runtime.clone();
        let request = CheckpointContainerRequest {
            container_id: container_id.to_owned(),
            location: location.to_owned(),
            timeout,
        };
        self.within(deadline, request, |mut r| async move {
            let on = tonic::metadata::MetadataValue::from_static("true");
            if options.stop {
                r.metadata_mut().insert(STOP_KEY, on.clone());
            }
            if options.with_image {
                r.metadata_mut().insert(WITH_IMAGE_KEY, on.clone());
            }
            if options.self_check {
                r.metadata_mut().insert(SELF_CHECK_KEY, on);
            }
            client.checkpoint_container(r).await.map(|answer| {
                let report = answer.metadata().get_bin(REPORT_KEY);
                Response::new(report.and_then(|value| value.to_bytes().ok()).map(Into::into))
            })
        })
        .await
    }

    /// The stub of the runtime service, for the calls without a method here.
    #[must_use]
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    /// The stub of the image service, for the calls without a method here.
    #[must_use]
    pub fn image(&self) -> ImageServiceClient<Channel> {
        self.image.clone()
    }
}

/// Calls without a deadline, each the method of the standard of the same name.
///
/// # Errors
/// Each gives [`CriError::Rpc`].
impl Client {
    /// Asks whether the runtime and its network are ready.
    pub async fn status(&self, verbose: bool) -> Result<StatusResponse, CriError> {
        body(self.runtime().status(StatusRequest { verbose }).await)
    }

    /// Asks for the cgroup driver.
    pub async fn runtime_config(&self) -> Result<RuntimeConfigResponse, CriError> {
        body(self.runtime().runtime_config(RuntimeConfigRequest {}).await)
    }

    /// Tells the runtime the range of pod addresses.
    pub async fn update_runtime_config(&self, pod_cidr: &str) -> Result<(), CriError> {
        let network_config = Some(NetworkConfig { pod_cidr: pod_cidr.to_owned() });
        let runtime_config = Some(RuntimeConfig { network_config });
        let request = UpdateRuntimeConfigRequest { runtime_config };
        body(self.runtime().update_runtime_config(request).await).map(drop)
    }

    /// Makes and starts a pod sandbox; gives its id.
    pub async fn run_pod_sandbox(&self, config: PodSandboxConfig) -> Result<String, CriError> {
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        body(self.runtime().run_pod_sandbox(request).await).map(|answer| answer.pod_sandbox_id)
    }

    /// Stops all containers of a sandbox and the sandbox.
    pub async fn stop_pod_sandbox(&self, pod_sandbox_id: &str) -> Result<(), CriError> {
        let request = StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.to_owned() };
        body(self.runtime().stop_pod_sandbox(request).await).map(drop)
    }

    /// Removes a sandbox and all its containers.
    pub async fn remove_pod_sandbox(&self, pod_sandbox_id: &str) -> Result<(), CriError> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: pod_sandbox_id.to_owned() };
        body(self.runtime().remove_pod_sandbox(request).await).map(drop)
    }

    /// The status of a sandbox.
    pub async fn pod_sandbox_status(
        &self,
        pod_sandbox_id: &str,
        verbose: bool,
    ) -> Result<PodSandboxStatusResponse, CriError> {
        let request =
            PodSandboxStatusRequest { pod_sandbox_id: pod_sandbox_id.to_owned(), verbose };
        body(self.runtime().pod_sandbox_status(request).await)
    }

    /// Makes a container in a sandbox, not yet running; gives its id.
    pub async fn create_container(
        &self,
        pod_sandbox_id: &str,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
    ) -> Result<String, CriError> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod_sandbox_id.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        body(self.runtime().create_container(request).await).map(|answer| answer.container_id)
    }

    /// Lets a created container run.
    pub async fn start_container(&self, container_id: &str) -> Result<(), CriError> {
        let request = StartContainerRequest { container_id: container_id.to_owned() };
        body(self.runtime().start_container(request).await).map(drop)
    }

    /// Stops a container, with SIGKILL after `grace` (whole seconds).
    pub async fn stop_container(
        &self,
        container_id: &str,
        grace: Duration,
    ) -> Result<(), CriError> {
        let request = StopContainerRequest {
            container_id: container_id.to_owned(),
            timeout: i64::try_from(grace.as_secs()).unwrap_or(i64::MAX),
        };
        body(self.runtime().stop_container(request).await).map(drop)
    }

    /// Removes a container, killing it first when it runs.
    pub async fn remove_container(&self, container_id: &str) -> Result<(), CriError> {
        let request = RemoveContainerRequest { container_id: container_id.to_owned() };
        body(self.runtime().remove_container(request).await).map(drop)
    }

    /// The status of a container.
    pub async fn container_status(
        &self,
        container_id: &str,
        verbose: bool,
    ) -> Result<ContainerStatusResponse, CriError> {
        let request = ContainerStatusRequest { container_id: container_id.to_owned(), verbose };
        body(self.runtime().container_status(request).await)
    }

    /// Changes the limits of a container.
    pub async fn update_container_resources(
        &self,
        container_id: &str,
        linux: LinuxContainerResources,
    ) -> Result<(), CriError> {
        let request = UpdateContainerResourcesRequest {
            container_id: container_id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        body(self.runtime().update_container_resources(request).await).map(drop)
    }

    /// Makes the runtime open a container's log file again, after a rotation.
    pub async fn reopen_container_log(&self, container_id: &str) -> Result<(), CriError> {
        let request = ReopenContainerLogRequest { container_id: container_id.to_owned() };
        body(self.runtime().reopen_container_log(request).await).map(drop)
    }

    /// Runs a program in a container and waits for its end, at most `timeout` (whole seconds;
    /// zero: without limit).
    pub async fn exec_sync(
        &self,
        container_id: &str,
        cmd: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecSyncResponse, CriError> {
        let request = ExecSyncRequest {
            container_id: container_id.to_owned(),
            cmd,
            timeout: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        };
        body(self.runtime().exec_sync(request).await)
    }

    /// The usage of one container.
    pub async fn container_stats(
        &self,
        container_id: &str,
    ) -> Result<Option<ContainerStats>, CriError> {
        let request = ContainerStatsRequest { container_id: container_id.to_owned() };
        body(self.runtime().container_stats(request).await).map(|answer| answer.stats)
    }

    /// The usage of running containers.
    pub async fn list_container_stats(
        &self,
        filter: Option<ContainerStatsFilter>,
    ) -> Result<Vec<ContainerStats>, CriError> {
        let request = ListContainerStatsRequest { filter };
        body(self.runtime().list_container_stats(request).await).map(|answer| answer.stats)
    }

    /// The usage of one sandbox.
    pub async fn pod_sandbox_stats(
        &self,
        pod_sandbox_id: &str,
    ) -> Result<Option<PodSandboxStats>, CriError> {
        let request = PodSandboxStatsRequest { pod_sandbox_id: pod_sandbox_id.to_owned() };
        body(self.runtime().pod_sandbox_stats(request).await).map(|answer| answer.stats)
    }

    /// The usage of sandboxes.
    pub async fn list_pod_sandbox_stats(
        &self,
        filter: Option<PodSandboxStatsFilter>,
    ) -> Result<Vec<PodSandboxStats>, CriError> {
        let request = ListPodSandboxStatsRequest { filter };
        body(self.runtime().list_pod_sandbox_stats(request).await).map(|answer| answer.stats)
    }

    /// Lists images, or only `image`.
    pub async fn list_images(&self, image: Option<ImageSpec>) -> Result<Vec<Image>, CriError> {
        let filter = image.map(|image| ImageFilter { image: Some(image) });
        body(self.image().list_images(ListImagesRequest { filter }).await)
            .map(|answer| answer.images)
    }

    /// The status of an image; the answer holds none when it is not known.
    pub async fn image_status(
        &self,
        image: ImageSpec,
        verbose: bool,
    ) -> Result<ImageStatusResponse, CriError> {
        let request = ImageStatusRequest { image: Some(image), verbose };
        body(self.image().image_status(request).await)
    }

    /// Makes the runtime fetch an image; gives its id.
    pub async fn pull_image(&self, image: ImageSpec) -> Result<String, CriError> {
        let request = PullImageRequest { image: Some(image), ..Default::default() };
        body(self.image().pull_image(request).await).map(|answer| answer.image_ref)
    }

    /// Removes an image with all its tags.
    pub async fn remove_image(&self, image: ImageSpec) -> Result<(), CriError> {
        let request = RemoveImageRequest { image: Some(image) };
        body(self.image().remove_image(request).await).map(drop)
    }

    /// What the images take on disk.
    pub async fn image_fs_info(&self) -> Result<ImageFsInfoResponse, CriError> {
        body(self.image().image_fs_info(ImageFsInfoRequest {}).await)
    }
}

async fn dial(path: &Path) -> Result<UnixStream, DialError> {
    let failed = |source| DialError { path: path.to_owned(), source };
    match tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(path)).await {
        Ok(done) => done.map_err(failed),
        Err(_) => {
            Err(failed(io::Error::from_raw_os_error(rustix::io::Errno::TIMEDOUT.raw_os_error())))
        }
    }
}

fn body<T>(answer: Result<Response<T>, Status>) -> Result<T, CriError> {
    answer.map(Response::into_inner).map_err(CriError::from)
}

impl Client {
    /// Calls with a deadline on both sides: in the request, so that the runtime gives up too, and
    /// here, in case it does not.
    async fn within<M, T, C, F>(
        &self,
        deadline: Option<Duration>,
        message: M,
        call: C,
    ) -> Result<T, CriError>
    where
        C: FnOnce(Request<M>) -> F,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut request = Request::new(message);
        for (key, value) in self.metadata.map(|pairs| pairs()).unwrap_or_default() {
            if let (Ok(key), Ok(value)) = (AsciiMetadataKey::from_str(&key), value.parse()) {
                request.metadata_mut().insert(key, value);
            }
        }
        let Some(deadline) = deadline else { return body(call(request).await) };
        request.set_timeout(deadline);
        match tokio::time::timeout(deadline, call(request)).await {
            Ok(answer) => body(answer),
            Err(_) => Err(CriError::deadline()),
        }
    }
}
