//! `restore`: a container that goes on from an archive. The image of a container that is an
//! archive's path makes the runtime restore it.

use anyhow::Context;
use cryopod_archive::{Archive, Identity};
use cryopod_cri::v1;
use cryopod_kubelet::runtime::Shape;
use cryopod_runtime::MEMORY_ANNOTATION;

use super::run::{Made, PodPlace, start};
use super::{connect, mount, namespaces};
use crate::args::{Network, Output, RestoreArgs};
use crate::exit::Refused;
use crate::print::{self, Progress};
use crate::reference::Reference;
use crate::remote::Remote;
use crate::shape;

pub(super) async fn run(args: &RestoreArgs) -> anyhow::Result<()> {
    if let Some(remote) = Remote::open(&args.server)? {
        return far_away(&remote, args).await;
    }
    let archive = std::path::absolute(&args.archive).context("the archive's path")?;
    let identity = chosen(args, Archive::open(&archive)?.identity()?)?;
    let mounts = args.mount.iter().map(|text| mount(text)).collect::<anyhow::Result<Vec<_>>>()?;
    let shape = Shape::read(&archive)?;
    print::note(format_args!(
        "restoring {}/{}/{} with the {} network, {} and {}",
        identity.namespace,
        identity.pod,
        identity.container,
        if args.network == Network::Host { "host's" } else { "private" },
        match shape::limits(&shape.resources()).as_slice() {
            [] => "no limits".to_owned(),
            all => format!("at most {}", all.join(", ")),
        },
        match mounts.as_slice() {
            [] => "no mounts of the host".to_owned(),
            all => all
                .iter()
                .map(|one| format!("{} at {}", one.host_path, one.container_path))
                .collect::<Vec<_>>()
                .join(", "),
        }
    ));
    let client = connect(&args.connection).await?;
    let config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: identity.container, attempt: 0 }),
        image: Some(v1::ImageSpec {
            image: Reference::Archive(archive).to_string(),
            ..Default::default()
        }),
        mounts,
        annotations: memory(args)
            .map(|how| (MEMORY_ANNOTATION.to_owned(), how.into()))
            .into_iter()
            .collect(),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(shape.resources()),
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces(args.network)),
                readonly_rootfs: shape.readonly_root(),
                ..Default::default()
            }),
        }),
        ..Default::default()
    };
    let place = PodPlace {
        namespace: identity.namespace,
        name: identity.pod,
        network: args.network,
        // The program has seen this name.
        hostname: Some(shape.hostname).filter(|name| !name.is_empty()),
    };
    let progress = Progress::start("restoring");
    let made = start(&client, &place, config).await?;
    drop(progress);
    match args.result.output {
        Output::Json => print::json(&made),
        Output::Table => print::line(&made.id),
    }
}

/// How memory is to come, where that was said.
fn memory(args: &RestoreArgs) -> Option<&'static str> {
    match (args.lazy, args.eager) {
        (true, _) => Some("lazy"),
        (_, true) => Some("eager"),
        _ => None,
    }
}

/// Lets a node far away restore one of its own archives.
async fn far_away(remote: &Remote, args: &RestoreArgs) -> anyhow::Result<()> {
    if !args.mount.is_empty() || args.network == Network::Host {
        let reason = "--mount and --network reach out of the container: they work on the node \
                      itself, without --server"
            .to_owned();
        return Err(Refused { reason }.into());
    }
    if args.lazy {
        let reason = "--lazy works on the node itself, without --server".to_owned();
        return Err(Refused { reason }.into());
    }
    let archive = args.archive.to_str().context("the archive's name is not UTF-8")?;
    let request = serde_json::json!({
        "archive": archive,
        "namespace": args.namespace,
        "pod": args.pod,
        "container": args.name,
    });
    let progress = Progress::start("restoring");
    let made: Made = remote.post("/cryopod/v1/restore", request.to_string()).await?;
    drop(progress);
    match args.result.output {
        Output::Json => print::json(&made),
        Output::Table => print::line(&made.id),
    }
}

/// The names to use.
struct Names {
    namespace: String,
    pod: String,
    container: String,
}

/// Those given, and for the rest the archive's.
fn chosen(args: &RestoreArgs, archive: Identity) -> Result<Names, Refused> {
    let choose = |given: &Option<String>, stored: Option<String>, option: &str| {
        let name = given.clone().or(stored).filter(|name| !name.is_empty());
        name.ok_or_else(|| Refused { reason: format!("the archive does not say: give {option}") })
    };
    Ok(Names {
        namespace: choose(&args.namespace, archive.namespace, "--namespace")?,
        pod: choose(&args.pod, archive.pod, "--pod")?,
        container: choose(&args.name, archive.container, "--name")?,
    })
}
