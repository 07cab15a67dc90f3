//! The `cryopod` binary.
fn main() {}
