//! What is in force.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::decode::Unknown;
use super::document::{Located, Origin};
use super::duration::GoDuration;
use super::kubelet::Kubelet;
use super::{ConfigError, Extras, Flags};
use crate::checkpoint::Settings;
use crate::feature_gates::FeatureGates;
use crate::server::{AuthorizationMode, Limits, Options};
use crate::tls::Policy;

/// The pair that a kubelet with `serverTLSBootstrap` keeps, in the folder of certificates.
const BOOTSTRAPPED: &str = "kubelet-server-current.pem";
/// The folder of certificates, below the root folder.
const PKI: &str = "pki";
/// The folder of archives, below the root folder.
const CHECKPOINTS: &str = "checkpoints";

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Where it comes from.
    pub origin: Origin,
}

/// Who decides what an authenticated caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// Every certificate of the client CA is enough. Ours, not the kubelet's: the default of a
    /// node that stands alone.
    ClientCertificates,
    /// Everybody who was authenticated, and everybody at all with anonymous access.
    AlwaysAllow,
    /// The API server, by SubjectAccessReview.
    Webhook,
}

/// What is in force, field by field.
#[derive(Clone, Debug)]
pub struct Effective {
    /// Neither a kubelet's file nor a kubeconfig is given.
    pub stand_alone: bool,
    /// The node's name, in lower case as the kubelet has it.
    pub node_name: Setting<String>,
    /// `--root-dir`.
    pub root_dir: Setting<PathBuf>,
    /// `--cert-dir`.
    pub cert_dir: Setting<PathBuf>,
    /// `--kubeconfig`.
    pub kubeconfig: Setting<Option<PathBuf>>,
    /// Whether HTTPS is served at all.
    pub enable_server: Setting<bool>,
    /// Where HTTPS is served.
    pub address: Setting<IpAddr>,
    /// 0 only from a flag: the kernel chooses.
    pub port: Setting<u16>,
    /// Never served; kept to be told.
    pub read_only_port: Setting<u16>,
    /// Whether callers without credentials are let in, as `system:anonymous`.
    pub anonymous: Setting<bool>,
    /// Whether tokens are reviewed by the API server.
    pub token_webhook: Setting<bool>,
    /// How long a review of a token holds.
    pub token_cache_ttl: Setting<Duration>,
    /// Authorities of client certificates.
    pub client_ca_file: Setting<Option<PathBuf>>,
    /// As written: see [`Effective::authorization`].
    pub authorization_mode: Setting<String>,
    /// How long an access that was allowed holds.
    pub authorized_ttl: Setting<Duration>,
    /// How long an access that was not allowed holds.
    pub unauthorized_ttl: Setting<Duration>,
    /// Whether the checkpoint route is among those served.
    pub debugging_handlers: Setting<bool>,
    /// Timeout of calls to the runtime, and the least of a checkpoint.
    pub runtime_request_timeout: Setting<Duration>,
    /// Another runtime than our own.
    pub container_runtime_endpoint: Setting<Option<String>>,
    /// Without effect: the HTTPS side pulls no image.
    pub image_service_endpoint: Setting<Option<String>>,
    /// The gates known here.
    pub feature_gates: Setting<FeatureGates>,
    /// Serving certificate.
    pub tls_cert_file: Setting<Option<PathBuf>>,
    /// Its key.
    pub tls_private_key_file: Setting<Option<PathBuf>>,
    /// As written: see [`Effective::tls`].
    pub tls_cipher_suites: Setting<Vec<String>>,
    /// As written: see [`Effective::tls`].
    pub tls_min_version: Setting<String>,
    /// As written: see [`Effective::tls`].
    pub tls_curve_preferences: Setting<Vec<String>>,
    /// The certificate that a kubelet on this node was given by the API server is served.
    pub server_tls_bootstrap: Setting<bool>,
    /// Without effect: the kubeconfig's files are used as they are.
    pub rotate_certificates: Setting<bool>,
    /// Where health pages for everybody are served: see [`Effective::healthz`].
    pub healthz_bind_address: Setting<IpAddr>,
    /// The same.
    pub healthz_port: Setting<u16>,
    /// Our own settings.
    pub extras: Extras,
    /// Where those were written.
    pub(super) extras_tree: Located,
    /// Fields of the kubelet's file that mean nothing here.
    pub ignored: Vec<Unknown>,
}

