//! A laptop talks to a node: the commands over HTTPS, straight and as kubectl's plugin through an API
//! server's proxy.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::certificates::Certificates;
use crate::client::send;
use crate::containers::{counting, last_count};
use crate::door::Door;
use crate::harness::{CRYOPOD, cryopod, stderr, stdout, wait_for};

const COUNTER: &str = "default/counter/counter";

/// A folder of a user elsewhere, who knows a node's address and has a certificate.
struct Laptop {
    folder: tempfile::TempDir,
    server: String,
}

impl Laptop {
    fn new(door: &Door) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificates = &door.certificates;
        for (name, pem) in [
            ("ca", &certificates.authority),
            ("crt", &certificates.client.certificate),
            ("key", &certificates.client.key),
        ] {
            std::fs::write(folder.path().join(name), pem).unwrap();
        }
        Self { folder, server: format!("https://{}", door.address) }
    }

    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// A command with everything in its environment, and no socket anywhere.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = cryopod(args);
        command.current_dir(self.folder.path());
        command.env("CRYOPOD_SOCKET", "/nowhere/cryopod.sock");
        command.env("CRYOPOD_SERVER", &self.server).env("CRYOPOD_CACERT", self.at("ca"));
        command.env("CRYOPOD_CERT", self.at("crt")).env("CRYOPOD_KEY", self.at("key"));
        command
    }

    async fn run(&self, args: &[&str]) -> Output {
        output(self.command(args)).await
    }

    #[track_caller]
    fn expect(output: &Output, code: i32) -> String {
        assert_eq!(output.status.code(), Some(code), "{}\n{}", stdout(output), stderr(output));
        if code == 0 { stdout(output) } else { stderr(output) }
    }

    async fn ok(&self, args: &[&str]) -> String {
        Self::expect(&self.run(args).await, 0)
    }

    async fn fails(&self, code: i32, args: &[&str]) -> String {
        Self::expect(&self.run(args).await, code)
    }
}

