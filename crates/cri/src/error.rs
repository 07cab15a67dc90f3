//! What a call can fail with, printed as the Go programs of this field print it: the kubelet puts
//! that text into its answers and others search in it.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use tonic::{Code, Status};

use crate::endpoint::EndpointError;

/// Failure to reach a runtime, or its refusal.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// The address is not one of a unix socket.
    #[error("runtime endpoint")]
    Endpoint(#[source] EndpointError),
    /// Nobody answered on the socket within the connect timeout.
    #[error("connect to the runtime at {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The call failed: an answer of the runtime, a broken connection, or a deadline.
    #[error("rpc error: code = {} desc = {message}", code_name(*code))]
    Rpc {
        /// The gRPC code.
        code: Code,
        /// The runtime's text, unchanged.
        message: String,
    },
}

impl CriError {
    /// The gRPC code; a runtime that cannot be reached is [`Code::Unavailable`].
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Endpoint(_) => Code::InvalidArgument,
            Self::Connect { .. } => Code::Unavailable,
            Self::Rpc { code, .. } => *code,
        }
    }

    /// A deadline of our own that passed, in the words of a Go client.
    pub(crate) fn deadline() -> Self {
        Self::Rpc { code: Code::DeadlineExceeded, message: "context deadline exceeded".to_owned() }
    }
}

impl From<Status> for CriError {
    fn from(status: Status) -> Self {
        let message = match dial_failure(&status) {
            Some(dial) => {
                format!("connection error: desc = \"transport: Error while dialing: {dial}\"")
            }
            None => status.message().to_owned(),
        };
        let code = status.code();
        // Both ends watch the deadline that travels in the request; whoever is first, the answer
        // is the same. Our server library calls it a cancellation.
        if code == Code::DeadlineExceeded
            || (code == Code::Cancelled && message == "Timeout expired")
        {
            return Self::deadline();
        }
        Self::Rpc { code, message }
    }
}

/// A connection that could not be made, as the connector reports it inside tonic's errors.
#[derive(Debug, thiserror::Error)]
#[error("dial unix {}: connect: {}", path.display(), errno_text(source))]
pub(crate) struct DialError {
    pub(crate) path: PathBuf,
    #[source]
    pub(crate) source: io::Error,
}

fn dial_failure(status: &Status) -> Option<&DialError> {
    let mut next = status.source();
    while let Some(err) = next {
        if let Some(dial) = err.downcast_ref::<DialError>() {
            return Some(dial);
        }
        next = err.source();
    }
    None
}

/// The kernel's text without Rust's ` (os error N)` and in Go's lower case.
fn errno_text(err: &io::Error) -> String {
    let text = err.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().collect::<String>() + letters.as_str()
    })
}

/// The name of a gRPC code as Go prints it (`Unknown`, `NotFound`, `Canceled` with one l).
#[must_use]
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_go_does() {
        let err = CriError::from(Status::not_found("no such container"));
        assert_eq!(err.to_string(), "rpc error: code = NotFound desc = no such container");
        let err = CriError::from(Status::cancelled("client gone"));
        assert_eq!(err.to_string(), "rpc error: code = Canceled desc = client gone");
    }

    #[test]
    fn a_deadline_has_one_text_whoever_saw_it_first() {
        let text = "rpc error: code = DeadlineExceeded desc = context deadline exceeded";
        assert_eq!(CriError::from(Status::cancelled("Timeout expired")).to_string(), text);
        assert_eq!(CriError::from(Status::deadline_exceeded("x")).to_string(), text);
        assert_eq!(CriError::deadline().to_string(), text);
    }

    #[test]
    fn errno_reads_like_go() {
        let err = io::Error::from_raw_os_error(2);
        assert_eq!(errno_text(&err), "no such file or directory");
    }
}
