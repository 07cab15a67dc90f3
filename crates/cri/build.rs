//! Compiles the CRI messages. protox reads the proto file in Rust, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/runtime/v1/api.proto");
    let files = protox::compile(["runtime/v1/api.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // Sorted maps: two equal messages encode and print alike.
        .btree_map(".")
        // What a server does not override answers Unimplemented; `server` gives it the text.
        .generate_default_stubs(true)
        .compile_fds(files)?;
    Ok(())
}
