//! The policies, as YAML has them. Field names are those of the spec of
//! checkpoint-restore-operator's `CheckpointRestoreOperator` (criu.org/v1); what is ours is said.

use std::collections::HashSet;
use std::path::PathBuf;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::amount::{Age, MinFree, Size};
use crate::store::Identity;

/// What is kept. The default deletes nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Retention {
    /// The folder the policies are meant for, if they say so. It does not choose the folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_directory: Option<PathBuf>,
    /// Taken and without effect: policies are applied at the start and from then on.
    pub apply_policies_immediately: bool,
    /// For archives without a policy of their own.
    pub global_policy: GlobalPolicy,
    /// Of single containers.
    pub container_policies: Vec<ContainerPolicy>,
    /// Of pods: all containers together that have no policy of their own.
    pub pod_policies: Vec<PodPolicy>,
    /// Of namespaces: all pods together that have no policy of their own.
    pub namespace_policies: Vec<NamespacePolicy>,
    /// Ours: of all archives together, whatever other policies they have.
    pub node_policy: NodePolicy,
    /// Ours: how often is looked when nothing happens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Age>,
    /// Taken and without effect: archives are not sent anywhere.
    #[serde(skip_serializing)]
    pub external_storage: Option<IgnoredAny>,
}

/// `globalPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GlobalPolicy {
    /// `false`: archives go when their container, or its pod, is gone. `true` unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain_orphan: Option<bool>,
    /// Archives of a namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_checkpoints_per_namespace: Option<u64>,
    /// Archives of a pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_checkpoints_per_pod: Option<u64>,
    /// Archives of a container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_checkpoints_per_container: Option<u64>,
    /// Of one archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_checkpoint_size: Option<Size>,
    /// Of all archives of a namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_total_size_per_namespace: Option<Size>,
    /// Of all archives of a pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_total_size_per_pod: Option<Size>,
    /// Of all archives of a container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_total_size_per_container: Option<Size>,
    /// Ours: of one archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Age>,
    /// Taken and without effect: archives are not sent anywhere.
    #[serde(skip_serializing)]
    pub upload_to_external_storage: Option<IgnoredAny>,
}

/// One of `containerPolicies`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ContainerPolicy {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container.
    pub container: String,
    /// `false`: archives go when the container is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain_orphan: Option<bool>,
    /// Archives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_checkpoints: Option<u64>,
    /// Of one archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_checkpoint_size: Option<Size>,
    /// Of all archives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_total_size: Option<Size>,
    /// Ours: of one archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Age>,
    /// Taken and without effect: archives are not sent anywhere.
    #[serde(skip_serializing)]
    pub upload_to_external_storage: Option<IgnoredAny>,
}

/// One of `podPolicies`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PodPolicy {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// `false`: archives go when the pod is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain_orphan: Option<bool>,
    /// Archives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_checkpoints: Option<u64>,
    /// Of one archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_checkpoint_size: Option<Size>,
    /// Of all archives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_total_size: Option<Size>,
    /// Ours: of one archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Age>,
    /// Taken and without effect: archives are not sent anywhere.
    #[serde(skip_serializing)]
    pub upload_to_external_storage: Option<IgnoredAny>,
}

/// One of `namespacePolicies`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NamespacePolicy {
    /// The namespace.
    pub namespace: String,
    /// `false`: archives go when the namespace is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain_orphan: Option<bool>,
    /// Archives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_checkpoints: Option<u64>,
    /// Of one archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_checkpoint_size: Option<Size>,
    /// Of all archives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_total_size: Option<Size>,
    /// Ours: of one archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Age>,
    /// Taken and without effect: archives are not sent anywhere.
    #[serde(skip_serializing)]
    pub upload_to_external_storage: Option<IgnoredAny>,
}

/// `nodePolicy`, which the operator has not: over all archives of the folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodePolicy {
    /// Archives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_checkpoints: Option<u64>,
    /// Of one archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_checkpoint_size: Option<Size>,
    /// Of all archives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_total_size: Option<Size>,
    /// Of one archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Age>,
    /// What must stay free of the disk the folder is on. While less is, the oldest archives go, all
    /// of them if need be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_free: Option<MinFree>,
}

