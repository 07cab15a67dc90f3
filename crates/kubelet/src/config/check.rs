//! What a start would meet: files, sockets, folders and the address are looked at, and nothing is
//! changed.

use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cryopod_cri::{Client, CriError};
use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::Effective;
use super::delegates::api_server;
use crate::apiserver::ApiServerError;
use crate::authn::{ClientCa, ClientCaError};
use crate::tls::{ServingCertificate, ServingError};

/// For a runtime to say who it is. A kubelet waits two minutes; somebody looks on here.
const VERSION: Duration = Duration::from_secs(10);

/// One reason why a start would fail.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The client CA cannot be used.
    #[error(transparent)]
    ClientCa(#[from] ClientCaError),
    /// The serving certificate cannot be used.
    #[error(transparent)]
    Serving(#[from] ServingError),
    /// The kubeconfig cannot be used.
    #[error(transparent)]
    ApiServer(#[from] ApiServerError),
    /// The runtime is not there.
    #[error("container runtime {endpoint}")]
    Runtime {
        /// As given.
        endpoint: String,
        /// What the socket or the runtime said.
        #[source]
        source: CriError,
    },
    /// The runtime answers, and does not say who it is.
    #[error("container runtime {endpoint} answers Version without its {field}")]
    Nameless {
        /// As given.
        endpoint: String,
        /// The empty field.
        field: &'static str,
    },
    /// A folder can neither be written nor made.
    #[error("cannot write {} (for {})", at.display(), folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// It, or what is there of it.
        at: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The address is taken or not ours.
    #[error("cannot listen on {address}{}", taken(source, flag))]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What names another port.
        flag: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl CheckError {
    /// With all causes, in one line.
    pub fn text(&self) -> String {
        super::error::chain(self as &dyn Error)
    }
}

/// The usual reason for a taken address, and the way out.
fn taken(source: &io::Error, flag: &str) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            format!(", where another listens (a kubelet?): give {flag}")
        }
        _ => String::new(),
    }
}

/// Whether an address can be listened on.
fn free(address: SocketAddr, flag: &'static str) -> Result<(), CheckError> {
    TcpListener::bind(address).map(drop).map_err(|source| CheckError::Listen {
        address,
        flag,
        source,
    })
}

/// Looks at everything that is named; gives all reasons why a start would fail.
pub async fn check(effective: &Effective) -> Vec<CheckError> {
    let mut reasons = Vec::new();
    if effective.enable_server.value && !effective.stays_closed() {
        if let Some(path) = &effective.client_ca_file.value {
            reasons.extend(ClientCa::load(path).await.err().map(CheckError::from));
        }
        reasons.extend(serving(effective).await.err());
        reasons.extend(free(effective.bind(), "--port").err());
        if let Some(address) = effective.healthz() {
            reasons.extend(free(address, "--healthz-port").err());
        }
        let audit = effective.extras.audit_log.as_ref();
        let audit = audit.and_then(|path| std::path::absolute(path).ok());
        if let Some(folder) = audit.as_deref().and_then(Path::parent) {
            // The file is made, its folder is not.
            reasons.extend(writable(folder).err());
        }
    }
    if let Some(path) = &effective.kubeconfig.value {
        reasons.extend(api_server(path).await.err().map(CheckError::from));
    }
    if let Some(endpoint) = &effective.container_runtime_endpoint.value {
        reasons.extend(runtime(endpoint).await.err());
    }
    reasons.extend(writable(&effective.checkpoints()).err());
    reasons
}

async fn serving(effective: &Effective) -> Result<(), CheckError> {
    match (&effective.tls_cert_file.value, &effective.tls_private_key_file.value) {
        (Some(certificate), Some(key)) => {
            ServingCertificate::from_files(certificate, key).await?;
        }
        // Half a pair is already told.
        (Some(_), None) | (None, Some(_)) => {}
        (None, None) => {
            let bootstrapped = effective.bootstrapped().filter(|pair| pair.exists());
            if let Some(pair) = bootstrapped {
                ServingCertificate::from_files(&pair, &pair).await?;
            } else if !ServingCertificate::is_in_folder(&effective.cert_dir.value).await? {
                writable(&effective.cert_dir.value)?;
            }
        }
    }
    Ok(())
}

async fn runtime(endpoint: &str) -> Result<(), CheckError> {
    let failed = |source| CheckError::Runtime { endpoint: endpoint.to_owned(), source };
    let client = Client::connect(endpoint).await.map_err(failed)?;
    let version = client.version(VERSION).await.map_err(failed)?;
    // What the kubelet insists on when it connects.
    let fields = [
        ("version", &version.version),
        ("runtime_name", &version.runtime_name),
        ("runtime_version", &version.runtime_version),
        ("runtime_api_version", &version.runtime_api_version),
    ];
    match fields.iter().find(|(_, value)| value.is_empty()) {
        Some((field, _)) => Err(CheckError::Nameless { endpoint: endpoint.to_owned(), field }),
        None => Ok(()),
    }
}

/// Whether a folder can be written, or made where it is missing. Nothing is made.
///
/// # Errors
/// [`CheckError::Folder`], with the kernel's reason (access(2)): permission, a read-only file
/// system, or a file where a folder should be.
pub fn writable(folder: &Path) -> Result<(), CheckError> {
    let failed = |at: &Path, source| CheckError::Folder {
        folder: folder.to_owned(),
        at: at.to_owned(),
        source,
    };
    let absolute = std::path::absolute(folder).map_err(|source| failed(folder, source))?;
    for at in absolute.ancestors() {
        match std::fs::metadata(at) {
            Ok(found) if !found.is_dir() => {
                return Err(failed(at, io::Error::from(io::ErrorKind::NotADirectory)));
            }
            Ok(_) => {
                return accessat(CWD, at, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
                    .map_err(|errno| failed(at, errno.into()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // A file on the way is seen better one level up.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
            Err(error) => return Err(failed(at, error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_missing_is_judged_by_what_is_there_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("a/b/c");
        assert!(writable(&missing).is_ok());
        assert!(!folder.path().join("a").exists(), "nothing is made");
        std::fs::write(folder.path().join("a"), "").unwrap();
        let text = writable(&missing).unwrap_err().text();
        let at = folder.path().join("a");
        let start = format!("cannot write {} (for {}): ", at.display(), missing.display());
        assert!(text.starts_with(&start), "{text}");
    }
}