/// Chooses between what was written and a default.
struct Chooser<'a>(&'a Located);

impl Chooser<'_> {
    /// `None`: nothing was written.
    fn choose<T>(&self, path: &str, written: Option<T>, default: T) -> Setting<T> {
        match written {
            Some(value) => Setting { value, origin: self.0.origin(path) },
            None => Setting { value: default, origin: Origin::Default },
        }
    }

    /// Zero is nothing written, as in the kubelet.
    fn duration(&self, path: &str, written: Option<GoDuration>, seconds: u64) -> Setting<Duration> {
        let written = written.map(|written| written.0).filter(|written| !written.is_zero());
        self.choose(path, written, Duration::from_secs(seconds))
    }

    /// Empty is nothing written.
    fn text(&self, path: &str, written: Option<String>) -> Setting<Option<String>> {
        let written = written.filter(|written| !written.is_empty());
        self.choose(path, written.map(Some), None)
    }

    fn path(&self, path: &str, written: Option<String>) -> Setting<Option<PathBuf>> {
        let Setting { value, origin } = self.text(path, written);
        Setting { value: value.map(PathBuf::from), origin }
    }

    fn is_flag(&self, path: &str) -> bool {
        matches!(self.0.origin(path), Origin::Flag(_))
    }
}

fn flag<T>(name: &'static str, given: Option<T>, default: T) -> Setting<T> {
    match given {
        Some(value) => Setting { value, origin: Origin::Flag(name) },
        None => Setting { value: default, origin: Origin::Default },
    }
}

