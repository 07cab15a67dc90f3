//! `serve` as a kubelet's file has it, and `config check`, which explains it.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use cryopod_cri::server::{self, Nothing};
use serde_json::Value;

use crate::certificates::Certificates;
use crate::client::post;
use crate::door::told_address;
use crate::harness::{cryopod, stderr, stdout, wait_for};
use crate::statuses::{Ended, Fake};

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.at(name), text).unwrap();
        self.text(name)
    }

    /// The folders and the socket of a server of its own, nothing of which is there yet.
    fn places(&self) -> Vec<String> {
        let options = ["--root-dir", "--state-dir", "--run-dir", "--log-dir", "--socket"];
        let place = |option: &str| [option.to_owned(), self.text(&option[2..])];
        options.into_iter().flat_map(place).collect()
    }

    fn count(&self) -> usize {
        std::fs::read_dir(self.0.path()).unwrap().count()
    }
}

/// The report of `config check` as JSON, with its exit code.
fn check(files: &Files, more: &[&str]) -> (i32, Value) {
    let output =
        cryopod(["config", "check", "--output", "json"]).args(files.places()).args(more).output();
    let output = output.unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", stdout(&output), stderr(&output)));
    (output.status.code().unwrap(), report)
}

fn problems(report: &Value) -> Vec<String> {
    let texts = report["problems"].as_array().unwrap().iter();
    texts.map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn settings(report: &Value) -> BTreeMap<String, (Value, String)> {
    let rows = report["settings"].as_array().unwrap().iter();
    rows.map(|row| {
        let text = |key: &str| row[key].as_str().unwrap().to_owned();
        (text("name"), (row["value"].clone(), text("origin")))
    })
    .collect()
}

#[test]
fn check_says_what_is_in_force_and_where_it_comes_from_and_changes_nothing() {
    let files = Files::new();
    let (code, report) = check(&files, &["--address", "127.0.0.1:0"]);
    assert_eq!((code, &report["ok"]), (0, &Value::Bool(true)), "{report:#}");
    let all = settings(&report);
    assert_eq!(all["address"], ("127.0.0.1".into(), "--address".into()));
    assert_eq!(all["authorization.mode"], ("ClientCertificates".into(), "default".into()));
    assert!(report["notes"][0].as_str().unwrap().contains("stays closed"), "{report:#}");
    assert_eq!(files.count(), 0, "nothing was made");

    let ca = files.write("ca", &Certificates::make().unwrap().authority);
    let config = files.write(
        "kubelet.yaml",
        &format!(
            "{HEAD}port: 0\nauthentication:\n  webhook: {{enabled: false}}\nauthorization:\n  \
             mode: AlwaysAllow\nreadOnlyPort: 10255\nevictionHard: {{}}\n"
        ),
    );
    let flags = ["--config", &config, "--client-ca-file", &ca, "--port", "0"];
    let (code, report) = check(&files, &flags);
    assert_eq!(code, 0, "{report:#}");
    let all = settings(&report);
    assert_eq!(all["authorization.mode"], ("AlwaysAllow".into(), format!("{config}:7")));
    assert_eq!(all["port"], (0.into(), "--port".into()));
    assert_eq!(all["address"], ("0.0.0.0".into(), "default".into()));
    assert_eq!(all["authentication.x509.clientCAFile"].1, "--client-ca-file");
    let notes = report["notes"].to_string();
    assert!(notes.contains("mean nothing here: evictionHard"), "{notes}");
    assert!(notes.contains("readOnlyPort 10255"), "{notes}");
    assert_eq!(files.count(), 2, "nothing was made");

    let output = cryopod(["config", "check"]).args(files.places()).args(flags).output().unwrap();
    let text = stdout(&output);
    assert!(text.starts_with("SETTING"), "{text}");
    let row = text.lines().find(|line| line.starts_with("authorization.mode ")).unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words, ["authorization.mode", "AlwaysAllow", &format!("{config}:7")]);
    assert!(text.ends_with("A start would succeed.\n"), "{text}");
}

