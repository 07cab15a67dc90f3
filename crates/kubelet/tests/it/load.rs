//! Good and bad credentials, mixed, 1,000 requests a second, while answers expire and the API
//! server misbehaves now and then.
//!
//! Three seconds by default; `CRYOPOD_LOAD_SECONDS` says how many instead. Figures are printed
//! (`--nocapture`), and asserted is what must hold on any machine: nobody is taken for another,
//! and the memory is bounded.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cryopod_kubelet::apiserver::Backoff;
use cryopod_kubelet::authn::TokenOptions;
use cryopod_kubelet::authz::WebhookOptions;
use cryopod_testkit::api_server::{Access, Account, Disturbance, Review};
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;

use crate::client::{Client, read, request};
use crate::cluster::{COUNTER, Cluster, QUICK, token_options, webhook_options};
use crate::pki::Authority;
use crate::stage::Stage;

/// Requests a second.
const RATE: usize = 1000;
/// Clients at once, each with a connection for each of the certificates.
const WORKERS: usize = 32;
/// Small, so that the caches are full within the shortest run.
const CAPACITY: usize = 128;
/// A container of no pod: the answer comes after authentication and authorization, and costs
/// nothing more.
const ABSENT: &str = "/checkpoint/default/absent/x";
/// What the whole process may grow by in the second half of a long run, in bytes.
const GROWTH: u64 = 16 << 20;

/// What is presented and what must come of it.
struct Case {
    certificate: Certificate,
    token: Option<String>,
    path: &'static str,
    status: u16,
    body: &'static str,
}

#[derive(Clone, Copy)]
enum Certificate {
    None,
    Good,
    Foreign,
}

/// The case of the request of that number.
fn case(number: usize) -> Case {
    let absent = |certificate, token| Case {
        certificate,
        token,
        path: ABSENT,
        status: 404,
        body: "pod does not exist",
    };
    let refused = |certificate, token| Case {
        status: 401,
        body: "Unauthorized",
        ..absent(certificate, token)
    };
    match number % 10 {
        0 if number.is_multiple_of(500) => {
            Case { path: COUNTER, status: 200, body: "", ..absent(Certificate::Good, None) }
        }
        0 | 1 => absent(Certificate::Good, None),
        2..=4 => absent(Certificate::None, Some(format!("good-{}", number % 16))),
        // Never seen before.
        5 => refused(Certificate::None, Some(format!("bad-{number}"))),
        6 => refused(Certificate::None, Some("stale".to_owned())),
        7 => refused(Certificate::None, None),
        8 => refused(Certificate::Foreign, None),
        _ => Case {
            status: 403,
            body: "Forbidden (user=outsider, verb=create, resource=nodes, \
                   subresource(s)=[checkpoint])\n",
            ..absent(Certificate::None, Some("outsider".to_owned()))
        },
    }
}

/// One client with its connections, kept open.
struct Worker {
    clients: [Client; 3],
    connections: [Option<SendRequest<Full<Bytes>>>; 3],
}

impl Worker {
    async fn send(&mut self, number: usize) -> Result<(), String> {
        let case = case(number);
        let at = case.certificate as usize;
        // Now and then a handshake.
        if number.is_multiple_of(97) {
            self.connections[at] = None;
        }
        let mut kept = self.connections[at].take();
        if let Some(open) = &mut kept
            && open.ready().await.is_err()
        {
            kept = None;
        }
        let mut open = match kept {
            Some(open) => open,
            None => self.clients[at].try_http1().await.map_err(|error| error.to_string())?,
        };
        let authorization = case.token.as_ref().map(|token| format!("Bearer {token}"));
        let headers: Vec<_> =
            authorization.iter().map(|value| ("authorization", &**value)).collect();
        let answer = open.send_request(request("POST", case.path, &headers)).await;
        let answer = read(answer.map_err(|error| error.to_string())?).await;
        self.connections[at] = Some(open);
        let right = case.status == 200 || answer.body == case.body;
        if answer.status == case.status && right {
            return Ok(());
        }
        Err(format!("{} {:?} instead of {}", answer.status, answer.body, case.status))
    }
}

/// Resident memory of this process, in bytes (proc_pid_status(5)).
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

