//! A runtime whose calls are counted and traced, by a kubelet's names of the operations.

use std::sync::Arc;

use tracing::Instrument as _;

use super::{CheckpointCall, Container, Report, RpcError, Runtime, Sandbox};
use crate::BoxFuture;
use crate::metrics::Operations;

/// Counts every call of the runtime behind it.
pub(crate) struct Counted {
    runtime: Arc<dyn Runtime>,
    operations: Operations,
}

impl Counted {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, operations: Operations) -> Self {
        Self { runtime, operations }
    }

    /// `operation` is the kubelet's name, `span` the standard's.
    fn count<'a, T: Send + 'a>(
        &'a self,
        operation: &'static str,
        span: tracing::Span,
        call: BoxFuture<'a, Result<T, RpcError>>,
    ) -> BoxFuture<'a, Result<T, RpcError>> {
        Box::pin(
            async move {
                let answer = self.operations.count(operation, call).await;
                if let Err(error) = &answer {
                    let span = tracing::Span::current();
                    span.record("otel.status_code", "ERROR");
                    span.record("otel.status_description", tracing::field::display(error));
                }
                answer
            }
            .instrument(span),
        )
    }
}

/// The span of a call to the runtime.
macro_rules! call_span {
    ($name:literal) => {
        tracing::debug_span!(
            $name,
            otel.kind = "client",
            otel.status_code = tracing::field::Empty,
            otel.status_description = tracing::field::Empty,
            rpc.system = "grpc",
            rpc.service = "runtime.v1.RuntimeService",
            rpc.method = $name,
        )
    };
}

impl Runtime for Counted {
    fn sandboxes(&self) -> BoxFuture<'_, Result<Vec<Sandbox>, RpcError>> {
        self.count("list_podsandbox", call_span!("ListPodSandbox"), self.runtime.sandboxes())
    }

    fn containers(&self) -> BoxFuture<'_, Result<Vec<Container>, RpcError>> {
        self.count("list_containers", call_span!("ListContainers"), self.runtime.containers())
    }

    fn pid<'a>(&'a self, container_id: &'a str) -> BoxFuture<'a, Result<Option<u32>, RpcError>> {
        let span = call_span!("ContainerStatus");
        self.count("container_status", span, self.runtime.pid(container_id))
    }

    fn used_bytes<'a>(
        &'a self,
        container_id: &'a str,
    ) -> BoxFuture<'a, Result<Option<u64>, RpcError>> {
        let span = call_span!("ContainerStats");
        self.count("container_stats", span, self.runtime.used_bytes(container_id))
    }

    fn checkpoint(&self, call: CheckpointCall) -> BoxFuture<'_, Result<Option<Report>, RpcError>> {
        let span = call_span!("CheckpointContainer");
        self.count("checkpoint_container", span, self.runtime.checkpoint(call))
    }
}
