//! Another machine, as far as one kernel can play two: a `cryopod serve` in mount, pid and network
//! namespaces of its own, with empty folders, where nothing of the first node can be seen. An archive
//! is all that is carried there.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::containers::counting;
use crate::harness::{CRYOPOD, Node, remove_cgroup, stderr, stdout, wait_for};
use crate::images::{docker_archive, layer, make_root};

const COUNTER: &str = "default/counter/counter";
const SCRIPT: &str = "i=0; while :; do i=$((i+1)); echo $i; echo $i >> /numbers; sleep 0.02; done";

/// Makes the namespaces' contents, then serves: `$1` is hidden, `$2` is the node's folder.
const BEGIN: &str = "\
    mount --make-rprivate /; mount -t proc proc /proc; \
    mount -t tmpfs -o mode=700 none \"$1\"; mount -t tmpfs -o mode=700 none \"$2\"; \
    shift 2; \"$@\" & wait $!";

/// The other machine.
struct Elsewhere {
    folder: tempfile::TempDir,
    cgroup: String,
    /// unshare(1), outside of its namespaces; it ends with what is inside.
    outside: Child,
    /// The first process inside, by its pid outside.
    inside: u32,
}

impl Elsewhere {
    /// Begins it. `hidden` is a folder of which nothing is there.
    fn begin(hidden: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("cryopod-test-").tempdir().unwrap();
        let cgroup = folder.path().file_name().unwrap().to_str().unwrap().to_owned();
        let at = |name: &str| folder.path().join(name);
        // Outside of the folder, which is another one inside.
        let log = std::fs::File::create(at("serve.log")).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--net", "--fork", "--kill-child", "sh", "-euc", BEGIN]);
        command.arg("sh").arg(hidden).arg(folder.path());
        command.args([CRYOPOD, "serve", "--address", "127.0.0.1:0", "--cgroup-parent", &cgroup]);
        for (option, place) in [
            ("--socket", "run/cryopod.sock"),
            ("--root-dir", "kubelet"),
            ("--state-dir", "state"),
            ("--run-dir", "run"),
            ("--log-dir", "logs"),
        ] {
            command.arg(option).arg(at(place));
        }
        let outside =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", outside.id());
        let inside = wait_for("the process inside", || {
            std::fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok()
        });
        let node = Self { folder, cgroup, outside, inside };
        wait_for("the server's answer", || {
            let answer = node.run(["version", "--output", "json"]);
            let versions: serde_json::Value = serde_json::from_slice(&answer.stdout).ok()?;
            versions["runtime"].is_object().then_some(())
        });
        node
    }

    /// A command of that machine.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.inside.to_string(), "--mount", "--pid", "--net", "--"]);
        command.arg(program).env("CRYOPOD_SOCKET", self.folder.path().join("run/cryopod.sock"));
        command.stdin(Stdio::null());
        command
    }

    fn run<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Output {
        self.command(CRYOPOD).args(args).output().unwrap()
    }

    #[track_caller]
    fn ok<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{}\n{}", stderr(&output), self.log());
        stdout(&output)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("serve.log")).unwrap_or_default()
    }

    /// Copies a file there; gives its path on that machine.
    fn carry(&self, file: &Path) -> PathBuf {
        let there = self.folder.path().join("carried.tar");
        let through = format!("/proc/{}/root{}", self.inside, there.display());
        std::fs::copy(file, through).unwrap();
        there
    }

    fn told(&self) -> Vec<u64> {
        self.ok(["logs", COUNTER]).lines().map(|line| line.parse().unwrap()).collect()
    }

    /// It goes on from there in its log, and in the file of its root filesystem if it writes one.
    fn assert_goes_on(&self, from: usize, file: bool) {
        let told = wait_for("it to count", || {
            let told = self.told();
            (told.len() > from + 10).then_some(told)
        });
        assert!(told.iter().zip(1..).all(|(told, number)| *told == number), "{told:?}");
        if file {
            let numbers = self.ok(["exec", COUNTER, "--", "/bin/cat", "/numbers"]);
            assert!(numbers.lines().count() > from + 10);
            assert!(numbers.lines().zip(1..).all(|(line, number)| line == number.to_string()));
        }
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.run(["rm", "--force", "default/counter"]);
        if std::thread::panicking() {
            eprintln!("--- the log of the server elsewhere\n{}", self.log());
        }
        // Its first process dies with it, and with that everything there.
        self.outside.kill().ok();
        self.outside.wait().ok();
        remove_cgroup(&self.cgroup);
    }
}

/// Runs the counter of an image, takes a checkpoint with options and ends it; the archive, and how
/// far it was.
fn checkpoint(node: &Node, source: [&str; 2], options: &[&str]) -> (PathBuf, usize) {
    let run = ["run", "--name", "counter"].into_iter().chain(source);
    node.ok(run.chain(["--", "/bin/sh", "-c", SCRIPT]));
    let told = || node.ok(["logs", COUNTER]).lines().count();
    wait_for("some numbers", || (told() > 5).then_some(()));
    let args = ["checkpoint", COUNTER, "--stop"].into_iter().chain(options.iter().copied());
    let archive = PathBuf::from(node.ok(args).trim());
    let at = told();
    node.ok(["rm", "--force", "default/counter"]);
    (archive, at)
}

