//! `--feature-gates`: the kubelet's syntax, `Name=bool,Name=bool`.
//!
//! Only gates that change something here are known; any other name is an error, because a gate
//! with a typing mistake that is silently ignored has cost people days. `AllAlpha` and `AllBeta`
//! set every gate of that stage that is not named itself.

use std::collections::BTreeMap;
use std::str::FromStr;

/// Which optional parts of the API are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureGates {
    /// `ContainerCheckpoint`: the checkpoint route. Beta and on since Kubernetes 1.30.
    pub container_checkpoint: bool,
}

impl Default for FeatureGates {
    fn default() -> Self {
        Self { container_checkpoint: true }
    }
}

/// The gates one can name, for messages.
const KNOWN: &str = "AllAlpha, AllBeta, ContainerCheckpoint";

/// Why a `--feature-gates` value was not understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FeatureGateError {
    /// The name means nothing here.
    #[error("feature gate {name:?} is unknown (known: {KNOWN})")]
    Unknown { name: String },
    /// `Name` without `=value`.
    #[error("feature gate {name:?} has no value (write {name}=true or {name}=false)")]
    NoValue { name: String },
    /// The value is not one of Go's spellings of a boolean.
    #[error("feature gate {name} has the value {value:?}, which is neither true nor false")]
    NotBool { name: String, value: String },
}

impl FromStr for FeatureGates {
    type Err = FeatureGateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::from_entries(&entries(text)?.into_iter().collect()))
    }
}

impl FeatureGates {
    /// From gates by name; a gate that is not known here has no effect.
    pub fn from_entries(entries: &BTreeMap<String, bool>) -> Self {
        let default = Self::default();
        // No gate known here is alpha.
        let named = entries.get("ContainerCheckpoint").or_else(|| entries.get("AllBeta"));
        Self { container_checkpoint: named.copied().unwrap_or(default.container_checkpoint) }
    }
}

/// Whether a gate changes something here.
pub fn is_known(name: &str) -> bool {
    matches!(name, "ContainerCheckpoint" | "AllBeta" | "AllAlpha")
}

/// The gates of a `--feature-gates` value, in its order.
///
/// # Errors
/// [`FeatureGateError`], at the first that is not understood.
pub fn entries(text: &str) -> Result<Vec<(String, bool)>, FeatureGateError> {
    let named = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    named
        .map(|entry| {
            let Some((name, value)) = entry.split_once('=') else {
                return Err(FeatureGateError::NoValue { name: entry.to_owned() });
            };
            let (name, value) = (name.trim().to_owned(), value.trim());
            if !is_known(&name) {
                return Err(FeatureGateError::Unknown { name });
            }
            match parse_bool(value) {
                Some(on) => Ok((name, on)),
                None => Err(FeatureGateError::NotBool { name, value: value.to_owned() }),
            }
        })
        .collect()
}

/// The spellings of Go's `strconv.ParseBool`.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gates(text: &str) -> Result<bool, FeatureGateError> {
        text.parse::<FeatureGates>().map(|gates| gates.container_checkpoint)
    }

    #[test]
    fn container_checkpoint_is_on_unless_turned_off() {
        assert_eq!(gates(""), Ok(true));
        assert_eq!(gates(" , "), Ok(true));
        assert_eq!(gates("ContainerCheckpoint=true"), Ok(true));
        assert_eq!(gates("ContainerCheckpoint=false"), Ok(false));
        assert_eq!(gates(" ContainerCheckpoint = F ,"), Ok(false));
        assert_eq!(gates("ContainerCheckpoint=false,ContainerCheckpoint=1"), Ok(true));
    }

    #[test]
    fn all_beta_sets_a_gate_that_is_not_named() {
        assert_eq!(gates("AllBeta=false"), Ok(false));
        assert_eq!(gates("ContainerCheckpoint=true,AllBeta=false"), Ok(true));
        assert_eq!(gates("AllAlpha=false"), Ok(true));
    }

    #[test]
    fn mistakes_are_named() {
        let message = |text: &str| gates(text).unwrap_err().to_string();
        assert_eq!(
            message("CheckpointContainer=true"),
            "feature gate \"CheckpointContainer\" is unknown \
             (known: AllAlpha, AllBeta, ContainerCheckpoint)"
        );
        assert_eq!(
            message("ContainerCheckpoint"),
            "feature gate \"ContainerCheckpoint\" has no value \
             (write ContainerCheckpoint=true or ContainerCheckpoint=false)"
        );
        assert_eq!(
            message("ContainerCheckpoint=yes"),
            "feature gate ContainerCheckpoint has the value \"yes\", \
             which is neither true nor false"
        );
        assert!(gates("AllAlpha=maybe").is_err());
    }
}
