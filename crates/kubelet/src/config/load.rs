//! From files and flags to [`Effective`], collecting every mistake on the way.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::decode::{Unknown, decode};
use super::document::{Located, Origin};
use super::effective::Effective;
use super::flags::lay;
use super::kubelet::Kubelet;
use super::{ConfigError, Extras, Flags, extras, kubelet, report};
use crate::feature_gates;

/// Reads the files that the flags name and lays the flags over them. What cannot be used is left
/// out of the result and is in the errors: with any error at all, nothing is to be started.
///
/// Blocking: a few small files are read.
pub fn load(flags: &Flags) -> (Effective, Vec<ConfigError>) {
    let mut errors = Vec::new();
    let mut tree = Located::empty();
    let mut own = Located::empty();
    if let Some(path) = &flags.config {
        match kubelet_file(path, &mut errors) {
            Ok((file, behind)) => {
                tree.merge(file);
                behind.into_iter().for_each(|document| own.merge(document));
            }
            Err(error) => errors.push(error),
        }
    }
    if let Some(folder) = &flags.config_dir {
        match drop_ins(folder) {
            Ok(paths) => {
                for path in paths {
                    match kubelet_file(&path, &mut errors) {
                        Ok((file, _)) => tree.merge(file),
                        Err(error) => errors.push(error),
                    }
                }
            }
            Err(error) => errors.push(error),
        }
    }
    if let Some(path) = &flags.cryopod_config {
        match own_file(path) {
            Ok(document) => own.merge(document),
            Err(error) => errors.push(error),
        }
    }
    lay(&flags.kubelet, &mut tree);
    lay(&flags.extras, &mut own);
    if let Some(text) = &flags.feature_gates {
        match feature_gates::entries(text) {
            Ok(entries) => {
                for (name, on) in entries {
                    let flag = Origin::Flag("--feature-gates");
                    let path = format!("featureGates.{name}");
                    tree.set(&path, Located::from_json(on.into(), &flag));
                }
            }
            Err(error) => errors.push(ConfigError::FeatureGates(error)),
        }
    }

    let (kubelet, mut ignored): (Kubelet, _) = settle(&mut tree, &mut errors);
    for name in kubelet.feature_gates.keys().filter(|name| !feature_gates::is_known(name)) {
        let path = format!("featureGates.{name}");
        ignored.push(Unknown { origin: tree.origin(&path), path });
    }
    let (extras, unknown): (Extras, _) = settle(&mut own, &mut errors);
    for Unknown { path, origin } in unknown {
        let known = report::fields(&Extras::default());
        errors.push(ConfigError::UnknownField { origin, path, known });
    }
    let effective = Effective::new(flags, kubelet, &tree, ignored, extras, &own);
    errors.extend(effective.conflicts());
    (effective, errors)
}

/// Reads a tree into its type; a value of the wrong kind is told and taken out, until the rest
/// can be read.
fn settle<T: DeserializeOwned + Default>(
    tree: &mut Located,
    errors: &mut Vec<ConfigError>,
) -> (T, Vec<Unknown>) {
    loop {
        match decode(tree) {
            Ok(done) => return done,
            Err(error) => {
                // An element of a list goes with its list.
                let mut keys = error.keys().to_vec();
                let mut gone = None;
                while gone.is_none() && !keys.is_empty() {
                    gone = tree.prune(&keys);
                    keys.pop();
                }
                errors.push(error.into());
                if gone.is_none() {
                    return Default::default();
                }
            }
        }
    }
}

/// The kubelet's document of a file, and our own behind it.
fn kubelet_file(
    path: &Path,
    errors: &mut Vec<ConfigError>,
) -> Result<(Located, Option<Located>), ConfigError> {
    let mut documents = Located::read(path)?.into_iter();
    let Some(mut first) = documents.next() else {
        return Err(ConfigError::Empty { path: path.to_owned() });
    };
    let (version, kind) = identity(&mut first);
    if version != kubelet::API_VERSION || kind != kubelet::KIND {
        return Err(ConfigError::not_kubelet(first.origin, version, kind));
    }
    let mut behind: Option<Located> = None;
    for mut document in documents {
        let (version, kind) = identity(&mut document);
        if version != extras::API_VERSION || kind != extras::KIND {
            errors.push(ConfigError::not_ours(document.origin, version, kind));
        } else if behind.is_some() {
            errors.push(ConfigError::Twice { origin: document.origin, kind: extras::KIND });
        } else {
            behind = Some(document);
        }
    }
    Ok((first, behind))
}

/// The only document of a file of ours.
fn own_file(path: &Path) -> Result<Located, ConfigError> {
    let mut documents = Located::read(path)?.into_iter();
    let Some(mut first) = documents.next() else {
        return Err(ConfigError::Empty { path: path.to_owned() });
    };
    let (version, kind) = identity(&mut first);
    if version != extras::API_VERSION || kind != extras::KIND {
        return Err(ConfigError::not_ours(first.origin, version, kind));
    }
    match documents.next() {
        Some(second) => Err(ConfigError::Twice { origin: second.origin, kind: extras::KIND }),
        None => Ok(first),
    }
}

/// Takes out what says which kind of document it is; empty where it is missing or no text, and
/// for what is no mapping.
fn identity(document: &mut Located) -> (String, String) {
    let mut text = |key| {
        let value = document.take(key);
        value.as_ref().and_then(Located::text).unwrap_or_default().to_owned()
    };
    (text("apiVersion"), text("kind"))
}

/// The files `*.conf` below a folder, in the order of their paths.
fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| ConfigError::Read { path, source }
    };
    let mut found = Vec::new();
    let mut entries = fs::read_dir(folder)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .map_err(unreadable(folder))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_type().map_err(unreadable(&path))?.is_dir() {
            found.extend(drop_ins(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "conf") {
            found.push(path);
        }
    }
    Ok(found)
}
