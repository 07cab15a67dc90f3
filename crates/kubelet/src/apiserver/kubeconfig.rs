//! Where the API server is and who we are to it: a kubeconfig file, or a pod's service account.
//!
//! Everything a file names is read and checked here, so that what is wrong is told with the file
//! and the field, at the start and not at the first request. Paths in a kubeconfig are relative
//! to its folder. `NAME-data` wins over `NAME`, `token` over `tokenFile`, as in client-go.
//! Programs that give credentials (`exec`) are run by the `kube` crate.
//!
//! Refused: plain `http` (the tokens of our callers would travel in the open) and `proxy-url`.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

/// The folder of a pod's service account.
pub(super) const POD_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Where to look.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A kubeconfig file.
    File(PathBuf),
    /// A pod: what its environment says and the folder of its service account.
    Pod { host: Option<String>, port: Option<String>, folder: PathBuf },
}

/// What was found.
pub(super) struct Found {
    pub(super) config: Config,
    /// All files that were read.
    pub(super) files: Vec<PathBuf>,
}

/// Why a kubeconfig, or a pod's service account, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// The file is not there, or no kubeconfig.
    #[error("kubeconfig {} cannot be read", file.display())]
    File {
        /// The kubeconfig.
        file: PathBuf,
        /// What the reader said.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// A field that must be there is not.
    #[error("kubeconfig {}: {field} is not set", file.display())]
    Missing {
        /// The kubeconfig.
        file: PathBuf,
        /// The field's path.
        field: String,
    },
    /// A field names an entry that is not there.
    #[error(
        "kubeconfig {}: {field} is {name:?}, and {list} has no entry of that name",
        file.display()
    )]
    Dangling {
        /// The kubeconfig.
        file: PathBuf,
        /// The field's path.
        field: String,
        /// What it says.
        name: String,
        /// Where it should be.
        list: &'static str,
    },
    /// A field's value cannot be used.
    #[error("kubeconfig {}: {field}", file.display())]
    Field {
        /// The kubeconfig.
        file: PathBuf,
        /// The field's path.
        field: String,
        /// What is wrong.
        #[source]
        source: FieldError,
    },
    /// Not in a pod.
    #[error("{variable} is not set: this process does not run in a pod; give a kubeconfig file")]
    NoPod {
        /// The variable of the environment.
        variable: &'static str,
    },
    /// What a pod's service account, or its environment, says cannot be used.
    #[error("the pod's {what}")]
    Pod {
        /// Which part.
        what: &'static str,
        /// What is wrong.
        #[source]
        source: FieldError,
    },
}

/// What is wrong with a value.
#[derive(Debug, thiserror::Error)]
pub enum FieldError {
    /// Not an address.
    #[error("{value:?} is not a URL")]
    Url {
        /// The value.
        value: String,
    },
    /// Not TLS.
    #[error("{value:?} does not begin with https://: tokens would be sent in the open")]
    Plain {
        /// The value.
        value: String,
    },
    /// Not a port.
    #[error("{value:?} is not a port")]
    Port {
        /// The value.
        value: String,
    },
    /// Not base64.
    #[error("not base64")]
    Base64(#[source] base64::DecodeError),
    /// A file that cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Not PEM.
    #[error("not PEM")]
    Pem(#[source] pem::Error),
    /// No certificate in it.
    #[error("no certificate in it")]
    NoCertificate,
    /// No key in it.
    #[error("no private key in it")]
    NoKey,
    /// A token of no characters.
    #[error("the token is empty")]
    EmptyToken,
    /// Half of a pair.
    #[error("needs {other} beside it")]
    Alone {
        /// The other half.
        other: &'static str,
    },
    /// What we do not do.
    #[error("proxies are not supported: remove it, or give the API server's own address")]
    Proxy,
}

impl Source {
    /// What the environment of this process says about its pod.
    pub(super) fn pod() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        Self::Pod { host: variable(HOST), port: variable(PORT), folder: PathBuf::from(POD_FOLDER) }
    }

    /// Reads and checks everything.
    pub(super) async fn load(&self) -> Result<Found, KubeconfigError> {
        match self {
            Self::File(file) => from_file(file).await,
            Self::Pod { host, port, folder } => from_pod(host.as_deref(), port.as_deref(), folder),
        }
    }
}

const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";

fn from_pod(
    host: Option<&str>,
    port: Option<&str>,
    folder: &Path,
) -> Result<Found, KubeconfigError> {
    let host = host.ok_or(KubeconfigError::NoPod { variable: HOST })?;
    let port = port.ok_or(KubeconfigError::NoPod { variable: PORT })?;
    let of = |what| move |source| KubeconfigError::Pod { what, source };
    let port: u16 = port
        .parse()
        .map_err(|_| FieldError::Port { value: port.to_owned() })
        .map_err(of("port of the API server (KUBERNETES_SERVICE_PORT)"))?;
    let authority = match host.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        _ => format!("{host}:{port}"),
    };
    let url = https(&format!("https://{authority}"))
        .map_err(of("host of the API server (KUBERNETES_SERVICE_HOST)"))?;
    let ca = folder.join("ca.crt");
    let token = folder.join("token");
    let mut config = Config::new(url);
    let roots = read(&ca).and_then(|pem| certificates(&pem));
    config.root_cert = Some(roots.map_err(of("certificate authority"))?);
    let token_text = read(&token).and_then(|content| token_of(&content));
    config.auth_info.token = Some(token_text.map_err(of("service account token"))?.into());
    Ok(Found { config, files: vec![ca, token] })
}

