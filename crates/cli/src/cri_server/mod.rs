//! The CRI door of the embedded runtime: async messages on the outside, the blocking runtime on the
//! inside, one thread per running call.
//!
//! Calls without a method here are answered Unimplemented, by name (see [`cryopod_cri::server`]).
//! Stopping and removing what is not there is a success, as the standard wants it.

mod answer;
mod request;
mod status;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cryopod_cri::client::{REPORT_KEY, SELF_CHECK_KEY, STOP_KEY, WITH_IMAGE_KEY};
use cryopod_cri::v1::image_service_server::ImageService;
use cryopod_cri::v1::runtime_service_server::RuntimeService;
use cryopod_cri::{MAX_MESSAGE, v1};
use cryopod_kubelet::Keeper;
use cryopod_runtime::{
    CancelToken, CheckpointOptions, ErrorKind, ImageSource, MEMORY_ANNOTATION, Runtime,
    RuntimeError,
};
use serde::{Deserialize, Serialize};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use crate::reference::Reference;
use status::{from_error, invalid};

/// The runtime's name in Version.
pub(crate) const RUNTIME_NAME: &str = "cryopod";

/// Key of [`Places`] in the answer to a verbose Status.
pub(crate) use cryopod_cri::client::PLACES_KEY;

/// Bytes of output an ExecSync answers: what a client that takes messages of the usual size can
/// receive, less the frame around it.
const EXEC_OUTPUT: usize = MAX_MESSAGE - 64;

/// Where this server keeps things: asked for by our own commands, which know only its socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Places {
    /// Folder of the records.
    pub(crate) state_dir: PathBuf,
    /// Folder of sockets.
    pub(crate) run_dir: PathBuf,
    /// Folder under which `run` keeps logs.
    pub(crate) log_dir: PathBuf,
    /// Folder of checkpoint archives.
    pub(crate) checkpoints_dir: PathBuf,
    /// Address of the HTTPS door, when it is open.
    pub(crate) https: Option<SocketAddr>,
}

/// Both services over one runtime.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    runtime: Runtime,
    places: Places,
    /// Told of each new archive.
    keeper: Option<Keeper>,
}

impl Service {
    pub(crate) fn new(runtime: Runtime, places: Places, keeper: Option<Keeper>) -> Self {
        Self { runtime, places, keeper }
    }

    /// Runs a blocking operation on a thread of its own. It goes on to its end when the caller is
    /// gone: half an operation is worse than one nobody waits for.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Runtime) -> Result<T, RuntimeError> + Send + 'static,
    ) -> Result<T, Status> {
        let runtime = self.runtime.clone();
        match tokio::task::spawn_blocking(move || operation(&runtime)).await {
            Ok(done) => done.map_err(|error| from_error(&error)),
            Err(error) => Err(Status::internal(format!("operation ended early: {error}"))),
        }
    }
}

/// Asks the operation to stop when the call is dropped: its client is gone or its deadline passed.
struct CancelOnDrop(CancelToken);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn absent_is_done(result: Result<(), RuntimeError>) -> Result<(), RuntimeError> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Seconds of the wire; `None` for 0.
fn seconds(field: &str, value: i64) -> Result<Option<Duration>, Status> {
    match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(Duration::from_secs(value))),
        Err(_) => Err(invalid(field, format_args!("{value} is negative"))),
    }
}

fn wants(metadata: &MetadataMap, key: &'static str) -> Result<bool, Status> {
    match metadata.get(key).map(MetadataValue::as_bytes) {
        None | Some(b"false") => Ok(false),
        Some(b"true") => Ok(true),
        Some(_) => Err(invalid(key, "is neither true nor false")),
    }
}

