//! Capabilities by name and number, and the sets a container's process gets.
//!
//! Numbers and names are those of capabilities(7).

use std::collections::BTreeSet;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
};

use crate::config::Security;

/// Names in the order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has unless it is asked otherwise.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A set of capabilities by number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Set(u64);

/// The number of `CAP_NET_ADMIN` or `net_admin`.
pub(crate) fn number(name: &str) -> Option<u32> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|n| *n == short).and_then(|n| u32::try_from(n).ok())
}

impl Set {
    /// Those named; `Err` holds the first name that is not a capability.
    pub(crate) fn from_names<S: AsRef<str>>(
        names: impl IntoIterator<Item = S>,
    ) -> Result<Self, String> {
        names.into_iter().try_fold(Self(0), |set, name| {
            let name = name.as_ref();
            number(name).map(|n| Self(set.0 | 1 << n)).ok_or_else(|| name.to_owned())
        })
    }

    /// Full names (`CAP_CHOWN`), in order.
    pub(crate) fn names(self) -> Vec<String> {
        let has = |n: usize| self.0 & (1 << n) != 0;
        (0..NAMES.len()).filter(|n| has(*n)).map(|n| format!("CAP_{}", NAMES[n])).collect()
    }

    pub(crate) fn contains(self, name: &str) -> bool {
        number(name).is_some_and(|n| self.0 & (1 << n) != 0)
    }

    /// The set of two 32-bit words, the lower first, as images have it.
    pub(crate) fn from_words(words: &[u32]) -> Self {
        let word = |at: usize| u64::from(words.get(at).copied().unwrap_or(0));
        Self(word(0) | word(1) << 32)
    }

    /// What is in this set and not in the other.
    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    fn bits(self) -> CapabilitySet {
        CapabilitySet::from_bits_retain(self.0)
    }
}

/// What this process may hand on.
pub(crate) fn own() -> Set {
    Set(capabilities(None).map_or(0, |sets| sets.permitted.bits()))
}

/// Why the sets of a container cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CapabilityError {
    #[error("{name:?} is not a capability")]
    Unknown { name: String },
    #[error("capability {name} was asked for, but this process does not have it to give")]
    NotOurs { name: String },
    #[error("cannot {what}")]
    Kernel { what: &'static str, source: rustix::io::Errno },
}

/// The bounding and ambient set a container gets. A privileged one gets what we have.
pub(crate) fn plan(security: &Security) -> Result<(Set, Set), CapabilityError> {
    let known = Set((1 << NAMES.len()) - 1);
    let ours = Set(own().0 & known.0);
    let parse = |names: &[String]| -> Result<(bool, Set), CapabilityError> {
        let all = names.iter().any(|n| n.eq_ignore_ascii_case("ALL"));
        let rest: BTreeSet<&String> =
            names.iter().filter(|n| !n.eq_ignore_ascii_case("ALL")).collect();
        let set = Set::from_names(rest).map_err(|name| CapabilityError::Unknown { name })?;
        Ok((all, set))
    };
    let (add_all, add) = parse(&security.add_capabilities)?;
    let (drop_all, drop) = parse(&security.drop_capabilities)?;
    let (ambient_all, ambient) = parse(&security.ambient_capabilities)?;
    if security.privileged {
        return Ok((ours, if ambient_all { ours } else { ambient }));
    }
    let missing = Set((add.0 | ambient.0) & !ours.0);
    if let Some(name) = missing.names().into_iter().next() {
        return Err(CapabilityError::NotOurs { name });
    }
    let defaults = Set::from_names(DEFAULT).map_err(|name| CapabilityError::Unknown { name })?;
    let mut bounding = if add_all { ours.0 } else { defaults.0 };
    if drop_all {
        bounding = 0;
    }
    bounding = ((bounding & !drop.0) | add.0) & ours.0;
    let ambient = if ambient_all { bounding } else { ambient.0 };
    Ok((Set(bounding | ambient), Set(ambient)))
}

/// The five sets of a process, as the OCI spec names them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sets {
    pub(crate) bounding: Set,
    pub(crate) effective: Set,
    pub(crate) permitted: Set,
    pub(crate) inheritable: Set,
    pub(crate) ambient: Set,
}

impl Sets {
    /// Drops what is not in the bounding set. Needs CAP_SETPCAP.
    pub(crate) fn apply_bounding(&self) -> Result<(), CapabilityError> {
        // Numbers above those the running kernel knows are answered with EINVAL: that is the end.
        for n in 0..64u32 {
            if self.bounding.0 & (1 << n) != 0 {
                continue;
            }
            let one = CapabilitySet::from_bits_retain(1 << n);
            match remove_capability_from_bounding_set(one) {
                Ok(()) => {}
                Err(rustix::io::Errno::INVAL) => break,
                Err(source) => {
                    return Err(CapabilityError::Kernel { what: "drop a capability", source });
                }
            }
        }
        Ok(())
    }

    /// Takes the other four sets, after the user has changed.
    pub(crate) fn apply(&self) -> Result<(), CapabilityError> {
        let kernel = |what| move |source| CapabilityError::Kernel { what, source };
        set_capabilities(
            None,
            CapabilitySets {
                effective: self.effective.bits(),
                permitted: self.permitted.bits(),
                inheritable: self.inheritable.bits(),
            },
        )
        .map_err(kernel("set the capabilities"))?;
        clear_ambient_capability_set().map_err(kernel("clear the ambient capabilities"))?;
        for n in 0..NAMES.len() {
            if self.ambient.0 & (1 << n) != 0 {
                configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(1 << n), true)
                    .map_err(kernel("raise an ambient capability"))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_with_and_without_prefix_in_any_case() {
        assert_eq!(number("CAP_NET_ADMIN"), Some(12));
        assert_eq!(number("net_admin"), Some(12));
        assert_eq!(number("CAP_CHECKPOINT_RESTORE"), Some(40));
        assert_eq!(number("CAP_FLY"), None);
    }

    #[test]
    fn dropping_all_leaves_only_what_is_added() {
        let security = Security {
            drop_capabilities: vec!["ALL".into()],
            add_capabilities: vec!["NET_BIND_SERVICE".into()],
            ..Security::default()
        };
        let (bounding, ambient) = plan(&security).unwrap();
        assert_eq!(bounding.names(), ["CAP_NET_BIND_SERVICE"]);
        assert_eq!(ambient, Set::default());
    }

    #[test]
    fn an_unknown_capability_is_refused_by_name() {
        let security = Security { add_capabilities: vec!["FLY".into()], ..Security::default() };
        assert_eq!(plan(&security).unwrap_err().to_string(), "\"FLY\" is not a capability");
    }
}
