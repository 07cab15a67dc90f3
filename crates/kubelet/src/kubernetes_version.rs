//! The Kubernetes version whose kubelet is played: a few texts and names differ between them.

use std::fmt;
use std::str::FromStr;

/// A minor version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KubernetesVersion {
    /// 1, as long as there is no other.
    pub major: u16,
    /// Such as 36.
    pub minor: u16,
}

impl KubernetesVersion {
    /// The first with the checkpoint endpoint.
    pub const OLDEST: Self = Self { major: 1, minor: 25 };
    /// The newest whose source this crate was held against.
    pub const NEWEST: Self = Self { major: 1, minor: 36 };

    /// The subresource of nodes that stands for the endpoint: its own since 1.30, before that the
    /// one for everything.
    pub fn subresource(self) -> &'static str {
        if self >= (Self { major: 1, minor: 30 }) { "checkpoint" } else { "proxy" }
    }

    /// Whether health, pods and configuration have subresources of their own beside `proxy`: the
    /// feature gate KubeletFineGrainedAuthz, on since 1.33.
    pub(crate) fn has_fine_grained_authorization(self) -> bool {
        self >= (Self { major: 1, minor: 33 })
    }

    /// The text of a 403, with several subresources and a newline since 1.32.
    pub(crate) fn forbidden(
        self,
        user: &str,
        verb: &str,
        resource: &str,
        subresources: &[&str],
    ) -> String {
        let start = format!("Forbidden (user={user}, verb={verb}, resource={resource}, ");
        if self >= (Self { major: 1, minor: 32 }) {
            format!("{start}subresource(s)=[{}])\n", subresources.join(" "))
        } else {
            format!("{start}subresource={})", subresources.first().copied().unwrap_or_default())
        }
    }
}

impl Default for KubernetesVersion {
    fn default() -> Self {
        Self::NEWEST
    }
}

impl fmt::Display for KubernetesVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Not a version we can play.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Not of the form.
    #[error("{value:?} is not a Kubernetes version such as 1.36 or v1.36.2")]
    Form {
        /// As given.
        value: String,
    },
    /// From before the endpoint.
    #[error("Kubernetes {value} has no checkpoint endpoint: 1.25 is the first that has")]
    TooOld {
        /// As given.
        value: KubernetesVersion,
    },
}

impl FromStr for KubernetesVersion {
    type Err = VersionError;

    /// `1.36`, with or without `v` before it and a patch level and more behind it. A version newer
    /// than [`KubernetesVersion::NEWEST`] is taken to be like that one.
    fn from_str(value: &str) -> Result<Self, VersionError> {
        let form = || VersionError::Form { value: value.to_owned() };
        let mut numbers = value.strip_prefix('v').unwrap_or(value).splitn(3, '.');
        let mut number = || {
            let digits = numbers.next().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
            digits.parse().ok()
        };
        let (major, minor) = number().zip(number()).ok_or_else(form)?;
        let version = Self { major, minor };
        if version < Self::OLDEST {
            Err(VersionError::TooOld { value: version })
        } else {
            Ok(version)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_tools_print_them() {
        let read = |text: &str| text.parse::<KubernetesVersion>();
        for text in ["1.31", "v1.31", "1.31.14", "v1.31.0-alpha.1+abc", "1.31.x"] {
            assert_eq!(read(text), Ok(KubernetesVersion { major: 1, minor: 31 }), "{text}");
        }
        assert_eq!(read("1.36").unwrap().to_string(), "1.36");
        for text in ["", "1", "v", "1.", "1.x", "one.two", "1.+31", "1.99999", "1,31"] {
            assert!(matches!(read(text), Err(VersionError::Form { .. })), "{text:?}");
        }
        assert!(matches!(read("1.24"), Err(VersionError::TooOld { .. })));
    }

    #[test]
    fn texts_and_names_change_where_upstream_changed_them() {
        let at = |minor| KubernetesVersion { major: 1, minor };
        let text =
            |minor| at(minor).forbidden("alice", "create", "nodes", &[at(minor).subresource()]);
        let old = "Forbidden (user=alice, verb=create, resource=nodes, subresource=";
        for minor in 25..30 {
            assert_eq!(text(minor), format!("{old}proxy)"));
        }
        for minor in 30..32 {
            assert_eq!(text(minor), format!("{old}checkpoint)"));
        }
        let new =
            "Forbidden (user=alice, verb=create, resource=nodes, subresource(s)=[checkpoint])\n";
        for minor in 32..40 {
            assert_eq!(text(minor), new);
        }
        assert!(KubernetesVersion { major: 2, minor: 0 } > KubernetesVersion::NEWEST);
    }
}
