//! `run`: a container in a pod, the pod made when it is not there.

use std::path::Path;

use anyhow::{Context, anyhow};
use cryopod_cri::v1;
use cryopod_cri::{Client, labels};
use serde::{Deserialize, Serialize};

use super::{connect, mount, namespaces, pair, places};
use crate::args::{Network, Output, RunArgs, SourceArgs};
use crate::exit::Refused;
use crate::print::{self, Progress};
use crate::quantity::CPU_PERIOD;
use crate::reference::Reference;
use crate::target::Inventory;

/// What was made.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Made {
    pub(crate) id: String,
    pub(crate) sandbox_id: String,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) container: String,
}

pub(super) async fn run(args: &RunArgs) -> anyhow::Result<()> {
    let client = connect(&args.connection).await?;
    let progress = Progress::start(format!("starting {}", args.name));
    let image = image(&client, &args.source).await?;
    let config = container_config(args, image)?;
    let place = PodPlace {
        namespace: args.namespace.clone(),
        name: args.pod.clone().unwrap_or_else(|| args.name.clone()),
        network: args.network,
        hostname: None,
    };
    let made = start(&client, &place, config).await?;
    drop(progress);
    match args.result.output {
        Output::Json => print::json(&made),
        Output::Table => print::line(&made.id),
    }
}

/// The reference to send, with the image taken in when it lies on this machine.
async fn image(client: &Client, source: &SourceArgs) -> anyhow::Result<v1::ImageSpec> {
    let absolute =
        |path: &Path| std::path::absolute(path).with_context(|| format!("path {}", path.display()));
    let spec = |image: String, as_written: &str| v1::ImageSpec {
        image,
        user_specified_image: as_written.to_owned(),
        ..Default::default()
    };
    if let Some(folder) = &source.rootfs {
        let reference = Reference::Folder(absolute(folder)?).to_string();
        return Ok(spec(reference.clone(), &reference));
    }
    let Some(name) = &source.image else {
        let host = Reference::Host.to_string();
        return Ok(spec(host.clone(), &host));
    };
    let path = Path::new(name);
    let reference = if path.is_dir() {
        Reference::OciLayout(absolute(path)?)
    } else if path.is_file() {
        Reference::DockerArchive(absolute(path)?)
    } else if name.starts_with(['/', '.']) {
        return Err(anyhow!("no image at {name}"));
    } else {
        return Ok(spec(name.clone(), name));
    };
    let id = client
        .pull_image(v1::ImageSpec { image: reference.to_string(), ..Default::default() })
        .await
        .with_context(|| format!("take in image {reference}"))?;
    Ok(spec(id, &reference.to_string()))
}

fn container_config(args: &RunArgs, image: v1::ImageSpec) -> anyhow::Result<v1::ContainerConfig> {
    let mut envs = Vec::new();
    for text in &args.env {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, value.to_owned()),
            None => {
                let value = std::env::var(text)
                    .with_context(|| format!("--env {text}: no value given, and none here"))?;
                (text.as_str(), value)
            }
        };
        envs.push(v1::KeyValue { key: key.to_owned(), value });
    }
    let mut own_labels = std::collections::BTreeMap::new();
    for text in &args.label {
        let (key, value) = pair("--label", text)?;
        own_labels.insert(key.to_owned(), value.to_owned());
    }
    let mut context = v1::LinuxContainerSecurityContext {
        readonly_rootfs: args.read_only,
        namespace_options: Some(namespaces(args.network)),
        seccomp: Some(v1::SecurityProfile {
            profile_type: v1::security_profile::ProfileType::RuntimeDefault.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    if let Some(user) = &args.user {
        run_as(&mut context, user);
    }
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: args.name.clone(), attempt: 0 }),
        image: Some(image),
        // All of it is the command line: an image's entry point is left out when one is given.
        command: args.command.clone(),
        working_dir: args.workdir.clone(),
        envs,
        mounts: args.mount.iter().map(|text| mount(text)).collect::<anyhow::Result<_>>()?,
        labels: own_labels,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(v1::LinuxContainerResources {
                cpu_period: args.cpus.map_or(0, |_| CPU_PERIOD),
                cpu_quota: args.cpus.map_or(0, crate::quantity::Cpus::quota),
                memory_limit_in_bytes: args.memory.map_or(0, |bytes| bytes.0),
                unified: args
                    .pids
                    .map(|pids| ("pids.max".to_owned(), pids.to_string()))
                    .into_iter()
                    .collect(),
                ..Default::default()
            }),
            security_context: Some(context),
        }),
        ..Default::default()
    })
}

/// Numbers have fields of their own; names are looked up in the container's files.
fn run_as(context: &mut v1::LinuxContainerSecurityContext, user: &str) {
    let number = |text: &str| text.parse().ok().map(|value| v1::Int64Value { value });
    let (name, group) = user.split_once(':').unwrap_or((user, ""));
    match (number(name), group.is_empty().then_some(None).or_else(|| number(group).map(Some))) {
        (Some(uid), Some(gid)) => {
            context.run_as_user = Some(uid);
            context.run_as_group = gid;
        }
        _ => context.run_as_username = user.to_owned(),
    }
}

/// The pod a container is to run in.
#[derive(Debug)]
pub(crate) struct PodPlace {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) network: Network,
    /// Host name of a new pod with a network of its own; its own name unless given.
    pub(crate) hostname: Option<String>,
}

