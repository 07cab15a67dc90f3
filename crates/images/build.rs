//! Compiles `proto/*.proto` to Rust without protoc: protox parses them, prost writes the types.

use std::error::Error;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = Path::new("proto");
    let mut files = Vec::<PathBuf>::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    files.sort();
    println!("cargo::rerun-if-changed=proto");
    let set = protox::compile(&files, [dir])?;
    prost_build::Config::new().compile_fds(set)?;
    Ok(())
}
