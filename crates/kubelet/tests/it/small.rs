//! Small archives, real in every other way.

use std::ffi::OsStr;
use std::path::Path;

use cryopod_archive::ArchiveWriter;

/// Writes an archive of a container, as our own runtime does: under another name, then shown whole.
pub(crate) fn write_archive(folder: &Path, name: &str, of: [&str; 3], pages: usize) {
    let mut writer = ArchiveWriter::create(folder).unwrap();
    fill(&mut writer, of, pages);
    writer.finish(OsStr::new(name)).unwrap();
}

/// Everything that is in it.
pub(crate) fn fill(
    writer: &mut ArchiveWriter,
    [namespace, pod, container]: [&str; 3],
    pages: usize,
) {
    let config = format!(r#"{{"id": "1", "name": "k8s_{container}_{pod}_{namespace}_u_0"}}"#);
    let spec = serde_json::json!({"annotations": {
        "io.container.manager": "cryopod",
        "io.kubernetes.cri.sandbox-namespace": namespace,
        "io.kubernetes.cri.sandbox-name": pod,
        "io.kubernetes.cri.container-name": container,
    }});
    writer.put("config.dump", config.as_bytes(), 0o600).unwrap();
    writer.put("spec.dump", spec.to_string().as_bytes(), 0o600).unwrap();
    writer.put("checkpoint/inventory.img", b"inventory", 0o600).unwrap();
    writer.begin("checkpoint/pages-1.img", 0o600, true).unwrap();
    for page in 0..pages {
        writer.append(&[u8::try_from(page % 251).unwrap(); 4096]).unwrap();
    }
    writer.end().unwrap();
}
