//! From files and flags to what is in force.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cryopod_kubelet::AuthorizationMode;
use cryopod_kubelet::config::{self, ConfigErrors, Effective, Flags};
use cryopod_testkit::api_server::{Access, Account, ApiServer, Review};
use tempfile::TempDir;

use crate::cluster::bearing;
use crate::stage::Stage;

/// What every kubelet's file begins with.
const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
const OURS: &str = "apiVersion: config.cryopod/v1alpha1\nkind: CryopodConfiguration\n";

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.at(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn with(config: &Path) -> Flags {
    let mut flags = Flags::new("Host.Name");
    flags.config = Some(config.to_owned());
    flags
}

/// With a document of ours.
fn with_own(own: &Path) -> Flags {
    let mut flags = Flags::new("n");
    flags.cryopod_config = Some(own.to_owned());
    flags
}

/// What is in force, and what is wrong, each in one line.
fn load(flags: &Flags) -> (Effective, Vec<String>) {
    let (effective, errors) = config::load(flags);
    (effective, errors.into_iter().map(|error| ConfigErrors(vec![error]).to_string()).collect())
}

fn value(effective: &Effective, name: &str) -> (String, String) {
    let rows = effective.rows();
    let row = rows.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no row {name}"));
    (row.text(), row.origin.clone())
}

#[track_caller]
fn assert_rows(effective: &Effective, rows: &[(&str, &str, &str)]) {
    for (name, wanted, origin) in rows {
        let found = value(effective, name);
        assert_eq!(found, ((*wanted).to_owned(), (*origin).to_owned()), "{name}");
    }
}

#[test]
fn a_node_that_stands_alone_is_on_loopback_and_client_certificates_decide() {
    let mut flags = Flags::new("Host.Name");
    let (effective, errors) = load(&flags);
    assert_eq!(errors, [""; 0]);
    assert!(effective.stays_closed());
    assert_rows(
        &effective,
        &[
            ("address", "127.0.0.1", "default"),
            ("port", "10250", "default"),
            ("authentication.anonymous.enabled", "false", "default"),
            ("authentication.webhook.enabled", "false", "default"),
            ("authorization.mode", "ClientCertificates", "default"),
            ("--node-name", "host.name", "default"),
            ("--root-dir", "/var/lib/kubelet", "default"),
            ("--cert-dir", "/var/lib/kubelet/pki", "default"),
        ],
    );
    flags.set("--client-ca-file", "authentication.x509.clientCAFile", Some("/ca"));
    let (effective, errors) = load(&flags);
    assert_eq!(errors, [""; 0]);
    assert!(!effective.stays_closed());
    let options = effective.options().unwrap();
    assert_eq!(options.authorization, AuthorizationMode::ClientCertificates);
    assert_eq!(options.client_ca_file.as_deref(), Some(Path::new("/ca")));
}

#[test]
fn with_a_file_the_defaults_are_those_of_the_kubelets_file() {
    let files = Files::new();
    let mut flags = with(&files.write("k", HEAD));
    flags.kubeconfig = Some("/kubeconfig".into());
    let (effective, errors) = load(&flags);
    assert_eq!(errors, [""; 0]);
    for (name, wanted) in [
        ("enableServer", "true"),
        ("address", "0.0.0.0"),
        ("port", "10250"),
        ("readOnlyPort", "0"),
        ("authentication.anonymous.enabled", "false"),
        ("authentication.webhook.enabled", "true"),
        ("authentication.webhook.cacheTTL", "2m0s"),
        ("authentication.x509.clientCAFile", "-"),
        ("authorization.mode", "Webhook"),
        ("authorization.webhook.cacheAuthorizedTTL", "5m0s"),
        ("authorization.webhook.cacheUnauthorizedTTL", "30s"),
        ("enableDebuggingHandlers", "true"),
        ("runtimeRequestTimeout", "2m0s"),
        ("featureGates.ContainerCheckpoint", "true"),
        ("tlsMinVersion", "VersionTLS12"),
        ("tlsCipherSuites", "-"),
        ("serverTLSBootstrap", "false"),
        ("rotateCertificates", "false"),
        ("healthzBindAddress", "127.0.0.1"),
        ("healthzPort", "10248"),
    ] {
        assert_eq!(value(&effective, name), (wanted.to_owned(), "default".to_owned()), "{name}");
    }
    assert_eq!(value(&effective, "--kubeconfig").1, "--kubeconfig");
    assert_eq!(effective.options().unwrap().authorization, AuthorizationMode::Webhook);
}

#[test]
fn every_field_is_taken_from_the_file_with_its_line() {
    let files = Files::new();
    let text = format!(
        "{HEAD}\
enableServer: true
address: 10.0.0.1
port: 20250
authentication:
  anonymous: {{enabled: true}}
  webhook:
    enabled: false
    cacheTTL: 0s
  x509:
    clientCAFile: /pki/ca.crt
authorization:
  mode: AlwaysAllow
  webhook:
    cacheAuthorizedTTL: 8m
    cacheUnauthorizedTTL: 45s
enableDebuggingHandlers: false
runtimeRequestTimeout: 15m
containerRuntimeEndpoint: unix:///run/c.sock
imageServiceEndpoint: \"\"
featureGates:
  ContainerCheckpoint: false
  RotateKubeletServerCertificate: true
tlsCertFile: /crt
tlsPrivateKeyFile: /key
tlsMinVersion: VersionTLS13
tlsCipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
tlsCurvePreferences: [29, 23]
serverTLSBootstrap: true
rotateCertificates: yes
healthzPort: 10248
healthzBindAddress: ::1
readOnlyPort: 10255
evictionHard:
  memory.available: 100Mi
staticPodPath: /etc/kubernetes/manifests
"
    );
    let config = files.write("k.yaml", &text);
    let (effective, errors) = load(&with(&config));
    assert_eq!(errors, [""; 0]);
    let line = |number: u32| format!("{}:{number}", config.display());
    for (name, wanted, at) in [
        ("address", "10.0.0.1", 4),
        ("port", "20250", 5),
        ("authentication.anonymous.enabled", "true", 7),
        ("authentication.webhook.enabled", "false", 9),
        ("authentication.x509.clientCAFile", "/pki/ca.crt", 12),
        ("authorization.mode", "AlwaysAllow", 14),
        ("authorization.webhook.cacheAuthorizedTTL", "8m0s", 16),
        ("authorization.webhook.cacheUnauthorizedTTL", "45s", 17),
        ("enableDebuggingHandlers", "false", 18),
        ("runtimeRequestTimeout", "15m0s", 19),
        ("containerRuntimeEndpoint", "unix:///run/c.sock", 20),
        ("featureGates.ContainerCheckpoint", "false", 23),
        ("tlsCertFile", "/crt", 25),
        ("tlsPrivateKeyFile", "/key", 26),
        ("tlsMinVersion", "VersionTLS13", 27),
        ("tlsCipherSuites", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", 28),
        ("tlsCurvePreferences", "29,23", 29),
        ("serverTLSBootstrap", "true", 30),
        ("rotateCertificates", "true", 31),
        ("healthzPort", "10248", 32),
        ("healthzBindAddress", "::1", 33),
        ("readOnlyPort", "10255", 34),
    ] {
        assert_eq!(value(&effective, name), (wanted.to_owned(), line(at)), "{name}");
    }
    // Zero and empty are nothing said.
    for name in ["authentication.webhook.cacheTTL", "imageServiceEndpoint"] {
        assert_eq!(value(&effective, name).1, "default", "{name}");
    }
    let options = effective.options().unwrap();
    assert_eq!(options.bind.to_string(), "10.0.0.1:20250");
    assert_eq!(options.healthz_bind, None, "that port is the kubelet's");
    let mut flags = with(&config);
    flags.set("--healthz-port", "healthzPort", Some(10258));
    let healthz = load(&flags).0.options().unwrap().healthz_bind.unwrap();
    assert_eq!(healthz.to_string(), "[::1]:10258");
    assert!(options.anonymous && !options.debugging_handlers);
    assert!(!options.feature_gates.container_checkpoint);
    assert_eq!(options.runtime_request_timeout, Duration::from_secs(900));
    let notes = effective.notes();
    let ignored = "ignored, for they mean nothing here: evictionHard, staticPodPath, \
                   featureGates.RotateKubeletServerCertificate";
    assert_eq!(notes[0], ignored, "in one line");
    assert!(notes[1].starts_with("readOnlyPort 10255 ("), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("can read the memory")), "{notes:?}");
}

#[test]
fn json_is_taken_as_yaml_is() {
    let files = Files::new();
    let config = files.write(
        "k.json",
        r#"{
  "kind": "KubeletConfiguration",
  "apiVersion": "kubelet.config.k8s.io/v1beta1",
  "authentication": {"webhook": {"enabled": false}, "x509": {"clientCAFile": "/ca"}},
  "authorization": {"mode": "ClientCertificates"},
  "port": 1
}"#,
    );
    let (effective, errors) = load(&with(&config));
    assert_eq!(errors, [""; 0]);
    assert_eq!(value(&effective, "port"), ("1".into(), format!("{}:6", config.display())));
}