/// Runs a command while this thread's own servers go on.
async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test]
async fn every_command_about_archives_works_from_elsewhere() {
    let door = Door::open(&[]);
    let laptop = Laptop::new(&door);
    counting(&door.node, "counter");
    wait_for("some numbers", || (last_count(&door.node, "counter") > 10).then_some(()));

    let path = laptop.ok(&["checkpoint", COUNTER, "--timeout", "200"]).await;
    let path = path.trim();
    assert!(path.starts_with(door.node.checkpoints().to_str().unwrap()), "{path}");
    let name = path.rsplit('/').next().unwrap();
    let at = last_count(&door.node, "counter");
    wait_for("it to go on", || (last_count(&door.node, "counter") > at + 10).then_some(()));

    let list = laptop.ok(&["list", "--output", "json"]).await;
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list[0]["archive"], path);
    assert_eq!(list[0]["pod"], "counter");
    assert_eq!(list[0]["engine"], "cryopod");
    let described = laptop.ok(&["describe", name]).await;
    for text in ["default/counter/counter", "frozen", "digest", "made by      cryopod"] {
        assert!(described.contains(text), "{text}: {described}");
    }
    // The node says the same of itself.
    let json = laptop.ok(&["describe", name, "--output", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let own: serde_json::Value =
        serde_json::from_str(&door.node.ok(["describe", name, "--output", "json"])).unwrap();
    assert_eq!(json, own);

    laptop.ok(&["download", name, "copy.tar"]).await;
    let copy = laptop.folder.path().join("copy.tar");
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(path).unwrap());
    assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let error = laptop.fails(4, &["download", name, "copy.tar"]).await;
    assert!(error.contains("is there already"), "{error}");
    assert_eq!(laptop.folder.path().read_dir().unwrap().count(), 4, "nothing is left beside it");

    laptop.ok(&["pin", name]).await;
    let error = laptop.fails(4, &["delete", name]).await;
    assert!(error.contains("pinned"), "{error}");
    laptop.ok(&["unpin", name]).await;

    let error = laptop.fails(4, &["restore", name]).await;
    assert!(error.contains("runs already"), "{error}");
    door.node.ok(["rm", "--force", "default/counter"]);
    let made = laptop.ok(&["restore", name, "--pod", "again", "--output", "json"]).await;
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    assert_eq!((&made["namespace"], &made["pod"]), (&"default".into(), &"again".into()));
    let goes_on = || {
        let log = door.node.ok(["logs", "default/again/counter"]);
        let last: u64 = log.lines().last()?.parse().ok()?;
        (last > 10).then_some(())
    };
    wait_for("the restored container to count on", goes_on);

    laptop.ok(&["delete", name]).await;
    assert!(!std::path::Path::new(path).exists());
    let error = laptop.fails(3, &["describe", name]).await;
    assert!(error.contains("404"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_is_said_with_a_code_of_its_own() {
    let door = Door::open(&[]);
    let laptop = Laptop::new(&door);
    assert!(laptop.fails(3, &["checkpoint", COUNTER]).await.contains("pod does not exist"));
    assert!(laptop.fails(4, &["checkpoint", "default/counter"]).await.contains("whole"));
    assert!(laptop.fails(4, &["checkpoint", COUNTER, "--stop"]).await.contains("--stop"));
    assert!(laptop.fails(3, &["download", "gone.tar"]).await.contains("gone.tar"));
    assert!(laptop.fails(3, &["delete", "x"]).await.contains("not the name"));
    let mounts = ["restore", "a.tar", "--mount", "/:/host"];
    assert!(laptop.fails(4, &mounts).await.contains("--mount"));
    // Without a certificate; to nobody; to somebody who is not to be trusted; not by TLS.
    let mut command = laptop.command(&["list"]);
    command.env_remove("CRYOPOD_CERT").env_remove("CRYOPOD_KEY");
    let error = Laptop::expect(&output(command).await, 4);
    assert!(error.contains("401 Unauthorized"), "{error}");
    let mut command = laptop.command(&["list", "--server", "https://127.0.0.1:1"]);
    let error = Laptop::expect(&command.output().unwrap(), 6);
    assert!(error.contains("no answer from https://127.0.0.1:1"), "{error}");
    let mut command = laptop.command(&["list", "--cacert", &laptop.at("crt")]);
    Laptop::expect(&command.output().unwrap(), 6);
    let mut command = laptop.command(&["list", "--server", "http://127.0.0.1:1"]);
    Laptop::expect(&command.output().unwrap(), 4);
    // What broke off leaves nothing.
    assert_eq!(laptop.folder.path().read_dir().unwrap().count(), 3);
}

/// An API server: one pod, on a node that it reaches with its own certificate.
struct ApiServer {
    address: SocketAddr,
    certificates: Arc<Certificates>,
    /// Method, path and whether the caller's token came along.
    asked: Arc<Mutex<Vec<String>>>,
}

const TOKEN: &str = "the-token-of-a-user";

impl ApiServer {
    async fn start(node: SocketAddr, towards: Certificates) -> Self {
        let certificates = Arc::new(Certificates::make().unwrap());
        let chain = vec![
            CertificateDer::from_pem_slice(certificates.server.certificate.as_bytes()).unwrap(),
        ];
        let key = PrivateKeyDer::from_pem_slice(certificates.server.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let towards = Arc::new(towards);
        let told = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (acceptor, towards, told) = (acceptor.clone(), towards.clone(), told.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(socket).await else { return };
                    let service = service_fn(move |request| {
                        let (towards, told) = (towards.clone(), told.clone());
                        async move {
                            Ok::<_, hyper::Error>(answer(request, node, &towards, &told).await)
                        }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    http.serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        });
        Self { address, certificates, asked }
    }

    /// A user's kubeconfig.
    fn kubeconfig(&self, folder: &std::path::Path) -> String {
        let ca = folder.join("apiserver-ca");
        std::fs::write(&ca, &self.certificates.authority).unwrap();
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: good\n\
             clusters:\n- name: c\n  cluster:\n    server: https://{}\n    \
             certificate-authority: {}\n\
             users:\n- name: u\n  user:\n    token: {TOKEN}\n- name: stranger\n  user:\n    token: x\n\
             contexts:\n- name: good\n  context: {{cluster: c, user: u, namespace: default}}\n\
             - name: bad\n  context: {{cluster: c, user: stranger}}\n",
            self.address,
            ca.display()
        );
        let path = folder.join("kubeconfig");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

async fn answer(
    request: Request<Incoming>,
    node: SocketAddr,
    towards: &Certificates,
    told: &Mutex<Vec<String>>,
) -> Response<Full<Bytes>> {
    let status = |code: u16, message: &str| {
        let body = serde_json::json!({ "kind": "Status", "apiVersion": "v1", "metadata": {},
                                       "status": "Failure", "message": message, "reason": "x",
                                       "code": code });
        let mut reply = Response::new(Full::from(body.to_string()));
        *reply.status_mut() = StatusCode::from_u16(code).unwrap();
        reply.headers_mut().insert("content-type", "application/json".parse().unwrap());
        reply
    };
    let known = request
        .headers()
        .get("authorization")
        .is_some_and(|value| value.to_str().unwrap() == format!("Bearer {TOKEN}"));
    let path = request.uri().path_and_query().unwrap().as_str().to_owned();
    told.lock().unwrap().push(format!("{} {path}", request.method()));
    if !known {
        return status(401, "Unauthorized");
    }
    if let Some(rest) = path.strip_prefix("/api/v1/nodes/node-1/proxy") {
        let (method, headers) = (request.method().clone(), request.headers().clone());
        return proxied(node, towards, method, &headers, rest).await;
    }
    if path.starts_with("/api/v1/namespaces/default/pods/counter") {
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "counter", "namespace": "default" },
            "spec": { "nodeName": "node-1", "containers": [{ "name": "counter" }] },
        });
        let mut reply = Response::new(Full::from(pod.to_string()));
        reply.headers_mut().insert("content-type", "application/json".parse().unwrap());
        return reply;
    }
    status(404, "pods not found")
}

/// As the API server does: its own certificate in place of the caller's credentials.
async fn proxied(
    node: SocketAddr,
    towards: &Certificates,
    method: Method,
    headers: &HeaderMap,
    path: &str,
) -> Response<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in
        headers.iter().filter(|(name, _)| *name != "authorization" && *name != "host")
    {
        request = request.header(name, value);
    }
    let (parts, body) = send_bytes(node, request, towards).await;
    Response::from_parts(parts, Full::from(body))
}

async fn send_bytes(
    node: SocketAddr,
    request: http::request::Builder,
    towards: &Certificates,
) -> (http::response::Parts, Bytes) {
    let answer = crate::client::exchange(node, request, towards, true).await.unwrap();
    let (parts, body) = answer.into_parts();
    (parts, body.collect().await.unwrap().to_bytes())
}

/// The program under another name.
fn plugin(args: &[&str]) -> Command {
    let mut command = Command::new(CRYOPOD);
    command.arg0("kubectl-checkpoint").args(args).env_remove("KUBECONFIG");
    command
}

#[tokio::test]
async fn kubectl_takes_a_checkpoint_through_the_node_proxy_and_fetches_it() {
    let door = Door::open(&[]);
    counting(&door.node, "counter");
    wait_for("some numbers", || (last_count(&door.node, "counter") > 10).then_some(()));
    let towards = door.certificates.clone();
    let api = ApiServer::start(door.address, towards).await;
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = api.kubeconfig(folder.path());

    let copy = folder.path().join("copy.tar").to_str().unwrap().to_owned();
    let command =
        plugin(&["counter", "--kubeconfig", &kubeconfig, "--timeout", "130", "--download", &copy]);
    let path = Laptop::expect(&output(command).await, 0);
    let path = path.trim();
    assert!(path.starts_with(door.node.checkpoints().to_str().unwrap()), "{path}");
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(path).unwrap());
    let asked = api.asked.lock().unwrap().clone();
    let posts: Vec<&String> = asked.iter().filter(|one| one.starts_with("POST")).collect();
    let expected = "POST /api/v1/nodes/node-1/proxy/checkpoint/default/counter/counter?timeout=130";
    assert_eq!(posts, [expected]);

    // By the program's own name, the variable, and JSON.
    let mut command = cryopod(["kubectl-checkpoint", "counter", "-n", "default", "-o", "json"]);
    command.env("KUBECONFIG", &kubeconfig);
    let made = Laptop::expect(&output(command).await, 0);
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    assert_eq!((&made["node"], &made["container"]), (&"node-1".into(), &"counter".into()));

    let run = async |args: &[&str]| {
        let mut all = args.to_vec();
        all.extend(["--kubeconfig", &kubeconfig]);
        output(plugin(&all)).await
    };
    let error = Laptop::expect(&run(&["gone"]).await, 3);
    assert!(error.contains("find pod default/gone"), "{error}");
    let error = Laptop::expect(&run(&["counter", "-c", "nope"]).await, 3);
    assert!(error.contains("container nope does not exist"), "{error}");
    let error = Laptop::expect(&run(&["counter", "--context", "bad"]).await, 4);
    assert!(error.contains("401"), "{error}");
    Laptop::expect(&run(&["counter", "--context", "none"]).await, 1);
    Laptop::expect(&output(plugin(&["counter", "--kubeconfig", "/nowhere"])).await, 1);
}

#[tokio::test]
async fn a_node_is_reached_through_a_proxy_as_well() {
    let door = Door::open(&[]);
    let towards = door.certificates.clone();
    let api = ApiServer::start(door.address, towards).await;
    let laptop = Laptop::new(&door);
    std::fs::write(laptop.at("ca"), &api.certificates.authority).unwrap();
    let server = format!("https://{}/api/v1/nodes/node-1/proxy/", api.address);
    let through = |args: &[&str]| {
        let mut command = laptop.command(args);
        command.env_remove("CRYOPOD_CERT").env_remove("CRYOPOD_KEY");
        command.env("CRYOPOD_SERVER", &server).env("CRYOPOD_TOKEN", TOKEN);
        command
    };
    std::fs::write(door.node.checkpoints().join("a.tar"), "no tar").unwrap();
    let list = output(through(&["list", "--output", "json"])).await;
    assert_eq!(Laptop::expect(&list, 0).trim(), "[]");
    assert!(stderr(&list).contains("left out"), "{}", stderr(&list));
    Laptop::expect(&output(through(&["delete", "a.tar"])).await, 0);
    let mut command = through(&["list"]);
    command.env("CRYOPOD_TOKEN", "other");
    Laptop::expect(&output(command).await, 4);
    // The door itself, for what has no command.
    let request = Request::get("/cryopod/v1/openapi.json");
    let document = send(door.address, request, &door.certificates, true).await.unwrap();
    assert_eq!(document.status(), 200);
}
