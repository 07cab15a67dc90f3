//! `cargo xtask e2e containerd`: the HTTPS API in front of a real containerd with runc and criu.
//!
//! What is shown: an archive that checkpointctl reads; containerd's errors, verbatim; many requests at once; and that the
//! container runs on and nothing half-done lies about after a hang-up and after a deadline, which containerd by itself
//! does not see to. What containerd does by itself is tried too, and told.

mod between;
mod node;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::sid::Sid;
use crate::stand::{Program, inside};
use between::{Between, Blow};
use node::{Container, Front, Node, Reply};

/// Memory of a container whose checkpoint takes many seconds, on a quiet machine too, in MiB.
const LARGE: u64 = 1024;
/// And of one whose does not.
const SMALL: u64 = 16;
/// For a checkpoint that is waited for, in seconds.
const LONG: f32 = 240.0;

pub(crate) fn run(sid: &Sid, program: &Program) -> Result<bool> {
    let mut node = Node::start(sid, program)?;
    by_itself(&node).context("containerd by itself")?;
    archive(&node).context("an archive")?;
    errors(&node).context("errors")?;
    at_once(&node).context("at once")?;
    hang_ups(&node).context("hang-ups")?;
    deadlines(&node).context("deadlines")?;
    without_criu(&mut node).context("without criu")?;
    Ok(true)
}

/// The container runs: its freezer says so, and the clock in it goes.
fn runs(container: &Container) -> Result<()> {
    container.ticks()?;
    ensure!(!container.is_frozen()?, "{} is frozen", container.name);
    Ok(())
}

fn failed(container: &Container, reason: &str) -> String {
    let name = &container.name;
    format!("checkpointing of default/{name}/{name} failed ({reason})")
}

