//! From the flags of `serve` to what is in force.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use cryopod_kubelet::config::{self, ConfigErrors, Effective, Flags};

use crate::args::{Bind, ServeArgs};

/// What to say when there would be nothing to serve.
pub(crate) const NOTHING_TO_DO: &str = "nothing to do: the runtime is another's, and the HTTPS \
    API stays closed; give --client-ca-file, so that a caller can be authenticated";

/// Neither a runtime of our own nor an HTTPS API.
pub(crate) fn has_nothing_to_do(effective: &Effective) -> bool {
    effective.container_runtime_endpoint.value.is_some()
        && (effective.stays_closed() || !effective.enable_server.value)
}

/// What is in force.
///
/// # Errors
/// Everything that is wrong with files and flags, at once.
pub(crate) fn load(args: &ServeArgs) -> anyhow::Result<Effective> {
    let (effective, errors) = config::load(&flags(args)?);
    if !errors.is_empty() {
        return Err(ConfigErrors(errors).into());
    }
    Ok(effective)
}

/// The flags, as the configuration knows them.
pub(crate) fn flags(args: &ServeArgs) -> anyhow::Result<Flags> {
    let mut flags = Flags::new(host_name());
    flags.config.clone_from(&args.config);
    flags.config_dir.clone_from(&args.config_dir);
    flags.cryopod_config.clone_from(&args.cryopod_config);
    flags.kubeconfig.clone_from(&args.kubeconfig);
    flags.root_dir.clone_from(&args.root_dir);
    flags.cert_dir.clone_from(&args.cert_dir);
    flags.node_name.clone_from(&args.node_name);
    flags.feature_gates.clone_from(&args.feature_gates);
    if let Some(Bind { address, port }) = args.address {
        flags.set("--address", "address", Some(address.to_string()));
        flags.set("--address", "port", port);
        if let (Some(first), Some(second)) = (port, args.port)
            && first != second
        {
            return Err(anyhow!("--address names port {first} and --port {second}: give one"));
        }
    }
    flags.set("--port", "port", args.port);
    let x509 = "authentication.x509.clientCAFile";
    flags.set("--client-ca-file", x509, args.client_ca_file.clone());
    flags.set("--tls-cert-file", "tlsCertFile", args.tls_cert_file.clone());
    flags.set("--tls-private-key-file", "tlsPrivateKeyFile", args.tls_private_key_file.clone());
    flags.set("--tls-cipher-suites", "tlsCipherSuites", args.tls_cipher_suites.clone());
    flags.set("--tls-min-version", "tlsMinVersion", args.tls_min_version.clone());
    flags.set("--anonymous-auth", "authentication.anonymous.enabled", args.anonymous_auth);
    let webhook = "authentication.webhook.enabled";
    flags.set("--authentication-token-webhook", webhook, args.authentication_token_webhook);
    flags.set(
        "--authentication-token-webhook-cache-ttl",
        "authentication.webhook.cacheTTL",
        args.authentication_token_webhook_cache_ttl.clone(),
    );
    flags.set("--authorization-mode", "authorization.mode", args.authorization_mode.clone());
    flags.set(
        "--authorization-webhook-cache-authorized-ttl",
        "authorization.webhook.cacheAuthorizedTTL",
        args.authorization_webhook_cache_authorized_ttl.clone(),
    );
    flags.set(
        "--authorization-webhook-cache-unauthorized-ttl",
        "authorization.webhook.cacheUnauthorizedTTL",
        args.authorization_webhook_cache_unauthorized_ttl.clone(),
    );
    let handlers = "enableDebuggingHandlers";
    flags.set("--enable-debugging-handlers", handlers, args.enable_debugging_handlers);
    let endpoint = args.container_runtime_endpoint.clone();
    flags.set("--container-runtime-endpoint", "containerRuntimeEndpoint", endpoint);
    let timeout = args.runtime_request_timeout.clone();
    flags.set("--runtime-request-timeout", "runtimeRequestTimeout", timeout);
    let at_once = args.checkpoints_at_once.map(NonZeroUsize::get);
    flags.extra("--checkpoints-at-once", "checkpointsAtOnce", at_once);
    let reserve = args.checkpoints_free_reserve.map(|bytes| bytes.0);
    flags.extra("--checkpoints-free-reserve", "checkpointsFreeReserve", reserve);
    let path = |path: &Option<PathBuf>| -> anyhow::Result<Option<String>> {
        let text = path.as_ref().map(|path| path.to_str().context("a path is not UTF-8"));
        Ok(text.transpose()?.map(str::to_owned))
    };
    flags.extra("--retention-policy", "retentionPolicy", path(&args.retention_policy)?);
    flags.extra("--audit-log", "auditLog", path(&args.audit_log)?);
    flags.extra("--otlp-endpoint", "otlpEndpoint", args.otlp_endpoint.clone());
    flags.set("--healthz-port", "healthzPort", args.healthz_port);
    let healthz = args.healthz_bind_address.map(|address| address.to_string());
    flags.set("--healthz-bind-address", "healthzBindAddress", healthz);
    flags.extra("--authorize-pods", "authorizePods", args.authorize_pods);
    let version = args.kubernetes_version.clone();
    flags.extra("--kubernetes-version", "kubernetesVersion", version);
    Ok(flags)
}

/// The kubelet's rule: the host's name in lower case.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().trim().to_lowercase()
}
