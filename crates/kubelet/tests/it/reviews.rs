//! Tokens and access, decided by an API server: from the HTTPS request to its answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cryopod_kubelet::KubernetesVersion;
use cryopod_kubelet::authn::TokenOptions;
use cryopod_kubelet::authz::WebhookOptions;
use cryopod_testkit::api_server::{Access, Account, Disturbance, Review};
use serde_json::json;
use tokio::sync::Notify;

use crate::client::Answer;
use crate::cluster::{
    COUNTER, Cluster, attribute, bearing, later, token_options, until, webhook_options,
};
use crate::log::Log;
use crate::pki::{Authority, Leaf};

const TEXT: &str = "text/plain; charset=utf-8";

fn assert_text(answer: &Answer, status: u16, body: &str) {
    assert_eq!((answer.status.as_u16(), &*answer.body), (status, body));
    assert_eq!(answer.header("content-type"), Some(TEXT));
}

fn forbidden(user: &str) -> String {
    format!("Forbidden (user={user}, verb=create, resource=nodes, subresource(s)=[checkpoint])\n")
}

fn not_decided(user: &str) -> String {
    format!(
        "Authorization error (user={user}, verb=create, resource=nodes, subresource=checkpoint)"
    )
}

fn refused(code: u16) -> Disturbance {
    Disturbance::Status { code, retry_after: None }
}

#[tokio::test]
async fn a_good_token_of_an_allowed_user_is_served_with_all_that_is_known_of_them() {
    let cluster = Cluster::new().await;
    cluster.api.know(
        "full",
        Account {
            name: "system:serviceaccount:tools:robot".to_owned(),
            uid: "u-1".to_owned(),
            groups: vec!["system:serviceaccounts".to_owned()],
            extra: BTreeMap::from([("pod".to_owned(), vec!["p".to_owned()])]),
        },
    );
    let stage = cluster.stage(|_| {}).await;
    let answer = bearing(&stage.stranger(), "full").await;
    assert_eq!(answer.status, 200);
    assert_eq!(cluster.api.asked(Review::Token), [json!({"token": "full"})]);
    let expected = json!({
        "user": "system:serviceaccount:tools:robot",
        "uid": "u-1",
        "groups": ["system:serviceaccounts", "system:authenticated"],
        "extra": {"pod": ["p"]},
        "resourceAttributes": {
            "verb": "create", "version": "v1", "resource": "nodes", "subresource": "checkpoint",
            "name": "node-1",
        },
    });
    assert_eq!(cluster.api.asked(Review::Access), [expected]);
    assert_eq!(cluster.api.clients(), ["certificate"]);
}

#[tokio::test]
async fn a_certificate_is_authorized_by_its_names() {
    let cluster = Cluster::new().await;
    cluster.api.rule(|spec| match spec["user"].as_str() {
        Some("alice") => Access::Allow,
        _ => Access::NoOpinion,
    });
    let stage = cluster.stage(|_| {}).await;
    assert_eq!(stage.client().post(COUNTER).await.status, 200);
    let bob = stage.client_as(&stage.authority.client("bob"));
    assert_text(&bob.post(COUNTER).await, 403, &forbidden("bob"));
    let asked = &cluster.api.asked(Review::Access)[0];
    assert_eq!(asked["groups"], json!(["dev", "system:authenticated"]));
    let id = asked["extra"]["authentication.kubernetes.io/credential-id"][0].as_str().unwrap();
    assert!(id.starts_with("X509SHA256="), "{id}");
}

#[tokio::test]
async fn a_bad_token_is_401_and_asked_about_once() {
    let cluster = Cluster::new().await;
    for anonymous in [false, true] {
        let stage = cluster.stage(|options| options.anonymous = anonymous).await;
        for _ in 0..3 {
            assert_text(&bearing(&stage.stranger(), "bad").await, 401, "Unauthorized");
        }
        assert!(stage.runtime.calls().is_empty());
    }
    assert_eq!(cluster.api.count(Review::Token), 1);
    assert_eq!(cluster.api.count(Review::Access), 0);
}

