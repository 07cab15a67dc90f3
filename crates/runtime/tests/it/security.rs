//! What a container may and may not do.

use std::path::PathBuf;

use cryopod_runtime::{
    ContainerConfig, NamespaceMode, NetworkMode, RunAs, SandboxConfig, SeccompPolicy, Security,
};

use crate::host::{Host, script};

fn lines(host: &Host, config: &ContainerConfig) -> Vec<String> {
    let (status, log) = host.run_to_end(config);
    assert_eq!(status.exit_code, 0, "{status:?} {log:?}");
    std::fs::remove_file(host.logs().join(&config.log_path)).unwrap();
    log.into_iter().map(|(_, l)| l).collect()
}

#[test]
fn the_usual_devices_links_and_mounts_are_there_and_work() {
    let host = Host::new();
    let script = script(
        "app",
        "for d in null zero full random urandom tty; do [ -c /dev/$d ] || echo no $d; done; \
         for l in fd stdin stdout stderr ptmx; do [ -L /dev/$l ] || echo no $l; done; \
         echo x > /dev/null; head -c 4 /dev/urandom | wc -c; \
         grep -c . /proc/self/mountinfo > /dev/null; \
         awk '{print $5, $(NF-2)}' /proc/self/mountinfo | grep -E \
         '^/(proc|dev|dev/pts|dev/mqueue|dev/shm|sys|sys/fs/cgroup) '",
    );
    let lines = lines(&host, &script);
    assert_eq!(lines[0].trim(), "4");
    for mount in ["/proc proc", "/dev tmpfs", "/dev/pts devpts", "/dev/mqueue mqueue", "/sys sysfs"]
    {
        assert!(lines.iter().any(|l| l == mount), "{mount}: {lines:?}");
    }
    assert!(lines.iter().any(|l| l.starts_with("/dev/shm ")), "{lines:?}");
    assert!(lines.iter().any(|l| l.starts_with("/sys/fs/cgroup ")), "{lines:?}");
}

#[test]
fn kernel_parameters_are_read_only_and_secrets_are_masked() {
    let host = Host::new();
    let script = script(
        "app",
        "echo 1 2>/dev/null > /proc/sys/kernel/panic && echo written; \
         echo x 2>/dev/null > /sys/kernel/profiling && echo written; \
         mkdir 2>/dev/null /sys/fs/cgroup/memory/x && echo made; \
         wc -c < /proc/timer_list; wc -c < /proc/keys; ls /sys/firmware | wc -l; \
         ls / | tr '\\n' ' '; ls /proc | grep -c '^[0-9]'",
    );
    let lines = lines(&host, &script);
    assert_eq!(lines[..3], ["0", "0", "0"]);
    assert!(!lines[3].contains("farm") && !lines[3].contains("boot"), "{lines:?}");
}

#[test]
fn the_root_can_be_read_only_while_dev_and_shm_stay_writable() {
    let host = Host::new();
    let config = ContainerConfig {
        security: Security { readonly_rootfs: true, ..Security::default() },
        ..script(
            "app",
            "touch /x 2>/dev/null && echo root; touch /tmp/x 2>/dev/null && echo tmp; \
             touch /dev/x && echo dev; touch /dev/shm/x && echo shm",
        )
    };
    assert_eq!(lines(&host, &config), ["dev", "shm"]);
}

#[test]
fn capabilities_are_the_default_set_with_what_was_added_and_dropped() {
    let host = Host::new();
    let show = "grep ^Cap /proc/self/status | tr -d '\\t'; grep NoNewPrivs /proc/self/status";
    let shown = lines(&host, &script("app", show));
    assert_eq!(shown[1], "CapPrm:00000000a80425fb");
    assert_eq!(shown[2], "CapEff:00000000a80425fb");
    assert_eq!(shown[3], "CapBnd:00000000a80425fb");
    let config = ContainerConfig {
        security: Security {
            drop_capabilities: vec!["ALL".into()],
            add_capabilities: vec!["NET_ADMIN".into()],
            ambient_capabilities: vec!["NET_ADMIN".into()],
            no_new_privs: true,
            run_as: RunAs { uid: Some(1000), gid: Some(1001), ..RunAs::default() },
            ..Security::default()
        },
        ..script("app", show)
    };
    let shown = lines(&host, &config);
    for (line, name) in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].iter().enumerate() {
        assert_eq!(shown[line], format!("{name}:0000000000001000"));
    }
    assert_eq!(shown[5], "NoNewPrivs:\t1");
}

#[test]
fn the_process_runs_as_the_user_asked_for_with_its_groups_and_home() {
    let host = Host::new();
    let as_user = |run_as: RunAs| ContainerConfig {
        security: Security { run_as, ..Security::default() },
        ..script("app", "id -u; id -g; id -G; echo $HOME")
    };
    let numbers = as_user(RunAs {
        uid: Some(4000),
        gid: Some(4001),
        supplemental_groups: vec![77],
        ..RunAs::default()
    });
    assert_eq!(lines(&host, &numbers), ["4000", "4001", "4001 77", "/"]);
    let name = as_user(RunAs { user_name: "daemon".into(), ..RunAs::default() });
    assert_eq!(lines(&host, &name), ["1", "1", "1", "/usr/sbin"]);
}

