//! Entry points of the hidden subcommands: shim and helpers.
//!
//! Each runs in a fresh, single-threaded process. The binary calls [`run`] before it starts any
//! thread (so before a tokio runtime exists) when its first argument is [`FLAG`]:
//!
//! ```no_run
//! let mut args = std::env::args_os().skip(1);
//! if args.next().is_some_and(|a| a == cryopod_runtime::entry::FLAG) {
//!     let rest: Vec<_> = args.collect();
//!     std::process::exit(cryopod_runtime::entry::run(&rest));
//! }
//! ```

use std::ffi::OsString;

/// First argument of a hidden subcommand.
pub const FLAG: &str = "__cryopod";

/// Runs the hidden subcommand given by the arguments after [`FLAG`], and returns the exit code.
#[must_use]
pub fn run(args: &[OsString]) -> i32 {
    let texts: Option<Vec<&str>> = args.iter().map(|a| a.to_str()).collect();
    match texts.as_deref() {
        Some(["shim", arguments]) => crate::shim::main(arguments),
        Some(["helper"]) => crate::helper::main(),
        _ => 2,
    }
}
