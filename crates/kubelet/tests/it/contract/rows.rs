//! The rows.

use cryopod_kubelet::authz::Decision;
use cryopod_kubelet::runtime::Code;
use cryopod_kubelet::{FeatureGates, KubernetesVersion, Options};

use super::{COUNTER, Exchange, JSON, NOSNIFF, Proof, Row, TEXT, Who, courses, fails};
use crate::stage::Stage;

/// A POST by alice to a server with the defaults.
const POST: Exchange = Exchange {
    server: |_| {},
    who: Who::Named("alice"),
    decision: None,
    act: None,
    method: "POST",
    path: COUNTER,
    sent: &[],
    status: 200,
    headers: &[JSON],
    body: "{\"items\":[\"LOCATION\"]}",
};

const fn text(path: &'static str, status: u16, body: &'static str) -> Exchange {
    Exchange { path, status, headers: &[TEXT], body, ..POST }
}

const fn unknown(path: &'static str) -> Exchange {
    let (headers, body) = (&[TEXT, NOSNIFF], "404 page not found\n");
    Exchange { path, status: 404, headers, body, ..POST }
}

fn version(minor: u16) -> KubernetesVersion {
    KubernetesVersion { major: 1, minor }
}

fn gate_off(options: &mut Options) {
    options.feature_gates = FeatureGates { container_checkpoint: false };
}

fn handlers_off(options: &mut Options) {
    options.debugging_handlers = false;
}

const NO_POD: &str = "pod does not exist";
const BAD_TIMEOUT: &str = "cannot parse value of timeout parameter";