/// The limits of one level, wherever they come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Whether archives go when what they are of is gone.
    pub drop_orphans: bool,
    /// Archives.
    pub count: Option<u64>,
    /// Bytes of one archive.
    pub size: Option<u64>,
    /// Bytes of all archives.
    pub total: Option<u64>,
    /// Of one archive.
    pub age: Option<Age>,
}

impl Bounds {
    /// Whether a limit of 0 switches the level off.
    pub(super) fn is_off(&self) -> bool {
        [self.count, self.size, self.total].contains(&Some(0))
    }
}

/// Why policies cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// Not the YAML that is wanted.
    #[error("the retention policies cannot be understood")]
    Yaml(#[source] Box<serde_saphyr::Error>),
    /// A policy that does not say whose it is.
    #[error("{list}[{index}] has no {field}: it would apply to nothing")]
    Unnamed {
        /// The list it is in.
        list: &'static str,
        /// Its place, from 0.
        index: usize,
        /// What is missing.
        field: &'static str,
    },
    /// Two policies for one thing.
    #[error("{list}[{index}] is for {target}, which has a policy already")]
    Twice {
        /// The list it is in.
        list: &'static str,
        /// The second one's place, from 0.
        index: usize,
        /// What both are for.
        target: String,
    },
}

/// A whole object of the cluster instead of its spec.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(rename_all = "camelCase")]
struct Whole {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    #[serde(rename = "metadata", default)]
    _metadata: IgnoredAny,
    #[serde(rename = "status", default)]
    _status: IgnoredAny,
    spec: Retention,
}

/// What tells a whole object from a spec.
#[derive(Deserialize)]
struct Probe {
    spec: Option<IgnoredAny>,
}

impl Retention {
    /// Reads policies: the fields of this struct, or a whole `CheckpointRestoreOperator` object.
    ///
    /// # Errors
    /// [`RetentionError`]; unknown fields too, since a misspelt limit is none.
    pub fn from_yaml(text: &str) -> Result<Self, RetentionError> {
        let yaml = |error| RetentionError::Yaml(Box::new(error));
        let probe: Option<Probe> = serde_saphyr::from_str(text).map_err(yaml)?;
        let retention = match probe {
            None => Self::default(),
            Some(Probe { spec: Some(_) }) => {
                serde_saphyr::from_str::<Whole>(text).map_err(yaml)?.spec
            }
            Some(Probe { spec: None }) => serde_saphyr::from_str(text).map_err(yaml)?,
        };
        retention.check()?;
        Ok(retention)
    }

    /// [`Retention::from_yaml`] of a file. Blocking.
    ///
    /// # Errors
    /// [`RetentionError`].
    pub fn from_file(path: &std::path::Path) -> Result<Self, RetentionError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| RetentionError::Read { path: path.to_owned(), source })?;
        Self::from_yaml(&text)
    }

    /// Finds policies that could not be meant.
    ///
    /// # Errors
    /// [`RetentionError::Unnamed`] and [`RetentionError::Twice`].
    pub fn check(&self) -> Result<(), RetentionError> {
        distinct("containerPolicies", &self.container_policies, |p| {
            [("namespace", &p.namespace), ("pod", &p.pod), ("container", &p.container)]
        })?;
        distinct("podPolicies", &self.pod_policies, |p| {
            [("namespace", &p.namespace), ("pod", &p.pod)]
        })?;
        distinct("namespacePolicies", &self.namespace_policies, |p| [("namespace", &p.namespace)])
    }

    /// Whether nothing is ever deleted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let levels = self.container_policies.iter().map(ContainerPolicy::bounds);
        let levels = levels.chain(self.pod_policies.iter().map(PodPolicy::bounds));
        let levels = levels.chain(self.namespace_policies.iter().map(NamespacePolicy::bounds));
        let global = &self.global_policy;
        let levels = levels.chain([global.container(), global.pod(), global.namespace()]);
        let mut levels = levels.chain([self.node_policy.bounds()]);
        levels.all(|bounds| bounds == Bounds::default()) && self.node_policy.min_free.is_none()
    }

    /// Whether a policy asks what still exists.
    #[must_use]
    pub fn drops_orphans(&self) -> bool {
        self.global_policy.retain_orphan == Some(false)
            || self.container_policies.iter().any(|one| one.retain_orphan == Some(false))
            || self.pod_policies.iter().any(|one| one.retain_orphan == Some(false))
            || self.namespace_policies.iter().any(|one| one.retain_orphan == Some(false))
    }

    pub(super) fn container_policy(&self, of: &Identity) -> Option<&ContainerPolicy> {
        self.container_policies.iter().find(|one| {
            (&one.namespace, &one.pod, &one.container) == (&of.namespace, &of.pod, &of.container)
        })
    }

    pub(super) fn pod_policy(&self, of: &Identity) -> Option<&PodPolicy> {
        self.pod_policies.iter().find(|one| (&one.namespace, &one.pod) == (&of.namespace, &of.pod))
    }

    pub(super) fn namespace_policy(&self, of: &Identity) -> Option<&NamespacePolicy> {
        self.namespace_policies.iter().find(|one| one.namespace == of.namespace)
    }
}