/// Makes and starts a container, in the pod that is there or in a new one. What was made is removed
/// when the rest fails.
pub(crate) async fn start(
    client: &Client,
    place: &PodPlace,
    mut config: v1::ContainerConfig,
) -> anyhow::Result<Made> {
    let all = Inventory::load(client).await?;
    let container = config.metadata.clone().unwrap_or_default().name;
    let path = format!("{}/{}/{container}", place.namespace, place.name);
    let sandboxes = all.sandboxes(&place.namespace, &place.name);
    let ready = sandboxes.iter().find(|sandbox| sandbox.ready);
    let uid = match ready {
        Some(sandbox) => sandbox.uid.clone(),
        None => new_uid()?,
    };
    let attempt = sandboxes.iter().map(|sandbox| sandbox.attempt + 1).max().unwrap_or(0);
    let sandbox_config = sandbox_config(client, place, &uid, attempt).await?;
    let (sandbox_id, fresh) = match ready {
        Some(sandbox) => {
            same_network(client, &sandbox.id, place).await?;
            (sandbox.id.clone(), false)
        }
        None => {
            let made = client.run_pod_sandbox(sandbox_config.clone()).await;
            (made.with_context(|| format!("make pod {}/{}", place.namespace, place.name))?, true)
        }
    };
    let namesakes = || all.within(&sandbox_id).filter(|one| one.name == container);
    if namesakes().any(|one| one.running()) {
        return Err(Refused { reason: format!("container {path} runs already") }.into());
    }
    let attempt = namesakes().map(|one| one.attempt + 1).max().unwrap_or(0);
    config.metadata = Some(v1::ContainerMetadata { name: container.clone(), attempt });
    config.log_path = format!("{container}/{attempt}.log");
    for (key, value) in [
        (labels::POD_NAME, place.name.as_str()),
        (labels::POD_NAMESPACE, place.namespace.as_str()),
        (labels::POD_UID, uid.as_str()),
        (labels::CONTAINER_NAME, container.as_str()),
    ] {
        config.labels.insert(key.to_owned(), value.to_owned());
    }
    let made = async {
        let id = client
            .create_container(&sandbox_id, config, sandbox_config)
            .await
            .with_context(|| format!("make container {path}"))?;
        if let Err(error) = client.start_container(&id).await {
            client.remove_container(&id).await.ok();
            return Err(anyhow::Error::new(error).context(format!("start container {path}")));
        }
        Ok(id)
    }
    .await;
    match made {
        Ok(id) => Ok(Made {
            id,
            sandbox_id,
            namespace: place.namespace.clone(),
            pod: place.name.clone(),
            container,
        }),
        Err(error) => {
            if fresh {
                client.remove_pod_sandbox(&sandbox_id).await.ok();
            }
            Err(error)
        }
    }
}

async fn sandbox_config(
    client: &Client,
    place: &PodPlace,
    uid: &str,
    attempt: u32,
) -> anyhow::Result<v1::PodSandboxConfig> {
    let log_dir = places(client).await?.log_dir;
    let folder = log_dir.join(format!("{}_{}_{uid}", place.namespace, place.name));
    Ok(v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: place.name.clone(),
            uid: uid.to_owned(),
            namespace: place.namespace.clone(),
            attempt,
        }),
        hostname: match place.network {
            Network::Private => place.hostname.as_ref().unwrap_or(&place.name).clone(),
            Network::Host => String::new(),
        },
        log_directory: folder.to_str().context("the log folder is not UTF-8")?.to_owned(),
        labels: [
            (labels::POD_NAME.to_owned(), place.name.clone()),
            (labels::POD_NAMESPACE.to_owned(), place.namespace.clone()),
            (labels::POD_UID.to_owned(), uid.to_owned()),
        ]
        .into(),
        linux: Some(v1::LinuxPodSandboxConfig {
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(place.network)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    })
}

/// A container cannot have another network than its pod.
async fn same_network(client: &Client, id: &str, place: &PodPlace) -> anyhow::Result<()> {
    let status = client.pod_sandbox_status(id, false).await?.status.unwrap_or_default();
    let options = status.linux.and_then(|linux| linux.namespaces).and_then(|all| all.options);
    let host = options.is_some_and(|all| all.network() == v1::NamespaceMode::Node);
    if host == (place.network == Network::Host) {
        return Ok(());
    }
    let reason = format!(
        "pod {}/{} is there with the {} network: give --network {}, or another --pod",
        place.namespace,
        place.name,
        if host { "host's" } else { "private" },
        if host { "host" } else { "private" },
    );
    Err(Refused { reason }.into())
}

fn new_uid() -> anyhow::Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers_or_names() {
        let context = |user| {
            let mut context = v1::LinuxContainerSecurityContext::default();
            run_as(&mut context, user);
            context
        };
        let id = |value| Some(v1::Int64Value { value });
        assert_eq!(context("1000").run_as_user, id(1000));
        assert_eq!(context("1000").run_as_group, None);
        assert_eq!(context("1000:5").run_as_group, id(5));
        assert_eq!(context("redis").run_as_username, "redis");
        // A group by name makes the whole a matter of the container's files.
        assert_eq!(context("1000:staff").run_as_username, "1000:staff");
        assert_eq!(context("1000:staff").run_as_user, None);
    }
}