#[test]
fn check_names_every_reason_why_a_start_would_fail() {
    let files = Files::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let empty = files.write("empty", "");
    let config = files.write(
        "kubelet.yaml",
        &format!(
            "{HEAD}address: 127.0.0.1\nport: {}\ntlsMinVersion: VersionTLS10\n\
             authentication: {{x509: {{clientCAFile: {empty}}}}}\n\
             containerRuntimeEndpoint: unix://{}\ntlsCertFile: {empty}\n\
             runtimeRequestTimeout: soon\n",
            address.port(),
            files.text("no.sock"),
        ),
    );
    // A file where the root folder should be.
    files.write("root-dir", "");
    let kubeconfig = files.write("kubeconfig", "apiVersion: v1\nkind: Config\n");
    let flags = ["--config", &config, "--kubeconfig", &kubeconfig, "--authorization-mode", "RBAC"];
    let (code, report) = check(&files, &flags);
    assert_eq!((code, &report["ok"]), (1, &Value::Bool(false)));
    let problems = problems(&report);
    let wanted = [
        format!("{config}:9: runtimeRequestTimeout: \"soon\" is not a duration"),
        "unknown authorization mode RBAC (--authorization-mode)".to_owned(),
        format!("tlsMinVersion ({config}:5): VersionTLS10 is broken"),
        format!("tlsCertFile ({config}:8) is given without tlsPrivateKeyFile"),
        format!("client CA file {empty} holds no certificate"),
        format!("cannot listen on {address}, where another listens (a kubelet?)"),
        kubeconfig.clone(),
        format!("container runtime unix://{}", files.text("no.sock")),
        format!("cannot write {} (for ", files.text("root-dir")),
    ];
    for wanted in &wanted {
        assert!(
            problems.iter().any(|problem| problem.contains(wanted)),
            "{wanted} is not in {problems:#?}"
        );
    }
    assert_eq!(problems.len(), wanted.len(), "{problems:#?}");
    let output = cryopod(["config", "check"]).args(files.places()).args(flags).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.ends_with("A start would fail, for 9 reasons.\n"), "{text}");
}

#[test]
fn check_finds_a_runtime_that_does_not_answer_and_one_that_listens_already() {
    let files = Files::new();
    let address = ["--address", "127.0.0.1:0"];
    let listener = std::os::unix::net::UnixListener::bind(files.at("deaf.sock")).unwrap();
    // It takes connections and ends them.
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let endpoint = files.text("deaf.sock");
    let ca = files.write("ca", &Certificates::make().unwrap().authority);
    let more = ["--container-runtime-endpoint", &endpoint, "--client-ca-file", &ca];
    let (code, report) = check(&files, &[&address[..], &more].concat());
    let found = problems(&report);
    assert_eq!((code, found.len()), (1, 1), "{found:#?}");
    assert!(found[0].starts_with(&format!("container runtime {endpoint}: rpc error")));

    // Nothing to serve but another's runtime, to nobody.
    let (_, report) = check(&files, &[&address[..], &more[..2]].concat());
    assert!(problems(&report).iter().any(|one| one.starts_with("nothing to do")), "{report:#}");

    let _other = std::os::unix::net::UnixListener::bind(files.at("socket")).unwrap();
    let (code, report) = check(&files, &address);
    let found = problems(&report);
    assert_eq!((code, found.len()), (1, 1), "{found:#?}");
    assert!(found[0].starts_with("another server listens on "), "{found:#?}");
}

