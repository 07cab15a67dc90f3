//! What the checkpoint handler needs from a container runtime, and nothing more: five calls.
//!
//! [`Runtime`] is the seam; [`CriRuntime`] is the real one, over a CRI v1 unix socket. A kubelet
//! knows its pods from the API server; we know them from the runtime, by the sandbox's metadata
//! or, where that is missing, the kubelet's labels.

mod cri;
mod restore;

use std::time::Duration;

use cryopod_cri::code_name;

use crate::BoxFuture;

pub use cri::CriRuntime;
pub use cryopod_cri::Code;
pub use restore::{Caller, RestoreCall, RestoreError, Restored, Restorer, Shape, Waiting};

/// A pod sandbox, as far as looking up a pod needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's id.
    pub id: String,
    /// `metadata.name` of the pod.
    pub pod: String,
    /// `metadata.namespace` of the pod.
    pub namespace: String,
    /// `metadata.uid` of the pod; empty where the runtime does not say.
    pub uid: String,
    /// Whether the sandbox is in the state READY.
    pub ready: bool,
    /// Creation time in nanoseconds since the epoch.
    pub created_at: i64,
}

/// A container of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The runtime's id, without a `containerd://` or similar prefix.
    pub id: String,
    /// The sandbox it belongs to.
    pub sandbox_id: String,
    /// Its name in the pod.
    pub name: String,
    /// Whether it is in the state RUNNING.
    pub running: bool,
    /// Creation time in nanoseconds since the epoch.
    pub created_at: i64,
}

/// One `CheckpointContainer` call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointCall {
    /// The container to copy.
    pub container_id: String,
    /// Absolute path of the archive to write.
    pub location: String,
    /// The message's `timeout` field, in seconds.
    pub timeout_seconds: i64,
    /// How long the caller waits; told to the runtime as the call's deadline.
    pub deadline: Duration,
}

/// The calls. Dropping a returned future cancels the call.
pub trait Runtime: Send + Sync + 'static {
    /// All sandboxes, in any state.
    fn sandboxes(&self) -> BoxFuture<'_, Result<Vec<Sandbox>, RpcError>>;
    /// All containers, in any state.
    fn containers(&self) -> BoxFuture<'_, Result<Vec<Container>, RpcError>>;
    /// The container's first process, as the machine numbers it; `None` where the runtime does not
    /// tell.
    fn pid<'a>(&'a self, container_id: &'a str) -> BoxFuture<'a, Result<Option<u32>, RpcError>>;
    /// Bytes that the container uses and an archive would hold: memory and changed files; `None`
    /// where the runtime does not tell.
    fn used_bytes<'a>(
        &'a self,
        container_id: &'a str,
    ) -> BoxFuture<'a, Result<Option<u64>, RpcError>>;
    /// Writes a checkpoint archive; the container goes on running.
    fn checkpoint(&self, call: CheckpointCall) -> BoxFuture<'_, Result<(), RpcError>>;
}

/// A failed call, printed as Go's gRPC prints it: clients search the kubelet's answers for
/// exactly this form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rpc error: code = {} desc = {message}", code_name(*code))]
pub struct RpcError {
    /// The status code.
    pub code: Code,
    /// The runtime's own text.
    pub message: String,
}

impl RpcError {
    /// The error Go's client makes of its own expired deadline.
    pub fn deadline_exceeded() -> Self {
        Self { code: Code::DeadlineExceeded, message: "context deadline exceeded".to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_print_as_go_prints_them() {
        let text = |code, message: &str| RpcError { code, message: message.to_owned() }.to_string();
        assert_eq!(text(Code::Unknown, "boom"), "rpc error: code = Unknown desc = boom");
        assert_eq!(text(Code::Cancelled, ""), "rpc error: code = Canceled desc = ");
        assert_eq!(
            RpcError::deadline_exceeded().to_string(),
            "rpc error: code = DeadlineExceeded desc = context deadline exceeded"
        );
    }
}
