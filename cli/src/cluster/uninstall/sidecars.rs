//! Pods that have a sidecar stay when Weft goes: how their connections go on, and until when.

use std::collections::BTreeMap;

use anyhow::Context as _;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{DynamicObject, ListParams},
};
use weft_crds::Stage;
use weft_injection::INJECTED;

use super::super::{Cluster, words::plural};

/// How long certificates of workloads last where nobody says so.
pub(super) const LIFETIME: SignedDuration = SignedDuration::from_hours(24);

/// The pods of a namespace that have a sidecar.
#[derive(Clone, Debug)]
pub(super) struct Sidecars {
    namespace: String,
    stage: Option<Stage>,
    pods: usize,
}

/// Those of all namespaces.
pub(super) async fn find(cluster: &Cluster) -> anyhow::Result<Vec<Sidecars>> {
    let mut pods: BTreeMap<String, usize> = BTreeMap::new();
    if let Some(api) = cluster.api("", "v1", "Pod") {
        for pod in api.list_metadata(&ListParams::default().labels(INJECTED)).await? {
            *pods.entry(pod.metadata.namespace.unwrap_or_default()).or_default() += 1;
        }
    }
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    let namespaces = api.list_metadata(&ListParams::default()).await;
    let namespaces = namespaces.context("how far namespaces are in the mesh cannot be seen")?;
    let stages: BTreeMap<String, Stage> = namespaces
        .into_iter()
        .filter_map(|namespace| {
            // What is no stage is none for the operator either.
            let stage = Stage::of(namespace.metadata.labels.as_ref()?).ok()??;
            Some((namespace.metadata.name?, stage))
        })
        .collect();
    let found = pods.into_iter().map(|(namespace, pods)| Sidecars {
        stage: stages.get(&namespace).copied(),
        namespace,
        pods,
    });
    Ok(found.collect())
}

/// How long the certificates last that an operator signs.
pub(super) fn lifetime(operator: &DynamicObject) -> SignedDuration {
    let containers = operator.data.pointer("/spec/template/spec/containers");
    let environment = containers
        .and_then(|containers| containers.as_array())
        .into_iter()
        .flatten()
        .flat_map(|container| container["env"].as_array().into_iter().flatten());
    let mut lifetimes = environment.filter(|variable| variable["name"] == "WEFT_CERTIFICATE_LIFETIME");
    let said = lifetimes.next().and_then(|variable| variable["value"].as_str());
    said.and_then(|said| said.parse().ok()).unwrap_or(LIFETIME)
}

/// Why Weft is not removed as things are; nothing, if no sidecar needs it.
pub(super) fn refusal(all: &[Sidecars], lifetime: SignedDuration) -> Option<String> {
    let mut proving = all.iter().filter(|sidecars| sidecars.proves()).peekable();
    proving.peek()?;
    let mut text = format!(
        "workloads prove who they are by certificates that nobody renews once Weft is gone: {} calls between them fail",
        span(lifetime)
    );
    for sidecars in proving {
        let Sidecars { namespace, pods, .. } = sidecars;
        text.push_str(&format!(
            "\n  {namespace}, {} with a sidecar: weft retreat {namespace} --to observe",
            plural(*pods, "pod")
        ));
    }
    text.push_str("\ntake them back first, which loses no request and restarts nothing, or say --force");
    Some(text)
}

impl Sidecars {
    fn proves(&self) -> bool {
        matches!(self.stage, Some(Stage::Secure | Stage::Strict))
    }

    /// What has become of them once Weft is gone.
    pub(super) fn told(&self, lifetime: SignedDuration) -> String {
        let Self { namespace, pods, .. } = self;
        let how = match self.stage {
            Some(Stage::Secure) => format!(
                "they prove who they are by certificates that nobody renews: {} calls between them fail",
                span(lifetime)
            ),
            Some(Stage::Strict) => format!(
                "they prove who they are by certificates that nobody renews: {} calls between them fail, and pods without a sidecar are refused from now on, those that are made anew among them",
                span(lifetime)
            ),
            Some(Stage::Observe) | None => {
                "their connections go on in clear, without end; what goes to Services with routes goes to the endpoints that there were".to_owned()
            }
        };
        format!(
            "{} in {namespace} still with a sidecar: {how}\n  → make them anew: kubectl rollout restart deployments,statefulsets,daemonsets -n {namespace}",
            plural(*pods, "pod")
        )
    }
}

/// A certificate is renewed after two thirds of its time, so one that is there has a third left at least.
fn span(lifetime: SignedDuration) -> String {
    let first = SignedDuration::from_secs(lifetime.as_secs() / 3);
    format!("between {first:#} and {lifetime:#} from now")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(namespace: &str, stage: Option<Stage>) -> Sidecars {
        Sidecars {
            namespace: namespace.to_owned(),
            stage,
            pods: 3,
        }
    }

    #[test]
    fn nobody_who_needs_certificates_is_left_without_being_told() {
        let clear = [of("shop", Some(Stage::Observe)), of("left", None)];
        assert_eq!(refusal(&clear, LIFETIME), None);
        let proving = [
            clear[0].clone(),
            of("bank", Some(Stage::Secure)),
            of("vault", Some(Stage::Strict)),
        ];
        let why = refusal(&proving, LIFETIME).expect("it is refused");
        assert!(why.contains("between 8h and 24h from now"), "{why}");
        for namespace in ["bank", "vault"] {
            let remedy = format!("{namespace}, 3 pods with a sidecar: weft retreat {namespace} --to observe");
            assert!(why.contains(&remedy), "{why}");
        }
        assert!(!why.contains("shop"), "{why}");
    }

    #[test]
    fn until_when_it_holds_is_told_by_stage() {
        let told = |stage| of("shop", stage).told(LIFETIME);
        for stage in [None, Some(Stage::Observe)] {
            assert!(told(stage).contains("in clear, without end"), "{}", told(stage));
        }
        for stage in [Stage::Secure, Stage::Strict] {
            let told = told(Some(stage));
            assert!(told.contains("between 8h and 24h from now"), "{told}");
            assert_eq!(told.contains("refused"), stage == Stage::Strict, "{told}");
        }
        assert!(told(None).ends_with("-n shop"), "{}", told(None));
    }

    #[test]
    fn certificates_last_as_the_operator_is_told() {
        let operator = |environment: serde_json::Value| -> DynamicObject {
            let containers = json!([{"name": "operator", "env": environment}]);
            let object = json!({"metadata": {"name": "x"}, "spec": {"template": {"spec": {"containers": containers}}}});
            serde_json::from_value(object).expect("an object")
        };
        let said = |value: &str| operator(json!([{"name": "WEFT_CERTIFICATE_LIFETIME", "value": value}]));
        assert_eq!(lifetime(&said("90m")), SignedDuration::from_mins(90));
        assert_eq!(span(lifetime(&said("90m"))), "between 30m and 1h 30m from now");
        assert_eq!(lifetime(&operator(json!([]))), LIFETIME);
    }
}