#[tokio::test]
async fn denied_and_no_opinion_are_403_and_hold_for_30_seconds() {
    for access in [Access::Deny, Access::NoOpinion] {
        let cluster = Cluster::new().await;
        cluster.api.rule(move |_| access);
        let stage = cluster.stage(|_| {}).await;
        let ask = async || bearing(&stage.stranger(), "good").await;
        for _ in 0..3 {
            assert_text(&ask().await, 403, &forbidden("robot"));
        }
        assert_eq!(cluster.api.count(Review::Access), 1);
        cluster.api.rule(|_| Access::Allow);
        later(Duration::from_secs(15)).await;
        assert_text(&ask().await, 403, &forbidden("robot"));
        later(Duration::from_secs(16)).await;
        assert_eq!(ask().await.status, 200);
        assert_eq!(cluster.api.count(Review::Access), 2);
    }
}

#[tokio::test]
async fn allowed_holds_for_five_minutes() {
    let cluster = Cluster::new().await;
    let stage = cluster.stage(|_| {}).await;
    let client = stage.client();
    assert_eq!(client.post(COUNTER).await.status, 200);
    cluster.api.rule(|_| Access::Deny);
    later(Duration::from_secs(250)).await;
    assert_eq!(client.post(COUNTER).await.status, 200);
    assert_eq!(cluster.api.count(Review::Access), 1);
    later(Duration::from_secs(51)).await;
    assert_text(&client.post(COUNTER).await, 403, &forbidden("alice"));
}

#[tokio::test]
async fn the_times_are_configurable() {
    let seconds = Duration::from_secs;
    let tokens = TokenOptions { ttl: seconds(1000), ..token_options() };
    let webhook = WebhookOptions { allowed_ttl: seconds(2000), ..webhook_options() };
    let cluster = Cluster::with(tokens, webhook).await;
    let stage = cluster.stage(|_| {}).await;
    let asked = || (cluster.api.count(Review::Token), cluster.api.count(Review::Access));
    bearing(&stage.stranger(), "good").await;
    assert_eq!(asked(), (1, 1));
    later(seconds(1100)).await;
    bearing(&stage.stranger(), "good").await;
    assert_eq!(asked(), (2, 1));
    later(seconds(950)).await;
    bearing(&stage.stranger(), "good").await;
    assert_eq!(asked(), (2, 2));
}

#[tokio::test]
async fn a_revoked_token_works_until_the_cache_forgets_it() {
    let cluster = Cluster::new().await;
    let stage = cluster.stage(|options| options.anonymous = true).await;
    let ask = async || bearing(&stage.stranger(), "good").await.status.as_u16();
    assert_eq!(ask().await, 200);
    cluster.api.revoke("good");
    later(Duration::from_secs(90)).await;
    assert_eq!(ask().await, 200);
    assert_eq!(cluster.api.count(Review::Token), 1);
    later(Duration::from_secs(31)).await;
    assert_eq!(ask().await, 401);
    // And given back: unknown holds as long.
    cluster.api.know("good", Account { name: "robot".to_owned(), ..Account::default() });
    later(Duration::from_secs(90)).await;
    assert_eq!(ask().await, 401);
    later(Duration::from_secs(31)).await;
    assert_eq!(ask().await, 200);
    assert_eq!(cluster.api.count(Review::Token), 3);
}