#[test]
fn the_usual_seccomp_profile_lets_a_shell_work_and_keeps_namespaces_and_keys_away() {
    let host = Host::new();
    for no_new_privs in [false, true] {
        let config = ContainerConfig {
            security: Security {
                seccomp: SeccompPolicy::RuntimeDefault,
                no_new_privs,
                ..Security::default()
            },
            ..script(
                "app",
                "grep ^Seccomp: /proc/self/status; ls / > /dev/null && (echo in a child; true); \
                 unshare -U true 2>/dev/null && echo unshared; \
                 unshare -m true 2>/dev/null && echo unshared; true",
            )
        };
        assert_eq!(lines(&host, &config), ["Seccomp:\t2", "in a child"]);
    }
}

#[test]
fn a_profile_of_the_callers_own_is_applied() {
    let host = Host::new();
    let path = host.dir.path().join("profile.json");
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}"#;
    std::fs::write(&path, profile).unwrap();
    let config = ContainerConfig {
        security: Security { seccomp: SeccompPolicy::Profile(path), ..Security::default() },
        ..script("app", "LC_ALL=C mkdir /tmp/x 2>&1; true")
    };
    assert!(lines(&host, &config)[0].ends_with("Function not implemented"));
}

#[test]
fn masked_and_read_only_paths_can_be_chosen() {
    let host = Host::new();
    let config = ContainerConfig {
        security: Security {
            masked_paths: Some(vec![PathBuf::from("/proc/cpuinfo")]),
            readonly_paths: Some(vec![PathBuf::from("/tmp")]),
            ..Security::default()
        },
        ..script(
            "app",
            "wc -c < /proc/cpuinfo; touch /tmp/x 2>/dev/null || echo read-only; \
                         [ -w /proc/sys/kernel/panic ] && echo writable",
        )
    };
    assert_eq!(lines(&host, &config), ["0", "read-only", "writable"]);
}

#[test]
fn a_privileged_container_sees_devices_and_unmasked_files() {
    let host = Host::new();
    let config = ContainerConfig {
        security: Security { privileged: true, ..Security::default() },
        ..script(
            "app",
            "ls /dev/vda /dev/sda /dev/loop0 2>/dev/null | wc -l; \
                         mount -t tmpfs none /mnt && echo mounted; \
                         [ -w /proc/sys/kernel/panic ] && echo writable",
        )
    };
    let shown = lines(&host, &config);
    assert_eq!(shown[1..], ["mounted", "writable"]);
}

#[test]
fn process_ids_can_be_the_pods_the_machines_or_anothers() {
    let host = Host::new();
    let pod = SandboxConfig { pid: NamespaceMode::Pod, ..host.pod("shared-pid") };
    let sandbox = host.runtime.run_pod_sandbox(&pod).unwrap();
    let show = "echo $$; cat /proc/1/comm; echo up; exec sleep 1000";
    let a = host.run(&sandbox, &script("a", show));
    host.wait_log("a", "up");
    host.run(&sandbox, &script("b", show));
    host.wait_log("b", "up");
    let first = |name: &str, line: usize| host.log(name)[line].1.clone();
    assert_ne!(first("a", 0), "1");
    assert_ne!(first("a", 0), first("b", 0));
    assert_eq!(first("a", 1), "pause");
    let own = ContainerConfig {
        security: Security { pid: Some(NamespaceMode::Container), ..Security::default() },
        ..script("own", show)
    };
    let own = host.run(&sandbox, &own);
    host.wait_log("own", "up");
    assert_eq!(first("own", 0), "1");
    let target = ContainerConfig {
        security: Security { pid: Some(NamespaceMode::Target(own)), ..Security::default() },
        ..script("debugger", show)
    };
    host.run(&sandbox, &target);
    host.wait_log("debugger", "up");
    assert_eq!(first("debugger", 1), "sleep");
    let node = ContainerConfig {
        security: Security { pid: Some(NamespaceMode::Node), ..Security::default() },
        ..script("node", "readlink /proc/self/ns/pid; echo up")
    };
    host.run(&sandbox, &node);
    host.wait_log("node", "up");
    let ours = std::fs::read_link("/proc/self/ns/pid").unwrap();
    assert_eq!(first("node", 0), ours.to_string_lossy());
    host.runtime.remove_container(&a).unwrap();
}

#[test]
fn the_network_can_be_the_machines_and_parameters_can_be_set_in_a_private_one() {
    let host = Host::new();
    let pod = SandboxConfig { network: NetworkMode::Host, ..host.pod("host-net") };
    let sandbox = host.runtime.run_pod_sandbox(&pod).unwrap();
    host.run(&sandbox, &script("a", "readlink /proc/self/ns/net; hostname"));
    let ours = std::fs::read_link("/proc/self/ns/net").unwrap();
    host.wait_log("a", &ours.to_string_lossy());
    host.wait_log("a", &rustix_hostname());
    let set = |name: &str, value: &str| SandboxConfig {
        sysctls: [(name.to_owned(), value.to_owned())].into(),
        ..host.pod("sysctl")
    };
    assert!(host.runtime.run_pod_sandbox(&set("kernel.panic", "1")).is_err());
    let sandbox = host.runtime.run_pod_sandbox(&set("net.ipv4.ip_default_ttl", "77")).unwrap();
    host.run(&sandbox, &script("b", "cat /proc/sys/net/ipv4/ip_default_ttl"));
    host.wait_log("b", "77");
}

fn rustix_hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned()
}

#[test]
fn a_terminal_is_a_terminal() {
    let host = Host::new();
    let config =
        ContainerConfig { tty: true, ..script("app", "tty; [ -t 0 ] && [ -t 2 ] && echo yes") };
    let (_, log) = host.run_to_end(&config);
    let lines: Vec<&str> = log.iter().map(|(_, l)| l.trim_end()).collect();
    assert_eq!(lines, ["/dev/pts/0", "yes"]);
}
