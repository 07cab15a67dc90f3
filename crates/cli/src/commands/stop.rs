//! `stop`: one container, or the whole pod with its sandbox.

use std::time::Duration;

use anyhow::Context;

use super::connect;
use crate::args::StopArgs;
use crate::print::{self, Progress};
use crate::target::{Inventory, Target, TargetError};

pub(super) async fn run(args: &StopArgs) -> anyhow::Result<()> {
    let client = connect(&args.connection).await?;
    let all = Inventory::load(&client).await?;
    let grace = Duration::from_secs(args.grace.into());
    let progress = Progress::start(format!("stopping {}", args.target));
    if let Target::Pod { namespace, pod } = &args.target {
        let sandboxes = all.sandboxes(namespace, pod);
        if sandboxes.is_empty() {
            return Err(TargetError::Missing { what: "pod", target: args.target.clone() }.into());
        }
        for sandbox in sandboxes.into_iter().filter(|sandbox| sandbox.ready) {
            // Asked nicely first: a sandbox that is stopped kills what is still in it.
            for one in all.within(&sandbox.id).filter(|one| one.running()) {
                client
                    .stop_container(&one.id, grace)
                    .await
                    .with_context(|| format!("stop container {}", one.path()))?;
            }
            client
                .stop_pod_sandbox(&sandbox.id)
                .await
                .with_context(|| format!("stop pod {}", args.target))?;
        }
    } else {
        let one = all.container(&args.target)?;
        client
            .stop_container(&one.id, grace)
            .await
            .with_context(|| format!("stop container {}", one.path()))?;
    }
    drop(progress);
    print::line(&args.target)
}
