//! Makes what there should be for a Gateway out of what there is, by server-side apply, writing only what differs.

use std::fmt;

use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Map, Value};

use crate::children::{Child, ChildKey, ChildKind, Children, RENDERED};

/// Under which name the fields of what is made for Gateways are owned.
pub(crate) const MANAGER: &str = "weft.dev/operator";

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Apply this; what others own of it is taken over only if it was made for the Gateway before.
    Apply { kind: ChildKind, object: Value, ours: bool },
    /// Delete what was made and is wanted no more, or cannot be changed into what is.
    Delete { child: Box<Child> },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apply { kind, object, .. } => {
                let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
                write!(f, "apply {kind:?} {}/{}", text("namespace"), text("name"))
            }
            Self::Delete { child } => write!(f, "delete {:?} {}/{}", child.kind, child.namespace, child.name),
        }
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// The address that is asked for cannot be given.
    #[error("{0}")]
    AddressNotUsable(String),
    /// There is an object of that name that somebody else made.
    #[error("{0} {1}/{2} exists and was not made for this Gateway: {3}")]
    Foreign(String, String, String, String),
    /// The API server said no, or nothing.
    #[error(transparent)]
    Api(#[from] kube::Error),
}

/// What to do: to apply what is new or differs, then to delete what is wanted no more.
pub(crate) fn plan<'a>(
    wanted: impl IntoIterator<Item = (&'a ChildKind, &'a Value)>,
    there: &Children,
    own: impl Fn(&Child) -> bool,
) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut kept: Vec<ChildKey> = Vec::new();
    for (kind, object) in wanted {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = (*kind, text("namespace"), text("name"));
        let known = there.get(&key);
        kept.push(key);
        match known {
            Some(child) if is_same(&child.object, object) => {}
            Some(child) => {
                // The address of a Service cannot be changed.
                let address = &object["spec"]["clusterIP"];
                if *kind == ChildKind::Service && !address.is_null() && child.object["spec"]["clusterIP"] != *address {
                    steps.push(Step::Delete {
                        child: Box::new(child.clone()),
                    });
                }
                steps.push(Step::Apply {
                    kind: *kind,
                    object: object.clone(),
                    ours: true,
                });
            }
            None => steps.push(Step::Apply {
                kind: *kind,
                object: object.clone(),
                ours: false,
            }),
        }
    }
    let orphans = there.iter().filter(|(key, child)| !kept.contains(key) && own(child));
    steps.extend(orphans.map(|(_, child)| Step::Delete {
        child: Box::new(child.clone()),
    }));
    steps
}

/// Whether an object is as it is wanted, and was made from that.
pub(crate) fn is_same(actual: &Value, wanted: &Value) -> bool {
    let made_from = |object: &Value| object["metadata"]["annotations"][RENDERED].clone();
    made_from(actual) == made_from(wanted) && covers(actual, wanted)
}

/// Whether everything that is wanted of an object is so already. It may have more: defaults, and what others wrote.
fn covers(actual: &Value, wanted: &Value) -> bool {
    match (actual, wanted) {
        (Value::Object(actual), Value::Object(wanted)) => covers_all(actual, wanted),
        (Value::Array(actual), Value::Array(wanted)) => {
            actual.len() == wanted.len() && actual.iter().zip(wanted).all(|(actual, wanted)| covers(actual, wanted))
        }
        (actual, wanted) => actual == wanted,
    }
}

fn covers_all(actual: &Map<String, Value>, wanted: &Map<String, Value>) -> bool {
    wanted
        .iter()
        .all(|(key, wanted)| actual.get(key).is_some_and(|actual| covers(actual, wanted)))
}

/// Does one step, and returns what it made.
pub(crate) async fn run(client: &Client, step: &Step) -> Result<Option<Child>, ApplyError> {
    tracing::debug!(%step, "for a Gateway");
    match step {
        Step::Apply { kind, object, ours } => apply(client, *kind, object, *ours).await.map(Some),
        Step::Delete { child } => {
            let api: Api<DynamicObject> =
                Api::namespaced_with(client.clone(), &child.namespace, &child.kind.resource());
            let uid = child.object["metadata"]["uid"].as_str().map(str::to_owned);
            let parameters = DeleteParams {
                preconditions: Some(Preconditions {
                    uid,
                    resource_version: None,
                }),
                ..DeleteParams::background()
            };
            match api.delete(&child.name, &parameters).await {
                Ok(_) => Ok(None),
                // It is gone, or is another one by now.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
                Err(error) => Err(error.into()),
            }
        }
    }
}

async fn apply(client: &Client, kind: ChildKind, object: &Value, ours: bool) -> Result<Child, ApplyError> {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let (namespace, name) = (text("namespace"), text("name"));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource());
    let mut parameters = PatchParams::apply(MANAGER);
    parameters.force = ours;
    match api.patch(name, &parameters, &Patch::Apply(object)).await {
        Ok(applied) => Ok(Child::new(kind, applied)),
        Err(kube::Error::Api(status)) if status.code == 422 && status.message.contains("clusterIP") => {
            Err(ApplyError::AddressNotUsable(status.message.clone()))
        }
        Err(kube::Error::Api(status)) if status.code == 409 && !ours => Err(ApplyError::Foreign(
            kind.gvk().kind,
            namespace.to_owned(),
            name.to_owned(),
            status.message.clone(),
        )),
        Err(error) => Err(error.into()),
    }
}

