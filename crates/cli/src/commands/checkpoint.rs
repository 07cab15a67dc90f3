//! `checkpoint`: a container into an archive.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use cryopod_cri::client::CheckpointOptions;
use cryopod_runtime::CheckpointReport;
use jiff::Zoned;

use super::{connect, places};
use crate::args::{CheckpointArgs, Output};
use crate::exit::Refused;
use crate::print::{self, Progress};
use crate::quantity::bytes_text;
use crate::remote::{self, Remote, Wanted};
use crate::target::{Found, Inventory, Target};

/// How long the call may last beyond the time the runtime itself keeps to.
const MARGIN: Duration = Duration::from_secs(5);

pub(super) async fn run(args: &CheckpointArgs) -> anyhow::Result<()> {
    if let Some(remote) = Remote::open(&args.server)? {
        return far_away(&remote, args).await;
    }
    let client = connect(&args.connection).await?;
    let all = Inventory::load(&client).await?;
    let one = all.running(&args.target)?;
    let location = match &args.archive {
        Some(path) => std::path::absolute(path).context("--archive")?,
        None => free_name(&places(&client).await?.checkpoints_dir, one, &Zoned::now())?,
    };
    if location.symlink_metadata().is_ok() {
        let reason = format!("{} is there already: name another --archive", location.display());
        return Err(Refused { reason }.into());
    }
    let progress = Progress::start(format!("taking a checkpoint of {}", one.path()));
    let report = client
        .checkpoint_container_with(
            &one.id,
            location.to_str().context("the archive's path is not UTF-8")?,
            args.timeout.unwrap_or(0).into(),
            args.timeout.map(|seconds| Duration::from_secs(seconds.into()) + MARGIN),
            CheckpointOptions {
                stop: args.stop,
                with_image: args.with_image,
                self_check: args.self_check,
            },
        )
        .await
        .with_context(|| format!("take a checkpoint of {}", one.path()))?;
    drop(progress);
    let report = match report {
        Some(json) => serde_json::from_slice(&json).context("understand the server's report")?,
        // Another runtime tells nothing; the file itself is known.
        None => CheckpointReport {
            archive_bytes: location.metadata().map_or(0, |meta| meta.len()),
            location,
            ..Default::default()
        },
    };
    show(args, &report)
}

/// Lets a node far away take it, by the kubelet's own request.
async fn far_away(remote: &Remote, args: &CheckpointArgs) -> anyhow::Result<()> {
    if args.stop || args.with_image || args.self_check || args.archive.is_some() {
        let reason =
            "the kubelet's API has no --stop, --with-image, --self-check or --archive: they \
                      work on the node itself, without --server"
                .to_owned();
        return Err(Refused { reason }.into());
    }
    let Target::Container { namespace, pod, container } = &args.target else {
        let reason =
            format!("name the container whole: NAMESPACE/POD/CONTAINER, not {}", args.target);
        return Err(Refused { reason }.into());
    };
    let wanted = Wanted {
        namespace: namespace.clone(),
        pod: pod.clone(),
        container: container.clone(),
        timeout: args.timeout,
    };
    let location = remote::take(remote, &wanted).await?;
    if args.result.output == Output::Json {
        return print::json(&serde_json::json!({ "location": location }));
    }
    print::line(&location)?;
    print::note("the archive holds every secret the container's memory held: keep it as one");
    Ok(())
}

/// The name a kubelet would give, with a number where two fall into one second.
fn free_name(folder: &Path, one: &Found, time: &Zoned) -> anyhow::Result<PathBuf> {
    let stem = format!(
        "checkpoint-{}_{}-{}-{}",
        one.pod,
        one.namespace,
        one.name,
        time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string().replace("+00:00", "Z")
    );
    (0..1000)
        .map(|number| match number {
            0 => folder.join(format!("{stem}.tar")),
            _ => folder.join(format!("{stem}-{number}.tar")),
        })
        .find(|path| path.symlink_metadata().is_err())
        .with_context(|| format!("{} is full of archives of this second", folder.display()))
}

fn show(args: &CheckpointArgs, report: &CheckpointReport) -> anyhow::Result<()> {
    if args.result.output == Output::Json {
        return print::json(report);
    }
    print::line(report.location.display())?;
    if report.total_micros > 0 {
        print::note(format_args!(
            "{} from {} processes; frozen for {} of {}{}",
            bytes_text(report.archive_bytes),
            report.tasks,
            print::micros(report.frozen_micros),
            print::micros(report.total_micros),
            if report.stopped { "; the container is stopped" } else { "" },
        ));
    }
    for text in &report.notes {
        print::note(format_args!("note: {text}"));
    }
    print::note("the archive holds every secret the container's memory held: keep it as one");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kubelets_and_never_taken() {
        let folder = tempfile::tempdir().unwrap();
        let one = Found {
            id: "i".into(),
            sandbox_id: "s".into(),
            namespace: "default".into(),
            pod: "counter".into(),
            name: "app".into(),
            attempt: 0,
            state: cryopod_cri::v1::ContainerState::ContainerRunning,
            image: String::new(),
            created_at: 0,
        };
        let time: Zoned = "2025-11-27T13:50:33[UTC]".parse().unwrap();
        let first = free_name(folder.path(), &one, &time).unwrap();
        let name = first.file_name().unwrap().to_str().unwrap();
        assert_eq!(name, "checkpoint-counter_default-app-2025-11-27T13:50:33Z.tar");
        std::fs::write(&first, "").unwrap();
        let second = free_name(folder.path(), &one, &time).unwrap();
        assert!(second.to_str().unwrap().ends_with("33Z-1.tar"));
    }
}
