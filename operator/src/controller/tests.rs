//! What is said of policies, while data planes take them or do not.

use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};
use weft_crds::Kind;
use weft_discovery::{DataPlane, Sink, Subscriber};
use weft_model::{Change, Key, Rejected, Resource};

use crate::{
    mock::Api,
    scene::{Operator, endpoint, until},
};

const NAMESPACE: &str = "shop";

/// A data plane that answers for policies as it is told to.
struct Plane {
    answer: watch::Receiver<Answer>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// It takes them.
    Takes,
    /// It says nothing yet.
    Waits,
    /// It refuses them.
    Refuses,
}

impl Sink for Plane {
    async fn apply(&mut self, changes: Vec<Change>) -> Vec<Rejected> {
        let of_policies = |change: &Change| match change {
            Change::Upsert(Resource::Authorization(policy)) => Some(Key::Authorization(policy.key.clone())),
            _ => None,
        };
        let policies: Vec<Key> = changes.iter().filter_map(of_policies).collect();
        if policies.is_empty() {
            return Vec::new();
        }
        let answer = self.answer.wait_for(|answer| *answer != Answer::Waits).await;
        let refuses = answer.is_ok_and(|answer| *answer == Answer::Refuses);
        let refused = policies.into_iter().filter(|_| refuses);
        refused
            .map(|key| Rejected {
                key,
                reason: "it is no expression".to_owned(),
            })
            .collect()
    }

    async fn synced(&mut self) {}
}

/// Connects one to an operator, as a pod of the Gateway `shop/edge`.
fn plane(operator: &Operator, folder: &std::path::Path) -> (watch::Sender<Answer>, JoinHandle<()>) {
    let (answers, answer) = watch::channel(Answer::Takes);
    let subscriber = Subscriber::new(
        endpoint(operator, folder),
        DataPlane::of_gateway("shop/edge".into(), "edge-1".to_owned()),
        Plane { answer },
    );
    (answers, tokio::spawn(subscriber.run()))
}

fn api() -> Api {
    let api = Api::default();
    let class = json!({"spec": {"controllerName": weft_translate::CONTROLLER}});
    api.put(Kind::GatewayClass, "", "weft", class);
    let listeners = json!([{"name": "http", "port": 80, "protocol": "HTTP"}]);
    let edge = json!({"spec": {"gatewayClassName": "weft", "listeners": listeners}});
    api.put(Kind::Gateway, NAMESPACE, "edge", edge);
    let parents = json!([{"name": "edge"}]);
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {"hostname": "elsewhere.example"}});
    let route = json!({"spec": {"parentRefs": parents, "rules": [{"filters": [redirect]}]}});
    api.put(Kind::HttpRoute, NAMESPACE, "web", route);
    api
}

/// Puts the policy, for the Gateway and for the route, as an edit of a user does.
fn put(api: &Api, generation: i64, action: &str) {
    let target = |kind: &str, name: &str| json!({"group": "gateway.networking.k8s.io", "kind": kind, "name": name});
    let targets = json!([target("Gateway", "edge"), target("HTTPRoute", "web")]);
    let mut policy = json!({
        "metadata": {"generation": generation},
        "spec": {"targetRefs": targets, "action": action, "rules": [{"httpAttributes": {"methods": ["GET"]}}]},
    });
    if let Some(known) = api.get(Kind::AuthorizationPolicy, NAMESPACE, "p") {
        policy["status"] = known["status"].clone();
        policy["metadata"]["uid"] = known["metadata"]["uid"].clone();
    }
    api.put(Kind::AuthorizationPolicy, NAMESPACE, "p", policy);
}

/// `Enforced` of both targets, once it is of a generation and one.
async fn enforced(api: &Api, generation: i64, status: &str, reason: &str) -> Value {
    until(&format!("{status} {reason} of {generation}"), async || {
        let policy = api.get(Kind::AuthorizationPolicy, NAMESPACE, "p")?;
        let ancestors = policy["status"]["ancestors"].as_array()?;
        let found = ancestors.iter().map(|ancestor| {
            let mut conditions = ancestor["conditions"].as_array()?.iter();
            let found = conditions.find(|condition| condition["type"] == "Enforced")?;
            let is =
                found["observedGeneration"] == generation && found["status"] == status && found["reason"] == reason;
            is.then(|| found.clone())
        });
        let found: Option<Vec<Value>> = found.collect();
        found.filter(|found| found.len() == 2)?.pop()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_is_enforced_once_the_data_planes_of_its_gateways_have_taken_it() {
    let (api, folder) = (api(), tempfile::tempdir().expect("a folder"));
    put(&api, 1, "DENY");
    let operator = Operator::start(&api, true, folder.path()).await;
    let none = enforced(&api, 1, "False", "Pending").await;
    assert_eq!(none["message"], "Gateway shop/edge: no pod of the Gateway is ready yet");
    let (answers, plane) = plane(&operator, folder.path());
    enforced(&api, 1, "True", "Enforced").await;
    answers.send_replace(Answer::Waits);
    put(&api, 2, "ALLOW");
    let waits = enforced(&api, 2, "False", "Pending").await;
    assert_eq!(waits["message"], "Gateway shop/edge: not taken yet by edge-1");
    answers.send_replace(Answer::Takes);
    enforced(&api, 2, "True", "Enforced").await;
    // What was refused is on the safe side, and enforced.
    answers.send_replace(Answer::Refuses);
    put(&api, 3, "DENY");
    let refused = enforced(&api, 3, "True", "Enforced").await;
    let message = refused["message"].as_str().expect("text");
    assert!(
        message.ends_with("denies everything it might: it is no expression"),
        "{message}"
    );
    // That a pod is gone that has taken it is no reason to take it back.
    plane.abort();
    answers.send_replace(Answer::Takes);
    until("the end of the connection", async || {
        operator.publisher.replicas().borrow().is_empty().then_some(())
    })
    .await;
    enforced(&api, 3, "True", "Enforced").await;
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_planes_that_are_connected_to_another_replica_of_the_operator_count() {
    let (api, folder, other) = (
        api(),
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    let leader = Operator::start(&api, true, folder.path()).await;
    let follower = Operator::start(&api, false, other.path()).await;
    let hears = leader.listen_to(&follower);
    let (answers, plane) = plane(&follower, other.path());
    answers.send_replace(Answer::Waits);
    put(&api, 1, "DENY");
    let waits = enforced(&api, 1, "False", "Pending").await;
    assert!(
        waits["message"]
            .as_str()
            .is_some_and(|why| why.starts_with("Gateway shop/edge: ")),
        "{waits}"
    );
    answers.send_replace(Answer::Takes);
    enforced(&api, 1, "True", "Enforced").await;
    plane.abort();
    hears.abort();
    leader.end().await;
    follower.end().await;
}
