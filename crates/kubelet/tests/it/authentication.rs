//! Who is let in: certificates, anonymous callers, and the rule that a bad credential is never
//! an anonymous caller.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cryopod_kubelet::authn::{Authenticator, Credential, Presented, User};
use cryopod_kubelet::authz::{Attributes, Authorizer, Decision};
use cryopod_kubelet::{AuthorizationMode, BoxError, BoxFuture, Delegates};
use rcgen::ExtendedKeyUsagePurpose;

use crate::pki::{Authority, Leaf};
use crate::stage::Stage;

const COUNTER: &str = "/checkpoint/default/counter/counter";

/// Allows everything and keeps what it was asked.
#[derive(Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<Attributes>>>);

impl Recorder {
    pub(crate) fn seen(&self) -> Vec<Attributes> {
        self.0.lock().unwrap().clone()
    }
}

impl Authorizer for Recorder {
    fn authorize<'a>(
        &'a self,
        attributes: &'a Attributes,
    ) -> BoxFuture<'a, Result<Decision, BoxError>> {
        self.0.lock().unwrap().push(attributes.clone());
        Box::pin(async { Ok(Decision::Allow) })
    }
}

pub(crate) fn with_authorizer(authorizer: impl Authorizer + 'static) -> Delegates {
    Delegates { authorizer: Some(Arc::new(authorizer)), ..Delegates::default() }
}

#[tokio::test]
async fn a_certificate_names_its_user_last_and_all_its_groups() {
    let recorder = Recorder::default();
    let stage = Stage::with_delegates(with_authorizer(recorder.clone()), |_| {}).await;
    let identity = stage.authority.issue(&Leaf::client(&["bob", "alice"], &["dev", "ops"]));
    assert_eq!(stage.client_as(&identity).post(COUNTER).await.status, 200);
    let user = recorder.seen().remove(0).user;
    assert_eq!(user.name, "alice");
    assert_eq!(user.groups, ["dev", "ops", "system:authenticated"]);
    assert_eq!(user.credential, Credential::ClientCertificate);
    let id = &user.extra["authentication.kubernetes.io/credential-id"];
    let digest = id[0].strip_prefix("X509SHA256=").unwrap();
    assert_eq!((id.len(), digest.len()), (1, 64));
}

#[tokio::test]
async fn a_bad_certificate_gets_an_answer_and_not_a_broken_connection() {
    let other = Authority::new("client-ca");
    for anonymous in [false, true] {
        let stage = Stage::with(|options| options.anonymous = anonymous).await;
        let ca = &stage.authority;
        let leaf = || Leaf::client(&["alice"], &[]);
        let server_only = Leaf { usages: vec![ExtendedKeyUsagePurpose::ServerAuth], ..leaf() };
        for (case, identity) in [
            ("another CA of the same name", other.issue(&leaf())),
            ("expired", ca.issue(&Leaf { expired: true, ..leaf() })),
            ("for servers only", ca.issue(&server_only)),
            ("below an intermediate that is not sent", ca.intermediate("i").issue(&leaf())),
        ] {
            let answer = stage.client_as(&identity).post(COUNTER).await;
            assert_eq!((answer.status.as_u16(), &*answer.body), (401, "Unauthorized"), "{case}");
            let answer = stage.client_as(&identity).post("/elsewhere").await;
            assert_eq!(answer.status, 404, "{case}");
        }
        assert!(stage.runtime.calls().is_empty());
    }
}

#[tokio::test]
async fn a_chain_through_an_intermediate_is_good() {
    let stage = Stage::new().await;
    let intermediate = stage.authority.intermediate("i");
    let mut identity = intermediate.client("alice");
    identity.chain.push(intermediate.der());
    assert_eq!(stage.client_as(&identity).post(COUNTER).await.status, 200);
}

#[tokio::test]
async fn a_certificate_without_key_usages_is_for_every_use() {
    let stage = Stage::new().await;
    let leaf = Leaf { usages: Vec::new(), ..Leaf::client(&["alice"], &[]) };
    assert_eq!(stage.client_as(&stage.authority.issue(&leaf)).post(COUNTER).await.status, 200);
}

#[tokio::test]
async fn a_certificate_without_a_common_name_is_nobody() {
    let stage = Stage::new().await;
    for names in [&[][..], &[""]] {
        let identity = stage.authority.issue(&Leaf::client(names, &["dev"]));
        let answer = stage.client_as(&identity).post(COUNTER).await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (401, "Unauthorized"), "{names:?}");
    }
    // Nobody, but not a failure: anonymous where that is asked for.
    let stage = Stage::with(|options| options.anonymous = true).await;
    let identity = stage.authority.issue(&Leaf::client(&[], &["dev"]));
    assert_eq!(stage.client_as(&identity).post(COUNTER).await.status, 200);
}

