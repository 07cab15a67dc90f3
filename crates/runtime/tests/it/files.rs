//! Files that a container holds open, on its own root: a layered one, as no test of the engine has.

use std::fs;
use std::time::Duration;

use cryopod_runtime::{CheckpointOptions, ContainerConfig, ImageSpec};

use crate::checkpoint::archive;
use crate::host::{Host, script, wait_for};

/// Holds files in every state, looks at all of them every tick, and prints the tick or what is
/// wrong.
const HOLDER: &str = r#"
exec python3 -u -c '
import ctypes, fcntl, mmap, os, struct, time
libc = ctypes.CDLL(None)
both = open("/both", "w+b"); both.write(b"a" * 5000); both.flush()
shared = mmap.mmap(both.fileno(), 5000); os.unlink("/both")
perf = open("/perf", "w+b"); perf.write(b"b" * 4096); perf.flush()
mapped = mmap.mmap(perf.fileno(), 4096); perf.close(); os.unlink("/perf")
temporary = os.open("/", os.O_TMPFILE | os.O_RDWR); os.write(temporary, b"temporary")
layer = "/greeting"
lower = open(layer, "rb"); first = lower.read(); lower.seek(0)
named = open("/named", "w+"); named.write("name"); named.flush()
os.link("/named", "/other"); os.unlink("/named")
for path in ("/dev/shm/data", "/upper"):
    with open(path, "w") as new: new.write("read only from now on")
readers = [open("/dev/shm/data"), open("/upper")]
lock = open("/lock", "w"); fcntl.flock(lock, fcntl.LOCK_EX)
fcntl.lockf(named, fcntl.LOCK_EX, 2, 1)
os.mkdir("/watched"); watch = libc.inotify_init1(os.O_NONBLOCK)
number = libc.inotify_add_watch(watch, b"/watched", 0x100)
os.unlink(layer)
os.mkdir("/gone"); os.chdir("/gone"); os.rmdir("/gone")
def look(tick):
    shared[tick % 5000] = tick % 251
    both.seek(0)
    if both.read() != shared[:]: return "the unlinked file and its mapping are two"
    if os.fstat(both.fileno()).st_nlink != 0: return "the unlinked file has a name"
    if mapped[:] != b"b" * 4096: return "the mapping of an unlinked file changed"
    if os.pread(temporary, 99, 0) != b"temporary": return "the file of O_TMPFILE changed"
    lower.seek(0)
    if lower.read() != first: return "the unlinked file of the lower layer changed"
    if os.path.exists(layer): return "an unlinked file is there again"
    if os.stat("/other").st_ino != os.fstat(named.fileno()).st_ino: return "the other name leads elsewhere"
    for reader in readers:
        reader.seek(0)
        if reader.read() != "read only from now on": return "a file open for reading changed"
    probe = open("/lock")
    try:
        fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return "the lock is gone"
    except BlockingIOError: pass
    probe.close()
    open("/watched/%d" % tick, "w").close()
    event = os.read(watch, 4096)
    if struct.unpack("iI", event[:8]) != (number, 0x100): return "the watch tells something else"
    if os.stat(".").st_nlink != 0 and os.path.exists("/gone"): return "the removed directory is there"
    return str(tick)
tick = 0
while True:
    tick += 1
    print(look(tick))
    time.sleep(0.05)
'
"#;

#[test]
fn files_without_names_locks_and_watches_go_with_a_container() {
    let host = Host::new();
    let root = host.dir.path().join("root");
    for dir in ["bin", "lib", "lib64", "usr", "etc"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(root.join("greeting"), "from the image").unwrap();
    let bind = |path: &str| cryopod_runtime::Mount {
        host_path: path.into(),
        container_path: path.into(),
        readonly: true,
        recursive: true,
        ..cryopod_runtime::Mount::default()
    };
    let config = ContainerConfig {
        image: ImageSpec::Folder(root),
        mounts: ["/bin", "/lib", "/lib64", "/usr"].map(bind).into(),
        ..script("holder", HOLDER)
    };
    let sandbox = host.run_pod("holding");
    let id = host.run(&sandbox, &config);
    wait_for("a tick", || host.log("holder").len() >= 3);
    let archive = archive(&host);
    let options = CheckpointOptions { stop: true, ..CheckpointOptions::default() };
    // At some moments an event is unread: such a checkpoint is refused, and tried again.
    let mut tries = 0;
    while let Err(error) = host.runtime.checkpoint_container(&id, &archive, &options) {
        let text = format!("{error:?}");
        assert!(text.contains("unread events") && tries < 50, "{text} {:?}", host.log("holder"));
        tries += 1;
    }
    host.runtime.remove_pod_sandbox(&sandbox).unwrap();
    let described = host.runtime.describe_archive(&archive).unwrap();
    let sandbox = host.runtime.run_pod_sandbox(&described.sandbox.unwrap()).unwrap();
    let id = host.runtime.create_container_from_archive(&sandbox, &config, &archive).unwrap();
    host.runtime.start_container(&id).unwrap();
    let at = host.log("holder").len();
    wait_for("ticks after the restore", || host.log("holder").len() > at + 5);
    host.runtime.stop_container(&id, Duration::ZERO).unwrap();
    let log: Vec<String> = host.log("holder").into_iter().map(|(_, line)| line).collect();
    let wanted: Vec<String> = (1..=log.len()).map(|tick| tick.to_string()).collect();
    assert_eq!(log, wanted);
}
