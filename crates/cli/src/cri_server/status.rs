//! Errors of the runtime as gRPC statuses: the one place where kinds become codes.

use std::error::Error;

use cryopod_runtime::{ErrorKind, RuntimeError};
use tonic::{Code, Status};

/// The status of a failed call: the code of its kind, the message with all causes.
pub(super) fn from_error(error: &RuntimeError) -> Status {
    let code = match error.kind() {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        // Both say: not as things are now. The message says what to change.
        ErrorKind::FailedPrecondition | ErrorKind::Refused => Code::FailedPrecondition,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::Internal => Code::Internal,
    };
    Status::new(code, chain(error))
}

/// The message and those of its causes, a cause that only repeats what was said left out.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Refuses a request for what one of its fields holds.
pub(super) fn invalid(field: &str, reason: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("{field}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_the_message() {
        let error = RuntimeError::Io {
            action: "write",
            path: "/x".into(),
            source: std::io::Error::from_raw_os_error(28),
        };
        let status = from_error(&error);
        assert_eq!(status.code(), Code::Internal);
        assert!(status.message().starts_with("write \"/x\": No space left"), "{status:?}");
    }

    #[test]
    fn kinds_become_codes() {
        let error = RuntimeError::NotFound { what: "container", id: "c".into() };
        assert_eq!(from_error(&error).code(), Code::NotFound);
        let error = RuntimeError::Shim { kind: ErrorKind::Refused, message: "io_uring".into() };
        assert_eq!(from_error(&error).code(), Code::FailedPrecondition);
    }
}