async fn from_file(file: &Path) -> Result<Found, KubeconfigError> {
    let unreadable =
        |source| KubeconfigError::File { file: file.to_owned(), source: Box::new(source) };
    let mut kubeconfig = Kubeconfig::read_from(file).map_err(unreadable)?;
    let at = At { file };
    let context_name =
        set(kubeconfig.current_context.as_deref()).ok_or_else(|| at.missing("current-context"))?;
    let context = kubeconfig
        .contexts
        .iter()
        .find(|named| named.name == context_name)
        .and_then(|named| named.context.clone())
        .ok_or_else(|| at.dangling("current-context".to_owned(), context_name, "contexts"))?;

    let field = |name: &str| format!("contexts[{context_name}].context.{name}");
    if context.cluster.is_empty() {
        return Err(at.missing(field("cluster")));
    }
    let cluster = kubeconfig
        .clusters
        .iter_mut()
        .find(|named| named.name == context.cluster)
        .and_then(|named| named.cluster.as_mut())
        .ok_or_else(|| at.dangling(field("cluster"), &context.cluster, "clusters"))?;
    let mut files = vec![file.to_owned()];
    let in_cluster = |name: &str| format!("clusters[{}].cluster.{name}", context.cluster);
    let server = set(cluster.server.as_deref()).ok_or_else(|| at.missing(in_cluster("server")))?;
    https(server).map_err(at.wrong(in_cluster("server")))?;
    if set(cluster.proxy_url.as_deref()).is_some() {
        return Err(at.wrong(in_cluster("proxy-url"))(FieldError::Proxy));
    }
    let values = serde_json::to_value(&*cluster).unwrap_or_default();
    let ca = at.load(&values, "certificate-authority", &in_cluster, &mut files)?;
    let roots = match ca {
        Some((field, pem)) => Some(certificates(&pem).map_err(at.wrong(field))?),
        None => None,
    };
    // Given to the client as certificates below.
    cluster.certificate_authority = None;
    cluster.certificate_authority_data = None;

    if let Some(user) = set(context.user.as_deref()) {
        let in_user = |name: &str| format!("users[{user}].user.{name}");
        let info = kubeconfig
            .auth_infos
            .iter_mut()
            .find(|named| named.name == user)
            .ok_or_else(|| at.dangling(field("user"), user, "users"))?
            .auth_info
            .get_or_insert_default();
        // The way to the secrets in it.
        let values = serde_json::to_value(&*info).unwrap_or_default();
        let certificate = at.load(&values, "client-certificate", &in_user, &mut files)?;
        let key = at.load(&values, "client-key", &in_user, &mut files)?;
        (info.client_certificate, info.client_key) = (None, None);
        match (certificate, key) {
            (Some((certificate_field, certificate)), Some((key_field, key))) => {
                certificates(&certificate).map_err(at.wrong(certificate_field))?;
                match PrivateKeyDer::from_pem_slice(&key) {
                    Ok(_) => {}
                    Err(pem::Error::NoItemsFound) => {
                        return Err(at.wrong(key_field)(FieldError::NoKey));
                    }
                    Err(error) => return Err(at.wrong(key_field)(FieldError::Pem(error))),
                }
                // They are read one behind the other: a file may end without a newline.
                let encode = |pem: Vec<u8>| STANDARD.encode([pem, b"\n".to_vec()].concat());
                info.client_certificate_data = Some(encode(certificate));
                info.client_key_data = Some(encode(key).into());
            }
            (Some((field, _)), None) => {
                return Err(at.wrong(field)(FieldError::Alone { other: "client-key" }));
            }
            (None, Some((field, _))) => {
                return Err(at.wrong(field)(FieldError::Alone { other: "client-certificate" }));
            }
            (None, None) => {
                (info.client_certificate_data, info.client_key_data) = (None, None);
            }
        }
        let token_file = info.token_file.take().filter(|path| !path.is_empty());
        if text(&values, "token").is_none() {
            info.token = None;
            if let Some(path) = token_file.map(PathBuf::from) {
                let token = read(&path)
                    .and_then(|content| token_of(&content))
                    .map_err(at.wrong(in_user("tokenFile")))?;
                info.token = Some(token.into());
                files.push(path);
            }
        }
    }
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(unreadable)?;
    config.root_cert = roots;
    // Found in the environment: a proxy for others, which the client would stumble over.
    config.proxy_url = None;
    Ok(Found { config, files })
}

