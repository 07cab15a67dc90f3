//! What is in `deploy/` fits the program: every option is one it has, every right is one it asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use cryopod_kubelet::api;
use cryopod_kubelet::authn::User;
use cryopod_kubelet::authz::{NodeAttributes, RequestAttributes as _};
use cryopod_kubelet::retention::Retention;
use serde_json::Value;

use crate::harness::{cryopod, stderr};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(deploy().join(path)).unwrap()
}

/// Files below `deploy/` of an extension.
fn files(extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![deploy()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The documents of a YAML file.
fn documents(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let all: Vec<Value> = serde_saphyr::from_multiple(&text)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    all.into_iter().filter(|one| !one.is_null()).collect()
}

/// All objects for a cluster.
fn objects() -> Vec<Value> {
    files("yaml")
        .iter()
        .filter(|path| path.parent().unwrap().ends_with("kubernetes"))
        .flat_map(|path| documents(path))
        .collect()
}

fn texts(value: &Value) -> Vec<String> {
    let all = value.as_array().unwrap_or_else(|| panic!("{value} is no list"));
    all.iter().map(|one| one.as_str().unwrap().to_owned()).collect()
}

/// Verb and resource of everything the server asks the API server about.
fn asked() -> BTreeSet<(String, String)> {
    let checkpoint = NodeAttributes::new("node")
        .attributes(&User::anonymous(), &http::Method::POST, "/checkpoint/n/p/c")
        .remove(0);
    let own = (checkpoint.verb, checkpoint.subresource);
    let nodes = api::rules().into_iter().chain([own]);
    nodes.map(|(verb, subresource)| (verb.to_owned(), format!("nodes/{subresource}"))).collect()
}

/// Rights by role.
fn granted() -> BTreeMap<String, BTreeSet<(String, String)>> {
    let mut roles: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    for role in objects().iter().filter(|one| one["kind"] == "ClusterRole") {
        let name = role["metadata"]["name"].as_str().unwrap().to_owned();
        let rights = roles.entry(name).or_default();
        for rule in role["rules"].as_array().unwrap() {
            assert_eq!(texts(&rule["apiGroups"]), [""], "{role}");
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    assert!(rights.insert((verb, resource.clone())), "twice in {role}");
                }
            }
        }
    }
    roles
}

#[test]
fn roles_grant_what_the_server_asks_for_and_nothing_else() {
    let (asked, granted) = (asked(), granted());
    let pair = |verb: &str, resource: &str| (verb.to_owned(), resource.to_owned());
    assert_eq!(granted["cryopod:checkpointer"], [pair("create", "nodes/checkpoint")].into());
    assert_eq!(granted["cryopod:pod-checkpointer"], [pair("create", "pods/checkpoint")].into());
    assert_eq!(granted["cryopod:admin"], asked);
    let viewer = &granted["cryopod:viewer"];
    assert!(viewer.is_subset(&asked), "{viewer:?}");
    let harmless = |(verb, resource): &(String, String)| {
        ["get", "list"].contains(&verb.as_str()) && !resource.ends_with(api::CONTENT)
    };
    assert!(viewer.iter().all(harmless), "{viewer:?}");
    // Not ours: the API server asks for these, by the method of what is proxied.
    let proxy = &granted["cryopod:node-proxy"];
    let verbs: BTreeSet<&str> = proxy.iter().map(|(verb, _)| verb.as_str()).collect();
    assert!(proxy.iter().all(|(_, resource)| resource == "nodes/proxy"));
    assert_eq!(verbs, ["create", "delete", "get", "update"].into());
    assert_eq!(granted.len(), 5, "a role that nobody checks: {:?}", granted.keys());
}

