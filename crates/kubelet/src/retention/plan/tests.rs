use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const NOW: i64 = 1_000_000;

/// An archive that was finished so many seconds before [`NOW`].
fn archive(name: &str, of: Option<[&str; 3]>, age: i64, bytes: u64) -> Stored {
    Stored {
        name: name.to_owned(),
        path: format!("/checkpoints/{name}").into(),
        bytes,
        disk_bytes: bytes,
        finished_at: Timestamp::from_second(NOW - age).unwrap(),
        identity: of.map(|[namespace, pod, container]| Identity {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            container: container.to_owned(),
        }),
        pinned: false,
        in_use: false,
        digest: None,
        engine: None,
        unreadable: None,
    }
}

/// `NAMESPACE/POD/CONTAINER AGE BYTES [flags]`, a line each; named by its line's number. `-` is of
/// nobody. Flags: `pinned`, `read`, `linked` (frees no disk), `broken`.
fn archives(lines: &str) -> Vec<Stored> {
    let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .enumerate()
        .map(|(number, line)| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let of: Option<[&str; 3]> = words[0].split('/').collect::<Vec<_>>().try_into().ok();
            let (age, bytes) = (words[1].parse().unwrap(), words[2].parse().unwrap());
            let mut one = archive(&(number + 1).to_string(), of, age, bytes);
            for flag in &words[3..] {
                match *flag {
                    "pinned" => one.pinned = true,
                    "read" => one.in_use = true,
                    "linked" => one.disk_bytes = 0,
                    "broken" => one.unreadable = Some("it is broken".to_owned()),
                    other => panic!("{other}"),
                }
            }
            one
        })
        .collect()
}

fn moment() -> Moment<'static> {
    Moment { now: Timestamp::from_second(NOW).unwrap(), disk: None, residents: None }
}

