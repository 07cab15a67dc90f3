//! What authenticated callers may do, and the texts of the refusals.

use std::sync::Arc;

use cryopod_kubelet::authn::User;
use cryopod_kubelet::authz::{Attributes, Authorizer, Decision, RequestAttributes};
use cryopod_kubelet::{BoxError, BoxFuture, Delegates};
use http::Method;

use crate::authentication::{Recorder, with_authorizer};
use crate::client::Answer;
use crate::stage::Stage;

const COUNTER: &str = "/checkpoint/default/counter/counter";
const TEXT: &str = "text/plain; charset=utf-8";

/// Answers by subresource: what is not listed is an error.
struct Says(&'static [(&'static str, Decision)]);

impl Authorizer for Says {
    fn authorize<'a>(
        &'a self,
        attributes: &'a Attributes,
    ) -> BoxFuture<'a, Result<Decision, BoxError>> {
        let found = self.0.iter().find(|(name, _)| *name == attributes.subresource);
        let answer = found.map(|(_, decision)| *decision).ok_or_else(|| "no webhook".into());
        Box::pin(async { answer })
    }
}

/// These subresources, whatever the path.
struct Asks(&'static [&'static str]);

impl RequestAttributes for Asks {
    fn attributes(&self, user: &User, method: &Method, path: &str) -> Vec<Attributes> {
        let node = cryopod_kubelet::authz::NodeAttributes::new("node-1");
        let one = node.attributes(user, method, path).remove(0);
        self.0.iter().map(|subresource| Attributes { subresource, ..one.clone() }).collect()
    }
}

fn assert_text(answer: &Answer, status: u16, body: &str) {
    assert_eq!((answer.status.as_u16(), &*answer.body), (status, body));
    assert_eq!(answer.header("content-type"), Some(TEXT));
}

#[tokio::test]
async fn a_refusal_is_403_before_the_route_is_looked_at() {
    for decision in
        [&[("checkpoint", Decision::Deny)] as &[_], &[("checkpoint", Decision::NoOpinion)]]
    {
        let stage = Stage::with_delegates(with_authorizer(Says(decision)), |_| {}).await;
        let client = stage.client();
        for (method, verb) in [
            ("POST", "create"),
            ("GET", "get"),
            ("PUT", "update"),
            ("PATCH", "patch"),
            ("DELETE", "delete"),
            ("OPTIONS", ""),
        ] {
            let body = format!(
                "Forbidden (user=alice, verb={verb}, resource=nodes, subresource(s)=[checkpoint])\n"
            );
            for path in [COUNTER, "/checkpoint/", "/checkpoint/default/nopod/x?timeout=x"] {
                assert_text(&client.send(method, path, &[]).await, 403, &body);
            }
        }
        assert!(stage.runtime.calls().is_empty());
    }
}

#[tokio::test]
async fn several_subresources_are_tried_in_order_and_named_in_the_refusal() {
    let delegates = |says| Delegates {
        authorizer: Some(Arc::new(Says(says))),
        attributes: Some(Arc::new(Asks(&["checkpoint", "proxy"]))),
        ..Delegates::default()
    };
    let stage = Stage::with_delegates(
        delegates(&[("checkpoint", Decision::Deny), ("proxy", Decision::NoOpinion)]),
        |_| {},
    )
    .await;
    let body =
        "Forbidden (user=alice, verb=create, resource=nodes, subresource(s)=[checkpoint proxy])\n";
    assert_text(&stage.client().post(COUNTER).await, 403, body);
    let stage = Stage::with_delegates(
        delegates(&[("checkpoint", Decision::Deny), ("proxy", Decision::Allow)]),
        |_| {},
    )
    .await;
    assert_eq!(stage.client().post(COUNTER).await.status, 200);
    // Allowed by the first: the second, which would fail, is not asked.
    let stage = Stage::with_delegates(delegates(&[("checkpoint", Decision::Allow)]), |_| {}).await;
    assert_eq!(stage.client().post(COUNTER).await.status, 200);
}

#[tokio::test]
async fn an_authorizer_that_fails_is_500() {
    let stage = Stage::with_delegates(with_authorizer(Says(&[])), |_| {}).await;
    let body =
        "Authorization error (user=alice, verb=create, resource=nodes, subresource=checkpoint)";
    assert_text(&stage.client().post(COUNTER).await, 500, body);
}

#[tokio::test]
async fn a_request_without_attributes_is_403() {
    let delegates = Delegates {
        authorizer: Some(Arc::new(Says(&[("checkpoint", Decision::Allow)]))),
        attributes: Some(Arc::new(Asks(&[]))),
        ..Delegates::default()
    };
    let stage = Stage::with_delegates(delegates, |_| {}).await;
    let body = "Authorization error: could not determine attributes for request";
    assert_text(&stage.client().post(COUNTER).await, 403, body);
}

#[tokio::test]
async fn nobody_is_asked_about_a_caller_who_is_not_authenticated() {
    let recorder = Recorder::default();
    let stage = Stage::with_delegates(with_authorizer(recorder.clone()), |_| {}).await;
    assert_eq!(stage.stranger().post(COUNTER).await.status, 401);
    assert!(recorder.seen().is_empty());
}

#[tokio::test]
async fn the_authorizer_is_asked_for_create_nodes_checkpoint_of_this_node() {
    let recorder = Recorder::default();
    let stage = Stage::with_delegates(with_authorizer(recorder.clone()), |_| {}).await;
    stage.client().post("/checkpoint/default/c%6Funter/counter/?timeout=1").await;
    let asked = recorder.seen();
    assert_eq!(asked.len(), 1);
    let Attributes {
        user: _,
        verb,
        api_group,
        api_version,
        resource,
        subresource,
        name,
        namespace,
        resource_request,
        path,
    } = &asked[0];
    assert_eq!((*verb, *api_group, *api_version), ("create", "", "v1"));
    assert_eq!(
        (*resource, *subresource, &**name, &**namespace),
        ("nodes", "checkpoint", "node-1", "")
    );
    assert!(resource_request);
    assert_eq!(path, "/checkpoint/default/counter/counter/");
}
