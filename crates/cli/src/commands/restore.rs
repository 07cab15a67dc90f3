//! `restore`: a container that goes on from an archive. The image of a container that is an
//! archive's path makes the runtime restore it.

use anyhow::Context;
use cryopod_archive::{Archive, Identity};
use cryopod_cri::v1;

use super::run::{PodPlace, start};
use super::{connect, mount, namespaces};
use crate::args::{Network, Output, RestoreArgs};
use crate::exit::Refused;
use crate::print::{self, Progress};
use crate::reference::Reference;
use crate::shape;

pub(super) async fn run(args: &RestoreArgs) -> anyhow::Result<()> {
    let archive = std::path::absolute(&args.archive).context("the archive's path")?;
    let identity = chosen(args, Archive::open(&archive)?.identity()?)?;
    let mounts = args.mount.iter().map(|text| mount(text)).collect::<anyhow::Result<Vec<_>>>()?;
    let shape = shape::read(&archive)?;
    print::note(format_args!(
        "restoring {}/{}/{} with the {} network, {} and {}",
        identity.namespace,
        identity.pod,
        identity.container,
        if args.network == Network::Host { "host's" } else { "private" },
        match shape.limits().as_slice() {
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
