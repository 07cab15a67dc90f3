//! What surrounds a container's tasks: carried by a restore, or refused by name.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use cryopod_runtime::{
    CheckpointOptions, ContainerConfig, ContainerState, ErrorKind, Mount, NetworkMode, Resources,
    Rlimit, RunAs, SandboxConfig, SeccompPolicy, Security,
};

use crate::checkpoint::{COUNTER, archive, assert_in_order, logged};
use crate::host::{Host, assert_state, script, wait_for};

/// What a shell in the container prints.
fn inside(host: &Host, id: &str, command: &str) -> String {
    let words = ["/bin/sh", "-c", command].map(str::to_owned);
    let output = host.runtime.exec_sync(id, &words, Some(Duration::from_secs(20))).unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.exit_code, 0, "{command}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Captures and stops a container, removes its pod, and restores it in a new pod, made as the
/// archive says; the new id.
fn moved(host: &Host, sandbox: &str, id: &str) -> String {
    let archive = archive(host);
    let stop = CheckpointOptions { stop: true, ..CheckpointOptions::default() };
    host.runtime.checkpoint_container(id, &archive, &stop).unwrap();
    host.runtime.remove_pod_sandbox(sandbox).unwrap();
    let described = host.runtime.describe_archive(&archive).unwrap();
    let sandbox = host.runtime.run_pod_sandbox(&described.sandbox.unwrap()).unwrap();
    let config = described.config.unwrap();
    let id = host.runtime.create_container_from_archive(&sandbox, &config, &archive).unwrap();
    host.runtime.start_container(&id).unwrap();
    let at = logged(host, "counter").len();
    wait_for("ticks after the restore", || logged(host, "counter").len() > at + 3);
    assert_in_order(&logged(host, "counter"));
    id
}

/// The same commands print the same before and after.
fn assert_same_after_a_move(
    host: &Host,
    pod: &SandboxConfig,
    config: &ContainerConfig,
    of: &[&str],
) {
    let sandbox = host.runtime.run_pod_sandbox(pod).unwrap();
    let id = host.run(&sandbox, config);
    host.wait_log("counter", "3");
    let look = |id: &str| of.iter().map(|command| inside(host, id, command)).collect::<Vec<_>>();
    let before = look(&id);
    let id = moved(host, &sandbox, &id);
    for ((was, is), command) in before.into_iter().zip(look(&id)).zip(of) {
        assert!(!was.trim().is_empty(), "{command} printed nothing");
        assert_eq!(was, is, "{command}");
    }
}

#[test]
fn host_name_network_processes_and_cgroup_are_as_they_were() {
    let host = Host::new();
    let pod = SandboxConfig {
        hostname: "a-name-of-its-own".into(),
        network: NetworkMode::Private,
        sysctls: [("net.ipv4.ip_default_ttl".to_owned(), "77".to_owned())].into(),
        resolv_conf: vec!["nameserver 192.0.2.7".into()],
        ..host.pod("names")
    };
    assert_same_after_a_move(
        &host,
        &pod,
        &script("counter", COUNTER),
        &[
            "cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname; uname -n",
            "tail -n +3 /proc/net/dev | cut -d: -f1; cat /sys/class/net/lo/flags",
            "cat /proc/net/if_inet6; grep -A1 '127.0.0.1' /proc/net/fib_trie",
            "cat /proc/sys/net/ipv4/ip_default_ttl",
            "cat /etc/resolv.conf",
            "cut -d: -f2,3 /proc/self/cgroup; cut -d: -f2,3 /proc/1/cgroup",
            "tr '\\0' ' ' < /proc/1/cmdline; cut -d' ' -f1,4,5,6 /proc/1/stat",
            "readlink /proc/1/cwd /proc/1/root /proc/1/exe",
        ],
    );
}

#[test]
fn mounts_and_what_is_in_them_are_as_they_were() {
    let host = Host::new();
    let dirs = ["volume", "fixed", "file"].map(|name| host.dir.path().join(name));
    fs::create_dir(&dirs[0]).unwrap();
    fs::create_dir(&dirs[1]).unwrap();
    fs::write(dirs[1].join("text"), "fixed text").unwrap();
    fs::write(&dirs[2], "one file").unwrap();
    let mount = |host_path: &PathBuf, container_path: &str, readonly: bool| Mount {
        host_path: host_path.clone(),
        container_path: container_path.into(),
        readonly,
        ..Mount::default()
    };
    let begin = "echo volume > /volume/text; mkdir /dev/shm/a; echo shared > /dev/shm/a/b; \
                 ln -s b /dev/shm/a/c; chmod 600 /dev/shm/a/b; echo device > /dev/own; \
                 mkfifo /dev/shm/fifo; echo root > /root/text; rm -f /tmp/none; mkdir -p /tmp/a/b";
    let config = ContainerConfig {
        mounts: vec![
            mount(&dirs[0], "/volume", false),
            mount(&dirs[1], "/mnt/fixed", true),
            mount(&dirs[2], "/srv/file", true),
        ],
        ..script("counter", &format!("{begin}; {COUNTER}"))
    };
    assert_same_after_a_move(
        &host,
        &host.pod("mounts"),
        &config,
        &[
            "cut -d' ' -f2- /proc/1/mounts | grep -v '^/ ' | sort",
            "cat /volume/text /mnt/fixed/text /srv/file /dev/shm/a/c /dev/own /root/text",
            "touch /mnt/fixed/x /srv/file 2>&1 | grep -c 'Read-only'",
            "cd /dev/shm; ls -lR --full-time a fifo",
            "stat -c '%n %a %u %g %F' /tmp /tmp/a/b /root/text /dev/own /dev/null /dev/shm",
            "df --output=size /dev/shm /dev",
        ],
    );
}

#[test]
fn environment_user_capabilities_and_limits_are_as_they_were() {
    let host = Host::new();
    let config = ContainerConfig {
        env: vec![("WORD".into(), "with space = and sign".into()), ("EMPTY".into(), String::new())],
        working_dir: "/usr".into(),
        rlimits: vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 100, hard: 200 }],
        resources: Resources {
            memory_limit: Some(96 << 20),
            cpu_period: Some(50_000),
            cpu_quota: Some(40_000),
            pids_limit: Some(30),
            ..Resources::default()
        },
        security: Security {
            run_as: RunAs {
                uid: Some(1234),
                gid: Some(2345),
                supplemental_groups: vec![7, 8],
                ..RunAs::default()
            },
            no_new_privs: true,
            add_capabilities: vec!["NET_ADMIN".into()],
            drop_capabilities: vec!["CHOWN".into()],
            seccomp: SeccompPolicy::RuntimeDefault,
            ..Security::default()
        },
        // The root itself is not its own to write to.
        ..script("counter", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done")
    };
    assert_same_after_a_move(
        &host,
        &host.pod("limits"),
        &config,
        &[
            "tr '\\0' '\\n' < /proc/1/environ; tr '\\0' '\\n' < /proc/self/environ",
            "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Umask|Sig|Shd)' /proc/1/status",
            "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Umask|Sig|Shd)' /proc/self/status",
            "cat /proc/1/limits",
            "cat /proc/1/limits /proc/1/oom_score_adj; pwd; id",
            "cat /sys/fs/cgroup/*/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; :",
            "cat /sys/fs/cgroup/*/cpu.cfs_quota_us /sys/fs/cgroup/*/cpu.cfs_period_us; :",
            "cat /sys/fs/cgroup/*/pids.max 2>/dev/null; :",
        ],
    );
}