impl Effective {
    pub(super) fn new(
        flags: &Flags,
        kubelet: Kubelet,
        tree: &Located,
        ignored: Vec<Unknown>,
        extras: Extras,
        extras_tree: &Located,
    ) -> Self {
        let from = Chooser(tree);
        let stand_alone =
            [&flags.config, &flags.config_dir, &flags.kubeconfig].iter().all(|one| one.is_none());
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let Kubelet { authentication, authorization, .. } = kubelet;
        let node_name = flag("--node-name", flags.node_name.clone(), flags.host_name.clone());
        let root_dir =
            flag("--root-dir", flags.root_dir.clone(), PathBuf::from("/var/lib/kubelet"));
        let cert_dir = flag("--cert-dir", flags.cert_dir.clone(), root_dir.value.join(PKI));
        // A port of 0 in the file is none; on the command line it means that any will do.
        let port = kubelet.port.filter(|port| *port != 0 || from.is_flag("port"));
        // The same with an empty mode: on the command line it is a mistake.
        let mode = "authorization.mode";
        let written_mode =
            authorization.mode.filter(|written| !written.is_empty() || from.is_flag(mode));
        let own_mode = if stand_alone { "ClientCertificates" } else { "Webhook" };
        let gates_origin = ["ContainerCheckpoint", "AllBeta"]
            .map(|gate| tree.origin(&format!("featureGates.{gate}")))
            .into_iter()
            .find(|origin| *origin != Origin::Default);
        let curves = kubelet.tls_curve_preferences.filter(|written| !written.is_empty());
        Self {
            stand_alone,
            node_name: Setting {
                value: node_name.value.trim().to_lowercase(),
                origin: node_name.origin,
            },
            root_dir,
            cert_dir,
            kubeconfig: flag("--kubeconfig", flags.kubeconfig.clone().map(Some), None),
            enable_server: from.choose("enableServer", kubelet.enable_server, true),
            address: from.choose(
                "address",
                kubelet.address,
                if stand_alone { loopback } else { any },
            ),
            port: from.choose("port", port, 10250),
            read_only_port: from.choose("readOnlyPort", kubelet.read_only_port, 0),
            anonymous: from.choose(
                "authentication.anonymous.enabled",
                authentication.anonymous.enabled,
                false,
            ),
            token_webhook: from.choose(
                "authentication.webhook.enabled",
                authentication.webhook.enabled,
                !stand_alone,
            ),
            token_cache_ttl: from.duration(
                "authentication.webhook.cacheTTL",
                authentication.webhook.cache_ttl,
                120,
            ),
            client_ca_file: from
                .path("authentication.x509.clientCAFile", authentication.x509.client_ca_file),
            authorization_mode: from.choose(mode, written_mode, own_mode.to_owned()),
            authorized_ttl: from.duration(
                "authorization.webhook.cacheAuthorizedTTL",
                authorization.webhook.cache_authorized_ttl,
                300,
            ),
            unauthorized_ttl: from.duration(
                "authorization.webhook.cacheUnauthorizedTTL",
                authorization.webhook.cache_unauthorized_ttl,
                30,
            ),
            debugging_handlers: from.choose(
                "enableDebuggingHandlers",
                kubelet.enable_debugging_handlers,
                true,
            ),
            runtime_request_timeout: from.duration(
                "runtimeRequestTimeout",
                kubelet.runtime_request_timeout,
                120,
            ),
            container_runtime_endpoint: from
                .text("containerRuntimeEndpoint", kubelet.container_runtime_endpoint),
            image_service_endpoint: from
                .text("imageServiceEndpoint", kubelet.image_service_endpoint),
            feature_gates: Setting {
                value: FeatureGates::from_entries(&kubelet.feature_gates),
                origin: gates_origin.unwrap_or(Origin::Default),
            },
            tls_cert_file: from.path("tlsCertFile", kubelet.tls_cert_file),
            tls_private_key_file: from.path("tlsPrivateKeyFile", kubelet.tls_private_key_file),
            tls_cipher_suites: from.choose(
                "tlsCipherSuites",
                kubelet.tls_cipher_suites.filter(|written| !written.is_empty()),
                Vec::new(),
            ),
            tls_min_version: from.choose(
                "tlsMinVersion",
                kubelet.tls_min_version.filter(|written| !written.is_empty()),
                "VersionTLS12".to_owned(),
            ),
            tls_curve_preferences: from.choose(
                "tlsCurvePreferences",
                curves.map(|curves| curves.into_iter().map(|curve| curve.0).collect()),
                Vec::new(),
            ),
            server_tls_bootstrap: from.choose(
                "serverTLSBootstrap",
                kubelet.server_tls_bootstrap,
                false,
            ),
            rotate_certificates: from.choose(
                "rotateCertificates",
                kubelet.rotate_certificates,
                false,
            ),
            healthz_bind_address: from.choose(
                "healthzBindAddress",
                kubelet.healthz_bind_address,
                loopback,
            ),
            healthz_port: from.choose("healthzPort", kubelet.healthz_port, 10248),
            extras,
            extras_tree: extras_tree.clone(),
            ignored,
        }
    }