/// Cuts the longer of two outputs, and then both, until they are at most `most` bytes together.
fn fit(one: &mut Vec<u8>, other: &mut Vec<u8>, most: usize) {
    let (shorter, longer) = if one.len() < other.len() { (one, other) } else { (other, one) };
    shorter.truncate(most / 2);
    longer.truncate(most - shorter.len());
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        Ok(Response::new(v1::VersionResponse {
            // The version of the kubelet's side of the interface; every runtime answers this one.
            version: "0.1.0".to_owned(),
            runtime_name: RUNTIME_NAME.to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        }))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        let condition = |kind: &str| v1::RuntimeCondition {
            r#type: kind.to_owned(),
            status: true,
            ..Default::default()
        };
        let mut answer = v1::StatusResponse {
            status: Some(v1::RuntimeStatus {
                // The network of a pod is the node's, or loopback: both are always ready.
                conditions: vec![condition("RuntimeReady"), condition("NetworkReady")],
            }),
            runtime_handlers: vec![v1::RuntimeHandler {
                name: String::new(),
                features: Some(v1::RuntimeHandlerFeatures::default()),
            }],
            features: Some(v1::RuntimeFeatures::default()),
            ..Default::default()
        };
        if request.into_inner().verbose {
            let places = serde_json::to_string(&self.places)
                .map_err(|error| Status::internal(format!("describe the server: {error}")))?;
            answer.info.insert(PLACES_KEY.to_owned(), places);
        }
        Ok(Response::new(answer))
    }

    async fn runtime_config(
        &self,
        _: Request<v1::RuntimeConfigRequest>,
    ) -> Answer<v1::RuntimeConfigResponse> {
        Ok(Response::new(v1::RuntimeConfigResponse {
            linux: Some(v1::LinuxRuntimeConfiguration {
                cgroup_driver: v1::CgroupDriver::Cgroupfs.into(),
            }),
        }))
    }

    /// The only setting is the range of pod addresses; no pod is given one here.
    async fn update_runtime_config(
        &self,
        _: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Answer<v1::UpdateRuntimeConfigResponse> {
        Ok(Response::new(v1::UpdateRuntimeConfigResponse {}))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Answer<v1::RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| invalid("config", "is missing"))?;
        let config = request::sandbox_config(config, request.runtime_handler)?;
        let pod_sandbox_id = self.blocking(move |rt| rt.run_pod_sandbox(&config)).await?;
        Ok(Response::new(v1::RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.blocking(move |rt| absent_is_done(rt.stop_pod_sandbox(&id))).await?;
        Ok(Response::new(v1::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.blocking(move |rt| absent_is_done(rt.remove_pod_sandbox(&id))).await?;
        Ok(Response::new(v1::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let (status, containers) = self
            .blocking(move |rt| {
                let status = rt.pod_sandbox_status(&request.pod_sandbox_id)?;
                let filter = cryopod_runtime::ContainerFilter {
                    sandbox_id: Some(status.id.clone()),
                    ..Default::default()
                };
                let containers = rt.list_containers(&filter)?;
                Ok((status, containers))
            })
            .await?;
        let info =
            if request.verbose { answer::pod_sandbox_info(&status) } else { Default::default() };
        Ok(Response::new(v1::PodSandboxStatusResponse {
            status: Some(answer::pod_sandbox_status(status)),
            info,
            containers_statuses: containers.into_iter().map(answer::container_status).collect(),
            timestamp: now(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Answer<v1::ListPodSandboxResponse> {
        let filter = request::pod_filter(request.into_inner().filter);
        let list = self.blocking(move |rt| rt.list_pod_sandboxes(&filter)).await?;
        let items = list.into_iter().map(answer::pod_sandbox).collect();
        Ok(Response::new(v1::ListPodSandboxResponse { items }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        let request = request.into_inner();
        let sandbox = request.pod_sandbox_id;
        let config = request.config.ok_or_else(|| invalid("config", "is missing"))?;
        let (config, archive) = request::container_config(config)?;
        // The runtime can do it, but a program that forks before its memory is complete may see wrong
        // bytes: not to be had from outside before that is proven right.
        if config.annotations.get(MEMORY_ANNOTATION).is_some_and(|how| how != "eager") {
            let what = format_args!("{MEMORY_ANNOTATION} can be \"eager\" only, for now");
            return Err(invalid("annotations", what));
        }
        let container_id = self
            .blocking(move |rt| match archive {
                Some(archive) => rt.create_container_from_archive(&sandbox, &config, &archive),
                None => rt.create_container(&sandbox, &config),
            })
            .await?;
        Ok(Response::new(v1::CreateContainerResponse { container_id }))
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Answer<v1::StartContainerResponse> {
        let id = request.into_inner().container_id;
        self.blocking(move |rt| rt.start_container(&id)).await?;
        Ok(Response::new(v1::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Answer<v1::StopContainerResponse> {
        let request = request.into_inner();
        let grace = seconds("timeout", request.timeout)?.unwrap_or_default();
        self.blocking(move |rt| absent_is_done(rt.stop_container(&request.container_id, grace)))
            .await?;
        Ok(Response::new(v1::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Answer<v1::RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        self.blocking(move |rt| absent_is_done(rt.remove_container(&id))).await?;
        Ok(Response::new(v1::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Answer<v1::ListContainersResponse> {
        let filter = request::container_filter(request.into_inner().filter);
        let list = self.blocking(move |rt| rt.list_containers(&filter)).await?;
        let containers = list.into_iter().map(answer::container).collect();
        Ok(Response::new(v1::ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        let request = request.into_inner();
        let (status, info) = self
            .blocking(move |rt| {
                let status = rt.container_status(&request.container_id)?;
                let info = if request.verbose {
                    answer::container_info(&status)
                } else {
                    Default::default()
                };
                Ok((status, info))
            })
            .await?;
        let status = Some(answer::container_status(status));
        Ok(Response::new(v1::ContainerStatusResponse { status, info }))
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let limits = request::resources(request.linux.unwrap_or_default())?;
        self.blocking(move |rt| rt.update_container_resources(&request.container_id, &limits))
            .await?;
        Ok(Response::new(v1::UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Answer<v1::ReopenContainerLogResponse> {
        let id = request.into_inner().container_id;
        self.blocking(move |rt| rt.reopen_container_log(&id)).await?;
        Ok(Response::new(v1::ReopenContainerLogResponse {}))
    }

    async fn exec_sync(
        &self,
        request: Request<v1::ExecSyncRequest>,
    ) -> Answer<v1::ExecSyncResponse> {
        let request = request.into_inner();
        if request.cmd.is_empty() {
            return Err(invalid("cmd", "is empty"));
        }
        let timeout = seconds("timeout", request.timeout)?;
        let mut output = self
            .blocking(move |rt| rt.exec_sync(&request.container_id, &request.cmd, timeout))
            .await?;
        fit(&mut output.stdout, &mut output.stderr, EXEC_OUTPUT);
        Ok(Response::new(v1::ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.exit_code,
        }))
    }

    async fn container_stats(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> Answer<v1::ContainerStatsResponse> {
        let id = request.into_inner().container_id;
        let stats = self.blocking(move |rt| rt.container_stats(&id)).await?;
        let stats = Some(answer::container_stats(stats));
        Ok(Response::new(v1::ContainerStatsResponse { stats }))
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Answer<v1::ListContainerStatsResponse> {
        let filter = request::container_stats_filter(request.into_inner().filter);
        let list = self.blocking(move |rt| rt.list_container_stats(&filter)).await?;
        let stats = list.into_iter().map(answer::container_stats).collect();
        Ok(Response::new(v1::ListContainerStatsResponse { stats }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Answer<v1::PodSandboxStatsResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let stats = self.blocking(move |rt| rt.pod_sandbox_stats(&id)).await?;
        let stats = Some(answer::pod_sandbox_stats(stats));
        Ok(Response::new(v1::PodSandboxStatsResponse { stats }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Answer<v1::ListPodSandboxStatsResponse> {
        let filter = request::pod_stats_filter(request.into_inner().filter);
        let list = self.blocking(move |rt| rt.list_pod_sandbox_stats(&filter)).await?;
        let stats = list.into_iter().map(answer::pod_sandbox_stats).collect();
        Ok(Response::new(v1::ListPodSandboxStatsResponse { stats }))
    }

    /// Options the message has no fields for come as metadata, and the report goes back as such.
    async fn checkpoint_container(
        &self,
        request: Request<v1::CheckpointContainerRequest>,
    ) -> Answer<v1::CheckpointContainerResponse> {
        let span = crate::telemetry::call_span(request.metadata(), "CheckpointContainer");
        let cancel = CancelToken::new();
        let options = CheckpointOptions {
            stop: wants(request.metadata(), STOP_KEY)?,
            with_image: wants(request.metadata(), WITH_IMAGE_KEY)?,
            self_check: wants(request.metadata(), SELF_CHECK_KEY)?,
            timeout: seconds("timeout", request.get_ref().timeout)?,
            cancel: cancel.clone(),
        };
        let request = request.into_inner();
        let location = PathBuf::from(request.location);
        if !location.is_absolute() {
            return Err(invalid("location", format_args!("{location:?} is not an absolute path")));
        }
        let guard = CancelOnDrop(cancel);
        let report = self
            .blocking(move |rt| rt.checkpoint_container(&request.container_id, &location, &options))
            .instrument(span)
            .await?;
        drop(guard);
        if let Some(keeper) = &self.keeper {
            keeper.notify();
        }
        let mut response = Response::new(v1::CheckpointContainerResponse {});
        if let Ok(report) = serde_json::to_vec(&report) {
            response.metadata_mut().insert_bin(REPORT_KEY, MetadataValue::from_bytes(&report));
        }
        Ok(response)
    }
}

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Answer<v1::ListImagesResponse> {
        let name = request.into_inner().filter.and_then(|filter| filter.image).map(|i| i.image);
        let list = self
            .blocking(move |rt| match name.filter(|name| !name.is_empty()) {
                Some(name) => Ok(rt.image_status(&name)?.into_iter().collect()),
                None => rt.list_images(),
            })
            .await?;
        let images = list.into_iter().map(answer::image).collect();
        Ok(Response::new(v1::ListImagesResponse { images }))
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Answer<v1::ImageStatusResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        if name.is_empty() {
            return Err(invalid("image.image", "is empty"));
        }
        let image = self.blocking(move |rt| rt.image_status(&name)).await?.map(answer::image);
        Ok(Response::new(v1::ImageStatusResponse { image, info: Default::default() }))
    }

    /// Takes in images that lie on this machine (`oci:/path`, `docker-archive:/path`). Nothing is
    /// fetched from registries.
    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Answer<v1::PullImageResponse> {
        let image = request.into_inner().image.unwrap_or_default();
        let source = match Reference::parse(&image.image) {
            Reference::OciLayout(path) => ImageSource::OciLayout(path),
            Reference::DockerArchive(path) => ImageSource::Tar(path),
            _ => {
                return Err(Status::unimplemented(format!(
                    "pull {:?}: registries are not supported; take in an image of this machine \
                     as oci:/path or docker-archive:/path",
                    image.image
                )));
            }
        };
        let name = Some(image.user_specified_image).filter(|name| !name.is_empty());
        let info = self.blocking(move |rt| rt.import_image(&source, name.as_deref())).await?;
        Ok(Response::new(v1::PullImageResponse { image_ref: info.id }))
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Answer<v1::RemoveImageResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        if name.is_empty() {
            return Err(invalid("image.image", "is empty"));
        }
        self.blocking(move |rt| absent_is_done(rt.remove_image(&name))).await?;
        Ok(Response::new(v1::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<v1::ImageFsInfoRequest>,
    ) -> Answer<v1::ImageFsInfoResponse> {
        let usage = self.blocking(|rt| rt.image_fs_info()).await?;
        Ok(Response::new(answer::image_fs_info(&usage)))
    }
}

#[cfg(test)]
mod tests {
    use super::fit;

    #[test]
    fn the_longer_output_is_cut_first() {
        let fitted = |one: usize, other: usize| {
            let (mut one, mut other) = (vec![0; one], vec![0; other]);
            fit(&mut one, &mut other, 10);
            (one.len(), other.len())
        };
        assert_eq!(fitted(3, 4), (3, 4));
        assert_eq!(fitted(20, 4), (6, 4));
        assert_eq!(fitted(1, 20), (1, 9));
        assert_eq!(fitted(20, 20), (5, 5));
        assert_eq!(fitted(7, 7), (5, 5));
        assert_eq!(fitted(6, 5), (5, 5));
    }
}
