//! What clients of a redis-server see: of a whole checkpoint, paced at half of what they reach unpaced, and unpaced; and of
//! a restore, while the memory comes back.
//!
//! A request is served *in time* when its answer comes within 10 ms of the moment it was due: above the freeze that is
//! promised, below what a person or a page made of many requests would notice. The share is of those that were due between
//! the request for the checkpoint and its answer; that of the time just before tells what the machine does by itself.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::cache::Cache;
use super::client::{self, Connection, Served, Work};
use super::figures::{millis, rank};
use super::ours::Ours;
use super::{Choice, How, Results, Runtime, wait};

/// The programs the container needs.
pub(super) const PROGRAMS: &[&str] = &["sh", "redis-server"];

/// In time.
const LATE: Duration = Duration::from_millis(10);

/// Bytes of a value.
const SIZE: usize = 1024;

/// Before and after what is measured.
const MARGIN: Duration = Duration::from_secs(1);

/// How long clients are looked at after a restore.
const FILL: Duration = Duration::from_secs(2);

/// A checkpoint under clients.
#[derive(Debug, Clone)]
pub(super) struct Checkpointed {
    /// Requests a second unpaced, without a checkpoint.
    maximum: f64,
    /// Requests that were due during the checkpoint.
    due: usize,
    /// Of those, the share served in time.
    pub(super) in_time: f64,
    /// The same as long a time before.
    in_time_before: f64,
    /// 99.9th percentile and most, in microseconds.
    late: [u64; 2],
    /// The share of requests that an unpaced client lost during a second checkpoint.
    lost: f64,
}

/// GETs after a restore.
#[derive(Debug, Clone)]
pub(super) struct Woken {
    how: How,
    cache: Cache,
    /// From the request of the restore to the first answer, in microseconds.
    first: u64,
    /// 99th percentile in the first seconds, and in as long a time after them, in microseconds.
    p99: [u64; 2],
}

/// What one runtime came to.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) runtime: &'static str,
    mib: u64,
    pub(super) checkpointed: Checkpointed,
    woken: Vec<Woken>,
}

impl Run {
    pub(super) fn json(&self) -> Value {
        let one = &self.checkpointed;
        let woken: Vec<Value> = self
            .woken
            .iter()
            .map(|woken| {
                json!({
                    "how": woken.how.name(), "cache": woken.cache.name(),
                    "first_answer_us": woken.first, "p99_us": woken.p99,
                })
            })
            .collect();
        json!({
            "runtime": self.runtime, "mib": self.mib, "maximum_per_second": one.maximum, "due": one.due,
            "in_time": one.in_time, "in_time_before": one.in_time_before, "p999_us": one.late[0],
            "most_us": one.late[1], "unpaced_lost": one.lost, "restores": woken,
        })
    }
}

pub(super) fn measure(
    choice: &Choice,
    ours: &mut Ours<'_>,
    peers: &mut [Box<dyn Runtime + '_>],
    end: Instant,
    results: &mut Results,
) {
    // As large as what is measured without clients, within what redis fills in reasonable time.
    let mib = choice.sizes.iter().copied().max().unwrap_or(256).min(512);
    let hows: Vec<How> =
        [How::Lazy, How::Eager].into_iter().filter(|how| ours.knows(*how)).collect();
    let hows = if hows.is_empty() { vec![How::Plain] } else { hows };
    let mut one = |runtime: &mut dyn Runtime, hows: &[How], count: usize| {
        for number in 1..=count {
            if number > 1 && Instant::now() > end {
                return;
            }
            let outcome = once(runtime, mib, hows);
            if let Err(error) = runtime.destroy() {
                println!("{}: {error:#}", runtime.name());
            }
            match outcome {
                Ok(run) => {
                    println!("{:<22} redis run {number}: {}", run.runtime, run.json());
                    results.redis.push(run);
                }
                Err(error) => {
                    let text = format!("{error:#}").replace('\n', " ");
                    results.note(format!("{}: redis with {mib} MiB: {text}", runtime.name()));
                }
            }
        }
    };
    one(ours, &hows, choice.runs.min(3));
    for peer in peers {
        one(peer.as_mut(), &[], 1);
    }
}

fn once(runtime: &mut dyn Runtime, mib: u64, hows: &[How]) -> Result<Run> {
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let text = port.to_string();
    let mut words = vec!["/usr/bin/redis-server", "--port", &text, "--bind", "127.0.0.1"];
    words.extend(["--save", "", "--appendonly", "no"]);
    runtime.begin(&words)?;
    let mut connection = None;
    wait(Duration::from_secs(60), "redis to answer", || {
        connection = Connection::open(port).ok();
        Ok(connection.as_mut().is_some_and(|one| one.ask(&[b"PING"]).is_ok()))
    })?;
    let mut connection = connection.context("redis does not answer")?;
    let keys = (mib << 20) / u64::try_from(SIZE)?;
    connection.fill(keys, SIZE)?;
    drop(connection);

    let work = Work { port, keys, size: SIZE, rate: None };
    let (alone, ()) = under(work, || {
        std::thread::sleep(2 * MARGIN);
        Ok(())
    })?;
    let maximum = alone.len() as f64 / (2 * MARGIN).as_secs_f64();
    let paced = Work { rate: Some(maximum / 2.0), ..work };
    let (served, (asked, answered, archive)) = under(paced, || checkpoint(runtime))?;
    let (unpaced, (from, to, second)) = under(work, || checkpoint(runtime))?;
    runtime.forget(&second)?;
    let took = answered - asked;
    let during: Vec<Duration> = between(&served, asked, answered);
    let before: Vec<Duration> = between(&served, asked.saturating_sub(took.min(MARGIN)), asked);
    ensure!(!during.is_empty() && !before.is_empty(), "no request was due during the checkpoint");
    let mut sorted: Vec<u64> = during.iter().map(|took| micros(*took)).collect();
    sorted.sort_unstable();
    let rate = |from: Duration, to: Duration| {
        let done = unpaced.iter().filter(|one| (from..to).contains(&(one.due + one.took))).count();
        done as f64 / (to - from).as_secs_f64().max(1e-9)
    };
    let checkpointed = Checkpointed {
        maximum,
        due: during.len(),
        in_time: share(&during),
        in_time_before: share(&before),
        late: [rank(&sorted, 999).unwrap_or(0), sorted.last().copied().unwrap_or(0)],
        lost: 1.0 - rate(from, to) / rate(from.saturating_sub(MARGIN), from).max(1e-9),
    };

    runtime.destroy()?;
    let mut woken = Vec::new();
    for how in hows {
        for cache in [Cache::Warm, Cache::Cold] {
            woken.push(wake(runtime, &archive, work, (*how, cache))?);
            runtime.destroy()?;
        }
    }
    runtime.forget(&archive)?;
    Ok(Run { runtime: runtime.name(), mib, checkpointed, woken })
}

/// Does something while clients work; what they were served, and what came of it. The clock of both is the clients'.
fn under<T>(work: Work, mut act: impl FnMut() -> Result<T>) -> Result<(Vec<Served>, T)> {
    let stop = AtomicBool::new(false);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let clients = scope.spawn(|| client::run(work, begun, &stop));
        let outcome = act();
        stop.store(true, Ordering::Relaxed);
        let served = clients.join().map_err(|_| anyhow::anyhow!("the clients panicked"))??;
        Ok((served, outcome?))
    })
}

