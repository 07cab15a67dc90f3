//! The contract, row by row: what a kubelet answers, byte for byte, and where we do better.
//!
//! The rows are those of the feature table F1 to F38. A row says what must be and is proven by
//! whole exchanges (status, every header, body), or by a course of events where one answer shows
//! nothing, or by a test elsewhere that is named here and must exist. Rows of other parts of the
//! project name their owner. A row that is missing fails the test.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use cryopod_kubelet::authz::{Attributes, Authorizer, Decision};
use cryopod_kubelet::runtime::{Code, RpcError};
use cryopod_kubelet::{
    BoxError, BoxFuture, Delegates, FeatureGates, KubernetesVersion, Options, StartError,
};
use tokio::sync::Notify;

use crate::authentication::{Recorder, with_authorizer};
use crate::metrics::{http, value};
use crate::pki::{Authority, Leaf};
use crate::stage::{Act, Played, Stage};
use crate::statuses::assert_whole;

const COUNTER: &str = "/checkpoint/default/counter/counter";
const JSON: (&str, &str) = ("content-type", "application/json");
const TEXT: (&str, &str) = ("content-type", "text/plain; charset=utf-8");
const NOSNIFF: (&str, &str) = ("x-content-type-options", "nosniff");
/// Stands in a body for the path the runtime was told.
const LOCATION: &str = "LOCATION";

/// One row.
struct Row {
    feature: u8,
    /// What must be.
    says: &'static str,
    /// What we do beyond it, and why no client of a kubelet is hurt; empty for nothing.
    better: &'static str,
    proof: Proof,
}

