//! What stands where CRI has an image's name.
//!
//! Besides names of stored images there are forms that no registry name can take (a name holds
//! neither a leading slash nor a colon before a slash, and no tag is empty), so that a name from a
//! pod's manifest, which a kubelet has checked, can never be one of them:
//!
//! | form | meaning | where |
//! |---|---|---|
//! | `/path/archive.tar` | restore that checkpoint archive | CreateContainer |
//! | `host:` | the host's own programs, read-only | CreateContainer |
//! | `folder:/path` | a folder that holds a root filesystem | CreateContainer |
//! | `oci:/path` | take in an OCI image layout | PullImage |
//! | `docker-archive:/path` | take in a tar of `docker save`, or of an OCI layout | PullImage |

use std::fmt;
use std::path::{Path, PathBuf};

/// A parsed image string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    /// The host's own programs.
    Host,
    /// A root filesystem.
    Folder(PathBuf),
    /// A checkpoint archive.
    Archive(PathBuf),
    /// An OCI image layout to take in.
    OciLayout(PathBuf),
    /// An image tar to take in.
    DockerArchive(PathBuf),
    /// The name, digest or id of a stored image.
    Stored(String),
}

impl Reference {
    /// Never fails: what has none of the forms is a name, and the store decides about it.
    pub(crate) fn parse(text: &str) -> Self {
        if text == "host:" {
            return Self::Host;
        }
        if Path::new(text).is_absolute() {
            return Self::Archive(text.into());
        }
        match text.split_once(':') {
            Some(("folder", path)) if path.starts_with('/') => Self::Folder(path.into()),
            Some(("oci", path)) if path.starts_with('/') => Self::OciLayout(path.into()),
            Some(("docker-archive", path)) if path.starts_with('/') => {
                Self::DockerArchive(path.into())
            }
            _ => Self::Stored(text.to_owned()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host:"),
            Self::Folder(path) => write!(f, "folder:{}", path.display()),
            Self::Archive(path) => write!(f, "{}", path.display()),
            Self::OciLayout(path) => write!(f, "oci:{}", path.display()),
            Self::DockerArchive(path) => write!(f, "docker-archive:{}", path.display()),
            Self::Stored(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_reads_back_as_it_was_written() {
        for (text, reference) in [
            ("host:", Reference::Host),
            ("folder:/srv/root", Reference::Folder("/srv/root".into())),
            ("/var/c.tar", Reference::Archive("/var/c.tar".into())),
            ("oci:/srv/layout", Reference::OciLayout("/srv/layout".into())),
            ("docker-archive:/srv/i.tar", Reference::DockerArchive("/srv/i.tar".into())),
            ("docker.io/library/redis:8", Reference::Stored("docker.io/library/redis:8".into())),
        ] {
            assert_eq!(Reference::parse(text), reference);
            assert_eq!(reference.to_string(), text);
        }
    }

    #[test]
    fn names_that_look_like_a_form_are_still_names() {
        for name in ["host", "host:5000/redis", "folder", "folder:v1", "oci:latest", "sha256:abcd"]
        {
            assert_eq!(Reference::parse(name), Reference::Stored(name.into()));
        }
    }
}
