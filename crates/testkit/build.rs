//! Makes one executable of each `victims/NAME.c`, in `OUT_DIR/victims/NAME`, and a static one of each `loads/NAME.c`.
//!
//! A source may say in its first lines `// cflags: ...` (given to the compiler last) and `// variants: static full`
//! (further executables `NAME_static`, linked so, and `NAME_full`, with `FULL` true: what criu loses of the object as well). An executable that is newer than its source and the header is kept.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::SystemTime;

struct Job {
    source: PathBuf,
    output: PathBuf,
    flags: Vec<String>,
}

fn main() {
    let sources = Path::new("victims");
    let out =
        PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("victims");
    std::fs::create_dir_all(&out).expect("OUT_DIR is writable");
    println!("cargo::rerun-if-changed=victims");
    println!("cargo::rerun-if-changed=build.rs");

    let compiler = cc::Build::new().opt_level(1).get_compiler();
    let header = modified(&sources.join("victim.h")).max(modified(Path::new("build.rs")));
    let mut names = Vec::new();
    let mut jobs = Vec::new();
    let listing = std::fs::read_dir(sources).expect("the folder victims exists");
    for entry in listing {
        let source = entry.expect("a readable folder").path();
        if source.extension().is_none_or(|e| e != "c") {
            continue;
        }
        println!("cargo::rerun-if-changed={}", source.display());
        let text = std::fs::read_to_string(&source).expect("a readable source");
        let field = |key: &str| -> Vec<String> {
            text.lines()
                .take(5)
                .find_map(|line| line.strip_prefix(key))
                .map(|rest| rest.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default()
        };
        let name = source.file_stem().expect("a named file").to_string_lossy().into_owned();
        let flags = field("// cflags:");
        let mut add = |name: String, flags: Vec<String>| {
            let output = out.join(&name);
            if modified(&output) <= modified(&source).max(header) {
                jobs.push(Job { source: source.clone(), output, flags });
            }
            names.push(name);
        };
        for variant in field("// variants:") {
            let flag = match variant.as_str() {
                "static" => "-static",
                "full" => "-DFULL=1",
                other => panic!("{}: {other} is no variant", source.display()),
            };
            let flags = flags.iter().cloned().chain([flag.to_owned()]).collect();
            add(format!("{name}_{variant}"), flags);
        }
        add(name, flags);
    }
    names.sort();
    jobs.extend(loads(&out.with_file_name("loads")));
    let list: String = names.iter().map(|n| format!("{n:?},\n")).collect();
    std::fs::write(out.join("list.rs"), format!("&[\n{list}]\n")).expect("OUT_DIR is writable");

    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let queue = Mutex::new(jobs);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let Some(job) = queue.lock().expect("no worker panics with the lock").pop()
                    else {
                        break;
                    };
                    compile(compiler.path(), &job);
                }
            });
        }
    });
}

/// What runs in containers and need not be like what a compiler makes by default.
fn loads(out: &Path) -> Vec<Job> {
    std::fs::create_dir_all(out).expect("OUT_DIR is writable");
    println!("cargo::rerun-if-changed=loads");
    let listing = std::fs::read_dir("loads").expect("the folder loads exists");
    let mut jobs = Vec::new();
    for entry in listing {
        let source = entry.expect("a readable folder").path();
        if source.extension().is_none_or(|e| e != "c") {
            continue;
        }
        println!("cargo::rerun-if-changed={}", source.display());
        let output = out.join(source.file_stem().expect("a named file"));
        if modified(&output) <= modified(&source) {
            let flags = ["-O2", "-static", "-pthread"].map(str::to_owned).to_vec();
            jobs.push(Job { source, output, flags });
        }
    }
    jobs
}

fn compile(compiler: &Path, job: &Job) {
    let mut arguments: Vec<OsString> =
        ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-o"].iter().map(OsString::from).collect();
    arguments.push(job.output.clone().into());
    arguments.push(job.source.clone().into());
    arguments.extend(job.flags.iter().map(OsString::from));
    let status = Command::new(compiler).args(&arguments).status();
    match status {
        Ok(status) if status.success() => {}
        other => panic!("{} {arguments:?}: {other:?}", compiler.display()),
    }
}

fn modified(path: &Path) -> SystemTime {
    path.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}
