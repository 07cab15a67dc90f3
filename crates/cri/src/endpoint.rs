//! Addresses of runtimes: `unix:///path`, `unix:/path`, or the bare path.

use std::path::{Path, PathBuf};

/// Why an address was not taken.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Something other than a unix socket.
    #[error("endpoint {endpoint:?} is not a unix socket: give unix:///path or an absolute path")]
    Scheme {
        /// The address as given.
        endpoint: String,
    },
    /// A path that depends on the working directory.
    #[error("socket path of endpoint {endpoint:?} is not absolute")]
    Relative {
        /// The address as given.
        endpoint: String,
    },
}

/// Takes the socket's path out of an address.
///
/// # Errors
/// [`EndpointError`] for another scheme than `unix`, and for a relative path.
pub fn socket_path(endpoint: &str) -> Result<PathBuf, EndpointError> {
    let path = match endpoint.strip_prefix("unix:") {
        Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
        None if endpoint.contains("://") => {
            return Err(EndpointError::Scheme { endpoint: endpoint.to_owned() });
        }
        None => endpoint,
    };
    if !Path::new(path).is_absolute() {
        return Err(EndpointError::Relative { endpoint: endpoint.to_owned() });
    }
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_three_spellings() {
        for endpoint in ["unix:///run/a.sock", "unix:/run/a.sock", "/run/a.sock"] {
            assert_eq!(socket_path(endpoint).unwrap(), Path::new("/run/a.sock"), "{endpoint}");
        }
    }

    #[test]
    fn refuses_tcp_and_relative_paths() {
        assert!(matches!(socket_path("tcp://1.2.3.4:5"), Err(EndpointError::Scheme { .. })));
        assert!(matches!(socket_path("npipe:////./pipe/x"), Err(EndpointError::Scheme { .. })));
        assert!(matches!(socket_path("unix://run/a.sock"), Err(EndpointError::Relative { .. })));
        assert!(matches!(socket_path("a.sock"), Err(EndpointError::Relative { .. })));
        assert!(matches!(socket_path(""), Err(EndpointError::Relative { .. })));
    }
}
