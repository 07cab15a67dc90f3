//! Exit codes: what a script can tell apart. `--help` lists them.

use cryopod_cri::{Code, CriError};
use cryopod_kubelet::StoreError;
use cryopod_kubelet::config::{ConfigError, ConfigErrors};
use cryopod_kubelet::retention::RetentionError;

use crate::remote::RemoteError;
use crate::target::TargetError;

/// Something failed that is none of the others.
pub(crate) const FAILED: u8 = 1;
/// The request itself is wrong. The parser of the command line uses the same code.
pub(crate) const USAGE: u8 = 2;
/// What was named is not there.
pub(crate) const NOT_FOUND: u8 = 3;
/// Refused: not as things are now.
pub(crate) const REFUSED: u8 = 4;
/// A time limit passed.
pub(crate) const TIMED_OUT: u8 = 5;
/// Nobody answers on the socket.
pub(crate) const UNREACHABLE: u8 = 6;
/// `exec` itself failed, not the command it ran.
pub(crate) const EXEC_FAILED: u8 = 125;

/// A refusal by this program itself, before anything was asked of the runtime.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Refused {
    pub(crate) reason: String,
}

/// The code for an error, by the first of its causes that has one.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    error
        .chain()
        .find_map(|cause| {
            if cause.is::<Refused>() {
                return Some(REFUSED);
            }
            if let Some(error) = cause.downcast_ref::<TargetError>() {
                return Some(match error {
                    TargetError::Form { .. } | TargetError::Several { .. } => USAGE,
                    TargetError::Missing { .. } => NOT_FOUND,
                    TargetError::NotRunning { .. } => REFUSED,
                });
            }
            if let Some(ConfigErrors(errors)) = cause.downcast_ref() {
                return errors.iter().any(ConfigError::is_usage).then_some(USAGE);
            }
            if let Some(error) = cause.downcast_ref::<StoreError>() {
                return Some(match error {
                    StoreError::Name { .. } => USAGE,
                    StoreError::Missing { .. } => NOT_FOUND,
                    StoreError::InUse { .. }
                    | StoreError::Pinned { .. }
                    | StoreError::PinnedBy { .. } => REFUSED,
                    StoreError::Folder { .. } | StoreError::Io { .. } => FAILED,
                });
            }
            if let Some(error) = cause.downcast_ref::<RemoteError>() {
                return Some(remote(error));
            }
            if cause.is::<RetentionError>() {
                return Some(USAGE);
            }
            cause.downcast_ref::<CriError>().map(|error| match error.code() {
                Code::InvalidArgument | Code::OutOfRange => USAGE,
                Code::NotFound => NOT_FOUND,
                Code::FailedPrecondition | Code::AlreadyExists | Code::PermissionDenied => REFUSED,
                Code::DeadlineExceeded => TIMED_OUT,
                Code::Unavailable => UNREACHABLE,
                _ => FAILED,
            })
        })
        .unwrap_or(FAILED)
}

/// The code for a node's refusal: what the same refusal would be here.
fn remote(error: &RemoteError) -> u8 {
    match error {
        RemoteError::Unreachable { .. } => UNREACHABLE,
        RemoteError::Refused { status, .. } => match status.as_u16() {
            400 | 413 | 415 => USAGE,
            404 => NOT_FOUND,
            401 | 403 | 409 | 422 | 501 => REFUSED,
            502 | 503 => UNREACHABLE,
            504 => TIMED_OUT,
            _ => FAILED,
        },
        RemoteError::Broken { .. } | RemoteError::Strange { .. } => FAILED,
    }
}

/// Whether the reader of our output went away, which is no failure of ours (`cryopod logs | head`).
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_from_the_cause_not_from_the_words() {
        let rpc = |code| code_of(CriError::Rpc { code, message: "m".into() });
        fn code_of(error: CriError) -> u8 {
            code(&anyhow::Error::new(error).context("take a checkpoint"))
        }
        assert_eq!(rpc(Code::NotFound), NOT_FOUND);
        assert_eq!(rpc(Code::FailedPrecondition), REFUSED);
        assert_eq!(rpc(Code::DeadlineExceeded), TIMED_OUT);
        assert_eq!(rpc(Code::Unavailable), UNREACHABLE);
        assert_eq!(rpc(Code::Internal), FAILED);
        assert_eq!(code(&anyhow::anyhow!("not found")), FAILED);
    }
}