/// A checkpoint is refused by these words, the container goes on, and without the obstacle the
/// checkpoint is taken.
fn assert_refused_until(host: &Host, id: &str, words: &[&str], remedy: &str) {
    let archive = archive(host);
    let error =
        host.runtime.checkpoint_container(id, &archive, &CheckpointOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    let text = error.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {text}");
    assert_eq!(fs::read_dir(archive.parent().unwrap()).unwrap().count(), 0);
    assert_state(&host.runtime.container_status(id).unwrap(), ContainerState::Running);
    inside(host, id, remedy);
    host.runtime.checkpoint_container(id, &archive, &CheckpointOptions::default()).unwrap();
    fs::remove_file(&archive).unwrap();
}

#[test]
fn ipc_objects_are_refused_by_name_before_anything_is_stopped() {
    let host = Host::new();
    let sandbox = host.run_pod("ipc");
    let id = host.run(&sandbox, &script("counter", COUNTER));
    host.wait_log("counter", "3");
    for (make, what, remove) in [
        ("ipcmk -M 4096", "System V shared memory SYSV", "ipcrm --all=shm"),
        ("ipcmk -S 3", "System V semaphores SYSV", "ipcrm --all=sem"),
        ("ipcmk -Q", "System V message queue SYSV", "ipcrm --all=msg"),
        (": > /dev/mqueue/work", "POSIX message queue \"work\"", "rm /dev/mqueue/work"),
    ] {
        inside(&host, &id, make);
        assert_refused_until(&host, &id, &[what], remove);
    }
    assert_in_order(&logged(&host, "counter"));
}

#[test]
fn mounts_the_container_made_or_removed_are_refused_by_name() {
    let host = Host::new();
    let sandbox = host.run_pod("mounting");
    let config = ContainerConfig {
        security: Security { add_capabilities: vec!["SYS_ADMIN".into()], ..Security::default() },
        ..script("counter", COUNTER)
    };
    let id = host.run(&sandbox, &config);
    host.wait_log("counter", "3");
    inside(&host, &id, "mount -t tmpfs none /mnt");
    assert_refused_until(&host, &id, &["\"/mnt\"", "tmpfs"], "umount /mnt");
    inside(&host, &id, "mount -t tmpfs none /dev/mqueue");
    assert_refused_until(&host, &id, &["\"/dev/mqueue\"", "tmpfs"], "umount /dev/mqueue");
    inside(&host, &id, "umount /dev/mqueue");
    let remedy = "mount -t mqueue mqueue /dev/mqueue";
    assert_refused_until(&host, &id, &["\"/dev/mqueue\"", "gone"], remedy);
    assert_in_order(&logged(&host, "counter"));
}