type Taken = (Duration, Duration, std::path::PathBuf);

/// A checkpoint with a margin before and after: when it was asked for, when it was answered, since the call.
fn checkpoint(runtime: &mut dyn Runtime) -> Result<Taken> {
    let begun = Instant::now();
    std::thread::sleep(MARGIN);
    let asked = begun.elapsed();
    let (archive, _) = runtime.checkpoint()?;
    let answered = begun.elapsed();
    std::thread::sleep(MARGIN);
    Ok((asked, answered, archive))
}

/// A restore, and clients that GET as soon as redis answers.
fn wake(
    runtime: &mut dyn Runtime,
    archive: &Path,
    work: Work,
    (how, cache): (How, Cache),
) -> Result<Woken> {
    cache.prepare(archive)?;
    let begun = Instant::now();
    runtime.restore(archive, how)?;
    let mut first = None;
    let end = begun + Duration::from_secs(60);
    while first.is_none() {
        ensure!(Instant::now() < end, "redis does not answer after the restore");
        let answer = Connection::open(work.port).and_then(|mut one| one.ask(&[b"PING"]));
        first = answer.ok().map(|_| begun.elapsed());
    }
    let work = Work { size: 0, ..work };
    let (served, ()) = under(work, || {
        std::thread::sleep(2 * FILL);
        Ok(())
    })?;
    let p99 = |from: Duration, to: Duration| {
        let mut all: Vec<u64> =
            between(&served, from, to).iter().map(|took| micros(*took)).collect();
        all.sort_unstable();
        rank(&all, 990).unwrap_or(0)
    };
    let first = micros(first.context("no answer")?);
    Ok(Woken { how, cache, first, p99: [p99(Duration::ZERO, FILL), p99(FILL, 2 * FILL)] })
}

fn between(served: &[Served], from: Duration, to: Duration) -> Vec<Duration> {
    let these = served.iter().filter(|one| (from..to).contains(&one.due));
    these.map(|one| one.took).collect()
}

fn share(latencies: &[Duration]) -> f64 {
    let good = latencies.iter().filter(|took| **took <= LATE).count();
    good as f64 / latencies.len().max(1) as f64
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A row for each checkpoint, and one for each restore.
pub(super) fn table(runs: &[Run]) -> String {
    let mut text = String::from(
        "| runtime | MiB | unpaced, requests/s | due during the checkpoint | in time | in time before it | p99.9, ms | \
         most, ms | lost unpaced |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for run in runs {
        let one = &run.checkpointed;
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {} | {:.2} % | {:.2} % | {} | {} | {:.0} % |",
            run.runtime,
            run.mib,
            one.maximum,
            one.due,
            100.0 * one.in_time,
            100.0 * one.in_time_before,
            millis(one.late[0]),
            millis(one.late[1]),
            100.0 * one.lost.max(0.0),
        );
    }
    if runs.iter().any(|run| !run.woken.is_empty()) {
        let _ = write!(
            text,
            "\n| restore | archive in the cache | first answer, ms | GET p99 in the first {} s, ms | \
             in the next {} s, ms |\n|---|---|--:|--:|--:|\n",
            FILL.as_secs(),
            FILL.as_secs()
        );
    }
    for woken in runs.iter().flat_map(|run| &run.woken) {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            woken.how.name(),
            woken.cache.name(),
            millis(woken.first),
            millis(woken.p99[0]),
            millis(woken.p99[1]),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_late_after_ten_milliseconds_from_its_time() {
        let served: Vec<Served> = [(5, 1), (15, 11), (25, 10), (35, 400)]
            .map(|(due, took)| Served {
                due: Duration::from_millis(due),
                took: Duration::from_millis(took),
            })
            .to_vec();
        let during = between(&served, Duration::from_millis(10), Duration::from_millis(35));
        assert_eq!(during.len(), 2);
        assert!((share(&during) - 0.5).abs() < 1e-9);
    }
}