#[tokio::test]
async fn anonymous_callers_are_let_in_only_if_asked_for() {
    let recorder = Recorder::default();
    let stage = Stage::with_delegates(with_authorizer(recorder.clone()), |options| {
        options.anonymous = true;
        options.client_ca_file = None;
    })
    .await;
    assert_eq!(stage.stranger().post(COUNTER).await.status, 200);
    let user = recorder.seen().remove(0).user;
    assert_eq!(user, User::anonymous());
    assert_eq!(
        (&*user.name, &*user.groups),
        ("system:anonymous", &["system:unauthenticated".to_owned()][..])
    );
    // By the default decision, too.
    let stage = Stage::with(|options| options.anonymous = true).await;
    assert_eq!(stage.stranger().post(COUNTER).await.status, 200);
    assert_eq!(stage.client().post(COUNTER).await.status, 200);
}

/// Knows one token, is angry at another.
struct Tokens;

impl Authenticator for Tokens {
    fn authenticate<'a>(
        &'a self,
        presented: Presented<'a>,
    ) -> BoxFuture<'a, Result<Option<User>, BoxError>> {
        let header = presented.headers.get("authorization").map(|value| value.to_str().unwrap());
        let answer = match header {
            Some("Bearer good") => Ok(Some(User {
                name: "robot".to_owned(),
                groups: Vec::new(),
                credential: Credential::Token,
                ..User::anonymous()
            })),
            Some(_) => Err(BoxError::from("revoked")),
            None => Ok(None),
        };
        Box::pin(async { answer })
    }
}

#[tokio::test]
async fn authenticators_from_outside_are_tried_after_certificates() {
    let tokens = || Delegates { authenticators: vec![Arc::new(Tokens)], ..Delegates::default() };
    let stage = Stage::with_delegates(tokens(), |options| {
        options.anonymous = true;
        options.authorization = AuthorizationMode::AlwaysAllow;
    })
    .await;
    let send = async |client: crate::client::Client, token: &str| {
        client.send("POST", COUNTER, &[("authorization", token)]).await.status.as_u16()
    };
    assert_eq!(send(stage.stranger(), "Bearer good").await, 200);
    assert_eq!(send(stage.stranger(), "Bearer bad").await, 401);
    assert_eq!(stage.stranger().post(COUNTER).await.status, 200);
    // One good credential is enough, beside a bad one.
    assert_eq!(send(stage.client(), "Bearer bad").await, 200);
    let foreign = Authority::new("x").client("mallory");
    assert_eq!(send(stage.client_as(&foreign), "Bearer good").await, 200);
    // The default decision is about certificates.
    let stage = Stage::with_delegates(tokens(), |_| {}).await;
    assert_eq!(send(stage.stranger(), "Bearer good").await, 403);
    assert_eq!(send(stage.client(), "Bearer good").await, 200);
}

#[tokio::test]
async fn a_changed_client_ca_is_in_force_without_a_restart() {
    let stage = Stage::with(|options| options.limits.reload = Duration::from_millis(20)).await;
    let next = Authority::new("next");
    let old_client = stage.client();
    let new_client = stage.client_as(&next.client("bob"));
    // One connection stays open over the change.
    let mut open = old_client.try_http1().await.unwrap();
    let on_open = async |open: &mut hyper::client::conn::http1::SendRequest<_>| {
        let request = crate::client::request("POST", COUNTER, &[]);
        crate::client::read(open.send_request(request).await.unwrap()).await.status.as_u16()
    };
    assert_eq!(on_open(&mut open).await, 200);
    assert_eq!(new_client.post(COUNTER).await.status, 401);

    let file = stage.root.path().join("client-ca.crt");
    // Nonsense changes nothing.
    std::fs::write(&file, "nonsense").unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(old_client.post(COUNTER).await.status, 200);

    let staged = stage.root.path().join("next-ca.crt");
    std::fs::write(&staged, next.pem()).unwrap();
    std::fs::rename(&staged, &file).unwrap();
    while new_client.post(COUNTER).await.status != 200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(old_client.post(COUNTER).await.status, 401);
    assert_eq!(on_open(&mut open).await, 401);
}