async fn cluster() -> Cluster {
    let capacity = NonZeroUsize::new(CAPACITY).unwrap();
    // More steps than Kubernetes takes: that none of many thousands fails must not be luck.
    let backoff = Backoff { steps: 20, ..QUICK };
    let second = Duration::from_secs(1);
    let tokens = TokenOptions { ttl: second, capacity, backoff, ..token_options() };
    let (allowed_ttl, denied_ttl) = (second, second / 2);
    let webhook =
        WebhookOptions { allowed_ttl, denied_ttl, capacity, backoff, ..webhook_options() };
    let cluster = Cluster::with(tokens, webhook).await;
    for number in 0..16 {
        let (token, name) = (format!("good-{number}"), format!("good-{number}"));
        cluster.api.know(&token, Account { name, ..Account::default() });
    }
    cluster.api.know("outsider", Account { name: "outsider".to_owned(), ..Account::default() });
    cluster.api.rule(|spec| match spec["user"].as_str() {
        Some(user) if user.starts_with("good-") || user == "alice" => Access::Allow,
        _ => Access::NoOpinion,
    });
    cluster.api.disturb_every(Review::Token, 50, Disturbance::Reset);
    let busy = Disturbance::Status { code: 429, retry_after: None };
    cluster.api.disturb_every(Review::Access, 20, busy);
    cluster
}

fn workers(stage: &Stage) -> Vec<Worker> {
    let foreign = stage.client_as(&Authority::new("client-ca").client("alice"));
    let clients = [stage.stranger(), stage.client(), foreign];
    let worker = || Worker { clients: clients.clone(), connections: [const { None }; 3] };
    std::iter::repeat_with(worker).take(WORKERS).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mixed_credentials_under_load() {
    let seconds = std::env::var("CRYOPOD_LOAD_SECONDS")
        .map_or(3, |text| text.parse().expect("CRYOPOD_LOAD_SECONDS is a number of seconds"));
    let total = RATE * seconds;
    let cluster = cluster().await;
    let stage = cluster.stage(|_| {}).await;
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let tasks: Vec<_> = workers(&stage)
        .into_iter()
        .map(|mut worker| {
            let next = Arc::clone(&next);
            tokio::spawn(async move {
                let mut wrong = Vec::new();
                let mut took = Vec::with_capacity(2 * total / WORKERS);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= total {
                        return (wrong, took);
                    }
                    let due = start
                        + Duration::from_secs(1) * u32::try_from(number).unwrap()
                            / u32::try_from(RATE).unwrap();
                    tokio::time::sleep_until(due.into()).await;
                    let sent = Instant::now();
                    if let Err(error) = worker.send(number).await {
                        wrong.push(format!("request {number}: {error}"));
                    }
                    took.push(sent.elapsed());
                }
            })
        })
        .collect();

    let done = Arc::new(AtomicBool::new(false));
    let (tokens, webhook, until) = (cluster.tokens.clone(), cluster.webhook.clone(), done.clone());
    let watcher = tokio::spawn(async move {
        let (mut most, mut memory) = ((0, 0), Vec::new());
        while !until.load(Ordering::Relaxed) {
            most = (most.0.max(tokens.kept()), most.1.max(webhook.kept()));
            memory.push(resident());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        (most, memory)
    });
    let (mut wrong, mut took) = (Vec::new(), Vec::new());
    for task in tasks {
        let (more_wrong, more_took) = task.await.unwrap();
        wrong.extend(more_wrong);
        took.extend(more_took);
    }
    let elapsed = start.elapsed();
    done.store(true, Ordering::Relaxed);
    let (most, memory) = watcher.await.unwrap();
    took.sort_unstable();

    let part = |of: f64| took[((took.len() - 1) as f64 * of) as usize];
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let (first, half, last) = (memory[0], memory[memory.len() / 2], memory[memory.len() - 1]);
    println!(
        "{total} requests in {elapsed:.1?}, {:.0} a second\n\
         latency: median {:.2?}, 99 % {:.2?}, 99.9 % {:.2?}, most {:.2?}\n\
         reviews: {} of tokens, {} of access; most kept: {} and {}, of {CAPACITY} each kind\n\
         resident: {:.1} MiB at the start, {:.1} half-way, {:.1} at the end, {:.1} at most\n\
         wrong: {}",
        total as f64 / elapsed.as_secs_f64(),
        part(0.5),
        part(0.99),
        part(0.999),
        part(1.0),
        cluster.api.count(Review::Token),
        cluster.api.count(Review::Access),
        most.0,
        most.1,
        mib(first),
        mib(half),
        mib(last),
        mib(*memory.iter().max().unwrap()),
        wrong.len(),
    );
    assert!(wrong.is_empty(), "{} wrong, such as {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    assert_eq!(took.len(), total);
    assert_eq!(stage.runtime.calls().len(), total.div_ceil(500));
    assert!(most.0 <= 2 * CAPACITY && most.1 <= 2 * CAPACITY, "{most:?} kept");
    if seconds >= 30 {
        assert!(last.saturating_sub(half) < GROWTH, "grew from {half} to {last} bytes");
    }
}