fn distinct<T, const N: usize>(
    list: &'static str,
    policies: &[T],
    key: impl Fn(&T) -> [(&'static str, &String); N],
) -> Result<(), RetentionError> {
    let mut seen = HashSet::new();
    for (index, policy) in policies.iter().enumerate() {
        let parts = key(policy);
        if let Some((field, _)) = parts.iter().find(|(_, value)| value.is_empty()) {
            return Err(RetentionError::Unnamed { list, index, field });
        }
        let target = parts.map(|(_, value)| value.as_str());
        if !seen.insert(target) {
            return Err(RetentionError::Twice { list, index, target: target.join("/") });
        }
    }
    Ok(())
}

fn bounds(
    retain_orphan: Option<bool>,
    count: Option<u64>,
    size: Option<Size>,
    total: Option<Size>,
    age: Option<Age>,
) -> Bounds {
    Bounds {
        drop_orphans: retain_orphan == Some(false),
        count,
        size: size.map(|size| size.0),
        total: total.map(|size| size.0),
        age,
    }
}

impl GlobalPolicy {
    pub(super) fn container(&self) -> Bounds {
        let (count, total) =
            (self.max_checkpoints_per_container, self.max_total_size_per_container);
        bounds(self.retain_orphan, count, self.max_checkpoint_size, total, self.max_age)
    }

    pub(super) fn pod(&self) -> Bounds {
        let (count, total) = (self.max_checkpoints_per_pod, self.max_total_size_per_pod);
        bounds(self.retain_orphan, count, self.max_checkpoint_size, total, self.max_age)
    }

    pub(super) fn namespace(&self) -> Bounds {
        let (count, total) =
            (self.max_checkpoints_per_namespace, self.max_total_size_per_namespace);
        bounds(self.retain_orphan, count, self.max_checkpoint_size, total, self.max_age)
    }
}

/// The four kinds of policies whose fields are alike.
macro_rules! own_bounds {
    ($($policy:ty: $orphan:expr),+ $(,)?) => {$(
        impl $policy {
            pub(super) fn bounds(&self) -> Bounds {
                let retain_orphan: fn(&Self) -> Option<bool> = $orphan;
                let (count, size) = (self.max_checkpoints, self.max_checkpoint_size);
                bounds(retain_orphan(self), count, size, self.max_total_size, self.max_age)
            }
        }
    )+};
}

own_bounds! {
    ContainerPolicy: |policy| policy.retain_orphan,
    PodPolicy: |policy| policy.retain_orphan,
    NamespacePolicy: |policy| policy.retain_orphan,
    NodePolicy: |_| None,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let mut error: &dyn std::error::Error = &Retention::from_yaml(text).unwrap_err();
        let mut said = error.to_string();
        while let Some(cause) = error.source() {
            said = format!("{said}: {cause}");
            error = cause;
        }
        said
    }

    #[test]
    fn an_operators_object_is_taken_whole_or_by_its_spec() {
        let spec = "
checkpointDirectory: /var/lib/kubelet/checkpoints
applyPoliciesImmediately: true
globalPolicy:
  retainOrphan: true
  maxCheckpointsPerNamespace: 50
  maxCheckpointsPerPod: 30
  maxCheckpointsPerContainer: 10
  maxCheckpointSize: 10Gi
  maxTotalSizePerNamespace: \"1000Gi\"
  maxTotalSizePerPod: 500M
  maxTotalSizePerContainer: 107374182400
  uploadToExternalStorage: false
containerPolicies:
- {namespace: n, pod: p, container: c, maxCheckpoints: 5, maxCheckpointSize: 6Mi,
   maxTotalSize: 20Mi, retainOrphan: false}
podPolicies:
- {namespace: n, pod: p, maxCheckpoints: 10}
namespacePolicies:
- {namespace: n, maxCheckpoints: 15, maxTotalSize: 1Ti}
externalStorage: {backend: s3, bucket: b, secretRef: {name: x}}
";
        let by_spec = Retention::from_yaml(spec).unwrap();
        let indented = spec.replace('\n', "\n  ");
        let whole = format!(
            "apiVersion: criu.org/v1\nkind: CheckpointRestoreOperator\nmetadata:\n  name: x\n\
             spec:\n  {indented}"
        );
        assert_eq!(Retention::from_yaml(&whole).unwrap(), by_spec);
        let global = &by_spec.global_policy;
        assert_eq!(global.max_checkpoints_per_pod, Some(30));
        assert_eq!(global.max_checkpoint_size, Some(Size(10 << 30)));
        assert_eq!(global.max_total_size_per_namespace, Some(Size(1000 << 30)));
        assert_eq!(global.max_total_size_per_pod, Some(Size(500_000_000)));
        assert_eq!(global.max_total_size_per_container, Some(Size(100 << 30)));
        assert!(by_spec.drops_orphans() && !by_spec.is_empty());
    }

    #[test]
    fn our_own_fields_are_read_and_written_as_they_were() {
        let text = "
globalPolicy: {maxAge: 30d, maxCheckpointSize: 1.001k}
nodePolicy: {minFree: 12.5%, maxCheckpoints: 7, maxTotalSize: 200Gi, maxAge: 1w2d}
interval: 5m
";
        let made = Retention::from_yaml(text).unwrap();
        assert_eq!(made.node_policy.min_free, Some(MinFree::Share(1250)));
        assert_eq!(made.interval, Some(Age::from_secs(300)));
        let json = serde_json::to_string(&made).unwrap();
        assert_eq!(Retention::from_yaml(&json).unwrap(), made);
        assert!(json.contains(r#""maxAge":"1w2d""#) && !json.contains("retainOrphan"), "{json}");
    }

    #[test]
    fn nothing_said_is_nothing_deleted() {
        for text in ["", "# nothing\n", "{}", "globalPolicy: {}"] {
            assert!(Retention::from_yaml(text).unwrap().is_empty(), "{text:?}");
        }
    }

    #[test]
    fn what_could_not_be_meant_is_refused_by_name() {
        for (text, parts) in [
            ("globalPolicy: {maxCheckpointsPerContaner: 3}", &["maxCheckpointsPerContaner"][..]),
            ("globalPolicy: {maxCheckpointSize: 10}", &["10Mi", "MB"]),
            ("globalPolicy: {maxCheckpointSize: 10GB}", &["10GB", "10Gi"]),
            ("globalPolicy: {maxCheckpointsPerPod: -1}", &["-1"]),
            ("nodePolicy: {maxAge: 7}", &["7", "7d"]),
            ("nodePolicy: {minFree: 100%}", &["100%", "10%"]),
            ("podPolicies: [{namespace: n}]", &["podPolicies[0] has no pod"]),
            (
                "namespacePolicies: [{namespace: n}, {namespace: m}, {namespace: n}]",
                &["namespacePolicies[2] is for n, which has a policy already"],
            ),
            (
                "containerPolicies: [{namespace: n, pod: p, container: c}, \
                 {namespace: n, pod: p, container: c}]",
                &["containerPolicies[1] is for n/p/c"],
            ),
            ("- 1", &["understood"]),
            ("spec: {x: 1}\nkind: X\napiVersion: y", &["x"]),
        ] {
            let said = error(text);
            for part in parts {
                assert!(said.contains(part), "{text}: {said}");
            }
        }
        let missing = Retention::from_file(std::path::Path::new("/no/such/file.yaml"));
        assert!(missing.unwrap_err().to_string().contains("/no/such/file.yaml"));
    }
}
