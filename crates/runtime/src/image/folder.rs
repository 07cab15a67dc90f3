//! A folder as an image: named by a digest of all it holds.
//!
//! The digest is over names, kinds, modes, owners, link targets, device numbers and contents, in the
//! order of the names, so that two folders with the same digest show a container the same. Times
//! are left out: a copy of the folder is the same image.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{ImageError, failed};
use crate::record::hex;

/// The digest (`sha256:…`) of a folder, and the bytes of its files.
pub(crate) fn digest(dir: &Path) -> Result<(String, u64), ImageError> {
    let meta = fs::metadata(dir).map_err(failed("read", dir))?;
    if !meta.is_dir() {
        return Err(ImageError::NotAnImage { path: dir.into() });
    }
    let mut hasher = Sha256::new();
    let mut size = 0;
    hasher.update(b"cryopod folder 1\n");
    add(&mut hasher, dir, b"", &mut size)?;
    Ok((format!("sha256:{}", hex(hasher.finalize().as_slice())), size))
}

fn add(hasher: &mut Sha256, path: &Path, name: &[u8], size: &mut u64) -> Result<(), ImageError> {
    let meta = fs::symlink_metadata(path).map_err(failed("read", path))?;
    let mut field = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(name);
    for number in [meta.mode(), meta.uid(), meta.gid()] {
        field(&number.to_le_bytes());
    }
    let kind = meta.file_type();
    if kind.is_symlink() {
        let target = fs::read_link(path).map_err(failed("read", path))?;
        field(target.as_os_str().as_bytes());
    } else if kind.is_char_device() || kind.is_block_device() {
        field(&meta.rdev().to_le_bytes());
    } else if kind.is_file() {
        *size += meta.len();
        hasher.update(meta.len().to_le_bytes());
        let mut file = File::open(path).map_err(failed("open", path))?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let count = file.read(&mut buffer).map_err(failed("read", path))?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
        }
    } else if kind.is_dir() {
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(failed("list", path))? {
            names.push(entry.map_err(failed("list", path))?.file_name());
        }
        names.sort_unstable();
        hasher.update((names.len() as u64).to_le_bytes());
        for name in names {
            add(hasher, &path.join(&name), name.as_bytes(), size)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_same_digest_and_any_change_another() {
        let make = |content: &str| {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("bin")).unwrap();
            fs::write(dir.path().join("bin/sh"), content).unwrap();
            dir
        };
        let (a, b, c) = (make("x"), make("x"), make("y"));
        assert_eq!(digest(a.path()).unwrap(), digest(b.path()).unwrap());
        assert_ne!(digest(a.path()).unwrap().0, digest(c.path()).unwrap().0);
    }
}
