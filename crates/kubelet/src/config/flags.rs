//! The command line's part. A flag that stands for a field of a file is laid over the file as one
//! more document, with the flag as the place it was written at.

use std::path::PathBuf;

use serde_json::Value;

use super::document::{Located, Origin};

/// What was given on the command line.
#[derive(Clone, Debug)]
pub struct Flags {
    /// `--config`: the kubelet's file.
    pub config: Option<PathBuf>,
    /// `--config-dir`: drop-ins, `*.conf`.
    pub config_dir: Option<PathBuf>,
    /// `--cryopod-config`: our own document.
    pub cryopod_config: Option<PathBuf>,
    /// `--kubeconfig`: the API server, and who we are there.
    pub kubeconfig: Option<PathBuf>,
    /// `--root-dir`.
    pub root_dir: Option<PathBuf>,
    /// `--cert-dir`.
    pub cert_dir: Option<PathBuf>,
    /// `--node-name` or `--hostname-override`.
    pub node_name: Option<String>,
    /// The host's name, for a node that is given none.
    pub host_name: String,
    /// `--feature-gates`, in the kubelet's syntax.
    pub feature_gates: Option<String>,
    /// Flag, path of the field, value.
    pub(super) kubelet: Vec<(&'static str, &'static str, Value)>,
    /// The same for our own document.
    pub(super) extras: Vec<(&'static str, &'static str, Value)>,
}

impl Flags {
    /// Nothing given, on a host of this name.
    pub fn new(host_name: impl Into<String>) -> Self {
        Self {
            config: None,
            config_dir: None,
            cryopod_config: None,
            kubeconfig: None,
            root_dir: None,
            cert_dir: None,
            node_name: None,
            host_name: host_name.into(),
            feature_gates: None,
            kubelet: Vec::new(),
            extras: Vec::new(),
        }
    }

    /// A flag (with its dashes) that stands for a field of the kubelet's file, by its path with
    /// dots; nothing when it was not given.
    pub fn set(&mut self, flag: &'static str, path: &'static str, value: Option<impl Into<Value>>) {
        self.kubelet.extend(value.map(|value| (flag, path, value.into())));
    }

    /// The same for a field of [`Extras`](super::Extras).
    pub fn extra(
        &mut self,
        flag: &'static str,
        path: &'static str,
        value: Option<impl Into<Value>>,
    ) {
        self.extras.extend(value.map(|value| (flag, path, value.into())));
    }
}

/// Lays flags over a tree.
pub(super) fn lay(flags: &[(&'static str, &'static str, Value)], over: &mut Located) {
    for (flag, path, value) in flags {
        over.set(path, Located::from_json(value.clone(), &Origin::Flag(flag)));
    }
}
