//! A real redis-server with 100,000 keys: checkpointed through the HTTPS door while a client uses it, killed, removed,
//! restored, and asked for every key.

use std::net::TcpListener;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};

use crate::sid::Answer;
use crate::stand::Stand;

/// The programs the container needs.
pub(crate) const PROGRAMS: &[&str] = &["sh", "redis-server"];

/// Names that the archive must show.
pub(crate) const NAMES: &[&str] = &["redis-server"];

const KEYS: u64 = 100_000;

/// What the client sends while the checkpoint is taken.
const COMMANDS: u64 = 600;

const FILL: &str = "for i = 1, ARGV[1] do redis.call('set', 'key:' .. i, 'value-' .. i) end \
                    return redis.call('dbsize')";

const COUNT: &str = "local n = 0 for i = 1, ARGV[1] do if redis.call('get', 'key:' .. i) == 'value-' .. i then \
     n = n + 1 end end return n";

/// A shell starts it, so that its pid is not that of every container's first process.
const START: &str = "(exit 1); (exit 2); redis-server --port \"$1\" --bind 127.0.0.1 --save '' --appendonly no & wait";

/// Runs the case; gives the archive.
pub(crate) fn run(stand: &Stand<'_>) -> Result<PathBuf> {
    let port = free_port()?.to_string();
    stand.begin("redis", &["--network", "host"], &["/bin/sh", "-c", START, "sh", &port])?;
    let asker = Asker { stand, port: &port };
    stand
        .wait("redis to answer", || Ok((asker.try_ask(&["ping"])?.text == "PONG").then_some(())))?;
    let keys = KEYS.to_string();
    ensure!(asker.ask(&["eval", FILL, "0", &keys])? == keys, "not all keys were set");
    let before = asker.identity()?;
    ensure!(before.pid != "1", "redis is its container's first process");

    let archive = while_used(stand, &port)?;
    ensure!(asker.ask(&["eval", COUNT, "0", &keys])? == keys, "keys are gone after the checkpoint");
    ensure!(asker.identity()? == before, "it is another redis after the checkpoint");
    // Set when the archive was whole: it must not come back.
    asker.ask(&["set", "after", "the checkpoint"])?;

    stand.destroy("redis")?;
    ensure!(!asker.try_ask(&["ping"])?.status.success(), "redis answers although it was killed");
    stand.restore(&archive, &["--network", "host"])?;
    let count = asker.ask(&["eval", COUNT, "0", &keys])?;
    ensure!(count == keys, "{count} of {keys} keys are there after the restore");
    ensure!(asker.ask(&["exists", "after"])? == "0", "a key of after the checkpoint is there");
    let used: u64 = asker.ask(&["get", "used"])?.parse().context("the client's key")?;
    ensure!((1..=COMMANDS).contains(&used), "the client's key is {used}");
    let after = asker.identity()?;
    ensure!(after == before, "{before:?} became {after:?} by the restore");
    ensure!(asker.ask(&["set", "again", "1"])? == "OK", "it takes nothing after the restore");
    stand.destroy("redis")?;
    Ok(archive)
}

/// A checkpoint while a client with one connection sends a command every 5 ms: every one is answered.
fn while_used(stand: &Stand<'_>, port: &str) -> Result<PathBuf> {
    let commands = COMMANDS.to_string();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut command = stand.sid.command("redis-cli");
            command.args(["-p", port, "-r", &commands, "-i", "0.005", "incr", "used"]);
            Answer::of(command)
        });
        let used = || Asker { stand, port }.ask(&["get", "used"]);
        stand.wait("the client", || Ok((!used()?.is_empty()).then_some(())))?;
        let archive = stand.checkpoint("redis")?;
        let answer =
            client.join().map_err(|_| anyhow::anyhow!("the client's thread panicked"))??;
        ensure!(answer.status.success(), "the client failed: {}", answer.text);
        let told = answer.text.lines().map(|line| line.trim_start_matches("(integer) "));
        for (number, told) in (1u64..).zip(told) {
            ensure!(told == number.to_string(), "the client was told {told:?} instead of {number}");
        }
        ensure!(used()? == commands, "the client's commands are not all there");
        Ok(archive)
    })
}

/// What tells one redis from another.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    run_id: String,
    pid: String,
}

struct Asker<'a> {
    stand: &'a Stand<'a>,
    port: &'a str,
}

impl Asker<'_> {
    fn try_ask(&self, command: &[&str]) -> Result<Answer> {
        let mut words = vec!["timeout", "30", "redis-cli", "-p", self.port];
        words.extend(command);
        let mut command = self.stand.sid.command(words[0]);
        command.args(&words[1..]);
        Answer::of(command)
    }

    fn ask(&self, command: &[&str]) -> Result<String> {
        let answer = self.try_ask(command)?;
        let text = answer.text;
        if !answer.status.success() || text.starts_with("ERR") {
            bail!("redis answers {} with {}: {text}", command.join(" "), answer.status);
        }
        Ok(text)
    }

    fn identity(&self) -> Result<Identity> {
        let text = self.ask(&["info", "server"])?;
        let field = |name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            found.map(|value| value.trim().to_owned()).with_context(|| format!("no {name}"))
        };
        Ok(Identity { run_id: field("run_id")?, pid: field("process_id")? })
    }
}

/// A port nobody listens on now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
