//! The smallest program that hosts the runtime: what the tests start as shim and helper.

fn main() {
    let mut args = std::env::args_os().skip(1);
    let code = if args.next().is_some_and(|a| a == cryopod_runtime::entry::FLAG) {
        cryopod_runtime::entry::run(&args.collect::<Vec<_>>())
    } else {
        2
    };
    std::process::exit(code);
}