#[test]
fn bindings_name_what_is_there() {
    let objects = objects();
    let roles = granted();
    let accounts: BTreeSet<(&str, &str)> = objects
        .iter()
        .filter(|one| one["kind"] == "ServiceAccount")
        .map(|one| {
            let meta = &one["metadata"];
            (meta["namespace"].as_str().unwrap(), meta["name"].as_str().unwrap())
        })
        .collect();
    let mut bound = BTreeSet::new();
    for binding in objects.iter().filter(|one| one["kind"] == "ClusterRoleBinding") {
        let role = binding["roleRef"]["name"].as_str().unwrap();
        assert_eq!(binding["roleRef"]["kind"], "ClusterRole");
        // The one that a cluster has by itself.
        assert!(role == "system:auth-delegator" || roles.contains_key(role), "{role}");
        for subject in binding["subjects"].as_array().unwrap() {
            let name = subject["name"].as_str().unwrap();
            match subject["kind"].as_str().unwrap() {
                "ServiceAccount" => {
                    let account = (subject["namespace"].as_str().unwrap(), name);
                    assert!(accounts.contains(&account), "{account:?}");
                }
                "User" => assert_eq!(subject["apiGroup"], "rbac.authorization.k8s.io"),
                other => panic!("{other}"),
            }
            bound.insert((name, role));
        }
    }
    for pair in [
        ("kube-apiserver-kubelet-client", "cryopod:checkpointer"),
        ("cryopod", "system:auth-delegator"),
    ] {
        assert!(bound.contains(&pair), "{pair:?} is not in {bound:?}");
    }
}

#[test]
fn every_object_has_what_a_cluster_wants_of_it() {
    let mut names = BTreeSet::new();
    for one in objects() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (kind, meta) = (text(&one["kind"]), &one["metadata"]);
        let version = match kind.as_str() {
            "ClusterRole" | "ClusterRoleBinding" => "rbac.authorization.k8s.io/v1",
            "DaemonSet" => "apps/v1",
            "Namespace" | "ServiceAccount" | "ConfigMap" => "v1",
            other => panic!("{other}"),
        };
        assert_eq!(one["apiVersion"], version, "{kind}");
        let within = matches!(kind.as_str(), "DaemonSet" | "ServiceAccount" | "ConfigMap");
        assert_eq!(meta["namespace"].as_str(), within.then_some("cryopod"), "{one}");
        assert!(names.insert((kind, text(&meta["name"]))), "twice: {one}");
    }
}

/// The options of a command line, tried on the program, which answers with its help if it knows
/// them all.
fn try_options(words: &[String]) {
    assert_eq!(words[0], "serve");
    let output = cryopod(words).arg("--help").output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", stderr(&output));
}

fn option<'a>(words: &'a [String], name: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| {
        word.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })?;
    match words[at].split_once('=') {
        Some((_, value)) => Some(value),
        None => words.get(at + 1).map(String::as_str),
    }
}

#[test]
fn the_daemonset_fits_the_program_and_itself() {
    let objects = objects();
    let set = objects.iter().find(|one| one["kind"] == "DaemonSet").unwrap();
    let pod = &set["spec"]["template"];
    assert_eq!(set["spec"]["selector"]["matchLabels"], pod["metadata"]["labels"]);
    let container = &pod["spec"]["containers"][0];
    assert_eq!(texts(&container["command"]), ["/usr/local/bin/cryopod"]);
    let words = texts(&container["args"]);
    try_options(&words);
    // A variable that is put in must be there.
    let variables: Vec<String> = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| format!("$({})", one["name"].as_str().unwrap()))
        .collect();
    for word in words.iter().filter(|word| word.contains("$(")) {
        assert!(variables.iter().any(|variable| word.ends_with(variable)), "{word}");
    }
    let port: u64 = option(&words, "--port").unwrap().parse().unwrap();
    assert_eq!(container["ports"][0]["containerPort"], port);
    assert_eq!(container["ports"][0]["hostPort"], port);
    assert_eq!(container["livenessProbe"]["tcpSocket"]["port"], container["ports"][0]["name"]);

    // Mounts have volumes; folders of the node are where the program looks for them.
    let volumes: BTreeMap<&str, &Value> = pod["spec"]["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), one))
        .collect();
    let mut mounted = BTreeSet::new();
    for mount in container["volumeMounts"].as_array().unwrap() {
        let volume = volumes[mount["name"].as_str().unwrap()];
        if let Some(path) = volume["hostPath"]["path"].as_str() {
            assert_eq!(mount["mountPath"], path, "the runtime is told paths as they are here");
        }
        mounted.insert(mount["mountPath"].as_str().unwrap());
    }
    assert_eq!(mounted.len(), volumes.len());
    let endpoint = option(&words, "--container-runtime-endpoint").unwrap();
    let socket = Path::new(endpoint.strip_prefix("unix://").unwrap());
    for path in [
        socket,
        Path::new(option(&words, "--cert-dir").unwrap()),
        Path::new(option(&words, "--retention-policy").unwrap()),
        Path::new("/var/lib/kubelet/checkpoints/x.tar"),
    ] {
        let inside = mounted.iter().any(|mount| path.starts_with(mount));
        assert!(inside, "{} is in none of {mounted:?}", path.display());
    }
    let config = objects.iter().find(|one| one["kind"] == "ConfigMap").unwrap();
    assert_eq!(volumes["config"]["configMap"]["name"], config["metadata"]["name"]);
    let policy = Path::new(option(&words, "--retention-policy").unwrap());
    let text = config["data"][policy.file_name().unwrap().to_str().unwrap()].as_str().unwrap();
    assert!(!Retention::from_yaml(text).unwrap().is_empty());
}

