//! `demo`: the whole way, on this machine, with nothing else installed: serve, run, checkpoint over
//! HTTPS, kill, restore. Everything it claims it checks, and any of it that is not so is a failure.

mod certificates;
mod https;
mod stage;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use cryopod_archive::Archive;
use cryopod_cri::v1;
use tokio::time::{Instant, sleep};

use crate::args::{DemoArgs, Network};
use crate::commands::run::{Made, PodPlace, start};
use crate::counter;
use crate::print::{self, micros};
use crate::quantity::bytes_text;
use crate::reference::Reference;
use stage::{LOOK, SOON, Stage};

const NAMESPACE: &str = "default";
const POD: &str = "counter";
const CONTAINER: &str = "counter";

/// Where the container sees this program.
const PROGRAM: &str = "/cryopod";

/// Values the counter tells before its checkpoint, and again after it, so that both sides of the
/// freeze were seen.
const ENOUGH: u64 = 25;

pub(crate) async fn run(args: &DemoArgs) -> anyhow::Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the demo makes containers, which only root can: run it as root"
    );
    let stage = Stage::set().await?;
    let done = tokio::select! {
        done = play(&stage) => done,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
    };
    if done.is_err() {
        print::note(stage.log_tail());
    }
    let struck = stage.strike(args.keep).await.context("clean up");
    if let (Err(_), Err(error)) = (&done, &struck) {
        // The first failure is the one to report; this one must not be lost either.
        print::note(format_args!("cryopod: {error:#}"));
    }
    done?;
    struck?;
    print::line("\nEverything above was checked, and everything made is removed again.")
}

async fn play(stage: &Stage) -> anyhow::Result<()> {
    print::line(format_args!("1. A node agent listens on https://{}.", stage.https))?;

    let mark = fresh_mark()?;
    let first = begin(stage, counter_config(&mark)?).await?;
    let log = log_of(stage, &first).await?;
    let before = told_at_least(&log, ENOUGH).await?;
    print::line(format_args!(
        "2. Pod {NAMESPACE}/{POD} runs; its container counts: {before}. \
         It was never off for more than {}.",
        micros(longest_gap(&log, 0..=before)?)
    ))?;

    let asked_at = heard_last(&log)?;
    let (archive, answer) = checkpoint(stage).await?;
    // The value under way when it answered is the last one the freeze can have delayed.
    let answered_at = heard_last(&log)? + 1;
    told_at_least(&log, answered_at + ENOUGH).await?;
    print::line(format_args!("   answer: {answer}"))?;
    show_archive(&archive)?;
    print::line(format_args!(
        "   Meanwhile the container went on to {answered_at}, and was at most off for {}.",
        micros(longest_gap(&log, asked_at..=answered_at)?)
    ))?;
    let stored = stored_value(&archive, &mark)?;
    print::line(format_args!("   In the archive's memory the counter stands at {stored}."))?;

    stage
        .client
        .stop_container(&first.id, std::time::Duration::ZERO)
        .await
        .context("kill the container")?;
    let last = heard_last(&log)?;
    ensure!(last > stored, "the container did not go on after its checkpoint");
    print::line(format_args!("4. The container went on to {last}, and is killed now."))?;

    let second = begin(stage, restore_config(&archive)?).await?;
    let log = log_of(stage, &second).await?;
    let now = told_at_least(&log, stored + ENOUGH).await?;
    let resumed = resumed_at(&archive, &log)?;
    // It was frozen either before or after it told the value it had reached.
    ensure!(
        resumed == stored || resumed == stored + 1,
        "the restored container went on with {resumed} instead of {stored}"
    );
    print::line(format_args!(
        "5. Restored from the archive, it went on with {resumed}, and counts: {now}."
    ))
}

/// The first value told after the restore. The log goes on, too: it begins with what was told before
/// the checkpoint, and no value is missing or told twice.
fn resumed_at(archive: &Path, log: &Path) -> anyhow::Result<u64> {
    const LOG_ENTRY: &str = "io.kubernetes.cri-o.LogPath";
    let before = Archive::open(archive)
        .and_then(|archive| archive.read(LOG_ENTRY, 1 << 20))
        .context("read the log in the archive")?;
    let before = heard_in(&String::from_utf8_lossy(&before))?;
    let after = heard(log)?;
    for (told, expected) in after.iter().zip(1..) {
        ensure!(told.0 == expected, "the log tells {} where {expected} belongs", told.0);
    }
    let next = after.get(before.len()).context("the restored container tells nothing")?;
    Ok(next.0)
}

/// 32 hexadecimal digits nobody else has.
fn fresh_mark() -> anyhow::Result<String> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("take a mark")?;
    Ok(uuid.chars().filter(char::is_ascii_hexdigit).collect())
}

fn program_mount() -> anyhow::Result<v1::Mount> {
    let program = std::env::current_exe().context("find this program")?;
    Ok(v1::Mount {
        container_path: PROGRAM.to_owned(),
        host_path: program.to_str().context("this program's path is not UTF-8")?.to_owned(),
        readonly: true,
        ..Default::default()
    })
}

fn counter_config(mark: &str) -> anyhow::Result<v1::ContainerConfig> {
    Ok(v1::ContainerConfig {
        command: vec![PROGRAM.to_owned(), "counter".to_owned(), mark.to_owned()],
        ..config(Reference::Host)?
    })
}