/// Makes errors about one kubeconfig.
struct At<'a> {
    file: &'a Path,
}

impl At<'_> {
    fn missing(&self, field: impl Into<String>) -> KubeconfigError {
        KubeconfigError::Missing { file: self.file.to_owned(), field: field.into() }
    }

    fn dangling(&self, field: String, name: &str, list: &'static str) -> KubeconfigError {
        KubeconfigError::Dangling { file: self.file.to_owned(), field, name: name.to_owned(), list }
    }

    fn wrong(&self, field: String) -> impl FnOnce(FieldError) -> KubeconfigError {
        let file = self.file.to_owned();
        |source| KubeconfigError::Field { file, field, source }
    }

    /// The content of `NAME-data` or of the file `NAME`, and which of the two it was.
    fn load(
        &self,
        values: &Value,
        name: &str,
        path_of: &impl Fn(&str) -> String,
        files: &mut Vec<PathBuf>,
    ) -> Result<Option<(String, Vec<u8>)>, KubeconfigError> {
        let data = format!("{name}-data");
        if let Some(encoded) = text(values, &data) {
            let field = path_of(&data);
            return match STANDARD.decode(encoded) {
                Ok(content) => Ok(Some((field, content))),
                Err(error) => Err(self.wrong(field)(FieldError::Base64(error))),
            };
        }
        let Some(path) = text(values, name).map(PathBuf::from) else { return Ok(None) };
        let field = path_of(name);
        match read(&path) {
            Ok(content) => {
                files.push(path);
                Ok(Some((field, content)))
            }
            Err(error) => Err(self.wrong(field)(error)),
        }
    }
}

/// An empty value is none.
fn set(value: Option<&str>) -> Option<&str> {
    value.filter(|value| !value.is_empty())
}

fn text<'a>(values: &'a Value, name: &str) -> Option<&'a str> {
    set(values.get(name).and_then(Value::as_str))
}

fn read(path: &Path) -> Result<Vec<u8>, FieldError> {
    std::fs::read(path).map_err(|source| FieldError::Read { path: path.to_owned(), source })
}

fn https(value: &str) -> Result<http::Uri, FieldError> {
    let url: http::Uri = value.parse().map_err(|_| FieldError::Url { value: value.to_owned() })?;
    match url.scheme_str() {
        Some("https") => Ok(url),
        Some(_) => Err(FieldError::Plain { value: value.to_owned() }),
        None => Err(FieldError::Url { value: value.to_owned() }),
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, FieldError> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .map(|one| one.map(|certificate| certificate.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(FieldError::Pem)?;
    if all.is_empty() { Err(FieldError::NoCertificate) } else { Ok(all) }
}

/// A token without the newline that editors leave behind it.
fn token_of(content: &[u8]) -> Result<String, FieldError> {
    let token = String::from_utf8_lossy(content).trim().to_owned();
    if token.is_empty() { Err(FieldError::EmptyToken) } else { Ok(token) }
}