enum Proof {
    /// Answers, whole.
    Answers(&'static [Exchange]),
    /// What shows only over several steps.
    Course(fn() -> BoxFuture<'static, ()>),
    /// Tests that stand elsewhere, for they need containers or an API server: file and name.
    Test(&'static [(&'static str, &'static str)]),
    /// Belongs to another part of the project.
    Elsewhere(&'static str),
}

/// A request and its whole answer.
struct Exchange {
    server: fn(&mut Options),
    who: Who,
    /// What the authorizer says; `None`: whoever holds a certificate may.
    decision: Option<Option<Decision>>,
    act: Option<fn() -> Act>,
    method: &'static str,
    path: &'static str,
    sent: &'static [(&'static str, &'static str)],
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
}

#[derive(Clone, Copy)]
enum Who {
    /// With a good certificate of this name.
    Named(&'static str),
    /// Without any credential.
    Nobody,
}

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

fn fails(code: Code, message: &str) -> Act {
    Act::Fail(RpcError { code, message: message.to_owned() })
}

const NO_POD: &str = "pod does not exist";
const BAD_TIMEOUT: &str = "cannot parse value of timeout parameter";

static ROWS: &[Row] = &[
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
        proof: Proof::Course(|| Box::pin(timeouts())),
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
        proof: Proof::Course(|| Box::pin(no_open_port())),
    },
    Row {
        feature: 15,
        says: "create nodes/checkpoint of this node decides, and nothing in its place",
        better: "",
        proof: Proof::Course(|| Box::pin(attributes())),
    },
    Row {
        feature: 15,
        says: "whoever may create nodes/checkpoint may checkpoint every pod of the node",
        better: "create pods/checkpoint in the pod's namespace can be asked for beside it, and is off \
                 unless it is",
        proof: Proof::Test(&[(
            include_str!("reviews.rs"),
            "a_second_check_on_the_pod_can_be_asked_for",
        )]),
    },
    Row {
        feature: 16,
        says: "certificates by CN and O; all are tried; anonymous only if nobody erred",
        better: "",
        proof: Proof::Course(|| Box::pin(authentication())),
    },
    Row {
        feature: 16,
        says: "tokens by TokenReview, kept for two minutes, good or bad; a failure is not kept",
        better: "",
        proof: Proof::Test(&[
            (
                include_str!("reviews.rs"),
                "a_good_token_of_an_allowed_user_is_served_with_all_that_is_known_of_them",
            ),
            (include_str!("reviews.rs"), "a_bad_token_is_401_and_asked_about_once"),
            (include_str!("reviews.rs"), "a_revoked_token_works_until_the_cache_forgets_it"),
            (include_str!("reviews.rs"), "a_token_that_cannot_be_judged_is_401_and_is_asked_anew"),
            (include_str!("reviews.rs"), "only_a_caller_who_presents_nothing_is_anonymous"),
            (
                include_str!("reviews.rs"),
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
            (include_str!("reviews.rs"), "allowed_holds_for_five_minutes"),
            (include_str!("reviews.rs"), "denied_and_no_opinion_are_403_and_hold_for_30_seconds"),
            (
                include_str!("reviews.rs"),
                "failures_that_may_pass_are_survived_four_times_and_not_five",
            ),
            (include_str!("reviews.rs"), "an_access_review_that_fails_is_500_and_is_asked_anew"),
        ]),
    },
    Row {
        feature: 18,
        says: "a client certificate is asked for, never required, and judged by an answer",
        better: "",
        proof: Proof::Course(|| Box::pin(certificates())),
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
        proof: Proof::Test(&[(include_str!("reviews.rs"), "the_log_of_a_403_says_how_to_cure_it")]),
    },
    Row {
        feature: 20,
        says: "checkpoint-<pod>_<ns>-<container>-<RFC 3339>.tar below <root>/checkpoints",
        better: "two in one second get two files, the later with a number before .tar; the \
                 pattern checkpoint-*.tar still matches",
        proof: Proof::Course(|| Box::pin(file_names())),
    },
    Row {
        feature: 21,
        says: "the folder is 0700, made at the start, fatal if it cannot be",
        better: "",
        proof: Proof::Course(|| Box::pin(folder())),
    },
    Row {
        feature: 21,
        says: "the archive is 0600",
        better: "it is complete when it has its name",
        proof: Proof::Test(&[(
            include_str!("../../../../tests/checkpoints.rs"),
            "a_container_goes_on_after_its_checkpoint_and_from_it",
        )]),
    },
    Row {
        feature: 21,
        says: "what is left of a failed archive",
        better: "is removed, also when it comes late; an archive that others could read is made root's",
        proof: Proof::Test(&[
            (include_str!("crio.rs"), "an_archive_that_others_could_read_is_made_roots_alone"),
            (
                include_str!("crio.rs"),
                "crio_goes_on_after_a_deadline_and_its_late_archive_is_removed",
            ),
            (include_str!("crio.rs"), "a_success_without_an_archive_is_a_failure"),
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
            include_str!("../../../../tests/node_e2e.rs"),
            "the_checkpoint_container_e2e_test_passes",
        )]),
    },
    Row {
        feature: 24,
        says: "the container keeps running",
        better: "the freeze is milliseconds, and told",
        proof: Proof::Test(&[
            (
                include_str!("../../../../tests/node_e2e.rs"),
                "the_checkpoint_container_e2e_test_passes",
            ),
            (
                include_str!("../../../../tests/checkpoints.rs"),
                "a_container_goes_on_after_its_checkpoint_and_from_it",
            ),
        ]),
    },
    Row {
        feature: 25,
        says: "the CRI call has the runtime's own id, the location, and the timeout that is in \
               force, which is the deadline, too",
        better: "",
        proof: Proof::Course(|| Box::pin(cri_request())),
    },
    Row {
        feature: 26,
        says: "a client that hangs up, or the deadline, cancels the call",
        better: "the next caller for the container is let on",
        proof: Proof::Course(|| Box::pin(cancelled())),
    },
    Row {
        feature: 26,
        says: "the call alone is cancelled, whatever the runtime makes of that",
        better: "the container goes on in every case, and nothing half-done is left",
        proof: Proof::Test(&[
            (
                include_str!("crio.rs"),
                "crio_goes_on_after_a_hang_up_and_its_late_archive_is_removed",
            ),
            (
                include_str!("crio.rs"),
                "a_container_left_frozen_after_a_deadline_or_a_hang_up_goes_on",
            ),
            (include_str!("crio.rs"), "a_container_frozen_late_is_thawed_too"),
            (include_str!("crio.rs"), "a_container_paused_before_the_call_stays_paused"),
            (include_str!("crio.rs"), "no_container_stays_frozen_when_the_server_is_stopped"),
        ]),
    },
    Row {
        feature: 27,
        says: "kubelet_runtime_operations_* of checkpoint_container: absent before, one more for \
               each call that is reached, errors on error only",
        better: "cryopod_checkpoint_* beside them, with buckets that fit minutes",
        proof: Proof::Course(|| Box::pin(operations())),
    },
    Row {
        feature: 28,
        says: "kubelet_http_* by method, path, server_type and long_running, before authentication",
        better: "",
        proof: Proof::Course(|| Box::pin(http_metrics())),
    },
    Row {
        feature: 29,
        says: "parallel calls are all answered",
        better: "calls for one container run one after the other, where with a kubelet they \
                 collide in the runtime; a client sees a success where it saw a failure",
        proof: Proof::Course(|| Box::pin(parallel())),
    },
    Row {
        feature: 29,
        says: "as many at once as come",
        better: "their number on a node is limited, the others wait; too little space is a 500 at once, \
                 where it was one at the end",
        proof: Proof::Test(&[
            (include_str!("limits.rs"), "more_than_the_node_may_make_at_once_wait_and_say_so"),
            (include_str!("limits.rs"), "waiting_does_not_count_against_the_deadline"),
            (include_str!("limits.rs"), "too_little_space_is_told_before_anything_begins"),
        ]),
    },
    Row {
        feature: 30,
        says: "nothing is deleted unless a policy is given",
        better: "",
        proof: Proof::Course(|| Box::pin(nothing_deleted())),
    },
    Row {
        feature: 30,
        says: "nothing of the kind in a kubelet",
        better: "by the policies of checkpoint-restore-operator, where one is given",
        proof: Proof::Test(&[
            (
                include_str!("retention.rs"),
                "checkpoints_downloads_and_restarts_at_once_leave_what_the_policy_keeps",
            ),
            (include_str!("retention.rs"), "what_is_read_is_deleted_when_it_is_let_go"),
            (include_str!("retention.rs"), "a_dry_run_says_the_same_and_deletes_nothing"),
            (
                include_str!("retention.rs"),
                "a_process_killed_in_the_middle_loses_nothing_that_the_policy_keeps",
            ),
            (include_str!("archives.rs"), "pinned_archives_stay_until_they_are_unpinned"),
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
            include_str!("../../../../tests/node_e2e.rs"),
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
                include_str!("configuration.rs"),
                "with_a_file_the_defaults_are_those_of_the_kubelets_file",
            ),
            (include_str!("configuration.rs"), "every_field_is_taken_from_the_file_with_its_line"),
            (
                include_str!("configuration.rs"),
                "drop_ins_are_laid_over_the_file_in_order_and_flags_over_both",
            ),
            (include_str!("configuration.rs"), "every_mistake_in_a_file_is_told_with_its_line"),
            (
                include_str!("configuration.rs"),
                "a_kubelets_file_with_a_kubeconfig_asks_the_api_server",
            ),
        ]),
    },
    Row {
        feature: 38,
        says: "a kubelet's settings are options of this server",
        better: "",
        proof: Proof::Course(|| Box::pin(settings())),
    },
];

/// Says one thing to everybody, or fails.
struct Always(Option<Decision>);

impl Authorizer for Always {
    fn authorize<'a>(
        &'a self,
        _attributes: &'a Attributes,
    ) -> BoxFuture<'a, Result<Decision, BoxError>> {
        let answer = self.0.ok_or_else(|| "no webhook".into());
        Box::pin(async { answer })
    }
}

async fn exchange(row: &Row, one: &Exchange) {
    for h2 in [false, true] {
        let delegates = match one.decision {
            Some(decision) => with_authorizer(Always(decision)),
            None => Delegates::default(),
        };
        let stage = Stage::with_delegates(delegates, one.server).await;
        if let Some(act) = one.act {
            stage.runtime.next(act());
        }
        let client = match one.who {
            Who::Named(name) => stage.client_as(&stage.authority.client(name)),
            Who::Nobody => stage.stranger(),
        };
        let answer = if h2 {
            client.send_h2(one.method, one.path, one.sent).await
        } else {
            client.send(one.method, one.path, one.sent).await
        };
        let calls = stage.runtime.calls();
        let body = match calls.first() {
            Some(call) => one.body.replace(LOCATION, &call.location),
            None => one.body.to_owned(),
        };
        let case = format!("F{} ({}), {} {}", row.feature, row.says, one.method, one.path);
        assert_whole(&answer, one.status, one.headers, &body, &case);
        // The runtime is called exactly where an archive, or its own error, is in the answer.
        let called = one.status == 200 && one.body.contains(LOCATION) || one.act.is_some();
        assert_eq!(!calls.is_empty(), called, "{case}");
    }
}

#[tokio::test]
async fn every_row_of_the_contract_holds() {
    for row in ROWS {
        match &row.proof {
            Proof::Answers(all) => {
                for one in *all {
                    exchange(row, one).await;
                }
            }
            Proof::Course(course) => {
                let done = tokio::spawn(course()).await;
                assert!(done.is_ok(), "F{}: {}", row.feature, row.says);
            }
            Proof::Test(_) | Proof::Elsewhere(_) => {}
        }
    }
}

#[test]
fn every_row_of_the_feature_table_is_here_and_says_how_it_is_proven() {
    let mut rows: BTreeMap<u8, Vec<&Row>> = BTreeMap::new();
    for row in ROWS {
        rows.entry(row.feature).or_default().push(row);
    }
    let missing: Vec<u8> = (1..=38).filter(|feature| !rows.contains_key(feature)).collect();
    assert!(missing.is_empty(), "rows missing from the contract: {missing:?}");
    assert_eq!(rows.len(), 38, "a row that no feature has");
    let owned_elsewhere = [31, 32, 34, 35, 36];
    for row in ROWS {
        let feature = row.feature;
        assert!(!row.says.is_empty(), "F{feature}");
        match &row.proof {
            Proof::Answers(all) => assert!(!all.is_empty(), "F{feature}"),
            Proof::Course(_) => {}
            Proof::Test(tests) => {
                assert!(!tests.is_empty(), "F{feature}");
                for (file, name) in *tests {
                    let is_there = file.contains(&format!("fn {name}("));
                    assert!(is_there, "F{feature} is proven by {name}, which is not there");
                }
            }
            Proof::Elsewhere(owner) => {
                assert!(owned_elsewhere.contains(&feature), "F{feature} is ours to prove");
                assert!(!owner.is_empty(), "F{feature}");
            }
        }
        let is_elsewhere = matches!(row.proof, Proof::Elsewhere(_));
        assert!(!is_elsewhere || row.better.is_empty(), "F{feature}");
    }
}

/// F6.
async fn timeouts() {
    let stage = Stage::new().await;
    let client = stage.client();
    let answer = client.post(&format!("{COUNTER}?timeout=-1")).await;
    let body = "checkpointing of default/counter/counter failed \
                (CheckpointContainer requires the timeout value to be > 0)";
    assert_whole(&answer, 500, &[TEXT], body, "F6 negative");
    for (asked, told, deadline) in [
        ("0", 120, 120),
        ("10", 120, 120),
        ("120", 120, 120),
        ("121", 121, 121),
        // Overflows in Go, and fails at once.
        ("9223372037", 9_223_372_037, 10 * 366 * 24 * 3600),
        ("9223372036854775807", i64::MAX, 10 * 366 * 24 * 3600),
    ] {
        assert_eq!(client.post(&format!("{COUNTER}?timeout={asked}")).await.status, 200, "{asked}");
        let call = stage.runtime.calls().pop().unwrap();
        let seen = (call.timeout_seconds, call.deadline);
        let expected = (
            told,
            Duration::from_secs(deadline).min(Duration::from_secs(u64::try_from(told).unwrap())),
        );
        assert_eq!(seen, expected, "{asked}");
    }
}

/// F14.
async fn no_open_port() {
    // No port of its own without authentication: the plain health pages have no route but health.
    let stage = Stage::with(|options| {
        options.healthz_bind = Some(([127, 0, 0, 1], 0).into());
    })
    .await;
    let address = stage.healthz.unwrap();
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let request = crate::client::request("POST", COUNTER, &[]);
    assert_eq!(sender.send_request(request).await.unwrap().status(), 404);
    assert!(stage.runtime.calls().is_empty());
    let root = tempfile::tempdir().unwrap();
    let mut options = crate::stage::options(&root, &Authority::new("ca"));
    options.client_ca_file = None;
    let runtime = Arc::new(Played::default());
    let server = cryopod_kubelet::Server::bind(options, runtime, Delegates::default()).await;
    assert!(matches!(server, Err(StartError::NoAuthentication(_))));
}

/// F15.
async fn attributes() {
    let recorder = Recorder::default();
    let stage = Stage::with_delegates(with_authorizer(recorder.clone()), |_| {}).await;
    stage.client().post(COUNTER).await;
    let asked = recorder.seen();
    let [one] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!(
        (one.verb, one.api_group, one.api_version, one.resource, one.subresource),
        ("create", "", "v1", "nodes", "checkpoint")
    );
    assert_eq!((&*one.name, &*one.namespace, &*one.path), ("node-1", "", COUNTER));
}

/// F16.
async fn authentication() {
    let recorder = Recorder::default();
    let stage = Stage::with_delegates(with_authorizer(recorder.clone()), |options| {
        options.anonymous = true;
    })
    .await;
    let identity = stage.authority.issue(&Leaf::client(&["bob"], &["dev", "ops"]));
    assert_eq!(stage.client_as(&identity).post(COUNTER).await.status, 200);
    assert_eq!(stage.stranger().post(COUNTER).await.status, 200);
    // A credential that is bad is never an anonymous caller.
    let foreign = Authority::new("client-ca").client("mallory");
    assert_eq!(stage.client_as(&foreign).post(COUNTER).await.status, 401);
    let users: Vec<(String, Vec<String>)> =
        recorder.seen().into_iter().map(|one| (one.user.name, one.user.groups)).collect();
    let user = |name: &str, groups: &[&str]| {
        (name.to_owned(), groups.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(
        users,
        [
            user("bob", &["dev", "ops", "system:authenticated"]),
            user("system:anonymous", &["system:unauthenticated"]),
        ]
    );
}

/// F18.
async fn certificates() {
    let stage = Stage::with(|options| options.limits.reload = Duration::from_millis(20)).await;
    // Not required.
    let answer = stage.stranger().post("/nowhere").await;
    assert_eq!(answer.status, 404);
    // A bad one gets an answer and no broken connection.
    let foreign = Authority::new("client-ca").client("mallory");
    let answer = stage.client_as(&foreign).post(COUNTER).await;
    assert_whole(&answer, 401, &[TEXT], "Unauthorized", "F18");
    // The CA file is read again.
    let next = Authority::new("next");
    std::fs::write(stage.root.path().join("next"), next.pem()).unwrap();
    let file = stage.root.path().join("client-ca.crt");
    std::fs::rename(stage.root.path().join("next"), file).unwrap();
    let client = stage.client_as(&next.client("bob"));
    while client.post(COUNTER).await.status != 200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// F20.
async fn file_names() {
    let stage = Stage::new().await;
    let client = stage.client();
    for _ in 0..5 {
        assert_eq!(client.post(COUNTER).await.status, 200);
    }
    let folder = format!("{}/", stage.checkpoints().display());
    let mut names = std::collections::BTreeSet::new();
    for call in stage.runtime.calls() {
        let name = call.location.strip_prefix(&folder).unwrap().to_owned();
        let stem = name.strip_prefix("checkpoint-counter_default-counter-").unwrap();
        let stem = stem.strip_suffix(".tar").unwrap();
        // 2025-11-27T13:50:33, then Z or an offset.
        let offset = if stem.as_bytes()[19] == b'Z' { 1 } else { 6 };
        let (time, number) = stem.split_at(19 + offset);
        time.parse::<jiff::Timestamp>().unwrap();
        assert!(number.is_empty() || number[1..].parse::<u32>().is_ok(), "{name}");
        names.insert(name);
    }
    assert_eq!(names.len(), 5);
}

/// F21.
async fn folder() {
    let stage = Stage::new().await;
    let mode = std::fs::metadata(stage.checkpoints()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("kubelet")).unwrap();
    std::fs::write(root.path().join("kubelet/checkpoints"), "").unwrap();
    let options = crate::stage::options(&root, &Authority::new("ca"));
    let runtime = Arc::new(Played::default());
    let server = cryopod_kubelet::Server::bind(options, runtime, Delegates::default()).await;
    let error = server.unwrap_err().to_string();
    assert!(error.starts_with("error creating checkpoint directory: "), "{error}");
}

/// F25.
async fn cri_request() {
    let stage = Stage::new().await;
    assert_eq!(stage.client().post(&format!("{COUNTER}?timeout=200")).await.status, 200);
    let call = stage.runtime.calls().remove(0);
    assert_eq!((&*call.container_id, call.timeout_seconds), ("id-counter", 200));
    assert_eq!(call.deadline, Duration::from_secs(200));
    assert!(call.location.starts_with('/'), "{}", call.location);
}

/// F26.
async fn cancelled() {
    let stage = Stage::with(|options| {
        options.runtime_request_timeout = Duration::from_millis(50);
    })
    .await;
    stage.runtime.next(Act::Hang);
    let answer = stage.client().post(COUNTER).await;
    let body = "checkpointing of default/counter/counter failed \
                (rpc error: code = DeadlineExceeded desc = context deadline exceeded)";
    assert_whole(&answer, 500, &[TEXT], body, "F26 deadline");
    stage.runtime.cancelled(1).await;
    let stage = Stage::new().await;
    stage.runtime.next(Act::Hang);
    let client = stage.client();
    let mut sender = client.try_http1().await.unwrap();
    let request = crate::client::request("POST", COUNTER, &[]);
    let pending = tokio::spawn(async move { sender.send_request(request).await });
    stage.runtime.called(1).await;
    pending.abort();
    stage.runtime.cancelled(1).await;
    assert_eq!(client.post(COUNTER).await.status, 200);
}

/// F27.
async fn operations() {
    let stage = Stage::new().await;
    let client = stage.client();
    let counts = async || {
        let text = stage.metrics().await;
        let series = |name: &str| {
            let name = format!("kubelet_runtime_operations_{name}");
            value(&text, &format!("{name}{{operation_type=\"checkpoint_container\"}}"))
        };
        (series("total"), series("errors_total"), series("duration_seconds_count"))
    };
    assert_eq!(counts().await, (None, None, None));
    client.post("/checkpoint/default/nopod/x").await;
    client.post("/checkpoint/default/counter/done").await;
    assert_eq!(counts().await, (None, None, None));
    client.post(COUNTER).await;
    assert_eq!(counts().await, (Some(1.0), None, Some(1.0)));
    stage.runtime.next(fails(Code::Unknown, "no"));
    client.post(COUNTER).await;
    assert_eq!(counts().await, (Some(2.0), Some(1.0), Some(2.0)));
}

/// F28.
async fn http_metrics() {
    let stage = Stage::new().await;
    stage.client().post(COUNTER).await;
    stage.stranger().post(COUNTER).await;
    let text = stage.metrics().await;
    let labels = http("POST", "checkpoint");
    for (series, count) in [
        ("requests_total", 2.0),
        ("requests_duration_seconds_count", 2.0),
        ("inflight_requests", 0.0),
    ] {
        assert_eq!(value(&text, &format!("kubelet_http_{series}{labels}")), Some(count));
    }
}

/// F29.
async fn parallel() {
    let stage = Stage::new().await;
    let go = Arc::new(Notify::new());
    stage.runtime.next(Act::Wait(Arc::clone(&go)));
    let client = stage.client();
    let post = |path: &'static str| {
        let client = client.clone();
        tokio::spawn(async move { client.post(path).await.status.as_u16() })
    };
    let first = post(COUNTER);
    stage.runtime.called(1).await;
    let second = post(COUNTER);
    // Another container does not wait.
    assert_eq!(post("/checkpoint/default/counter/second").await.unwrap(), 200);
    assert_eq!(stage.runtime.calls().len(), 2);
    go.notify_one();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (200, 200));
    let ids: Vec<String> =
        stage.runtime.calls().into_iter().map(|call| call.container_id).collect();
    assert_eq!(ids, ["id-counter", "id-second", "id-counter"]);
}

/// F30.
async fn nothing_deleted() {
    let stage = Stage::new().await;
    let old = stage.checkpoints().join("checkpoint-old_default-c-2001-01-01T00:00:00Z.tar");
    std::fs::write(&old, b"archive").unwrap();
    for _ in 0..3 {
        assert_eq!(stage.client().post(COUNTER).await.status, 200);
    }
    assert_eq!(std::fs::read_dir(stage.checkpoints()).unwrap().count(), 4);
}

/// F38.
async fn settings() {
    let stage = Stage::with(|options| {
        options.runtime_request_timeout = Duration::from_secs(7);
        options.healthz_bind = Some(([127, 0, 0, 1], 0).into());
        options.node_name = "other".into();
    })
    .await;
    assert_eq!(stage.client().post(COUNTER).await.status, 200);
    assert_eq!(stage.runtime.calls()[0].timeout_seconds, 7);
    assert!(stage.healthz.is_some());
}