#[test]
fn an_archive_with_a_folder_image_is_all_that_is_carried() {
    let from = Node::start();
    let root = from.folder().join("root");
    make_root(&root);
    let (archive, at) = checkpoint(&from, ["--rootfs", root.to_str().unwrap()], &["--with-image"]);
    let to = Elsewhere::begin(from.folder());
    let carried = to.carry(&archive);
    to.ok(["restore", carried.to_str().unwrap()]);
    to.assert_goes_on(at, true);
}

#[test]
fn an_archive_with_an_image_of_layers_is_all_that_is_carried() {
    let from = Node::start();
    let image = from.folder().join("image.tar");
    docker_archive(&image, &layer(from.folder()));
    let (archive, at) = checkpoint(&from, ["--image", image.to_str().unwrap()], &["--with-image"]);
    let to = Elsewhere::begin(from.folder());
    let carried = to.carry(&archive);
    to.ok(["restore", carried.to_str().unwrap()]);
    to.assert_goes_on(at, true);
}

#[test]
fn an_archive_without_its_image_is_refused_there_by_the_digest_it_needs() {
    let from = Node::start();
    let root = from.folder().join("root");
    make_root(&root);
    let source = ["--rootfs", root.to_str().unwrap()];
    let args = ["run", "--output", "json", "--name", "first"].into_iter().chain(source);
    from.ok(args.chain(["--", "/bin/sh", "-c", SCRIPT]));
    let image = from.ps()[0]["image"].as_str().unwrap().to_owned();
    from.ok(["rm", "--force", "default/first"]);
    let (archive, _) = checkpoint(&from, source, &[]);
    let digest = cryopod_archive::Archive::open(&archive).unwrap();
    let digest = digest.summary().unwrap().config.rootfs_image_ref;
    assert_eq!(digest.len(), 64, "{image}");
    let to = Elsewhere::begin(from.folder());
    let carried = to.carry(&archive);
    let output = to.run(["restore", carried.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains(&format!("sha256:{digest}")), "{}", stderr(&output));
    assert_eq!(to.ok(["ps", "--all", "--output", "json"]).trim(), "[]");
}

/// The C library that `sh` uses, without links on the way.
fn libc() -> PathBuf {
    let output = Command::new("ldd").arg("/bin/sh").output().unwrap();
    let text = stdout(&output);
    let path = text.split_whitespace().find(|word| word.contains("/libc.")).unwrap();
    std::fs::canonicalize(path).unwrap()
}

#[test]
fn host_programs_go_on_where_they_are_the_same_and_a_file_that_differs_is_named() {
    let from = Node::start();
    counting(&from, "counter");
    let told = || from.ok(["logs", COUNTER]).lines().count();
    wait_for("some numbers", || (told() > 5).then_some(()));
    let archive = PathBuf::from(from.ok(["checkpoint", COUNTER, "--stop"]).trim());
    let at_archive = told();
    let to = Elsewhere::begin(from.folder());
    let carried = to.carry(&archive);
    let carried = carried.to_str().unwrap();
    to.ok(["restore", carried]);
    to.assert_goes_on(at_archive, false);
    to.ok(["rm", "--force", "default/counter"]);

    // Another build of the library, in every way one can differ.
    let libc = libc();
    let name = libc.file_name().unwrap().to_str().unwrap();
    let good = std::fs::read(&libc).unwrap();
    let time = libc.metadata().unwrap().modified().unwrap();
    let mut longer = good.clone();
    longer.push(0);
    let mut rebuilt = good.clone();
    // The note with the build id (elf(5)): sizes of name and id, type, name.
    let note = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let at = rebuilt.windows(note.len()).position(|part| part == note).unwrap();
    rebuilt[at + note.len()] ^= 1;
    let later = time + std::time::Duration::from_secs(60);
    for (bytes, time, way) in
        [(longer, time, "size"), (rebuilt, time, "build id"), (good, later, "time")]
    {
        let other = to.folder.path().join("libc");
        let through = format!("/proc/{}/root{}", to.inside, other.display());
        std::fs::write(&through, bytes).unwrap();
        std::fs::File::options().write(true).open(through).unwrap().set_modified(time).unwrap();
        let mode = "chmod 755 \"$1\"; mount --bind \"$1\" \"$2\"";
        let placed = to.command("sh").args(["-euc", mode, "sh"]).arg(&other).arg(&libc).status();
        assert!(placed.unwrap().success());
        let output = to.run(["restore", carried]);
        assert_eq!(output.status.code(), Some(4), "{way}: {}", stderr(&output));
        assert!(stderr(&output).contains(name), "{way}: {}", stderr(&output));
        assert_eq!(to.ok(["ps", "--all", "--output", "json"]).trim(), "[]");
        // umount(8) itself has it open.
        assert!(to.command("umount").arg("--lazy").arg(&libc).status().unwrap().success());
        assert!(to.command("rm").arg(&other).status().unwrap().success());
    }
    to.ok(["restore", carried]);
    to.assert_goes_on(at_archive, false);
}
