//! A tree as text, to compare two of them.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Every path with all that must survive: kind, mode, owner, times, links, content, attributes.
pub(crate) fn snapshot(root: &Path) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut first = HashMap::new();
    walk(root, root, &mut out, &mut first);
    out
}

fn walk(
    root: &Path,
    path: &Path,
    out: &mut BTreeMap<String, String>,
    first: &mut HashMap<(u64, u64), String>,
) {
    let stat = path.symlink_metadata().unwrap();
    let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
    let kind = stat.file_type();
    let content = if kind.is_file() {
        let bytes = std::fs::read(path).unwrap();
        let sum = bytes.iter().fold(7_u64, |sum, &b| sum.wrapping_mul(31).wrapping_add(b.into()));
        format!("file of {} bytes, sum {sum:x}", bytes.len())
    } else if kind.is_symlink() {
        let target = std::fs::read_link(path).unwrap();
        format!("link to {}", target.as_os_str().as_bytes().escape_ascii())
    } else if kind.is_dir() {
        "directory".to_owned()
    } else if kind.is_fifo() {
        "fifo".to_owned()
    } else {
        "other".to_owned()
    };
    let mut line = format!(
        "{content} mode {:o} owner {}:{} time {}.{:09}",
        stat.mode() & 0o7777,
        stat.uid(),
        stat.gid(),
        stat.mtime(),
        stat.mtime_nsec()
    );
    if !kind.is_dir() && stat.nlink() > 1 {
        let same = first.entry((stat.dev(), stat.ino())).or_insert_with(|| name.clone());
        line.push_str(&format!(" same as {same}"));
    }
    let mut list = vec![0; 65536];
    let len = rustix::fs::llistxattr(path, &mut list[..]).unwrap_or(0);
    let mut names: Vec<&[u8]> = list[..len].split(|&b| b == 0).filter(|n| !n.is_empty()).collect();
    names.sort_unstable();
    for attribute in names {
        let mut value = vec![0; 65536];
        let len = rustix::fs::lgetxattr(path, attribute, &mut value[..]).unwrap();
        line.push_str(&format!(" {}={}", attribute.escape_ascii(), value[..len].escape_ascii()));
    }
    out.insert(name, line);
    if kind.is_dir() {
        let mut children: Vec<_> =
            std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
        children.sort();
        for child in children {
            walk(root, &child, out, first);
        }
    }
}