/// Asks the API server whether a Service could have the address that it is to have, without making it.
pub(crate) async fn could_have_address(client: &Client, service: &Value) -> Result<(), ApplyError> {
    let mut probe = service.clone();
    let namespace = service["metadata"]["namespace"].as_str().unwrap_or_default();
    if let Some(metadata) = probe["metadata"].as_object_mut() {
        metadata.remove("name");
        metadata.insert("generateName".to_owned(), "weft-probe-".into());
    }
    let probe: DynamicObject = serde_json::from_value(probe).map_err(kube::Error::SerdeError)?;
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &ChildKind::Service.resource());
    let parameters = PostParams {
        dry_run: true,
        field_manager: Some(MANAGER.to_owned()),
    };
    match api.create(&parameters, &probe).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 422 => {
            Err(ApplyError::AddressNotUsable(status.message.clone()))
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(kind: ChildKind, made_from: &str, spec: Value) -> Value {
        let gvk = kind.gvk();
        json!({
            "apiVersion": gvk.api_version(), "kind": gvk.kind,
            "metadata": {"namespace": "n", "name": "a-weft", "annotations": {RENDERED: made_from, "weft.dev/gateway": "a"}},
            "spec": spec,
        })
    }

    fn child(kind: ChildKind, object: Value) -> (ChildKey, Child) {
        let child = Child::new(kind, serde_json::from_value(object).expect("an object"));
        (child.key(), child)
    }

    fn steps(wanted: &[(ChildKind, Value)], there: &Children) -> Vec<String> {
        let wanted = wanted.iter().map(|(kind, object)| (kind, object));
        let steps = plan(wanted, there, |child| child.gateway.as_deref() == Some("a"));
        let name = |step: &Step| match step {
            Step::Apply { kind, ours, .. } => format!("apply {kind:?}{}", if *ours { "" } else { " anew" }),
            Step::Delete { child } => format!("delete {:?}", child.kind),
        };
        steps.iter().map(name).collect()
    }

    #[test]
    fn what_is_as_wanted_is_left_alone() {
        let wanted = object(ChildKind::Deployment, "1", json!({"replicas": 2}));
        let mut actual = wanted.clone();
        actual["spec"]["paused"] = false.into();
        let there = Children::from([child(ChildKind::Deployment, actual)]);
        assert_eq!(
            steps(&[(ChildKind::Deployment, wanted.clone())], &there),
            Vec::<String>::new()
        );
        // Somebody scaled it, or it was made from something else.
        let scaled = object(ChildKind::Deployment, "1", json!({"replicas": 3}));
        let there = Children::from([child(ChildKind::Deployment, scaled)]);
        assert_eq!(
            steps(&[(ChildKind::Deployment, wanted.clone())], &there),
            ["apply Deployment"]
        );
        let older = object(ChildKind::Deployment, "0", json!({"replicas": 2}));
        let there = Children::from([child(ChildKind::Deployment, older)]);
        assert_eq!(
            steps(&[(ChildKind::Deployment, wanted.clone())], &there),
            ["apply Deployment"]
        );
        assert_eq!(
            steps(&[(ChildKind::Deployment, wanted)], &Children::new()),
            ["apply Deployment anew"]
        );
    }

    #[test]
    fn a_service_is_made_anew_for_another_address() {
        let wanted = object(ChildKind::Service, "2", json!({"clusterIP": "10.0.0.2"}));
        let there = Children::from([child(
            ChildKind::Service,
            object(ChildKind::Service, "1", json!({"clusterIP": "10.0.0.1"})),
        )]);
        assert_eq!(
            steps(&[(ChildKind::Service, wanted)], &there),
            ["delete Service", "apply Service"]
        );
        let any = object(ChildKind::Service, "2", json!({}));
        assert_eq!(steps(&[(ChildKind::Service, any)], &there), ["apply Service"]);
    }

    #[test]
    fn what_is_wanted_no_more_is_deleted_but_only_what_is_ours() {
        let autoscaler = object(ChildKind::HorizontalPodAutoscaler, "1", json!({}));
        let mut other = object(ChildKind::Deployment, "1", json!({}));
        other["metadata"]["annotations"]["weft.dev/gateway"] = "b".into();
        let there = Children::from([
            child(ChildKind::HorizontalPodAutoscaler, autoscaler),
            child(ChildKind::Deployment, other),
        ]);
        assert_eq!(steps(&[], &there), ["delete HorizontalPodAutoscaler"]);
    }

    #[test]
    fn what_is_more_than_wanted_is_no_difference() {
        let actual = json!({"a": 1, "b": {"c": [{"d": 1, "default": true}]}, "e": 2});
        assert!(covers(&actual, &json!({"a": 1, "b": {"c": [{"d": 1}]}})));
        assert!(!covers(&actual, &json!({"b": {"c": []}})));
        assert!(!covers(&actual, &json!({"f": 1})));
    }
}