pub(super) static ROWS: &[Row] = &[
    Row {
        feature: 1,
        says: "POST /checkpoint/{ns}/{podName}/{container}; a trailing slash, any type, no body",
        better: "",
        proof: Proof::Answers(&[
            POST,
            Exchange { path: "/checkpoint/default/counter/counter/", ..POST },
            Exchange { sent: &[("content-type", "application/json")], ..POST },
            Exchange { sent: &[("content-type", "nonsense")], ..POST },
            Exchange { sent: &[("accept", "*/*")], ..POST },
        ]),
    },
    Row {
        feature: 2,
        says: "200 application/json, exactly one item, no spaces, no newline",
        better: "the path is escaped as JSON wants it, which changes only bodies that no client \
                 could have read; a header X-Request-Id says where in the log to look, and headers \
                 nobody asks for are ignored",
        proof: Proof::Answers(&[POST]),
    },
    Row {
        feature: 3,
        says: "404 for a pod that is not known",
        better: "",
        proof: Proof::Answers(&[
            text("/checkpoint/default/nopod/counter", 404, NO_POD),
            text("/checkpoint/other/counter/counter", 404, NO_POD),
            text("/checkpoint/default/nopod/counter?timeout=x", 404, NO_POD),
        ]),
    },
    Row {
        feature: 4,
        says: "404 for a container the pod does not have, of whatever kind",
        better: "",
        proof: Proof::Answers(&[
            text("/checkpoint/default/counter/X", 404, "container X does not exist"),
            text("/checkpoint/default/counter/X?timeout=x", 404, "container X does not exist"),
        ]),
    },
    Row {
        feature: 5,
        says: "the last timeout counts, in decimal; else 404, after pod and container",
        better: "5m0s, as client-go prints its own timeout into the same parameter, is taken: a \
                 kubelet refuses all of these, so nobody relies on them",
        proof: Proof::Answers(&[
            text("/checkpoint/default/counter/counter?timeout=", 404, BAD_TIMEOUT),
            text("/checkpoint/default/counter/counter?timeout=5m", 404, BAD_TIMEOUT),
            text("/checkpoint/default/counter/counter?timeout=1.5", 404, BAD_TIMEOUT),
            text("/checkpoint/default/counter/counter?timeout=0x10", 404, BAD_TIMEOUT),
            text("/checkpoint/default/counter/counter?timeout=1_0", 404, BAD_TIMEOUT),
            text("/checkpoint/default/counter/counter?timeout=%205", 404, BAD_TIMEOUT),
            text("/checkpoint/default/counter/counter?timeout=5&timeout=x", 404, BAD_TIMEOUT),
            text(
                "/checkpoint/default/counter/counter?timeout=9223372036854775808",
                404,
                BAD_TIMEOUT,
            ),
            Exchange { path: "/checkpoint/default/counter/counter?timeout=x&timeout=5", ..POST },
            Exchange { path: "/checkpoint/default/counter/counter?timeout=%2B5", ..POST },
            Exchange { path: "/checkpoint/default/counter/counter?timeout=007", ..POST },
            Exchange { path: "/checkpoint/default/counter/counter?timeout=5m0s", ..POST },
        ]),
    },
    Row {
        feature: 6,
        says: "a negative timeout is 500; up to the default it is the default; above, as given",
        better: "one beyond what Go's durations hold does not overflow into an instant failure",
        proof: Proof::Course(|| Box::pin(courses::timeouts())),
    },
    Row {
        feature: 7,
        says: "what the runtime says is in the 500, verbatim; the four texts by which the e2e \
               test knows a runtime without support come through",
        better: "",
        proof: Proof::Answers(&[
            Exchange {
                act: Some(|| {
                    fails(
                        Code::Unimplemented,
                        "unknown method CheckpointContainer for service runtime.v1.RuntimeService",
                    )
                }),
                ..text(
                    COUNTER,
                    500,
                    "checkpointing of default/counter/counter failed (rpc error: code = \
                     Unimplemented desc = unknown method CheckpointContainer for service \
                     runtime.v1.RuntimeService)",
                )
            },
            Exchange {
                act: Some(|| {
                    fails(Code::Unimplemented, "method CheckpointContainer not implemented")
                }),
                ..text(
                    COUNTER,
                    500,
                    "checkpointing of default/counter/counter failed (rpc error: code = \
                     Unimplemented desc = method CheckpointContainer not implemented)",
                )
            },
            Exchange {
                act: Some(|| fails(Code::Unknown, "checkpoint/restore support not available")),
                ..text(
                    COUNTER,
                    500,
                    "checkpointing of default/counter/counter failed (rpc error: code = Unknown \
                     desc = checkpoint/restore support not available)",
                )
            },
            Exchange {
                act: Some(|| {
                    fails(
                        Code::Unknown,
                        "CRIU binary not found or too old (<31600). Failed to checkpoint \
                         container \"id\"",
                    )
                }),
                ..text(
                    COUNTER,
                    500,
                    "checkpointing of default/counter/counter failed (rpc error: code = Unknown \
                     desc = CRIU binary not found or too old (<31600). Failed to checkpoint \
                     container \"id\")",
                )
            },
        ]),
    },
    Row {
        feature: 8,
        says: "a container that does not run is 500, not 404",
        better: "",
        proof: Proof::Answers(&[text(
            "/checkpoint/default/counter/done",
            500,
            "checkpointing of default/counter/done failed (container done not found)",
        )]),
    },
    Row {
        feature: 9,
        says: "errors are plain text without a newline; the 403 ends with one",
        better: "",
        proof: Proof::Answers(&[
            text("/checkpoint/default/nopod/x", 404, NO_POD),
            Exchange { who: Who::Nobody, ..text(COUNTER, 401, "Unauthorized") },
            Exchange {
                decision: Some(Some(Decision::Deny)),
                ..text(
                    COUNTER,
                    403,
                    "Forbidden (user=alice, verb=create, resource=nodes, \
                     subresource(s)=[checkpoint])\n",
                )
            },
        ]),
    },
    Row {
        feature: 10,
        says: "the texts of 401, 403 and the authorizer's 500",
        better: "",
        proof: Proof::Answers(&[
            Exchange { who: Who::Nobody, ..text(COUNTER, 401, "Unauthorized") },
            Exchange {
                decision: Some(Some(Decision::NoOpinion)),
                ..text(
                    COUNTER,
                    403,
                    "Forbidden (user=alice, verb=create, resource=nodes, \
                     subresource(s)=[checkpoint])\n",
                )
            },
            Exchange {
                decision: Some(None),
                ..text(
                    COUNTER,
                    500,
                    "Authorization error (user=alice, verb=create, resource=nodes, \
                     subresource=checkpoint)",
                )
            },
            // Before 1.32, without the newline; before 1.30, by another subresource.
            Exchange {
                server: |options| options.kubernetes_version = version(31),
                decision: Some(Some(Decision::NoOpinion)),
                ..text(
                    COUNTER,
                    403,
                    "Forbidden (user=alice, verb=create, resource=nodes, subresource=checkpoint)",
                )
            },
            Exchange {
                server: |options| options.kubernetes_version = version(29),
                decision: Some(Some(Decision::NoOpinion)),
                ..text(
                    COUNTER,
                    403,
                    "Forbidden (user=alice, verb=create, resource=nodes, subresource=proxy)",
                )
            },
        ]),
    },
    Row {
        feature: 11,
        says: "404, 405 and 406 of the routing, after authentication on a known prefix; an \
               unknown prefix is 404 without it",
        better: "",
        proof: Proof::Answers(&[
            text("/checkpoint/default/counter", 404, "404: Page Not Found"),
            text("/checkpoint/default/counter/counter/x", 404, "404: Page Not Found"),
            text("/checkpoint/default/a%2Fb/counter", 404, "404: Page Not Found"),
            Exchange {
                method: "GET",
                status: 405,
                headers: &[TEXT, ("allow", "POST")],
                body: "405: Method Not Allowed",
                ..POST
            },
            Exchange { method: "DELETE", who: Who::Nobody, ..text(COUNTER, 401, "Unauthorized") },
            Exchange {
                sent: &[("accept", "application/*")],
                ..text(
                    COUNTER,
                    406,
                    "406: Not Acceptable\n\nAvailable representations: application/json",
                )
            },
            unknown("/checkpoints/default/counter/counter"),
            Exchange { who: Who::Nobody, ..unknown("/nowhere") },
            Exchange {
                who: Who::Nobody,
                status: 307,
                headers: &[("location", "/checkpoint/")],
                body: "",
                path: "/checkpoint",
                ..POST
            },
            Exchange {
                who: Who::Nobody,
                status: 301,
                headers: &[("location", COUNTER)],
                body: "",
                path: "/checkpoint//default/counter/counter",
                ..POST
            },
        ]),
    },
    Row {
        feature: 12,
        says: "with the gate off the route is an unknown path",
        better: "",
        proof: Proof::Answers(&[
            Exchange { server: gate_off, ..unknown(COUNTER) },
            Exchange { server: gate_off, who: Who::Nobody, ..unknown("/checkpoint") },
        ]),
    },
    Row {
        feature: 12,
        says: "with the gate off the folder is not made",
        better: "",
        proof: Proof::Course(|| {
            Box::pin(async {
                let stage = Stage::with(gate_off).await;
                assert!(!std::fs::exists(stage.checkpoints()).unwrap());
            })
        }),
    },
    Row {
        feature: 13,
        says: "without debugging handlers the route is 404, not 405",
        better: "",
        proof: Proof::Answers(&[
            Exchange { server: handlers_off, ..unknown(COUNTER) },
            Exchange { server: handlers_off, method: "GET", ..unknown(COUNTER) },
        ]),
    },
    Row {
        feature: 14,
        says: "never on a port without authentication",
        better: "a server that could authenticate nobody does not start",
        proof: Proof::Course(|| Box::pin(courses::no_open_port())),
    },
    Row {
        feature: 15,
        says: "create nodes/checkpoint of this node decides, and nothing in its place",
        better: "",
        proof: Proof::Course(|| Box::pin(courses::attributes())),
    },
    Row {
        feature: 15,
        says: "whoever may create nodes/checkpoint may checkpoint every pod of the node",
        better: "create pods/checkpoint in the pod's namespace can be asked for beside it, and is off \
                 unless it is",
        proof: Proof::Test(&[(
            include_str!("../reviews.rs"),
            "a_second_check_on_the_pod_can_be_asked_for",
        )]),
    },
    Row {
        feature: 16,
        says: "certificates by CN and O; all are tried; anonymous only if nobody erred",
        better: "",
        proof: Proof::Course(|| Box::pin(courses::authentication())),
    },
    Row {
        feature: 16,
        says: "tokens by TokenReview, kept for two minutes, good or bad; a failure is not kept",
        better: "",
        proof: Proof::Test(&[
            (
                include_str!("../reviews.rs"),
                "a_good_token_of_an_allowed_user_is_served_with_all_that_is_known_of_them",
            ),
            (include_str!("../reviews.rs"), "a_bad_token_is_401_and_asked_about_once"),
            (include_str!("../reviews.rs"), "a_revoked_token_works_until_the_cache_forgets_it"),
            (
                include_str!("../reviews.rs"),
                "a_token_that_cannot_be_judged_is_401_and_is_asked_anew",
            ),
            (include_str!("../reviews.rs"), "only_a_caller_who_presents_nothing_is_anonymous"),
            (
                include_str!("../reviews.rs"),
                "callers_at_once_share_one_question_and_one_who_leaves_harms_none",
            ),
        ]),
    },
    Row {
        feature: 17,
        says: "whoever decides is asked by attributes; an error is neither yes nor no",
        better: "",
        proof: Proof::Answers(&[
            Exchange { decision: Some(Some(Decision::Allow)), ..POST },
            Exchange {
                decision: Some(Some(Decision::Deny)),
                ..text(
                    COUNTER,
                    403,
                    "Forbidden (user=alice, verb=create, resource=nodes, \
                     subresource(s)=[checkpoint])\n",
                )
            },
        ]),
    },
    Row {
        feature: 17,
        says: "SubjectAccessReview: allowed for five minutes, denied for 30 seconds, retried",
        better: "",
        proof: Proof::Test(&[
            (include_str!("../reviews.rs"), "allowed_holds_for_five_minutes"),
            (
                include_str!("../reviews.rs"),
                "denied_and_no_opinion_are_403_and_hold_for_30_seconds",
            ),
            (
                include_str!("../reviews.rs"),
                "failures_that_may_pass_are_survived_four_times_and_not_five",
            ),
            (include_str!("../reviews.rs"), "an_access_review_that_fails_is_500_and_is_asked_anew"),
        ]),
    },
    Row {
        feature: 18,
        says: "a client certificate is asked for, never required, and judged by an answer",
        better: "",
        proof: Proof::Course(|| Box::pin(courses::certificates())),
    },
    Row {
        feature: 19,
        says: "what the API server's proxy sends on is answered as it is; its own identity, \
               without a binding, is forbidden",
        better: "the cure is in the log, not in the body",
        proof: Proof::Answers(&[
            // The caller's own token is stripped; what the proxy adds is of no effect.
            Exchange {
                who: Who::Named("kube-apiserver-kubelet-client"),
                decision: Some(Some(Decision::Allow)),
                path: "/checkpoint/default/counter/counter?timeout=300",
                sent: &[("x-forwarded-for", "10.0.0.1"), ("x-forwarded-uri", "/api/v1/nodes/n")],
                ..POST
            },
            Exchange {
                who: Who::Named("kube-apiserver-kubelet-client"),
                decision: Some(Some(Decision::NoOpinion)),
                ..text(
                    COUNTER,
                    403,
                    "Forbidden (user=kube-apiserver-kubelet-client, verb=create, resource=nodes, \
                     subresource(s)=[checkpoint])\n",
                )
            },
        ]),
    },
    Row {
        feature: 19,
        says: "who is refused can be helped",
        better: "the log line of the 403 holds the binding that is missing",
        proof: Proof::Test(&[(
            include_str!("../reviews.rs"),
            "the_log_of_a_403_says_how_to_cure_it",
        )]),
    },
    Row {
        feature: 20,
        says: "checkpoint-<pod>_<ns>-<container>-<RFC 3339>.tar below <root>/checkpoints",
        better: "two in one second get two files, the later with a number before .tar; the \
                 pattern checkpoint-*.tar still matches",
        proof: Proof::Course(|| Box::pin(courses::file_names())),
    },
    Row {
        feature: 21,
        says: "the folder is 0700, made at the start, fatal if it cannot be",
        better: "",
        proof: Proof::Course(|| Box::pin(courses::folder())),
    },
    Row {
        feature: 21,
        says: "the archive is 0600",
        better: "it is complete when it has its name",
        proof: Proof::Test(&[(
            include_str!("../../../../../tests/checkpoints.rs"),
            "a_container_goes_on_after_its_checkpoint_and_from_it",
        )]),
    },
    Row {
        feature: 21,
        says: "what is left of a failed archive",
        better: "is removed, also when it comes late; an archive that others could read is made root's",
        proof: Proof::Test(&[
            (include_str!("../crio.rs"), "an_archive_that_others_could_read_is_made_roots_alone"),
            (
                include_str!("../crio.rs"),
                "crio_goes_on_after_a_deadline_and_its_late_archive_is_removed",
            ),
            (include_str!("../crio.rs"), "a_success_without_an_archive_is_a_failure"),
        ]),
    },
    Row {
        feature: 22,
        says: "the caller cannot choose the path",
        better: "",
        proof: Proof::Course(|| {
            Box::pin(async {
                let stage = Stage::new().await;
                let path = format!("{COUNTER}?location=/etc/x&Location=/etc/x");
                assert_eq!(stage.client().post(&path).await.status, 200);
                let location = &stage.runtime.calls()[0].location;
                let folder = stage.checkpoints();
                assert_eq!(std::path::Path::new(location).parent(), Some(&*folder));
            })
        }),
    },
    Row {
        feature: 23,
        says: "the archive is a plain tar with spec.dump, config.dump, checkpoint/inventory.img",
        better: "",
        proof: Proof::Test(&[(
            include_str!("../../../../../tests/node_e2e.rs"),
            "the_checkpoint_container_e2e_test_passes",
        )]),
    },
    Row {
        feature: 24,
        says: "the container keeps running",
        better: "the freeze is milliseconds, and told",
        proof: Proof::Test(&[
            (
                include_str!("../../../../../tests/node_e2e.rs"),
                "the_checkpoint_container_e2e_test_passes",
            ),
            (
                include_str!("../../../../../tests/checkpoints.rs"),
                "a_container_goes_on_after_its_checkpoint_and_from_it",
            ),
        ]),
    },
    Row {
        feature: 25,
        says: "the CRI call has the runtime's own id, the location, and the timeout that is in \
               force, which is the deadline, too",
        better: "",
        proof: Proof::Course(|| Box::pin(courses::cri_request())),
    },
    Row {
        feature: 26,
        says: "a client that hangs up, or the deadline, cancels the call",
        better: "the next caller for the container is let on",
        proof: Proof::Course(|| Box::pin(courses::cancelled())),
    },
    Row {
        feature: 26,
        says: "the call alone is cancelled, whatever the runtime makes of that",
        better: "the container goes on in every case, and nothing half-done is left",
        proof: Proof::Test(&[
            (
                include_str!("../crio.rs"),
                "crio_goes_on_after_a_hang_up_and_its_late_archive_is_removed",
            ),
            (
                include_str!("../crio.rs"),
                "a_container_left_frozen_after_a_deadline_or_a_hang_up_goes_on",
            ),
            (include_str!("../crio.rs"), "a_container_frozen_late_is_thawed_too"),
            (include_str!("../crio.rs"), "a_container_paused_before_the_call_stays_paused"),
            (include_str!("../crio.rs"), "no_container_stays_frozen_when_the_server_is_stopped"),
        ]),
    },
    Row {
        feature: 27,
        says: "kubelet_runtime_operations_* of checkpoint_container: absent before, one more for \
               each call that is reached, errors on error only",
        better: "cryopod_checkpoint_* beside them, with buckets that fit minutes",
        proof: Proof::Course(|| Box::pin(courses::operations())),
    },
    Row {
        feature: 28,
        says: "kubelet_http_* by method, path, server_type and long_running, before authentication",
        better: "",
        proof: Proof::Course(|| Box::pin(courses::http_metrics())),
    },
    Row {
        feature: 29,
        says: "parallel calls are all answered",
        better: "calls for one container run one after the other, where with a kubelet they \
                 collide in the runtime; a client sees a success where it saw a failure",
        proof: Proof::Course(|| Box::pin(courses::parallel())),
    },
    Row {
        feature: 29,
        says: "as many at once as come",
        better: "their number on a node is limited, the others wait; too little space is a 500 at once, \
                 where it was one at the end",
        proof: Proof::Test(&[
            (include_str!("../limits.rs"), "more_than_the_node_may_make_at_once_wait_and_say_so"),
            (include_str!("../limits.rs"), "waiting_does_not_count_against_the_deadline"),
            (include_str!("../limits.rs"), "too_little_space_is_told_before_anything_begins"),
        ]),
    },
    Row {
        feature: 30,
        says: "nothing is deleted unless a policy is given",
        better: "",
        proof: Proof::Course(|| Box::pin(courses::nothing_deleted())),
    },
    Row {
        feature: 30,
        says: "nothing of the kind in a kubelet",
        better: "by the policies of checkpoint-restore-operator, where one is given",
        proof: Proof::Test(&[
            (
                include_str!("../retention.rs"),
                "checkpoints_downloads_and_restarts_at_once_leave_what_the_policy_keeps",
            ),
            (include_str!("../retention.rs"), "what_is_read_is_deleted_when_it_is_let_go"),
            (include_str!("../retention.rs"), "a_dry_run_says_the_same_and_deletes_nothing"),
            (
                include_str!("../retention.rs"),
                "a_process_killed_in_the_middle_loses_nothing_that_the_policy_keeps",
            ),
            (include_str!("../archives.rs"), "pinned_archives_stay_until_they_are_unpinned"),
        ]),
    },
    Row {
        feature: 31,
        says: "encryption and integrity",
        better: "",
        proof: Proof::Elsewhere("crates/archive: digests in each archive; encryption is to come"),
    },
    Row {
        feature: 32,
        says: "restore",
        better: "",
        proof: Proof::Elsewhere("crates/runtime and crates/engine; a kubelet has no such route"),
    },
    Row {
        feature: 33,
        says: "crictl checkpoint: Version, then CheckpointContainer with id and location only",
        better: "",
        proof: Proof::Test(&[(
            include_str!("../../../../../tests/node_e2e.rs"),
            "crictl_takes_a_checkpoint_with_two_calls",
        )]),
    },
    Row {
        feature: 34,
        says: "CheckpointPod and RestorePod",
        better: "",
        proof: Proof::Elsewhere("crates/cri and crates/runtime: calls of CRI 1.37"),
    },
    Row {
        feature: 35,
        says: "PodCheckpoint objects",
        better: "",
        proof: Proof::Elsewhere("a controller over the API server; no endpoint of the node's"),
    },
    Row {
        feature: 36,
        says: "freeze and probes",
        better: "",
        proof: Proof::Elsewhere("crates/engine; probes through checkpoints: tests/probes.rs"),
    },
    Row {
        feature: 37,
        says: "/healthz, /healthz/ping and /metrics, with a kubelet's attributes",
        better: "/readyz says whether a checkpoint could be made",
        proof: Proof::Answers(&[
            Exchange { who: Who::Nobody, method: "GET", ..text("/healthz", 401, "Unauthorized") },
            Exchange { who: Who::Nobody, method: "GET", ..text("/metrics", 401, "Unauthorized") },
            Exchange {
                method: "GET",
                path: "/healthz",
                headers: &[TEXT, NOSNIFF],
                body: "ok",
                ..POST
            },
            Exchange {
                method: "GET",
                path: "/healthz?verbose",
                headers: &[TEXT, NOSNIFF],
                body: "[+]ping ok\nhealthz check passed\n",
                ..POST
            },
            Exchange { method: "GET", ..text("/healthz/ping", 200, "ok") },
            Exchange {
                method: "GET",
                path: "/readyz?verbose",
                headers: &[TEXT, NOSNIFF],
                body: "[+]ping ok\n[+]runtime ok\n[+]checkpoints ok\n[+]certificate ok\n\
                       readyz check passed\n",
                ..POST
            },
            Exchange {
                method: "GET",
                decision: Some(Some(Decision::NoOpinion)),
                ..text(
                    "/healthz",
                    403,
                    "Forbidden (user=alice, verb=get, resource=nodes, \
                     subresource(s)=[healthz proxy])\n",
                )
            },
            Exchange {
                method: "GET",
                decision: Some(Some(Decision::NoOpinion)),
                ..text(
                    "/metrics",
                    403,
                    "Forbidden (user=alice, verb=get, resource=nodes, \
                     subresource(s)=[metrics])\n",
                )
            },
        ]),
    },
    Row {
        feature: 38,
        says: "a kubelet's own file is read, with its defaults, and flags go over it",
        better: "each mistake is told with its line, and who asks sees what is in force and why",
        proof: Proof::Test(&[
            (
                include_str!("../configuration.rs"),
                "with_a_file_the_defaults_are_those_of_the_kubelets_file",
            ),
            (
                include_str!("../configuration.rs"),
                "every_field_is_taken_from_the_file_with_its_line",
            ),
            (
                include_str!("../configuration.rs"),
                "drop_ins_are_laid_over_the_file_in_order_and_flags_over_both",
            ),
            (include_str!("../configuration.rs"), "every_mistake_in_a_file_is_told_with_its_line"),
            (
                include_str!("../configuration.rs"),
                "a_kubelets_file_with_a_kubeconfig_asks_the_api_server",
            ),
        ]),
    },
    Row {
        feature: 38,
        says: "a kubelet's settings are options of this server",
        better: "",
        proof: Proof::Course(|| Box::pin(courses::settings())),
    },
];