    /// What contradicts itself, without a look at anything outside.
    pub(super) fn conflicts(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let authorization = match self.authorization() {
            Ok(authorization) => Some(authorization),
            Err(error) => {
                errors.push(error);
                None
            }
        };
        if self.extras.authorize_pods && authorization != Some(Authorization::Webhook) {
            let origin = self.extras_tree.origin("authorizePods");
            errors.push(ConfigError::PodsUnjudged { origin });
        }
        if let Err(all) = self.tls() {
            errors.extend(all);
        }
        let (certificate, key) = (&self.tls_cert_file, &self.tls_private_key_file);
        let half = match (&certificate.value, &key.value) {
            (Some(_), None) => Some((&certificate.origin, "tlsCertFile", "tlsPrivateKeyFile")),
            (None, Some(_)) => Some((&key.origin, "tlsPrivateKeyFile", "tlsCertFile")),
            _ => None,
        };
        if let Some((origin, given, missing)) = half {
            errors.push(ConfigError::HalfPair { given, origin: origin.clone(), missing });
        }
        if !self.enable_server.value || self.stays_closed() {
            return errors;
        }
        let no_api_server = self.kubeconfig.value.is_none();
        if self.token_webhook.value && no_api_server {
            let origin = self.token_webhook.origin.clone();
            errors.push(ConfigError::TokenReviewer { origin });
        }
        if authorization == Some(Authorization::Webhook) && no_api_server {
            let origin = self.authorization_mode.origin.clone();
            errors.push(ConfigError::AccessReviewer { origin });
        }
        let somehow =
            self.client_ca_file.value.is_some() || self.token_webhook.value || self.anonymous.value;
        if !somehow {
            errors.push(ConfigError::NoMethod);
        }
        errors
    }

    /// A node that stands alone and was told of no way to authenticate anybody: its HTTPS side
    /// stays closed, which is no mistake as long as its own runtime is served.
    pub fn stays_closed(&self) -> bool {
        self.stand_alone
            && self.client_ca_file.value.is_none()
            && !self.token_webhook.value
            && !self.anonymous.value
    }

    /// Who decides what a caller may do.
    ///
    /// # Errors
    /// [`ConfigError::NoMode`], [`ConfigError::UnknownMode`].
    pub fn authorization(&self) -> Result<Authorization, ConfigError> {
        let Setting { value, origin } = &self.authorization_mode;
        match value.as_str() {
            "Webhook" => Ok(Authorization::Webhook),
            "AlwaysAllow" => Ok(Authorization::AlwaysAllow),
            "ClientCertificates" => Ok(Authorization::ClientCertificates),
            "" => Err(ConfigError::NoMode),
            mode => Err(ConfigError::UnknownMode { mode: mode.to_owned(), origin: origin.clone() }),
        }
    }

    /// Which TLS is spoken.
    ///
    /// # Errors
    /// [`ConfigError::Tls`]: everything that is wrong.
    pub fn tls(&self) -> Result<Policy, Vec<ConfigError>> {
        let none: &[String] = &[];
        let (version, suites, curves) =
            (&self.tls_min_version, &self.tls_cipher_suites, &self.tls_curve_preferences);
        // One by one, so that each mistake is told with its own place.
        let parts = [
            ("tlsMinVersion", &version.origin, Policy::parse(&version.value, none, none)),
            ("tlsCipherSuites", &suites.origin, Policy::parse("", &suites.value, none)),
            ("tlsCurvePreferences", &curves.origin, Policy::parse("", none, &curves.value)),
        ];
        let errors: Vec<ConfigError> = parts
            .into_iter()
            .flat_map(|(field, origin, part)| {
                let all = part.err().unwrap_or_default().into_iter();
                all.map(move |source| ConfigError::Tls { field, origin: origin.clone(), source })
            })
            .collect();
        match Policy::parse(&version.value, &suites.value, &curves.value) {
            Ok(policy) if errors.is_empty() => Ok(policy),
            _ => Err(errors),
        }
    }

    /// Where HTTPS is served.
    pub fn bind(&self) -> SocketAddr {
        SocketAddr::new(self.address.value, self.port.value)
    }

    /// Where health pages for everybody are served: only by a flag. The port in the kubelet's file
    /// is the kubelet's own, which most likely runs beside us.
    pub fn healthz(&self) -> Option<SocketAddr> {
        let wanted =
            self.healthz_port.value != 0 && matches!(self.healthz_port.origin, Origin::Flag(_));
        wanted.then(|| SocketAddr::new(self.healthz_bind_address.value, self.healthz_port.value))
    }

    /// The folder of archives.
    pub fn checkpoints(&self) -> PathBuf {
        self.root_dir.value.join(CHECKPOINTS)
    }