/// The command line of a unit's service.
fn start(unit: &str) -> Vec<String> {
    let text = unit.replace("\\\n", " ");
    let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn the_units_start_the_program_with_options_it_has() {
    let units = files("service");
    assert_eq!(units.len(), 2);
    for path in units {
        let words = start(&std::fs::read_to_string(&path).unwrap());
        assert_eq!(words[0], "/usr/local/bin/cryopod", "{}", path.display());
        try_options(&words[1..]);
    }
    let api = start(&read("systemd/cryopod-api.service"));
    assert!(option(&api, "--container-runtime-endpoint").is_some());
    let own = start(&read("systemd/cryopod.service"));
    assert_eq!(option(&own, "--container-runtime-endpoint"), None);
    // What would be inherited by containers is not in the unit of their runtime.
    let text = read("systemd/cryopod.service");
    for key in [
        "SystemCallFilter=",
        "SystemCallArchitectures=",
        "RestrictNamespaces=",
        "RestrictAddressFamilies=",
        "RestrictRealtime=",
        "RestrictSUIDSGID=",
        "MemoryDenyWriteExecute=",
        "LockPersonality=",
        "NoNewPrivileges=",
        "ProtectSystem=",
        "PrivateTmp=",
        "ProtectKernelModules=",
    ] {
        assert!(!text.lines().any(|line| line.starts_with(key)), "{key}");
    }
    assert!(text.lines().any(|line| line == "KillMode=process"));
}

#[test]
fn systemd_has_nothing_to_say_against_the_units() {
    let verify = |path: &Path| Command::new("systemd-analyze").arg("verify").arg(path).output();
    let folder = tempfile::tempdir().unwrap();
    for path in files("service") {
        // Where it is tested, the program is elsewhere.
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace("/usr/local/bin/cryopod", crate::harness::CRYOPOD);
        let copy = folder.path().join(path.file_name().unwrap());
        std::fs::write(&copy, text).unwrap();
        let Ok(output) = verify(&copy) else {
            eprintln!("SKIPPED: there is no systemd-analyze here");
            return;
        };
        assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
    }
    // It does find what is wrong.
    let wrong = folder.path().join("wrong.service");
    std::fs::write(&wrong, "[Service]\nExecStart=/bin/true\nKillMod=process\n").unwrap();
    assert!(!verify(&wrong).unwrap().stderr.is_empty());
}

#[test]
fn the_retention_policies_are_understood() {
    let retention = Retention::from_yaml(&read("retention.yaml")).unwrap();
    assert!(!retention.is_empty() && !retention.drops_orphans());
    assert!(retention.node_policy.min_free.is_some());
    // Also what is there to be uncommented.
    let text = read("retention.yaml").replace("\n# podPolicies:\n", "\npodPolicies:\n");
    let text = text.replace("\n#   ", "\n  ");
    let more = Retention::from_yaml(&text).unwrap();
    assert_eq!(more.pod_policies.len(), 1);
}

#[test]
fn the_page_names_every_right_and_every_file() {
    let page = read("README.md");
    for (verb, resource) in asked() {
        let row = |line: &&str| line.contains(&format!("| `{verb}` | `{resource}` |"));
        assert!(page.lines().any(|line| row(&line)), "{verb} {resource} is not in the table");
    }
    for path in files("yaml").into_iter().chain(files("service")) {
        let name = path.strip_prefix(deploy()).unwrap().to_str().unwrap().to_owned();
        assert!(page.contains(&format!("({name})")), "{name}");
    }
    for role in granted().keys() {
        assert!(page.contains(role.as_str()) || role == "cryopod:viewer", "{role}");
    }
}
