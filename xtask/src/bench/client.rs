//! Clients of a redis-server: plain connections that speak RESP by hand.
//!
//! A paced client has a time for each request, whether or not the last answer has come, and a request's latency counts from
//! that time: what waits behind a freeze is late, too. An unpaced one sends the next as soon as the last is answered.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// Connections, each with a thread.
pub(super) const CONNECTIONS: usize = 4;

/// Longer than any checkpoint takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// A request that was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Served {
    /// When it was due, since the clients' start.
    pub(super) due: Duration,
    /// From then to its answer.
    pub(super) took: Duration,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    /// Connects to a port of this machine.
    pub(super) fn open(port: u16) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let stream = TcpStream::connect_timeout(&address, PATIENCE).context("connect to redis")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Connection { reader: BufReader::new(stream) })
    }

    /// Asks and waits for the answer; gives its line, or the string that follows its length.
    pub(super) fn ask(&mut self, words: &[&[u8]]) -> Result<Vec<u8>> {
        self.send(&encode(words))?;
        self.answer()
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.reader.get_mut().write_all(bytes).context("send to redis")
    }

    fn answer(&mut self) -> Result<Vec<u8>> {
        let line = self.line()?;
        match line.split_first() {
            Some((b'+' | b':', rest)) => Ok(rest.to_vec()),
            Some((b'$', b"-1")) => bail!("redis has no such key"),
            Some((b'$', length)) => {
                let length: usize = std::str::from_utf8(length)?.parse()?;
                let mut bytes = vec![0; length + 2];
                std::io::Read::read_exact(&mut self.reader, &mut bytes)
                    .context("redis's answer")?;
                bytes.truncate(length);
                Ok(bytes)
            }
            _ => bail!("redis answers {}", String::from_utf8_lossy(&line)),
        }
    }

    fn line(&mut self) -> Result<Vec<u8>> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).context("redis's answer")?;
        ensure!(line.ends_with(b"\r\n"), "redis hung up");
        line.truncate(line.len() - 2);
        Ok(line)
    }

    /// Sets keys 0 to `keys` to values of `size` bytes that no compression makes smaller.
    pub(super) fn fill(&mut self, keys: u64, size: usize) -> Result<()> {
        const BATCH: u64 = 256;
        let mut state = 0x9e37_79b9_7f4a_7c15;
        for batch in (0..keys).step_by(usize::try_from(BATCH)?) {
            let last = (batch + BATCH).min(keys);
            let mut bytes = Vec::new();
            for number in batch..last {
                let words = std::iter::repeat_with(|| next(&mut state).to_ne_bytes());
                let value: Vec<u8> = words.flatten().take(size).collect();
                bytes.extend(encode(&[b"SET", key(number).as_bytes(), &value]));
            }
            self.send(&bytes)?;
            for _ in batch..last {
                ensure!(self.answer()? == b"OK", "redis does not take a key");
            }
        }
        Ok(())
    }
}

fn key(number: u64) -> String {
    format!("key:{number:08}")
}

fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).into_bytes());
        bytes.extend(*word);
        bytes.extend(b"\r\n");
    }
    bytes
}

/// xorshift.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// What clients do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    pub(super) port: u16,
    pub(super) keys: u64,
    /// Bytes of a value; 0: only GET, else every tenth request is a SET.
    pub(super) size: usize,
    /// Requests a second of all connections together; `None`: as many as there can be.
    pub(super) rate: Option<f64>,
}

/// Runs clients until `stop`; every request, in the order of a connection.
///
/// # Errors
/// When redis hangs up or answers wrongly.
pub(super) fn run(work: Work, begun: Instant, stop: &AtomicBool) -> Result<Vec<Served>> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|number| scope.spawn(move || one(work, number, begun, stop)))
            .collect();
        let mut all = Vec::new();
        for client in clients {
            all.extend(client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
        }
        Ok(all)
    })
}

fn one(work: Work, number: usize, begun: Instant, stop: &AtomicBool) -> Result<Vec<Served>> {
    let mut connection = Connection::open(work.port)?;
    let mut served = Vec::new();
    let mut state = 0x2545_f491_4f6c_dd1d_u64.wrapping_mul(number as u64 + 1);
    let interval = work.rate.map(|rate| Duration::from_secs_f64(CONNECTIONS as f64 / rate));
    // The connections take turns.
    let start = begun.elapsed();
    let offset = interval.unwrap_or_default().mul_f64(number as f64 / CONNECTIONS as f64);
    let value = vec![b'v'; work.size];
    let mut count = 0u32;
    while !stop.load(Ordering::Relaxed) {
        let due = match interval {
            None => begun.elapsed(),
            Some(interval) => {
                let due = start + offset + interval * count;
                if let Some(early) = due.checked_sub(begun.elapsed()) {
                    std::thread::sleep(early);
                }
                due
            }
        };
        let name = key(next(&mut state) % work.keys);
        if work.size > 0 && count % 10 == 9 {
            connection.ask(&[b"SET", name.as_bytes(), &value])?;
        } else {
            connection.ask(&[b"GET", name.as_bytes()])?;
        }
        served.push(Served { due, took: begun.elapsed().saturating_sub(due) });
        count += 1;
    }
    Ok(served)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn words_are_framed() {
        assert_eq!(encode(&[b"GET", b"a"]), b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n");
    }

    #[test]
    fn a_late_answer_makes_those_behind_it_late() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        // Answers every request; the first of each connection only when all have asked.
        std::thread::spawn(move || {
            let mut streams: Vec<TcpStream> =
                (0..CONNECTIONS).map(|_| listener.accept().unwrap().0).collect();
            std::thread::sleep(Duration::from_millis(100));
            std::thread::scope(|scope| {
                for stream in &mut streams {
                    scope.spawn(move || {
                        let mut bytes = [0; 4096];
                        while stream.read(&mut bytes).is_ok_and(|n| n > 0) {
                            if stream.write_all(b"$1\r\nv\r\n").is_err() {
                                break;
                            }
                        }
                    });
                }
            });
        });
        let stop = AtomicBool::new(false);
        let work = Work { port, keys: 10, size: 0, rate: Some(400.0) };
        let served = std::thread::scope(|scope| {
            let client = scope.spawn(|| run(work, Instant::now(), &stop));
            std::thread::sleep(Duration::from_millis(300));
            stop.store(true, Ordering::Relaxed);
            client.join().unwrap().unwrap()
        });
        // 40 requests a second were due of each connection in the tenth of a second nobody was served.
        let late = served.iter().filter(|one| one.took > Duration::from_millis(20)).count();
        assert!(late > CONNECTIONS, "{late} of {}", served.len());
    }
}