/// Names that go now, in order; those that go later have a `~`.
fn doomed(plan: &Plan) -> String {
    let names = plan.doomed.iter().map(|one| {
        let later = if one.in_use { "~" } else { "" };
        format!("{later}{}", one.name)
    });
    names.collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn expect(policy: &str, lines: &str, goes: &str) -> Plan {
    let retention = Retention::from_yaml(policy).unwrap();
    let plan = plan(&archives(lines), &retention, &moment());
    assert_eq!(doomed(&plan), goes, "{policy}: {plan:#?}");
    plan
}

#[test]
fn nothing_goes_without_a_limit() {
    expect("", "n/p/c 900000 100\nn/p/c 1 100\n- 5 5", "");
    assert!(Retention::default().is_empty());
    assert!(Retention::from_yaml("interval: 5m").unwrap().is_empty());
    assert!(!Retention::from_yaml("nodePolicy: {minFree: 1%}").unwrap().is_empty());
    assert!(!Retention::from_yaml("globalPolicy: {retainOrphan: false}").unwrap().is_empty());
}

#[test]
fn the_oldest_of_too_many_go_at_each_level() {
    let lines = "
        n/p/c 50 1
        n/p/c 40 1
        n/p/d 30 1
        n/q/c 20 1
        m/p/c 10 1";
    expect("globalPolicy: {maxCheckpointsPerContainer: 1}", lines, "1");
    expect("globalPolicy: {maxCheckpointsPerPod: 1}", lines, "1 2");
    expect("globalPolicy: {maxCheckpointsPerNamespace: 1}", lines, "1 2 3");
    expect("nodePolicy: {maxCheckpoints: 1}", lines, "1 2 3 4");
    // Each level counts what the narrower ones left.
    let all = "globalPolicy: {maxCheckpointsPerContainer: 1, maxCheckpointsPerPod: 2, \
               maxCheckpointsPerNamespace: 2}\nnodePolicy: {maxCheckpoints: 2}";
    expect(all, lines, "1 2 3");
}

#[test]
fn the_order_is_by_time_then_by_name_whatever_the_list_has() {
    let mut list = archives("n/p/c 10 1\nn/p/c 30 1\nn/p/c 20 1\nn/p/c 20 1");
    let retention = Retention::from_yaml("nodePolicy: {maxCheckpoints: 1}").unwrap();
    for _ in 0..list.len() {
        list.rotate_left(1);
        assert_eq!(doomed(&plan(&list, &retention, &moment())), "2 3 4");
    }
}

#[test]
fn sizes_count_for_one_and_for_all_together() {
    let lines = "
        n/p/c 50 3000000
        n/p/c 40 5000000
        n/p/c 30 2000000
        n/p/c 20 1000000";
    expect("globalPolicy: {maxCheckpointSize: 4M}", lines, "2");
    expect("globalPolicy: {maxCheckpointSize: 5M}", lines, "");
    expect("globalPolicy: {maxTotalSizePerContainer: 11M}", lines, "");
    expect("globalPolicy: {maxTotalSizePerContainer: 10M}", lines, "1");
    expect("globalPolicy: {maxTotalSizePerPod: 3M}", lines, "1 2");
    expect("globalPolicy: {maxTotalSizePerNamespace: 2M}", lines, "1 2 3");
    expect("nodePolicy: {maxTotalSize: 2M}", lines, "1 2 3");
    // What is too big by itself does not push others out.
    let both = "globalPolicy: {maxCheckpointSize: 4M, maxTotalSizePerContainer: 6M}";
    expect(both, lines, "2");
    // Neither does what went by count.
    let both = "globalPolicy: {maxCheckpointsPerContainer: 2, maxTotalSizePerContainer: 3M}";
    expect(both, lines, "1 2");
}

#[test]
fn age_is_counted_from_the_end_of_the_checkpoint() {
    let lines = "n/p/c 3601 1\nn/p/c 3600 1\nn/q/c 7200 1\n- 4000 1";
    expect("globalPolicy: {maxAge: 1h}", lines, "1 3");
    expect("nodePolicy: {maxAge: 1h}", lines, "3 4 1");
    let own = "globalPolicy: {maxAge: 1h}\npodPolicies: [{namespace: n, pod: q, maxAge: 3h}]";
    expect(own, lines, "1");
    // A clock that was set back makes nothing old.
    expect("nodePolicy: {maxAge: 1s}", "n/p/c -100 1", "");
}

#[test]
fn the_most_specific_policy_is_the_only_one() {
    let lines = "
        n/p/c 90 1
        n/p/c 80 1
        n/p/d 70 1
        n/p/d 60 1
        n/q/c 50 1
        n/q/c 40 1
        m/p/c 30 1
        m/p/c 20 1";
    let container = "containerPolicies: [{namespace: n, pod: p, container: c, maxCheckpoints: 1}]";
    expect(container, lines, "1");
    let pod = "podPolicies: [{namespace: n, pod: p, maxCheckpoints: 1}]";
    expect(pod, lines, "1 2 3");
    let namespace = "namespacePolicies: [{namespace: n, maxCheckpoints: 1}]";
    expect(namespace, lines, "1 2 3 4 5");
    // What a narrower policy covers is out of the wider one's count.
    expect(&format!("{container}\n{pod}"), lines, "1 3");
    expect(&format!("{pod}\n{namespace}"), lines, "1 2 3 5");
    // A specific policy without a limit is a protection from the global one.
    let none = "globalPolicy: {maxCheckpointsPerContainer: 1, maxCheckpointsPerNamespace: 1}\n\
                podPolicies: [{namespace: n, pod: p}]";
    expect(none, lines, "7 5");
    // The node's is for all.
    expect(&format!("{none}\nnodePolicy: {{maxCheckpoints: 2}}"), lines, "7 5 1 2 3 4");
}

#[test]
fn names_are_not_run_together() {
    // A kubelet's file name is the same for both.
    let lines = "n-c/p/d 30 1\nn/p/c-d 20 1";
    expect("globalPolicy: {maxCheckpointsPerContainer: 1}", lines, "");
    expect("globalPolicy: {maxCheckpointsPerNamespace: 1}", lines, "");
}

#[test]
fn a_limit_of_zero_switches_its_level_off() {
    let lines = "n/p/c 50 1\nn/p/c 40 1\nn/p/c 30 1";
    expect("globalPolicy: {maxCheckpointsPerContainer: 0}", lines, "");
    expect("nodePolicy: {maxCheckpoints: 1, maxTotalSize: 0}", lines, "");
    let two = "globalPolicy: {maxCheckpointsPerContainer: 0, maxCheckpointsPerPod: 1}";
    expect(two, lines, "1 2");
}

#[test]
fn pinned_archives_count_and_stay() {
    let lines = "n/p/c 50 1 pinned\nn/p/c 40 1\nn/p/c 30 1\nn/p/c 20 1 pinned";
    let plan = expect("globalPolicy: {maxCheckpointsPerContainer: 3}", lines, "2");
    assert!(plan.blocked.is_empty());
    expect("globalPolicy: {maxCheckpointsPerContainer: 2}", lines, "2 3");
    let plan = expect("globalPolicy: {maxCheckpointsPerContainer: 1}", lines, "2 3");
    assert_eq!(plan.blocked.len(), 1);
    assert_eq!(plan.blocked[0].pinned, ["1", "4"]);
    assert!(matches!(plan.blocked[0].limit, Why::Count { limit: 1, .. }));
    expect("nodePolicy: {maxAge: 1s}", lines, "2 3");
    let big = "n/p/c 50 9000000 pinned\nn/p/c 40 1";
    let plan = expect("globalPolicy: {maxCheckpointSize: 2M}", big, "");
    assert!(plan.blocked.is_empty());
    let plan = expect("globalPolicy: {maxTotalSizePerPod: 2M}", big, "2");
    assert_eq!(plan.blocked[0].pinned, ["1"]);
}

#[test]
fn what_is_read_goes_later_and_nothing_goes_in_its_place() {
    let lines = "n/p/c 50 1 read\nn/p/c 40 1\nn/p/c 30 1";
    expect("globalPolicy: {maxCheckpointsPerContainer: 2}", lines, "~1");
    expect("globalPolicy: {maxCheckpointsPerContainer: 1}", lines, "~1 2");
}

#[test]
fn what_cannot_be_read_is_neither_counted_nor_deleted() {
    let lines = "- 50 9000000 broken\nn/p/c 40 1\nn/p/c 30 1";
    expect("nodePolicy: {maxCheckpoints: 2, maxTotalSize: 2M, maxAge: 45s}", lines, "");
}

#[test]
fn of_no_pod_only_the_nodes_policy_counts() {
    let lines = "- 50 1\n- 40 1";
    let all = "globalPolicy: {maxCheckpointsPerContainer: 1, maxCheckpointsPerPod: 1, \
               maxCheckpointsPerNamespace: 1, maxAge: 1s}";
    expect(all, lines, "");
    expect("nodePolicy: {maxCheckpoints: 1}", lines, "1");
}

#[test]
fn a_full_disk_takes_the_oldest_until_enough_is_free() {
    let lines = "n/p/c 50 100\nn/p/c 40 100\nn/p/c 30 100\nn/p/c 20 100";
    let free = |policy: &str, lines: &str, available: u64| {
        let retention = Retention::from_yaml(policy).unwrap();
        let disk = Some(Disk { total: 10_000, available });
        plan(&archives(lines), &retention, &Moment { disk, ..moment() })
    };
    let share = "nodePolicy: {minFree: 10%}";
    for (available, goes) in [
        (1000, ""),
        (5000, ""),
        (999, "1"),
        (900, "1"),
        (899, "1 2"),
        (700, "1 2 3"),
        (600, "1 2 3 4"),
    ] {
        assert_eq!(doomed(&free(share, lines, available)), goes, "{available}");
    }
    let plan = free(share, lines, 0);
    assert_eq!(doomed(&plan), "1 2 3 4");
    assert!(matches!(&plan.blocked[..], [Blocked { limit: Why::Disk { .. }, pinned }]
        if pinned.is_empty()));
    // What goes anyway counts; what would free nothing stays.
    let with = "nodePolicy: {minFree: 10%, maxCheckpoints: 3}";
    assert_eq!(doomed(&free(with, lines, 900)), "1");
    assert_eq!(doomed(&free(with, lines, 800)), "1 2");
    let mixed = "n/p/c 50 100 pinned\nn/p/c 40 100 read\nn/p/c 30 100 linked\nn/p/c 20 100";
    assert_eq!(doomed(&free(share, mixed, 950)), "4");
    assert_eq!(free(share, mixed, 0).blocked[0].pinned, ["1"]);
    // A disk that is not known is not full.
    expect(share, lines, "");
}

#[test]
fn orphans_go_when_a_policy_says_so_and_it_is_known() {
    let lines = "
        n/p/c 50 1
        n/p/gone 40 1
        n/gone/c 30 1 pinned
        n/gone/d 20 1
        gone/p/c 10 1";
    let mut residents = Residents::default();
    for [pod, container] in [["p", "c"], ["q", "c"]] {
        residents.add(Identity {
            namespace: "n".into(),
            pod: pod.into(),
            container: container.into(),
        });
    }
    let go = |policy: &str, residents: Option<&Residents>| {
        let retention = Retention::from_yaml(policy).unwrap();
        doomed(&plan(&archives(lines), &retention, &Moment { residents, ..moment() }))
    };
    let global = "globalPolicy: {retainOrphan: false}";
    assert_eq!(go(global, None), "");
    assert_eq!(go(global, Some(&residents)), "5 4 2");
    assert_eq!(go("globalPolicy: {retainOrphan: true}", Some(&residents)), "");
    // A pod's policy asks for the pod, not for its containers.
    let pod = "podPolicies: [{namespace: n, pod: p, retainOrphan: false}, \
               {namespace: n, pod: gone, retainOrphan: false}]";
    assert_eq!(go(pod, Some(&residents)), "4");
    // A namespace is gone only when all are known.
    let namespace = "namespacePolicies: [{namespace: gone, retainOrphan: false}]";
    assert_eq!(go(namespace, Some(&residents)), "");
    let all = Residents { namespaces: Some(["n".to_owned()].into()), ..residents };
    assert_eq!(go(namespace, Some(&all)), "5");
}

#[test]
fn reasons_are_told_in_words() {
    let lines = "n/p/c 50 3000000\nn/p/c 40 5000000\nn/p/c 30 2000000";
    let why = |policy: &str| {
        let retention = Retention::from_yaml(policy).unwrap();
        plan(&archives(lines), &retention, &moment()).doomed[0].why.to_string()
    };
    for (policy, text) in [
        ("globalPolicy: {maxCheckpointsPerContainer: 2}", "container n/p/c keeps the newest 2"),
        ("globalPolicy: {maxCheckpointSize: 4Mi}", "an archive of container n/p/c may have 4Mi"),
        ("globalPolicy: {maxTotalSizePerPod: 8Mi}", "archives of pod n/p may have 8Mi together"),
        ("nodePolicy: {maxAge: 45s}", "an archive of this node is kept for 45s"),
    ] {
        assert_eq!(why(policy), text);
    }
}

// ---- every policy, every folder

#[derive(Clone, Copy, Debug)]
struct Limit {
    count: Option<u64>,
    size: Option<u64>,
    total: Option<u64>,
    age: Option<u64>,
}

fn limit() -> impl Strategy<Value = Limit> {
    let maybe = |range: std::ops::Range<u64>| proptest::option::weighted(0.4, range);
    (maybe(1..6), maybe(1..12), maybe(1..40), maybe(1..100))
        .prop_map(|(count, size, total, age)| Limit { count, size, total, age })
}

fn retention() -> impl Strategy<Value = Retention> {
    let specific = || proptest::option::weighted(0.3, limit());
    (
        (limit(), limit(), limit(), limit()),
        (specific(), specific(), specific()),
        proptest::option::weighted(0.3, 1_u16..9999),
    )
        .prop_map(|((container, pod, namespace, node), own, share)| {
            let mut made = Retention::default();
            let global = &mut made.global_policy;
            global.max_checkpoints_per_container = container.count;
            global.max_checkpoints_per_pod = pod.count;
            global.max_checkpoints_per_namespace = namespace.count;
            global.max_checkpoint_size = container.size.map(Size);
            global.max_total_size_per_container = container.total.map(Size);
            global.max_total_size_per_pod = pod.total.map(Size);
            global.max_total_size_per_namespace = namespace.total.map(Size);
            global.max_age = container.age.map(Age::from_secs);
            made.node_policy.max_checkpoints = node.count;
            made.node_policy.max_checkpoint_size = node.size.map(Size);
            made.node_policy.max_total_size = node.total.map(Size);
            made.node_policy.max_age = node.age.map(Age::from_secs);
            made.node_policy.min_free = share.map(MinFree::Share);
            let text = || "a".to_owned();
            if let Some(own) = own.0 {
                made.container_policies.push(crate::retention::ContainerPolicy {
                    namespace: text(),
                    pod: text(),
                    container: text(),
                    max_checkpoints: own.count,
                    max_checkpoint_size: own.size.map(Size),
                    max_total_size: own.total.map(Size),
                    max_age: own.age.map(Age::from_secs),
                    ..Default::default()
                });
            }
            if let Some(own) = own.1 {
                made.pod_policies.push(crate::retention::PodPolicy {
                    namespace: text(),
                    pod: text(),
                    max_checkpoints: own.count,
                    max_checkpoint_size: own.size.map(Size),
                    max_total_size: own.total.map(Size),
                    max_age: own.age.map(Age::from_secs),
                    ..Default::default()
                });
            }
            if let Some(own) = own.2 {
                made.namespace_policies.push(crate::retention::NamespacePolicy {
                    namespace: text(),
                    max_checkpoints: own.count,
                    max_checkpoint_size: own.size.map(Size),
                    max_total_size: own.total.map(Size),
                    max_age: own.age.map(Age::from_secs),
                    ..Default::default()
                });
            }
            made
        })
}

fn folder() -> impl Strategy<Value = Vec<Stored>> {
    let letter = || prop_oneof![Just("a"), Just("b")];
    let of = proptest::option::weighted(0.9, (letter(), letter(), letter()));
    let rare = || prop::bool::weighted(0.15);
    let one = (of, 0_i64..120, 1_u64..15, rare(), rare(), rare());
    proptest::collection::vec(one, 0..40).prop_map(|all| {
        let made = all.into_iter().enumerate().map(|(number, one)| {
            let (of, age, bytes, pinned, in_use, broken) = one;
            let of = of.map(|(namespace, pod, container)| [namespace, pod, container]);
            let name = format!("{number:03}");
            let unreadable = broken.then(|| "it is broken".to_owned());
            Stored { pinned, in_use, unreadable, ..archive(&name, of, age, bytes) }
        });
        made.collect()
    })
}

/// The limits and members of every scope, worked out in another way than [`plan`]'s: each archive
/// against each limit.
fn scopes(all: &[Stored], retention: &Retention) -> Vec<(Scope, Bounds, Vec<Stored>)> {
    let mut names = BTreeSet::new();
    for one in all {
        for level in [Level::Container, Level::Pod, Level::Namespace, Level::Node] {
            if let Some((scope, _)) = rule(one, level, retention) {
                names.insert(scope);
            }
        }
    }
    let with = |scope: &Scope| {
        let mut members = Vec::new();
        let mut bounds = Bounds::default();
        for one in all {
            for level in [Level::Container, Level::Pod, Level::Namespace, Level::Node] {
                if let Some((own, found)) = rule(one, level, retention)
                    && own == *scope
                {
                    members.push(one.clone());
                    bounds = found;
                }
            }
        }
        members.sort_by(|a, b| (a.finished_at, &a.name).cmp(&(b.finished_at, &b.name)));
        (scope.clone(), bounds, members)
    };
    names.iter().map(with).collect()
}

fn over(bounds: &Bounds, members: &[&Stored]) -> bool {
    let total: u64 = members.iter().map(|one| one.bytes).sum();
    let old = |one: &&&Stored, age: Age| {
        NOW - one.finished_at.as_second() > i64::try_from(age.as_secs()).unwrap()
    };
    bounds.count.is_some_and(|limit| members.len() as u64 > limit)
        || bounds.total.is_some_and(|limit| total > limit)
        || bounds.size.is_some_and(|limit| members.iter().any(|one| one.bytes > limit))
        || bounds.age.is_some_and(|limit| members.iter().any(|one| old(&one, limit)))
}

fn by_disk(doomed: &Doomed) -> bool {
    matches!(doomed.why, Why::Disk { .. })
}

fn scope_of(why: &Why) -> Option<&Scope> {
    match why {
        Why::Count { scope, .. } | Why::Total { scope, .. } => Some(scope),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn afterwards_no_limit_is_exceeded_but_by_pinned_archives(
        all in folder(), retention in retention(), available in 0_u64..300,
    ) {
        let disk = Disk { total: 300, available };
        let plan = plan(&all, &retention, &Moment { disk: Some(disk), ..moment() });
        let goes: BTreeSet<&str> = plan.doomed.iter().map(|one| one.name.as_str()).collect();
        prop_assert_eq!(goes.len(), plan.doomed.len(), "nothing goes twice");
        for one in &all {
            let goes = goes.contains(one.name.as_str());
            prop_assert!(!(goes && (one.pinned || one.unreadable.is_some())), "{:?}", one);
        }
        let readable: Vec<Stored> =
            all.iter().filter(|one| one.unreadable.is_none()).cloned().collect();
        for (scope, bounds, members) in scopes(&readable, &retention) {
            let left: Vec<&Stored> =
                members.iter().filter(|one| !goes.contains(one.name.as_str())).collect();
            if over(&bounds, &left) {
                // Only pins can do that, and for limits of all together, only nothing but pins.
                let single = Bounds { count: None, total: None, ..bounds };
                let free: Vec<&Stored> = left.iter().copied().filter(|one| !one.pinned).collect();
                prop_assert!(!over(&single, &free), "{} {:?} {:?}", scope, bounds, free);
                if over(&Bounds { size: None, age: None, ..bounds }, &left) {
                    prop_assert!(free.is_empty(), "{} {:?} {:?}", scope, bounds, free);
                    let told = |one: &Blocked| scope_of(&one.limit) == Some(&scope);
                    prop_assert!(plan.blocked.iter().any(told), "{} is not told", scope);
                }
            }
        }
        if let Some(limit) = retention.node_policy.min_free {
            let now = |one: &&Stored| goes.contains(one.name.as_str()) && !one.in_use;
            let freed: u64 = all.iter().filter(now).map(|one| one.disk_bytes).sum();
            let more = readable.iter().any(|one| {
                !goes.contains(one.name.as_str()) && !one.pinned && !one.in_use
            });
            prop_assert!(available + freed >= limit.bytes(300) || !more);
        }
    }

    #[test]
    fn the_oldest_go_first(all in folder(), retention in retention(), available in 0_u64..300) {
        let disk = Disk { total: 300, available };
        let plan = plan(&all, &retention, &Moment { disk: Some(disk), ..moment() });
        let goes: BTreeSet<&str> = plan.doomed.iter().map(|one| one.name.as_str()).collect();
        let readable: Vec<Stored> =
            all.iter().filter(|one| one.unreadable.is_none()).cloned().collect();
        let scopes = scopes(&readable, &retention);
        for one in &plan.doomed {
            let (members, full) = match scope_of(&one.why) {
                Some(scope) => {
                    (&scopes.iter().find(|(name, ..)| name == scope).unwrap().2, false)
                }
                None if by_disk(one) => (&readable, true),
                None => continue,
            };
            let victim = members.iter().find(|member| member.name == one.name).unwrap();
            for member in members {
                let older =
                    (member.finished_at, &member.name) < (victim.finished_at, &victim.name);
                let bound = member.pinned || (full && member.in_use);
                prop_assert!(
                    !older || bound || goes.contains(member.name.as_str()),
                    "{:?} stays, the newer {:?} goes", member, victim
                );
            }
        }
    }

    #[test]
    fn within_the_limits_nothing_goes(all in folder(), retention in retention()) {
        let readable: Vec<Stored> =
            all.iter().filter(|one| one.unreadable.is_none()).cloned().collect();
        let within = scopes(&readable, &retention).iter().all(|(_, bounds, members)| {
            !over(bounds, &members.iter().collect::<Vec<_>>())
        });
        let disk = Disk { total: 300, available: 300 };
        let plan = plan(&all, &retention, &Moment { disk: Some(disk), ..moment() });
        prop_assert_eq!(within, plan.doomed.is_empty() && plan.blocked.is_empty()
            // Too big or too old, and pinned.
            && !scopes(&readable, &retention).iter().any(|(_, bounds, members)| {
                over(&Bounds { count: None, total: None, ..*bounds },
                    &members.iter().collect::<Vec<_>>())
            }));
    }

    /// Of counts alone: whichever archive is put back, a limit is exceeded.
    #[test]
    fn no_more_go_than_must_by_count(all in folder(), retention in retention()) {
        let mut retention = retention;
        retention.global_policy.max_checkpoint_size = None;
        retention.global_policy.max_age = None;
        retention.global_policy.max_total_size_per_container = None;
        retention.global_policy.max_total_size_per_pod = None;
        retention.global_policy.max_total_size_per_namespace = None;
        let node = &mut retention.node_policy;
        node.max_checkpoint_size = None;
        node.max_total_size = None;
        node.max_age = None;
        retention.container_policies.clear();
        retention.pod_policies.clear();
        retention.namespace_policies.clear();
        let plan = plan(&all, &retention, &moment());
        let readable: Vec<Stored> =
            all.iter().filter(|one| one.unreadable.is_none()).cloned().collect();
        let scopes = scopes(&readable, &retention);
        for back in &plan.doomed {
            let stays = |one: &&Stored| {
                one.name == back.name || !plan.doomed.iter().any(|gone| gone.name == one.name)
            };
            let exceeded = scopes.iter().any(|(_, bounds, members)| {
                let left: Vec<&Stored> = members.iter().filter(stays).collect();
                left.iter().any(|one| one.name == back.name) && over(bounds, &left)
            });
            prop_assert!(exceeded, "{:?} went for nothing", back);
        }
    }

    /// Of one total alone: without the last victim the limit is exceeded.
    #[test]
    fn no_more_go_than_must_by_size(all in folder(), limit in 1_u64..60) {
        let mut retention = Retention::default();
        retention.node_policy.max_total_size = Some(Size(limit));
        let plan = plan(&all, &retention, &moment());
        if let Some((last, before)) = plan.doomed.split_last() {
            let gone = |one: &&Stored| before.iter().any(|gone| gone.name == one.name);
            let left: u64 = all.iter()
                .filter(|one| one.unreadable.is_none() && !gone(one))
                .map(|one| one.bytes).sum();
            prop_assert!(left > limit, "{:?} went for nothing", last);
        }
    }
}
