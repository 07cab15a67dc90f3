//! A CRI server between the API and containerd that passes on what the API asks, and does something of its own before it
//! passes on a CheckpointContainer: what happens between the look-up and the call is then no matter of luck.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use cryopod_cri::v1::image_service_server::ImageService;
use cryopod_cri::v1::runtime_service_server::RuntimeService;
use cryopod_cri::{Client, v1};
use tokio::runtime::Runtime as Tokio;
use tonic::{Request, Response, Status};

/// What is done to the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blow {
    /// It is killed, and stays as an exited one.
    Stop,
    /// It is killed and removed.
    Remove,
}

/// The server's shared state.
#[derive(Debug, Clone)]
pub(super) struct Between {
    client: Client,
    blow: Blow,
    told: Arc<Mutex<Option<Status>>>,
}

struct NoImages;

impl ImageService for NoImages {}

impl Between {
    /// Listens on `socket`; ends with `tokio`.
    pub(super) fn start(tokio: &Tokio, client: &Client, socket: &Path, blow: Blow) -> Result<Self> {
        let between = Between { client: client.clone(), blow, told: Arc::default() };
        let _entered = tokio.enter();
        let listener = cryopod_cri::server::listen(socket)?;
        let service = between.clone();
        tokio.spawn(cryopod_cri::server::serve(
            listener,
            service,
            NoImages,
            std::future::pending(),
        ));
        Ok(between)
    }

    /// What containerd answered to the last CheckpointContainer, if it refused.
    pub(super) fn refusal(&self) -> Option<Status> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[tonic::async_trait]
impl RuntimeService for Between {
    async fn version(
        &self,
        request: Request<v1::VersionRequest>,
    ) -> Result<Response<v1::VersionResponse>, Status> {
        self.client.runtime().version(request.into_inner()).await
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Result<Response<v1::ListPodSandboxResponse>, Status> {
        self.client.runtime().list_pod_sandbox(request.into_inner()).await
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Result<Response<v1::ListContainersResponse>, Status> {
        self.client.runtime().list_containers(request.into_inner()).await
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Result<Response<v1::ContainerStatusResponse>, Status> {
        self.client.runtime().container_status(request.into_inner()).await
    }

    async fn container_stats(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> Result<Response<v1::ContainerStatsResponse>, Status> {
        self.client.runtime().container_stats(request.into_inner()).await
    }

    async fn checkpoint_container(
        &self,
        request: Request<v1::CheckpointContainerRequest>,
    ) -> Result<Response<v1::CheckpointContainerResponse>, Status> {
        let request = request.into_inner();
        let id = &request.container_id;
        let failed = |error: cryopod_cri::CriError| Status::internal(error.to_string());
        self.client.stop_container(id, Duration::ZERO).await.map_err(failed)?;
        if self.blow == Blow::Remove {
            self.client.remove_container(id).await.map_err(failed)?;
        }
        let answer = self.client.runtime().checkpoint_container(request).await;
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = answer.as_ref().err().cloned();
        answer
    }
}
