//! `rm`: one container, or the whole pod. The pod goes with its last container.

use anyhow::Context;

use super::connect;
use crate::args::RmArgs;
use crate::exit::Refused;
use crate::print;
use crate::target::{Found, Inventory, Target, TargetError};

pub(super) async fn run(args: &RmArgs) -> anyhow::Result<()> {
    let client = connect(&args.connection).await?;
    let all = Inventory::load(&client).await?;
    if let Target::Pod { namespace, pod } = &args.target {
        let sandboxes = all.sandboxes(namespace, pod);
        if sandboxes.is_empty() {
            return Err(TargetError::Missing { what: "pod", target: args.target.clone() }.into());
        }
        let running =
            sandboxes.iter().flat_map(|sandbox| all.within(&sandbox.id)).find(|one| one.running());
        if let Some(one) = running {
            refuse_running(args, one)?;
        }
        for sandbox in sandboxes {
            client
                .remove_pod_sandbox(&sandbox.id)
                .await
                .with_context(|| format!("remove pod {}", args.target))?;
        }
    } else {
        let one = all.container(&args.target)?;
        if one.running() {
            refuse_running(args, one)?;
        }
        client
            .remove_container(&one.id)
            .await
            .with_context(|| format!("remove container {}", one.path()))?;
        if all.within(&one.sandbox_id).all(|other| other.id == one.id) {
            client
                .remove_pod_sandbox(&one.sandbox_id)
                .await
                .with_context(|| format!("remove pod {}/{}", one.namespace, one.pod))?;
        }
    }
    print::line(&args.target)
}

fn refuse_running(args: &RmArgs, one: &Found) -> Result<(), Refused> {
    if args.force {
        return Ok(());
    }
    Err(Refused { reason: format!("container {} runs: stop it, or give --force", one.path()) })
}
