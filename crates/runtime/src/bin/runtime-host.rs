//! The smallest program that hosts the runtime: what the tests start as shim and helper.

use std::ffi::OsString;
use std::path::Path;

fn main() {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let code = if args.next().is_some_and(|a| a == cryopod_runtime::entry::FLAG) {
        let args: Vec<OsString> = args.collect();
        if args.first().is_some_and(|a| a == "helper") && is_held(&name) {
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::STOP,
            );
        }
        cryopod_runtime::entry::run(&args)
    } else {
        2
    };
    std::process::exit(code);
}

/// Whether a test wants to trace helpers from their first step: it then puts a file `NAME.hold`
/// beside the link it has this started as.
fn is_held(name: &OsString) -> bool {
    Path::new(name).with_extension("hold").exists()
}