#[test]
fn drop_ins_are_laid_over_the_file_in_order_and_flags_over_both() {
    let files = Files::new();
    let config = files.write(
        "k",
        &format!(
            "{HEAD}port: 1\naddress: 10.0.0.1\nauthorization: {{mode: AlwaysAllow}}\n\
             tlsCipherSuites: [TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384]\n\
             featureGates: {{ContainerCheckpoint: false, AllBeta: true}}\n"
        ),
    );
    let first = files.write("d/10.conf", &format!("{HEAD}port: 2\nreadOnlyPort: 0\n"));
    let second = files.write(
        "d/9/x.conf",
        &format!(
            "{HEAD}port: 3\nauthorization: {{webhook: {{cacheAuthorizedTTL: 1m}}}}\n\
             tlsCipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n"
        ),
    );
    files.write("d/99.conf.bak", "not: [yaml");
    let mut flags = with(&config);
    flags.config_dir = Some(files.at("d"));
    flags.feature_gates = Some("ContainerCheckpoint=true".into());
    flags.set("--anonymous-auth", "authentication.anonymous.enabled", Some(true));
    flags.set("--authentication-token-webhook", "authentication.webhook.enabled", Some(false));
    let (effective, errors) = load(&flags);
    assert_eq!(errors, [""; 0]);
    let (config, second) = (config.display(), second.display());
    assert_rows(
        &effective,
        &[
            ("port", "3", &format!("{second}:3")),
            ("address", "10.0.0.1", &format!("{config}:4")),
            ("authorization.mode", "AlwaysAllow", &format!("{config}:5")),
            ("authorization.webhook.cacheAuthorizedTTL", "1m0s", &format!("{second}:4")),
            ("tlsCipherSuites", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", &format!("{second}:5")),
            ("featureGates.ContainerCheckpoint", "true", "--feature-gates"),
            ("authentication.anonymous.enabled", "true", "--anonymous-auth"),
            ("readOnlyPort", "0", &format!("{}:4", first.display())),
        ],
    );
    // A drop-in that cannot be read is an error, not a gap.
    std::fs::write(files.at("d/20.conf"), "port: 4\n").unwrap();
    let (_, errors) = load(&flags);
    assert_eq!(errors.len(), 1);
    assert!(errors[0].contains("20.conf:1: this is apiVersion \"\", kind \"\""), "{errors:?}");
    flags.config_dir = Some(files.at("nowhere"));
    assert!(load(&flags).1[0].starts_with("cannot read "));
}

#[test]
fn a_flag_may_say_port_0_and_a_file_may_not() {
    let files = Files::new();
    let config = files.write("k", &format!("{HEAD}port: 0\naddress: \"\"\n"));
    let mut flags = with(&config);
    flags.kubeconfig = Some("/k".into());
    assert_rows(
        &load(&flags).0,
        &[("port", "10250", "default"), ("address", "0.0.0.0", "default")],
    );
    flags.set("--port", "port", Some(0));
    assert_rows(&load(&flags).0, &[("port", "0", "--port")]);
}

#[test]
fn every_mistake_in_a_file_is_told_with_its_line() {
    let files = Files::new();
    let text = format!(
        "{HEAD}\
port: 70000
address: localhost
authentication:
  anonymous:
    enabled: maybe
  webhook: true
runtimeRequestTimeout: 5 minutes
authorization:
  mode: RBAC
  webhook:
    cacheAuthorizedTTL: 30
tlsMinVersion: VersionTLS11
tlsCipherSuites:
- TLS_RSA_WITH_AES_128_GCM_SHA256
- 7
tlsCertFile: /crt
featureGates: {{ContainerCheckpoint: 1}}
"
    );
    let config = files.write("k", &text);
    let mut flags = with(&config);
    flags.kubeconfig = Some("/k".into());
    let (_, errors) = load(&flags);
    let at = |line: u32, rest: &str| format!("{}:{line}: {rest}", config.display());
    let path = config.display();
    assert_eq!(
        errors,
        [
            at(3, "port: 70000 is not a port: 0 to 65535"),
            at(4, "address: \"localhost\" is not an IP address such as 0.0.0.0 or ::"),
            at(
                7,
                "authentication.anonymous.enabled: invalid type: string \"maybe\", expected true \
                 or false"
            ),
            at(
                8,
                "authentication.webhook: invalid type: boolean `true`, expected struct TokenWebhook"
            ),
            at(
                9,
                "runtimeRequestTimeout: \"5 minutes\" is not a duration: write it as 5m0s, 90s or \
                 1h30m"
            ),
            at(
                13,
                "authorization.webhook.cacheAuthorizedTTL: invalid type: integer `30`, expected a \
                 duration such as 5m0s or 90s"
            ),
            at(17, "tlsCipherSuites.1: invalid type: integer `7`, expected a string"),
            at(
                19,
                "featureGates.ContainerCheckpoint: invalid type: integer `1`, expected a boolean"
            ),
            format!(
                "unknown authorization mode RBAC ({path}:11): Webhook, AlwaysAllow or \
                 ClientCertificates"
            ),
            format!(
                "tlsMinVersion ({path}:14): VersionTLS11 is broken and not served: the least is \
                 VersionTLS12 (or VersionTLS13)"
            ),
            format!("tlsCertFile ({path}:18) is given without tlsPrivateKeyFile: TLS needs both"),
        ]
    );
}

#[test]
fn a_file_of_another_kind_is_refused_with_what_is_wanted() {
    let files = Files::new();
    let wanted = "wanted is apiVersion kubelet.config.k8s.io/v1beta1, kind KubeletConfiguration";
    for (text, start) in [
        ("apiVersion: v1\nkind: Pod\n", ":1: this is apiVersion \"v1\", kind \"Pod\"; "),
        (
            "apiVersion: kubelet.config.k8s.io/v1\nkind: KubeletConfiguration\n",
            ":1: this is apiVersion \"kubelet.config.k8s.io/v1\", kind \"KubeletConfiguration\"; ",
        ),
        ("port: 1\n", ":1: this is apiVersion \"\", kind \"\"; "),
        ("[1, 2]\n", ":1: this is apiVersion \"\", kind \"\"; "),
        ("just words\n", ":1: this is apiVersion \"\", kind \"\"; "),
    ] {
        let config = files.write("k", text);
        let mut flags = with(&config);
        flags.kubeconfig = Some("/k".into());
        let (_, errors) = load(&flags);
        assert_eq!(errors, [format!("{}{start}{wanted}", config.display())], "{text}");
    }
    let said = |path: &Path| {
        let mut flags = with(path);
        flags.kubeconfig = Some("/k".into());
        let (_, errors) = load(&flags);
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors[0].clone()
    };
    assert!(said(&files.write("k", "# nothing\n")).contains("is empty: it needs at least"));
    assert!(said(&files.write("k", &format!("{HEAD}port: [\n"))).contains("neither YAML nor JSON"));
    let twice = said(&files.write("k", &format!("{HEAD}port: 1\nport: 2\n")));
    assert!(twice.contains("duplicate") && twice.contains("k:4: "), "{twice}");
    assert!(said(&files.at("missing")).ends_with("No such file or directory (os error 2)"));
    assert!(said(files.0.path()).contains("cannot read"));
    std::fs::write(files.at("bytes"), b"\xff\xfe\xfd").unwrap();
    assert!(said(&files.at("bytes")).contains("is not UTF-8"));
    std::fs::write(files.at("large"), vec![b'#'; 5 << 20]).unwrap();
    assert!(said(&files.at("large")).contains("larger than 4194304 bytes"));
    assert!(said(Path::new("/dev/zero")).contains("larger than 4194304 bytes"));
}

#[test]
fn a_start_needs_a_way_to_authenticate_and_somebody_to_decide() {
    let files = Files::new();
    let config = files.write("k", HEAD);
    let (_, errors) = load(&with(&config));
    assert_eq!(
        errors,
        [
            "authentication.webhook.enabled (default) asks the API server about tokens: give \
             --kubeconfig, or --authentication-token-webhook=false",
            "authorization.mode Webhook (default) asks the API server who may: give --kubeconfig, \
             or --authorization-mode=ClientCertificates to let every client certificate of the \
             client CA in",
        ]
    );
    let off = "authentication: {webhook: {enabled: false}}\nauthorization: {mode: AlwaysAllow}\n";
    let config = files.write("k", &format!("{HEAD}{off}"));
    let (_, errors) = load(&with(&config));
    assert_eq!(errors.len(), 1);
    assert!(errors[0].starts_with("no authentication method configured: "), "{errors:?}");
    let mut flags = with(&config);
    flags.set("--client-ca-file", "authentication.x509.clientCAFile", Some("/ca"));
    assert_eq!(load(&flags).1, [""; 0]);
    flags.set("--authorization-mode", "authorization.mode", Some(""));
    assert!(load(&flags).1[0].starts_with("no authorization mode specified: "));
    // Where nothing is served, nothing is missing.
    let config = files.write("k", &format!("{HEAD}enableServer: false\n"));
    assert_eq!(load(&with(&config)).1, [""; 0]);
}

#[test]
fn the_mode_webhook_needs_an_api_server_also_without_a_file() {
    let mut flags = Flags::new("n");
    flags.set("--client-ca-file", "authentication.x509.clientCAFile", Some("/ca"));
    flags.set("--authorization-mode", "authorization.mode", Some("Webhook"));
    let (_, errors) = load(&flags);
    assert!(errors[0].starts_with("authorization.mode Webhook (--authorization-mode)"));
}

#[test]
fn our_own_document_stands_behind_the_kubelets_or_in_its_own_file() {
    let files = Files::new();
    let kubelet = format!("{HEAD}enableServer: false\n");
    let config = files.write("k", &format!("{kubelet}---\n{OURS}maxConnections: 7\n"));
    let (effective, errors) = load(&with(&config));
    assert_eq!(errors, [""; 0]);
    let origin = format!("{}:7", config.display());
    assert_rows(&effective, &[("maxConnections", "7", &origin)]);
    assert_eq!(effective.options().unwrap().limits.connections, 7);

    let own = files.write("o", &format!("{OURS}maxConnections: 9\n"));
    let mut flags = with(&config);
    flags.cryopod_config = Some(own.clone());
    let (effective, _) = load(&flags);
    assert_rows(&effective, &[("maxConnections", "9", &format!("{}:3", own.display()))]);
    flags.extra("--max-connections", "maxConnections", Some(11));
    let (effective, _) = load(&flags);
    assert_rows(&effective, &[("maxConnections", "11", "--max-connections")]);
    // It does not make a node of a cluster.
    flags.config = None;
    assert!(load(&flags).0.stand_alone);
}

#[test]
fn a_field_of_ours_that_means_nothing_is_an_error() {
    let files = Files::new();
    let own = files.write("o", &format!("{OURS}maxConections: 9\n"));
    let flags = with_own(&own);
    let (_, errors) = load(&flags);
    assert_eq!(errors.len(), 1);
    let said = "o:3: maxConections is no field of CryopodConfiguration (known: ";
    assert!(errors[0].contains(said) && errors[0].contains("maxConnections"), "{errors:?}");
    for (text, said) in [
        (format!("{OURS}---\n{OURS}"), "a second document of kind CryopodConfiguration"),
        (HEAD.to_owned(), "wanted is apiVersion config.cryopod/v1alpha1"),
        (
            format!("{OURS}kubernetesVersion: 1.30\n"),
            "kubernetesVersion: invalid type: floating point `1.3`, expected a version in quotes, \
             such as \"1.36\"",
        ),
        (format!("{OURS}kubernetesVersion: \"1.20\"\n"), "o:3: kubernetesVersion: "),
        (format!("{OURS}authorizePods: true\n"), "it needs --authorization-mode=Webhook"),
        (format!("{OURS}maxConnections: many\n"), "maxConnections: invalid type: string"),
    ] {
        let own = files.write("o", &text);
        let flags = with_own(&own);
        let (_, errors) = load(&flags);
        assert!(errors.len() == 1 && errors[0].contains(said), "{errors:?}");
    }
    let config = files.write("k", &format!("{HEAD}enableServer: false\n---\na: 1\n"));
    assert!(load(&with(&config)).1[0].contains("wanted is apiVersion config.cryopod"));
}

#[test]
fn the_certificate_that_a_kubelet_bootstraps_is_served_when_it_is_there() {
    let files = Files::new();
    let text = format!("{HEAD}serverTLSBootstrap: true\nauthorization: {{mode: AlwaysAllow}}\n");
    let mut flags = with(&files.write("k", &text));
    flags.kubeconfig = Some("/k".into());
    flags.cert_dir = Some(files.at("pki"));
    let (effective, errors) = load(&flags);
    assert_eq!(errors, [""; 0]);
    assert_eq!(effective.options().unwrap().tls_cert_file, None);
    assert!(effective.notes()[0].ends_with("a self-signed one is served"));
    let pair = files.write("pki/kubelet-server-current.pem", "");
    let options = effective.options().unwrap();
    assert_eq!(options.tls_cert_file.as_ref(), Some(&pair));
    assert_eq!(options.tls_private_key_file.as_ref(), Some(&pair));
    assert!(effective.notes()[0].contains("is served, which a kubelet on this node keeps"));
}

#[tokio::test]
async fn a_kubelets_file_with_a_kubeconfig_asks_the_api_server() {
    let files = Files::new();
    let api = ApiServer::start().await.unwrap();
    api.know("good", Account { name: "robot".to_owned(), ..Account::default() });
    api.rule(|spec| match spec["user"] == "robot" {
        true => Access::Allow,
        false => Access::Deny,
    });
    let mut flags = with(&files.write("k", HEAD));
    flags.kubeconfig = Some(api.write_kubeconfig(files.0.path()).unwrap());
    flags.node_name = Some("Node-7".to_owned());
    let (effective, errors) = load(&flags);
    assert_eq!(errors, [""; 0]);
    let delegates = effective.delegates().await.unwrap();
    let options = effective.options().unwrap();
    let stage = Stage::with_delegates(delegates, |on_stage| {
        on_stage.node_name = options.node_name;
        on_stage.authorization = options.authorization;
    })
    .await;
    assert_eq!(bearing(&stage.stranger(), "good").await.status, 200);
    assert_eq!(bearing(&stage.stranger(), "bad").await.status, 401);
    // A certificate of the client CA is no right any more.
    assert_eq!(stage.client().post(crate::cluster::COUNTER).await.status, 403);
    let asked = api.asked(Review::Access);
    assert_eq!(asked[0]["resourceAttributes"]["name"], "node-7");

    // Without the judges such a server does not start.
    let (_, server) = crate::start::start(|_, options| {
        options.authorization = AuthorizationMode::Webhook;
    })
    .await;
    let said = "no client provided, cannot use webhook authorization";
    assert_eq!(server.unwrap_err().to_string(), said);
}
