//! A real server, alone in its process, under clients that want its memory and its places.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

use cryopod_cri::server::{self, Nothing};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::certificates::Certificates;
use crate::client::{begin, post};
use crate::door::told_address;
use crate::harness::{cryopod, wait_for};
use crate::statuses::{Ended, Fake};

const COUNTER: &str = "/checkpoint/default/counter/counter";

/// A server in front of a runtime played here.
struct Target {
    server: Ended,
    address: SocketAddr,
    certificates: Certificates,
    _folder: tempfile::TempDir,
}

impl Target {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let listener = server::listen(&at("cri.sock")).unwrap();
        tokio::spawn(server::serve(listener, Fake, Nothing, std::future::pending()));
        let certificates = Certificates::make().unwrap();
        std::fs::write(at("ca"), &certificates.authority).unwrap();
        std::fs::write(at("crt"), &certificates.server.certificate).unwrap();
        std::fs::write(at("key"), &certificates.server.key).unwrap();
        let log = std::fs::File::create(at("log")).unwrap();
        let mut command = cryopod(["serve", "--address", "127.0.0.1:0", "--root-dir"]);
        command.arg(at("kubelet")).arg("--client-ca-file").arg(at("ca"));
        command.arg("--tls-cert-file").arg(at("crt")).arg("--tls-private-key-file").arg(at("key"));
        command.arg("--container-runtime-endpoint").arg(at("cri.sock"));
        let server = Ended(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let log = || std::fs::read_to_string(at("log")).unwrap();
        let address = wait_for("the address in the log", || told_address(&log()));
        Self { server, address, certificates, _folder: folder }
    }

    /// Another caller is served: its call comes through to the runtime.
    async fn serves_others(&self) {
        let answer = post(self.address, COUNTER, &self.certificates, true).await.unwrap();
        assert_eq!(answer.status().as_u16(), 500, "{}", answer.body());
        assert!(answer.body().contains("unknown method CheckpointContainer"), "{}", answer.body());
    }

    fn proc(&self, name: &str) -> std::path::PathBuf {
        format!("/proc/{}/{name}", self.server.0.id()).into()
    }

    /// The most memory the server ever held, in MiB (proc_pid_status(5), VmHWM).
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(self.proc("fd")).unwrap().count()
    }
}

/// Makes room for so many descriptors here; false where the hard limit forbids it.
fn room_for(wanted: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return true;
    }
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_connections_are_bounded_and_keep_nobody_out() {
    let target = Target::start();
    let many: usize = if room_for(11_000) { 10_000 } else { 900 };
    if many < 10_000 {
        eprintln!("SKIPPED in part: only {many} connections, for want of descriptors");
    }
    let mut held = Vec::with_capacity(many);
    for number in 0..many {
        let socket = TcpStream::connect(target.address).await;
        held.push(socket.unwrap_or_else(|error| panic!("connection {number}: {error}")));
        if number % 1000 == 999 {
            target.serves_others().await;
        }
    }
    target.serves_others().await;
    let (descriptors, peak) = (target.descriptors(), target.peak());
    eprintln!("{many} connections: {descriptors} descriptors, {peak} MiB at most");
    assert!(descriptors < 4_300, "{descriptors}");
    assert!(peak < 300, "{peak} MiB");
    drop(held);
    target.serves_others().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_never_ended_share_a_bounded_memory() {
    let target = Arc::new(Target::start());
    let places = Arc::new(Semaphore::new(64));
    let piece: Arc<[u8]> = vec![b'y'; 900 << 10].into();
    let floods: Vec<_> = (0..400)
        .map(|_| {
            let (target, places, piece) = (target.clone(), places.clone(), piece.clone());
            tokio::spawn(async move {
                let place = places.acquire().await.unwrap();
                let mut stream = begin(target.address, &target.certificates, false).await.ok()?;
                // As much as it takes of 900 KiB of one header without an end.
                let start = format!("POST {COUNTER} HTTP/1.1\r\nhost: x\r\nx-big: ");
                let _ = stream.write_all(start.as_bytes()).await;
                let _ = stream.write_all(&piece).await;
                let _ = stream.flush().await;
                drop(place);
                Some(stream)
            })
        })
        .collect();
    let mut held = Vec::new();
    for flood in floods {
        held.extend(flood.await.unwrap());
        if held.len() % 100 == 0 {
            target.serves_others().await;
        }
    }
    target.serves_others().await;
    let peak = target.peak();
    // 360 MiB were sent.
    eprintln!("{} connections with headers without an end: {peak} MiB at most", held.len());
    assert!(peak < 220, "{peak} MiB");
}