fn restore_config(archive: &Path) -> anyhow::Result<v1::ContainerConfig> {
    config(Reference::Archive(archive.to_owned()))
}

fn config(image: Reference) -> anyhow::Result<v1::ContainerConfig> {
    let image = image.to_string();
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: CONTAINER.to_owned(), attempt: 0 }),
        image: Some(v1::ImageSpec {
            image: image.clone(),
            user_specified_image: image,
            ..Default::default()
        }),
        mounts: vec![program_mount()?],
        linux: Some(v1::LinuxContainerConfig {
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(crate::commands::namespaces(Network::Private)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    })
}

async fn begin(stage: &Stage, config: v1::ContainerConfig) -> anyhow::Result<Made> {
    let place = PodPlace {
        namespace: NAMESPACE.to_owned(),
        name: POD.to_owned(),
        network: Network::Private,
        hostname: None,
    };
    start(&stage.client, &place, config).await
}

async fn log_of(stage: &Stage, made: &Made) -> anyhow::Result<PathBuf> {
    let answer = stage.client.container_status(&made.id, false).await.context("find the log")?;
    Ok(answer.status.unwrap_or_default().log_path.into())
}

/// Every value and gap told so far.
fn heard(log: &Path) -> anyhow::Result<Vec<(u64, u64)>> {
    let text = std::fs::read_to_string(log)
        .with_context(|| format!("read the container's log {}", log.display()))?;
    heard_in(&text)
}

/// Values and gaps in the text of a log, whose last line may not be whole yet.
fn heard_in(text: &str) -> anyhow::Result<Vec<(u64, u64)>> {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .lines()
        .map(|line| {
            let told = line.splitn(4, ' ').nth(3).unwrap_or_default();
            counter::heard(told).with_context(|| format!("the container wrote {line:?}"))
        })
        .collect()
}

/// The last value told; 0 before the first.
fn heard_last(log: &Path) -> anyhow::Result<u64> {
    Ok(heard(log)?.last().map_or(0, |told| told.0))
}

/// The longest gap (microseconds) told with these values.
fn longest_gap(log: &Path, values: std::ops::RangeInclusive<u64>) -> anyhow::Result<u64> {
    let told = heard(log)?.into_iter().filter(|told| values.contains(&told.0));
    told.map(|told| told.1).max().context("the counter told no gap")
}

async fn told_at_least(log: &Path, value: u64) -> anyhow::Result<u64> {
    let until = Instant::now() + SOON;
    loop {
        let last = heard_last(log)?;
        if last >= value {
            return Ok(last);
        }
        ensure!(
            Instant::now() < until,
            "the counter told {last} and then no more; {value} was expected"
        );
        sleep(LOOK).await;
    }
}

/// Asks the HTTPS door for a checkpoint; gives the archive and the answer's text.
async fn checkpoint(stage: &Stage) -> anyhow::Result<(PathBuf, String)> {
    let path = format!("/checkpoint/{NAMESPACE}/{POD}/{CONTAINER}");
    let stranger = https::post(stage.https, &path, &stage.certificates, false).await?;
    ensure!(
        stranger.status() == http::StatusCode::UNAUTHORIZED,
        "a caller without a certificate was answered {}",
        stranger.status()
    );
    print::line(format_args!(
        "3. POST https://{}{path} with the certificate of {} (without one: {}).",
        stage.https,
        certificates::CLIENT_NAME,
        stranger.status()
    ))?;
    let answer = https::post(stage.https, &path, &stage.certificates, true).await?;
    ensure!(
        answer.status() == http::StatusCode::OK,
        "the checkpoint was answered {}: {}",
        answer.status(),
        answer.body()
    );
    #[derive(serde::Deserialize)]
    struct Items {
        items: Vec<PathBuf>,
    }
    let items: Items = serde_json::from_str(answer.body())
        .with_context(|| format!("understand the answer {:?}", answer.body()))?;
    let [archive] = <[PathBuf; 1]>::try_from(items.items)
        .map_err(|items| anyhow!("the answer names {} archives", items.len()))?;
    Ok((archive, format!("{} {}", answer.status(), answer.body())))
}

fn show_archive(path: &Path) -> anyhow::Result<()> {
    let archive = Archive::open(path).context("read the archive")?;
    print::line(format_args!("   {} with these entries:", bytes_text(archive.len())))?;
    for entry in archive.entries() {
        let slash = if entry.directory { "/" } else { "" };
        print::line(format_args!("     {:>10}  {}{slash}", entry.size, entry.name))?;
    }
    let verified = archive.verify(&mut |_| ()).context("verify the archive")?;
    ensure!(verified.entries > 0, "the archive holds no digests");
    let mode = path.metadata().context("look at the archive")?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "the archive's mode is {:o}", mode & 0o777);
    print::line(format_args!(
        "   It is root's alone, and {} entries are what their digests say.",
        verified.entries
    ))
}

/// The counter's value in the memory the archive holds.
fn stored_value(archive: &Path, mark: &str) -> anyhow::Result<u64> {
    let mut marked = [0; 16];
    ensure!(counter::write_mark(mark, &mut marked), "{mark:?} is no mark");
    let bytes =
        std::fs::read(archive).with_context(|| format!("read archive {}", archive.display()))?;
    match counter::values_in(&bytes, &marked)[..] {
        [value] => Ok(value),
        ref all => bail!("the counter's page is {} times in the archive", all.len()),
    }
}
