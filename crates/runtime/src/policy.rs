//! What an archive may ask for when it is restored through a request: no more than the request.
//!
//! The archive's images decide which credentials the restored tasks have, so they are read before
//! anything is made. The archive may be anybody's.

use cryopod_archive::{Archive, ReadError, names};
use cryopod_images::{Image, Reader, msg};
use oci_spec::runtime::Spec;

use crate::capability::Set;

/// Why an archive does not fit a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("image {name} is not understood")]
    Image { name: String, source: cryopod_images::Error },
    #[error(
        "the archive is of namespace {archived:?}, the pod sandbox of {wanted:?}: a checkpoint is \
         restored in the namespace it was taken in"
    )]
    Namespace { archived: String, wanted: String },
    #[error("restoring expects the following bind mounts defined ({missing})")]
    Mounts { missing: String },
    #[error("a restored task has {what} {names} that the request does not allow")]
    Capabilities { what: &'static str, names: String },
    #[error("the container was {archived}, the request asks for {wanted}")]
    PidNamespace { archived: &'static str, wanted: &'static str },
    #[error("the archive has no {what}")]
    Incomplete { what: &'static str },
}

/// Largest image of credentials.
const IMAGE_MAX: u64 = 64 << 20;

/// Compares the archived tasks' capabilities with what the request allows.
pub(crate) fn check_capabilities(archive: &Archive, allowed: Set) -> Result<(), PolicyError> {
    let prefix = format!("{}/", names::IMAGES);
    for entry in archive.entries() {
        let Some(name) = entry.name.strip_prefix(&prefix) else { continue };
        let Some((Image::Core, _)) = Image::parse(name) else { continue };
        let bytes = archive.read(&entry.name, IMAGE_MAX)?;
        let named = |source| PolicyError::Image { name: name.into(), source };
        let core: msg::CoreEntry =
            Reader::new(Image::Core, name, &bytes).and_then(Reader::only).map_err(named)?;
        let Some(credentials) = core.thread_core.and_then(|t| t.creds) else { continue };
        for (what, words) in [
            ("bounding capabilities", &credentials.cap_bnd),
            ("permitted capabilities", &credentials.cap_prm),
            ("effective capabilities", &credentials.cap_eff),
            ("inheritable capabilities", &credentials.cap_inh),
            ("ambient capabilities", &credentials.cap_amb),
        ] {
            let more = Set::from_words(words).without(allowed);
            if !more.names().is_empty() {
                return Err(PolicyError::Capabilities { what, names: more.names().join(", ") });
            }
        }
    }
    Ok(())
}

/// The pid the first process had in its namespace.
pub(crate) fn first_pid(archive: &Archive) -> Result<i32, PolicyError> {
    let name = Image::Pstree.file_name(0);
    let bytes = archive.read(&format!("{}/{name}", names::IMAGES), IMAGE_MAX)?;
    let named = |source| PolicyError::Image { name: name.clone(), source };
    let mut reader = Reader::new(Image::Pstree, &name, &bytes).map_err(named)?;
    let first = reader.record::<msg::PstreeEntry>().map_err(named)?;
    let pid = first.and_then(|entry| i32::try_from(entry.pid).ok()).filter(|pid| *pid > 0);
    pid.ok_or(PolicyError::Incomplete { what: "first process" })
}

/// Compares a request's spec with the archived one.
pub(crate) fn check_spec(archived: &Spec, made: &Spec) -> Result<(), PolicyError> {
    let own = |spec: &Spec| {
        let list = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
        let pid = list
            .into_iter()
            .flatten()
            .find(|n| n.typ() == oci_spec::runtime::LinuxNamespaceType::Pid);
        match pid {
            Some(namespace) if namespace.path().is_none() => "with process ids of its own",
            Some(_) => "with process ids shared",
            None => "with the machine's process ids",
        }
    };
    let (was, is) = (own(archived), own(made));
    if was == is { Ok(()) } else { Err(PolicyError::PidNamespace { archived: was, wanted: is }) }
}

/// Destinations that every container has, whoever made the archive.
const COMMON: [&str; 14] = [
    "/proc",
    "/dev",
    "/dev/pts",
    "/dev/mqueue",
    "/sys",
    "/sys/fs/cgroup",
    "/dev/shm",
    "/etc/resolv.conf",
    "/etc/hostname",
    "/etc/passwd",
    "/etc/group",
    "/run/secrets",
    "/run/.containerenv",
    "/dev/console",
];

/// Every mount of the archived container must be one of the new container.
pub(crate) fn check_mounts(archived: &Spec, made: &Spec) -> Result<(), PolicyError> {
    let has =
        |path: &std::path::Path| made.mounts().iter().flatten().any(|m| m.destination() == path);
    let missing: Vec<String> = archived
        .mounts()
        .iter()
        .flatten()
        .map(oci_spec::runtime::Mount::destination)
        .filter(|path| !COMMON.iter().any(|c| path.as_os_str() == *c) && !has(path))
        .map(|path| path.display().to_string())
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(PolicyError::Mounts { missing: missing.join(", ") })
    }
}
