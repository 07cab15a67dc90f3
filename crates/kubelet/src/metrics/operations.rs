//! Calls to the container runtime: a kubelet's three families, by a kubelet's operation names.

use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::runtime::RpcError;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    operation_type: &'static str,
}

/// `kubelet_runtime_operations_*`. Clones share the values.
#[derive(Clone, Debug)]
pub(crate) struct Operations {
    total: Family<Labels, Counter>,
    errors: Family<Labels, Counter>,
    duration: Family<Labels, Histogram>,
}

/// A call under way. Counted when it is over, as in the kubelet; one that is dropped has failed.
struct Call<'a> {
    operations: &'a Operations,
    labels: Labels,
    since: Instant,
    failed: bool,
}

impl Operations {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let operations = Self {
            total: Family::default(),
            errors: Family::default(),
            // Five milliseconds to twelve and a half minutes.
            duration: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.005, 2.5, 14))
            }),
        };
        registry.register(
            "kubelet_runtime_operations_duration_seconds",
            "Seconds a call to the container runtime took, by operation",
            operations.duration.clone(),
        );
        registry.register(
            "kubelet_runtime_operations_errors",
            "Calls to the container runtime that failed, by operation",
            operations.errors.clone(),
        );
        registry.register(
            "kubelet_runtime_operations",
            "Calls to the container runtime, by operation",
            operations.total.clone(),
        );
        operations
    }

    /// Counts a call: `operation` is the kubelet's name of it.
    pub(crate) async fn count<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, RpcError>>,
    ) -> Result<T, RpcError> {
        let mut counted = Call {
            operations: self,
            labels: Labels { operation_type: operation },
            since: Instant::now(),
            failed: true,
        };
        let answer = call.await;
        counted.failed = answer.is_err();
        answer
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let Self { operations, labels, since, failed } = self;
        operations.total.get_or_create(labels).inc();
        operations.duration.get_or_create(labels).observe(since.elapsed().as_secs_f64());
        if *failed {
            operations.errors.get_or_create(labels).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Metrics};
    use super::*;

    #[tokio::test]
    async fn errors_are_there_only_once_there_was_one_and_a_dropped_call_is_one() {
        let metrics = Metrics::new();
        let lines = || -> Vec<String> {
            let text = metrics.expose(Format::Text);
            let ours = |line: &&str| {
                line.starts_with("kubelet_runtime_operations_")
                    && !line.contains("duration_seconds_bucket")
                    && !line.contains("_sum")
            };
            text.lines().filter(ours).map(str::to_owned).collect()
        };
        assert!(lines().is_empty());
        let labels = "{operation_type=\"checkpoint_container\"}";
        let done = metrics.operations.count("checkpoint_container", async { Ok(()) }).await;
        assert!(done.is_ok());
        assert_eq!(
            lines(),
            [
                format!("kubelet_runtime_operations_duration_seconds_count{labels} 1"),
                format!("kubelet_runtime_operations_total{labels} 1"),
            ]
        );
        let failed = async { Err::<(), _>(RpcError::deadline_exceeded()) };
        assert!(metrics.operations.count("checkpoint_container", failed).await.is_err());
        {
            let never = std::future::pending::<Result<(), RpcError>>();
            let call = metrics.operations.count("checkpoint_container", never);
            tokio::pin!(call);
            tokio::select! {
                biased;
                _ = call => unreachable!("pending forever"),
                () = async {} => {}
            }
        }
        assert_eq!(
            lines(),
            [
                format!("kubelet_runtime_operations_duration_seconds_count{labels} 3"),
                format!("kubelet_runtime_operations_errors_total{labels} 2"),
                format!("kubelet_runtime_operations_total{labels} 3"),
            ]
        );
    }
}
