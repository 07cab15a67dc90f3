//! `rm`: one container, or the whole pod. The pod goes with its last container, and what they logged
//! goes with them: nobody else would remove it.

use std::io;
use std::path::Path;

use anyhow::Context;
use cryopod_cri::Client;

use super::{connect, places};
use crate::args::RmArgs;
use crate::exit::Refused;
use crate::print;
use crate::target::{Found, Inventory, Pod, Target, TargetError};

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
            remove_pod(&client, sandbox).await?;
        }
    } else {
        let one = all.container(&args.target)?;
        if one.running() {
            refuse_running(args, one)?;
        }
        let alone = all.within(&one.sandbox_id).all(|other| other.id == one.id);
        match all.pods.iter().find(|pod| alone && pod.id == one.sandbox_id) {
            Some(pod) => remove_pod(&client, pod).await?,
            None => remove_container(&client, one).await?,
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

async fn remove_container(client: &Client, one: &Found) -> anyhow::Result<()> {
    let status = client.container_status(&one.id, false).await.ok().and_then(|all| all.status);
    client
        .remove_container(&one.id)
        .await
        .with_context(|| format!("remove container {}", one.path()))?;
    let Some(status) = status.filter(|status| !status.log_path.is_empty()) else { return Ok(()) };
    absent_is_done(std::fs::remove_file(&status.log_path))
        .with_context(|| format!("remove log {}", status.log_path))
}

async fn remove_pod(client: &Client, pod: &Pod) -> anyhow::Result<()> {
    client
        .remove_pod_sandbox(&pod.id)
        .await
        .with_context(|| format!("remove pod {}/{}", pod.namespace, pod.name))?;
    // Another runtime's pods are a kubelet's, who has its own order for their logs.
    let Ok(places) = places(client).await else { return Ok(()) };
    let name = format!("{}_{}_{}", pod.namespace, pod.name, pod.uid);
    // The name is made of what the runtime says: it must stay one name.
    if Path::new(&name).components().count() != 1 {
        return Ok(());
    }
    let folder = places.log_dir.join(name);
    absent_is_done(std::fs::remove_dir_all(&folder))
        .with_context(|| format!("remove logs {}", folder.display()))
}

fn absent_is_done(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