#[test]
fn a_start_that_check_would_refuse_fails_with_the_same_words() {
    let files = Files::new();
    let serve = |more: &[&str]| {
        let mut command = cryopod(["serve"]);
        command.args(files.places()).args(["--port", "0"]).args(more).output().unwrap()
    };
    let config = files.write("kubelet.yaml", HEAD);
    let output = serve(&["--config", &config]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    for wanted in [
        "authentication.webhook.enabled (default) asks the API server about tokens: give \
         --kubeconfig",
        "authorization.mode Webhook (default) asks the API server who may: give --kubeconfig",
    ] {
        assert!(text.contains(wanted), "{text}");
    }
    let two = serve(&["--address", "127.0.0.1:1", "--port", "2"]);
    assert!(!two.status.success());
    let output = serve(&["--config", &files.text("missing")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("missing: No such file"), "{}", stderr(&output));
    for name in ["root-dir", "state-dir", "socket"] {
        assert!(!files.at(name).exists(), "{name} was made");
    }
}

/// A server in front of a runtime played here, configured by a kubelet's file.
fn serve(files: &Files, more: &[&str]) -> (Ended, std::net::SocketAddr) {
    let log = std::fs::File::create(files.at("log")).unwrap();
    let mut command = cryopod(["serve"]);
    command.args(files.places()).args(more).stdout(Stdio::null()).stderr(log);
    let server = Ended(command.spawn().unwrap());
    let log = || std::fs::read_to_string(files.at("log")).unwrap();
    let address = wait_for("the address in the log", || told_address(&log()));
    (server, address)
}

fn kubelets_file(files: &Files, certificates: &Certificates, more: &str) -> String {
    let listener = server::listen(&files.at("cri.sock")).unwrap();
    tokio::spawn(server::serve(listener, Fake, Nothing, std::future::pending()));
    let crt = files.write("crt", &certificates.server.certificate);
    let key = files.write("key", &certificates.server.key);
    let ca = files.write("ca", &certificates.authority);
    let text = format!(
        "{HEAD}address: 127.0.0.1\nauthentication:\n  x509: {{clientCAFile: {ca}}}\n  webhook: \
         {{enabled: false}}\ntlsCertFile: {crt}\ntlsPrivateKeyFile: {key}\n\
         containerRuntimeEndpoint: unix://{}\n{more}",
        files.text("cri.sock"),
    );
    files.write("kubelet.yaml", &text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelets_file_alone_is_enough_to_serve() {
    let files = Files::new();
    let certificates = Certificates::make().unwrap();
    let more = "authorization: {mode: AlwaysAllow}\nreadOnlyPort: 10255\nclusterDNS: [10.0.0.10]\n";
    let config = kubelets_file(&files, &certificates, more);
    let (server, address) = serve(&files, &["--config", &config, "--port", "0"]);
    let path = "/checkpoint/default/counter/counter";
    let answer = post(address, path, &certificates, true).await.unwrap();
    // It came through to the runtime that the file names.
    assert_eq!(answer.status().as_u16(), 500);
    assert!(answer.body().contains("unknown method CheckpointContainer"), "{}", answer.body());
    let answer = post(address, path, &certificates, false).await.unwrap();
    assert_eq!(answer.status().as_u16(), 401);
    let log = std::fs::read_to_string(files.at("log")).unwrap();
    assert!(log.contains("readOnlyPort 10255"), "{log}");
    assert_eq!(log.matches("mean nothing here: clusterDNS").count(), 1, "{log}");
    assert!(files.at("root-dir/checkpoints").is_dir());
    // What is in force is in use: the same flags are refused a second time, by address.
    let port = address.port().to_string();
    let (code, report) = check(&files, &["--config", &config, "--port", &port]);
    let found = problems(&report);
    assert_eq!((code, found.len()), (1, 1), "{found:#?}");
    assert!(found[0].starts_with("cannot listen on 127.0.0.1"), "{found:#?}");
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn debugging_handlers_off_in_the_file_takes_the_route_away() {
    let files = Files::new();
    let certificates = Certificates::make().unwrap();
    let more = "authorization: {mode: ClientCertificates}\nenableDebuggingHandlers: false\n";
    let config = kubelets_file(&files, &certificates, more);
    let (server, address) = serve(&files, &["--config", &config, "--port", "0"]);
    let answer = post(address, "/checkpoint/a/b/c", &certificates, true).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.body().as_str()), (404, "404 page not found\n"));
    drop(server);
    // A flag wins over the file.
    let flags = ["--config", &config, "--port", "0", "--enable-debugging-handlers"];
    let (_server, address) = serve(&files, &flags);
    let answer = post(address, "/checkpoint/a/b/c", &certificates, true).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.body().as_str()), (404, "pod does not exist"));
}

#[test]
fn check_leaves_the_file_of_a_running_kubelet_alone() {
    let files = Files::new();
    let config = files.write("kubelet.yaml", HEAD);
    let before = std::fs::metadata(Path::new(&config)).unwrap().modified().unwrap();
    check(&files, &["--config", &config]);
    assert_eq!(std::fs::metadata(Path::new(&config)).unwrap().modified().unwrap(), before);
    assert_eq!(files.count(), 1);
}