#[tokio::test]
async fn an_access_review_that_fails_is_500_and_is_asked_anew() {
    let cluster = Cluster::new().await;
    let stage = cluster.stage(|_| {}).await;
    for disturbance in [
        refused(403),
        refused(401),
        refused(503),
        Disturbance::Body("<html>".to_owned()),
        Disturbance::Body("{}".to_owned()),
        Disturbance::Body(r#"{"status":{"allowed":true,"denied":true}}"#.to_owned()),
        Disturbance::Body("x".repeat(2 << 20)),
    ] {
        let before = cluster.api.count(Review::Access);
        cluster.api.disturb(Review::Access, [disturbance.clone()]);
        let answer = stage.client().post(COUNTER).await;
        assert_text(&answer, 500, &not_decided("alice"));
        assert_eq!(cluster.api.count(Review::Access), before + 1, "{disturbance:?}");
    }
    assert!(stage.runtime.calls().is_empty());
    assert_eq!(stage.client().post(COUNTER).await.status, 200);
}

#[tokio::test]
async fn failures_that_may_pass_are_survived_four_times_and_not_five() {
    let disturbances =
        || [refused(500), Disturbance::Reset, refused(429), refused(504), Disturbance::Reset];
    let four = || disturbances().into_iter().take(4);
    for review in [Review::Access, Review::Token] {
        let cluster = Cluster::new().await;
        let stage = cluster.stage(|_| {}).await;
        cluster.api.disturb(review, disturbances());
        let answer = bearing(&stage.stranger(), "good").await;
        assert_eq!(cluster.api.count(review), 5);
        match review {
            Review::Access => assert_text(&answer, 500, &not_decided("robot")),
            Review::Token => assert_text(&answer, 401, "Unauthorized"),
        }
        // Nothing of that was kept.
        cluster.api.disturb(review, four());
        assert_eq!(bearing(&stage.stranger(), "good").await.status, 200);
        assert_eq!(cluster.api.count(review), 10);
    }
}

#[tokio::test]
async fn an_api_server_that_never_answers_ends_in_500_and_401() {
    let cluster = Cluster::new().await;
    let stage = cluster.stage(|options| options.anonymous = true).await;
    cluster.api.disturb(Review::Access, [Disturbance::Hang]);
    let client = stage.client();
    let hung = tokio::spawn(async move { client.post(COUNTER).await });
    until(|| cluster.api.count(Review::Access) == 1).await;
    later(Duration::from_secs(31)).await;
    assert_text(&hung.await.unwrap(), 500, &not_decided("alice"));
    cluster.api.disturb(Review::Token, [Disturbance::Hang]);
    let client = stage.stranger();
    let hung = tokio::spawn(async move { bearing(&client, "good").await });
    until(|| cluster.api.count(Review::Token) == 1).await;
    later(Duration::from_secs(31)).await;
    assert_text(&hung.await.unwrap(), 401, "Unauthorized");
    assert!(stage.runtime.calls().is_empty());
    // It answers again: nothing was kept.
    assert_eq!(bearing(&stage.stranger(), "good").await.status, 200);
    assert_eq!(stage.client().post(COUNTER).await.status, 200);
}

#[tokio::test]
async fn an_api_server_that_is_gone_is_500_and_401() {
    let cluster = Cluster::new().await;
    let stage = cluster.stage(|_| {}).await;
    drop(cluster.api);
    assert_text(&stage.client().post(COUNTER).await, 500, &not_decided("alice"));
    assert_text(&bearing(&stage.stranger(), "good").await, 401, "Unauthorized");
}

#[tokio::test]
async fn a_token_that_cannot_be_judged_is_401_and_is_asked_anew() {
    let cluster = Cluster::new().await;
    cluster.api.fail_to_check("odd", "signer is away");
    let stage = cluster.stage(|options| options.anonymous = true).await;
    for asked in 1..=2 {
        assert_text(&bearing(&stage.stranger(), "odd").await, 401, "Unauthorized");
        assert_eq!(cluster.api.count(Review::Token), asked);
    }
    for disturbance in [
        refused(403),
        Disturbance::Body("nonsense".to_owned()),
        Disturbance::Body(r#"{"status":{"authenticated":true,"user":{}}}"#.to_owned()),
    ] {
        cluster.api.disturb(Review::Token, [disturbance]);
        assert_text(&bearing(&stage.stranger(), "good").await, 401, "Unauthorized");
    }
    assert_eq!(bearing(&stage.stranger(), "good").await.status, 200);
}

#[tokio::test]
async fn only_a_caller_who_presents_nothing_is_anonymous() {
    let cluster = Cluster::new().await;
    let stage = cluster.stage(|options| options.anonymous = true).await;
    assert_eq!(stage.stranger().post(COUNTER).await.status, 200);
    let asked = cluster.api.asked(Review::Access).remove(0);
    assert_eq!(asked["user"], "system:anonymous");
    assert_eq!(asked["groups"], json!(["system:unauthenticated"]));
    assert_eq!(bearing(&stage.stranger(), "bad").await.status, 401);
    // Another scheme is no token.
    let basic = [("authorization", "Basic YTpi")];
    assert_eq!(stage.stranger().send("POST", COUNTER, &basic).await.status, 200);
    // A certificate that is bad, and a token that is: nobody.
    let foreign = stage.client_as(&Authority::new("x").client("mallory"));
    assert_eq!(bearing(&foreign, "bad").await.status, 401);
    // Anonymous callers are judged like others.
    cluster.api.rule(|_| Access::NoOpinion);
    later(Duration::from_secs(301)).await;
    assert_text(&stage.stranger().post(COUNTER).await, 403, &forbidden("system:anonymous"));
}

#[tokio::test]
async fn certificates_come_before_tokens_and_one_good_credential_is_enough() {
    let cluster = Cluster::new().await;
    let stage = cluster.stage(|_| {}).await;
    let user = || cluster.api.asked(Review::Access).last().unwrap()["user"].clone();
    assert_eq!(bearing(&stage.client(), "good").await.status, 200);
    assert_eq!((user(), cluster.api.count(Review::Token)), (json!("alice"), 0));
    assert_eq!(bearing(&stage.client(), "bad").await.status, 200);
    assert_eq!(cluster.api.count(Review::Token), 0);
    let foreign = stage.client_as(&Authority::new("x").client("mallory"));
    assert_eq!(bearing(&foreign, "good").await.status, 200);
    assert_eq!(user(), "robot");
    let nameless = stage.authority.issue(&Leaf::client(&[], &["dev"]));
    assert_eq!(bearing(&stage.client_as(&nameless), "good").await.status, 200);
    assert_eq!(bearing(&stage.client_as(&nameless), "bad").await.status, 401);
}

#[tokio::test]
async fn a_websocket_brings_its_token_as_a_subprotocol() {
    let cluster = Cluster::new().await;
    let stage = cluster.stage(|_| {}).await;
    // "good".
    let protocols = "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.Z29vZA";
    let mut headers = vec![
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-protocol", protocols),
    ];
    assert_eq!(stage.stranger().send("POST", COUNTER, &headers).await.status, 200);
    headers.remove(1);
    assert_eq!(stage.stranger().send("POST", COUNTER, &headers).await.status, 401);
}

#[tokio::test]
async fn decisions_are_kept_per_user() {
    let cluster = Cluster::new().await;
    for name in ["ann", "ben"] {
        let groups = vec![format!("{name}s")];
        cluster.api.know(name, Account { name: name.to_owned(), groups, ..Account::default() });
    }
    cluster.api.rule(|spec| match spec["groups"][0].as_str() {
        Some("anns") => Access::Allow,
        _ => Access::Deny,
    });
    let stage = cluster.stage(|_| {}).await;
    for _ in 0..3 {
        assert_eq!(bearing(&stage.stranger(), "ann").await.status, 200);
        assert_text(&bearing(&stage.stranger(), "ben").await, 403, &forbidden("ben"));
    }
    assert_eq!(cluster.api.count(Review::Access), 2);
    assert_eq!(cluster.api.count(Review::Token), 2);
    assert_eq!((cluster.tokens.kept(), cluster.webhook.kept()), (2, 2));
}

#[tokio::test]
async fn callers_at_once_share_one_question_and_one_who_leaves_harms_none() {
    let cluster = Cluster::new().await;
    let stage = cluster.stage(|_| {}).await;
    let go = Arc::new(Notify::new());
    cluster.api.disturb(Review::Token, [Disturbance::Wait(Arc::clone(&go))]);
    let client = stage.stranger();
    let leaver = tokio::spawn(async move { bearing(&client, "good").await });
    until(|| cluster.api.count(Review::Token) == 1).await;
    let others: Vec<_> = (0..8)
        .map(|_| {
            let client = stage.stranger();
            tokio::spawn(async move { bearing(&client, "good").await.status.as_u16() })
        })
        .collect();
    leaver.abort();
    assert!(leaver.await.unwrap_err().is_cancelled());
    go.notify_one();
    for other in others {
        assert_eq!(other.await.unwrap(), 200);
    }
    assert_eq!(cluster.api.count(Review::Token), 1);
}

#[tokio::test]
async fn an_attempt_that_hangs_is_given_up_and_the_next_is_answered() {
    let cluster = Cluster::new().await;
    let stage = cluster.stage(|_| {}).await;
    cluster.api.disturb(Review::Token, [Disturbance::Hang]);
    let client = stage.stranger();
    let caller = tokio::spawn(async move { bearing(&client, "good").await });
    until(|| cluster.api.count(Review::Token) == 1).await;
    later(Duration::from_secs(11)).await;
    assert_eq!(caller.await.unwrap().status, 200);
    assert_eq!(cluster.api.count(Review::Token), 2);
}

#[tokio::test]
async fn a_second_check_on_the_pod_can_be_asked_for() {
    let cluster = Cluster::new().await;
    cluster.api.rule(|spec| match (attribute(spec, "resource"), attribute(spec, "namespace")) {
        ("nodes", "") => Access::Allow,
        ("pods", "default") if spec["user"] == "alice" => Access::Allow,
        _ => Access::NoOpinion,
    });
    let without = cluster.stage(|_| {}).await;
    assert_eq!(bearing(&without.stranger(), "good").await.status, 200);
    let stage = cluster.stage(|options| options.authorize_pods = true).await;
    let alice = stage.client();
    assert_eq!(alice.post(COUNTER).await.status, 200);
    let asked = cluster.api.asked(Review::Access).last().unwrap()["resourceAttributes"].clone();
    let expected = json!({
        "verb": "create", "version": "v1", "resource": "pods", "subresource": "checkpoint",
        "name": "counter", "namespace": "default",
    });
    assert_eq!(asked, expected);
    let text = "Forbidden (user=robot, verb=create, resource=pods, subresource(s)=[checkpoint])\n";
    assert_text(&bearing(&stage.stranger(), "good").await, 403, text);
    // Whoever may not is not told what there is.
    let elsewhere = alice.post("/checkpoint/other/nopod/x?timeout=x").await;
    let text = "Forbidden (user=alice, verb=create, resource=pods, subresource(s)=[checkpoint])\n";
    assert_text(&elsewhere, 403, text);
    // Only the route itself is about a pod.
    let before = cluster.api.count(Review::Access);
    assert_eq!(alice.post("/checkpoint/default/counter").await.status, 404);
    assert_eq!(cluster.api.count(Review::Access), before);
}

#[tokio::test]
async fn the_second_check_comes_after_the_first_and_fails_like_it() {
    let cluster = Cluster::new().await;
    cluster.api.rule(|_| Access::Deny);
    let stage = cluster.stage(|options| options.authorize_pods = true).await;
    assert_text(&stage.client().post(COUNTER).await, 403, &forbidden("alice"));
    assert_eq!(cluster.api.count(Review::Access), 1);
    cluster.api.rule(|_| Access::Allow);
    later(Duration::from_secs(31)).await;
    // The first is answered, the second not.
    let client = stage.client();
    assert_eq!(client.send("GET", COUNTER, &[]).await.status, 405);
    assert_eq!(client.send("POST", "/checkpoint/", &[]).await.status, 404);
    cluster.api.disturb(Review::Access, [Disturbance::Body("{}".to_owned())]);
    let text =
        "Authorization error (user=alice, verb=create, resource=pods, subresource=checkpoint)";
    assert_text(&client.post(COUNTER).await, 500, text);
    assert!(stage.runtime.calls().is_empty());
}

#[tokio::test]
async fn texts_and_attributes_are_those_of_the_configured_version() {
    for (version, subresource, text) in [
        ("1.32", "checkpoint", "subresource(s)=[checkpoint])\n"),
        ("1.31", "checkpoint", "subresource=checkpoint)"),
        ("1.30", "checkpoint", "subresource=checkpoint)"),
        ("1.29", "proxy", "subresource=proxy)"),
        ("1.25", "proxy", "subresource=proxy)"),
    ] {
        let cluster = Cluster::new().await;
        cluster.api.rule(|_| Access::NoOpinion);
        let version: KubernetesVersion = version.parse().unwrap();
        let stage = cluster.stage(|options| options.kubernetes_version = version).await;
        let start = "Forbidden (user=alice, verb=create, resource=nodes, ";
        let answer = stage.client().post(COUNTER).await;
        assert_text(&answer, 403, &format!("{start}{text}"));
        let asked = cluster.api.asked(Review::Access).remove(0);
        assert_eq!(attribute(&asked, "subresource"), subresource, "{version}");
        cluster.api.disturb(Review::Access, [refused(403)]);
        let bob = stage.client_as(&stage.authority.client("bob"));
        let start = "Authorization error (user=bob, verb=create, resource=nodes, subresource=";
        assert_text(&bob.post(COUNTER).await, 500, &format!("{start}{subresource})"));
    }
}

#[tokio::test]
async fn the_log_of_a_403_says_how_to_cure_it() {
    let (log, _guard) = Log::keep();
    let cluster = Cluster::new().await;
    cluster.api.rule(|_| Access::NoOpinion);
    let stage = cluster.stage(|_| {}).await;
    let user = "kube-apiserver-kubelet-client";
    let client = stage.client_as(&stage.authority.client(user));
    assert_text(&client.post(COUNTER).await, 403, &forbidden(user));
    let text = log.text();
    let line = text.lines().find(|line| line.contains("forbidden:")).unwrap();
    for part in [
        "needs create on nodes/checkpoint",
        "kubectl create clusterrole cryopod:checkpointer --verb=create --resource=nodes/checkpoint;",
        "kubectl create clusterrolebinding cryopod:apiserver-kubelet-client ",
        "--user=kube-apiserver-kubelet-client",
        "this user is the API server",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

#[tokio::test]
async fn no_log_line_holds_a_token() {
    let (log, _guard) = Log::keep();
    let cluster = Cluster::new().await;
    let stage = cluster.stage(|_| {}).await;
    let secrets = ["sekret-good", "sekret-bad", "sekret-broken", "sekret-odd"];
    cluster.api.know(secrets[0], Account { name: "robot".to_owned(), ..Account::default() });
    cluster.api.fail_to_check(secrets[3], "odd");
    for secret in secrets {
        if secret == "sekret-broken" {
            let body = r#"{"spec":{"token":"sekret-broken"},"status":{"authenticated":7}}"#;
            cluster.api.disturb(Review::Token, [Disturbance::Body(body.to_owned())]);
        }
        bearing(&stage.stranger(), secret).await;
    }
    let text = log.text();
    assert!(text.contains("bad credentials") && text.contains("checkpoint done"), "{text}");
    assert!(!text.contains("sekret"), "{text}");
}
