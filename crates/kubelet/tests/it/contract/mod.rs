//! The contract, row by row: what a kubelet answers, byte for byte, and where we do better.
//!
//! The rows are those of the feature table F1 to F38. A row says what must be and is proven by
//! whole exchanges (status, every header, body), or by a course of events where one answer shows
//! nothing, or by a test elsewhere that is named here and must exist. Rows of other parts of the
//! project name their owner. A row that is missing fails the test.

mod courses;
mod rows;

use std::collections::BTreeMap;

use cryopod_kubelet::authz::{Attributes, Authorizer, Decision};
use cryopod_kubelet::runtime::{Code, RpcError};
use cryopod_kubelet::{BoxError, BoxFuture, Delegates, Options};

use crate::authentication::with_authorizer;
use crate::stage::{Act, Stage};
use crate::statuses::assert_whole;
use rows::ROWS;

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

fn fails(code: Code, message: &str) -> Act {
    Act::Fail(RpcError { code, message: message.to_owned() })
}

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