    /// The pair of `serverTLSBootstrap`, if it is to be served.
    pub(super) fn bootstrapped(&self) -> Option<PathBuf> {
        (self.server_tls_bootstrap.value && self.tls_cert_file.value.is_none())
            .then(|| self.cert_dir.value.join(BOOTSTRAPPED))
    }

    /// How the server is to be.
    ///
    /// # Errors
    /// As [`load`](super::load) has already found them.
    pub fn options(&self) -> Result<Options, Vec<ConfigError>> {
        let authorization = match self.authorization().map_err(|error| vec![error])? {
            Authorization::ClientCertificates => AuthorizationMode::ClientCertificates,
            Authorization::AlwaysAllow => AuthorizationMode::AlwaysAllow,
            Authorization::Webhook => AuthorizationMode::Webhook,
        };
        // Certificate and key are in one file there, and a kubelet replaces it.
        let bootstrapped = self.bootstrapped().filter(|pair| pair.exists());
        let pair =
            |given: &Setting<Option<PathBuf>>| given.value.clone().or_else(|| bootstrapped.clone());
        Ok(Options {
            bind: self.bind(),
            root_dir: self.root_dir.value.clone(),
            cert_dir: Some(self.cert_dir.value.clone()),
            tls_cert_file: pair(&self.tls_cert_file),
            tls_private_key_file: pair(&self.tls_private_key_file),
            tls: self.tls()?,
            client_ca_file: self.client_ca_file.value.clone(),
            anonymous: self.anonymous.value,
            authorization,
            authorize_pods: self.extras.authorize_pods,
            kubernetes_version: self.extras.kubernetes_version,
            feature_gates: self.feature_gates.value,
            debugging_handlers: self.debugging_handlers.value,
            runtime_request_timeout: self.runtime_request_timeout.value,
            checkpoints: Settings {
                at_once: self.extras.checkpoints_at_once,
                free_reserve: self.extras.checkpoints_free_reserve,
                ..Settings::default()
            },
            healthz_bind: self.healthz(),
            audit_log: self.extras.audit_log.clone(),
            limits: Limits { connections: self.extras.max_connections, ..Limits::default() },
            ..Options::new(self.node_name.value.clone())
        })
    }

    /// What a reader should know that is no mistake, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.ignored.is_empty() {
            let names: Vec<&str> = self.ignored.iter().map(|one| one.path.as_str()).collect();
            notes.push(format!("ignored, for they mean nothing here: {}", names.join(", ")));
        }
        if self.read_only_port.value != 0 {
            notes.push(format!(
                "readOnlyPort {} ({}) is never served: nobody takes a checkpoint unauthenticated",
                self.read_only_port.value, self.read_only_port.origin
            ));
        }
        if let Origin::File { .. } = &self.healthz_port.origin {
            notes.push(format!(
                "healthzPort {} ({}) is the kubelet's own: --healthz-port opens one here",
                self.healthz_port.value, self.healthz_port.origin
            ));
        }
        if let Some(pair) = self.bootstrapped() {
            notes.push(match pair.exists() {
                true => format!(
                    "serverTLSBootstrap: {} is served, which a kubelet on this node keeps",
                    pair.display()
                ),
                false => format!(
                    "serverTLSBootstrap: no certificate is asked for here, and no kubelet has put \
                     one at {}: a self-signed one is served",
                    pair.display()
                ),
            });
        }
        let everybody = self.authorization().ok() != Some(Authorization::Webhook);
        if self.anonymous.value && everybody {
            notes.push(format!(
                "authentication.anonymous.enabled ({}): whoever reaches the port can read the \
                 memory of every container",
                self.anonymous.origin
            ));
        }
        if let Ok(policy) = self.tls()
            && !policy.left_out().is_empty()
        {
            notes.push(format!("not in our TLS library: {}", policy.left_out().join(", ")));
        }
        notes
    }
}