/// Nothing lies there but these, once what a runtime still writes after its call ended is removed.
fn only(front: &Front<'_>, mut archives: Vec<PathBuf>) -> Result<()> {
    archives.sort();
    let begun = Instant::now();
    loop {
        let seen = front.archives()?;
        if seen == archives {
            break;
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(120),
            "in the folder of archives: {seen:?}, answered: {archives:?}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// What a caller without us meets. Told, not judged: it is what the suite's other cases are for.
fn by_itself(node: &Node) -> Result<()> {
    let container = node.begin("alone", LARGE)?;
    let to = node.folder().join("alone.tar");
    let to_inside = inside(&to)?.to_string_lossy().into_owned();
    let deadline = Duration::from_secs(2);
    for hang_up in [false, true] {
        // The deadline travels with the call; a hang-up comes before it.
        let told = if hang_up { Duration::from_secs(120) } else { deadline };
        let call = node.client().checkpoint_container(&container.id, &to_inside, 120, Some(told));
        let ended = node.tokio().block_on(async {
            let patience = if hang_up { deadline } else { deadline * 10 };
            match tokio::time::timeout(patience, call).await {
                Ok(answer) => answer.map_or_else(|error| error.to_string(), |()| "done".to_owned()),
                Err(_) => "hung up".to_owned(),
            }
        });
        let begun = Instant::now();
        let mut last_frozen = None;
        while begun.elapsed() < Duration::from_secs(30) {
            if container.is_frozen()? {
                last_frozen = Some(begun.elapsed());
            } else if begun.elapsed() > Duration::from_secs(12) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let word = match last_frozen {
            Some(time) if container.is_frozen()? => {
                container.thaw()?;
                format!("STILL FROZEN {:.0} s later", time.as_secs_f64())
            }
            Some(time) => format!("frozen for {:.1} s more", time.as_secs_f64()),
            None => "running at once".to_owned(),
        };
        let size = std::fs::metadata(&to).map_or(0, |meta| meta.len());
        let left =
            if to.exists() { format!("a file of {size} bytes") } else { "no file".to_owned() };
        println!("containerd by itself, {ended}: the container is {word}, {left} is left");
        let _ = std::fs::remove_file(&to);
        container.ticks()?;
    }
    node.destroy(&container)
}

fn archive(node: &Node) -> Result<()> {
    let container = node.begin("counter", SMALL)?;
    let front = node.front("plain", &node.endpoint()?, &[])?;
    let reply = front.ask(&container, LONG)?;
    let path = reply.archive()?;
    runs(&container)?;
    let meta = std::fs::metadata(&path)?;
    let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o7777;
    ensure!(mode == 0o600, "the archive has mode {mode:o}");
    let within = inside(&path)?.to_string_lossy().into_owned();
    let list = node.private().ok(&["tar", "tf", &within])?;
    for name in ["spec.dump", "config.dump", "checkpoint/inventory.img"] {
        ensure!(list.lines().any(|line| line == name), "tar lists no {name}:\n{list}");
    }
    let shown = node.private().ok(&["checkpointctl", "show", &within])?;
    for word in ["counter", "containerd"] {
        ensure!(shown.contains(word), "checkpointctl shows no {word:?}:\n{shown}");
    }
    let memory = node.private().ok(&["checkpointctl", "memparse", &within])?;
    ensure!(memory.contains("ticker"), "checkpointctl memparse shows no ticker:\n{memory}");
    only(&front, vec![path])?;
    println!("an archive of {} bytes, read by tar and checkpointctl", meta.len());
    node.destroy(&container)
}

fn errors(node: &Node) -> Result<()> {
    for (blow, name, code) in
        [(Blow::Stop, "stopped", "Unknown"), (Blow::Remove, "removed", "NotFound")]
    {
        let container = node.begin(name, SMALL)?;
        let socket = node.folder().join(format!("{name}.sock"));
        let between = Between::start(node.tokio(), node.client(), &socket, blow)?;
        let endpoint = format!("unix://{}", inside(&socket)?.display());
        let front = node.front(name, &endpoint, &[])?;
        let reply = front.ask(&container, LONG)?;
        let told = between.refusal().context("containerd did not refuse")?;
        let reason = format!(
            "rpc error: code = {} desc = {}",
            cryopod_cri::code_name(told.code()),
            told.message()
        );
        println!("{name} between look-up and call: {reason}");
        ensure!(reply.status == 500, "the answer {reply:?}");
        ensure!(reply.body == failed(&container, &reason), "{}", reply.body);
        ensure!(reply.body.contains(code), "not {code}: {}", reply.body);
        only(&front, Vec::new())?;
        if blow == Blow::Stop {
            // Known by the look-up now: the kubelet's own words.
            let reply = front.ask(&container, LONG)?;
            let reason = format!("container {name} not found");
            ensure!(reply.status == 500 && reply.body == failed(&container, &reason), "{reply:?}");
        }
        node.destroy(&container)?;
    }
    Ok(())
}

/// Asks for these at the same time.
fn ask_all(front: &Front<'_>, containers: &[&Container]) -> Result<Vec<Reply>> {
    std::thread::scope(|scope| {
        let asked: Vec<_> =
            containers.iter().map(|container| scope.spawn(|| front.ask(container, LONG))).collect();
        asked
            .into_iter()
            .map(|one| one.join().map_err(|_| anyhow::anyhow!("a request panicked"))?)
            .collect()
    })
}

fn at_once(node: &Node) -> Result<()> {
    let (a, b) = (node.begin("a", SMALL)?, node.begin("b", SMALL)?);
    let front = node.front("many", &node.endpoint()?, &[])?;
    let mut archives = Vec::new();
    for (what, all) in [
        ("two of one container", vec![&a, &a]),
        ("five of one container", vec![&a; 5]),
        ("five of two containers", vec![&a, &b, &a, &b, &a]),
    ] {
        let begun = Instant::now();
        for reply in ask_all(&front, &all)? {
            archives.push(reply.archive().with_context(|| what.to_owned())?);
        }
        runs(&a)?;
        runs(&b)?;
        println!("{what} at once: all done in {:.1} s", begun.elapsed().as_secs_f64());
    }
    for archive in &archives {
        let within = inside(archive)?.to_string_lossy().into_owned();
        node.private().ok(&["checkpointctl", "show", &within])?;
    }
    only(&front, archives)?;
    node.destroy(&a)?;
    node.destroy(&b)
}

/// How often the API thawed a container so far.
fn thaws(front: &Front<'_>) -> usize {
    front.log().matches("left frozen by the runtime").count()
}

/// Waits until the API has stopped looking after the container: only then does the next request begin.
fn next_is_well(front: &Front<'_>, container: &Container) -> Result<PathBuf> {
    let reply = front.ask(container, LONG)?;
    reply.archive().with_context(|| format!("the next request\n{}", front.log()))
}

fn hang_ups(node: &Node) -> Result<()> {
    let container = node.begin("left", LARGE)?;
    let front = node.front("hang-ups", &node.endpoint()?, &[])?;
    let mut archives = Vec::new();
    for seconds in [0.3, 1.0, 2.5] {
        let reply = front.ask(&container, seconds)?;
        ensure!(reply.status == 0, "done within {seconds} s: {reply:?}");
        let begun = Instant::now();
        runs(&container)?;
        let runs_after = begun.elapsed();
        archives.push(next_is_well(&front, &container)?);
        runs(&container)?;
        only(&front, archives.clone())?;
        println!(
            "hung up after {seconds} s: it ran {:.2} s later, the next request was answered {:.1} s later; {} thaws \
             so far",
            runs_after.as_secs_f64(),
            begun.elapsed().as_secs_f64(),
            thaws(&front)
        );
    }
    node.destroy(&container)
}

fn deadlines(node: &Node) -> Result<()> {
    let container = node.begin("late", LARGE)?;
    let front = node.front("deadlines", &node.endpoint()?, &["--runtime-request-timeout", "2s"])?;
    let reason = "rpc error: code = DeadlineExceeded desc = context deadline exceeded";
    for _ in 0..3 {
        let reply = front.ask(&container, LONG)?;
        ensure!(reply.status == 500 && reply.body == failed(&container, reason), "{reply:?}");
        let begun = Instant::now();
        runs(&container)?;
        println!(
            "a deadline of 2 s: it ran {:.2} s after the answer; {} thaws so far",
            begun.elapsed().as_secs_f64(),
            thaws(&front)
        );
        only(&front, Vec::new())?;
    }
    // A longer deadline of its own is met: what the earlier ones left behind is out of the way.
    drop(front);
    let front = node.front("patience", &node.endpoint()?, &[])?;
    let archive = next_is_well(&front, &container)?;
    runs(&container)?;
    only(&front, vec![archive])?;
    node.destroy(&container)
}

fn without_criu(node: &mut Node) -> Result<()> {
    node.restart(false)?;
    let container = node.begin("poor", SMALL)?;
    let to = inside(&node.folder().join("poor.tar"))?.to_string_lossy().into_owned();
    let call = node.client().checkpoint_container(&container.id, &to, 60, None);
    let told = node.tokio().block_on(call).err().context("containerd found a criu")?.to_string();
    println!("without criu: {told}");
    let front = node.front("poor", &node.endpoint()?, &[])?;
    let reply = front.ask(&container, LONG)?;
    ensure!(reply.status == 500 && reply.body == failed(&container, &told), "{reply:?}");
    ensure!(told.contains("criu"), "not about criu: {told}");
    runs(&container)?;
    only(&front, Vec::new())?;
    drop(front);
    node.destroy(&container)
}
