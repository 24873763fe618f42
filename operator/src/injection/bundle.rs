//! What the API server trusts when it asks the webhook: the roots of the operator's certificates, written into the one field
//! of the MutatingWebhookConfiguration, and of each definition whose objects are converted, that is not the installation's.

use std::{fmt::Debug, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures::StreamExt as _;
use k8s_openapi::{
    api::admissionregistration::v1::MutatingWebhookConfiguration,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher, watcher::watch_object},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use weft_crds::smi_definitions;

use crate::{
    infrastructure::apply::MANAGER,
    lease::{Claim, is_held},
};

/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// What says of whom the API server asks something, and whom it believes then.
pub(crate) trait Asking: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static {
    /// What it means that there is none.
    const ABSENT: &'static str;

    /// The changes that put the roots in every place where the Service `namespace/name` is asked; none if they are there. Each
    /// says which place it means.
    fn patch(&self, service: (&str, &str), roots: &str) -> Vec<Value>;
}

/// Keeps the field.
pub(crate) struct Bundle<K> {
    api: Api<K>,
    name: String,
    /// The Service that is asked, by its namespace and name.
    service: (String, String),
    claim: watch::Receiver<Claim>,
    roots: watch::Receiver<String>,
}

/// The names of the definitions of SMI.
pub(crate) fn definitions() -> Vec<String> {
    let definitions = smi_definitions().into_iter();
    definitions
        .filter_map(|(_, definition)| definition["metadata"]["name"].as_str().map(str::to_owned))
        .collect()
}

impl<K: Asking> Bundle<K> {
    pub(crate) fn new(
        client: Client,
        name: &str,
        service: (String, String),
        claim: watch::Receiver<Claim>,
        roots: watch::Receiver<String>,
    ) -> Self {
        Self {
            api: Api::all(client),
            name: name.to_owned(),
            service,
            claim,
            roots,
        }
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(mut self) {
        let watched = watch_object(self.api.clone(), &self.name).backoff(watcher::DefaultBackoff::default());
        let mut watched = std::pin::pin!(watched);
        let mut current: Option<K> = None;
        let mut absent = false;
        loop {
            tokio::select! {
                event = watched.next() => match event {
                    Some(Ok(found)) => {
                        if found.is_none() && !absent {
                            tracing::warn!(name = self.name, "{}", K::ABSENT);
                        }
                        absent = found.is_none();
                        current = found;
                    }
                    Some(Err(error)) => tracing::warn!(name = self.name, %error, "what says of whom the API server asks cannot be watched"),
                    None => return,
                },
                Ok(()) = self.roots.changed() => {}
                // It is renewed every few seconds, so that a failure is not the end either.
                Ok(()) = self.claim.changed() => {}
            }
            let roots = self.roots.borrow_and_update().clone();
            let writes = is_held(*self.claim.borrow_and_update(), std::time::Instant::now());
            let Some(configuration) = current.as_ref().filter(|_| writes && !roots.is_empty()) else {
                continue;
            };
            let patch = configuration.patch((&self.service.0, &self.service.1), &roots);
            if patch.is_empty() {
                continue;
            }
            match self.write(patch).await {
                Ok(written) => {
                    tracing::info!(name = self.name, "the API server is told the roots of the webhook");
                    current = Some(written);
                }
                Err(error) => {
                    tracing::warn!(name = self.name, %error, "the API server cannot be told the roots of the webhook; it is tried again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn write(&self, patch: Vec<Value>) -> Result<K, kube::Error> {
        let patch = serde_json::from_value(Value::Array(patch)).map_err(kube::Error::SerdeError)?;
        let parameters = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::<()>::Json(patch);
        self.api.patch(&self.name, &parameters, &patch).await
    }
}

impl Asking for MutatingWebhookConfiguration {
    const ABSENT: &'static str = "there is no such MutatingWebhookConfiguration: no pod gets a sidecar";

    fn patch(&self, _: (&str, &str), roots: &str) -> Vec<Value> {
        let webhooks = self.webhooks.iter().flatten().enumerate();
        let outdated = webhooks.filter(|(_, webhook)| {
            let bundle = webhook.client_config.ca_bundle.as_ref();
            bundle.is_none_or(|bundle| bundle.0 != roots.as_bytes())
        });
        outdated
            .flat_map(|(at, webhook)| {
                [
                    json!({"op": "test", "path": format!("/webhooks/{at}/name"), "value": webhook.name}),
                    json!({"op": "add", "path": format!("/webhooks/{at}/clientConfig/caBundle"), "value": BASE64_STANDARD.encode(roots)}),
                ]
            })
            .collect()
    }
}

impl Asking for CustomResourceDefinition {
    const ABSENT: &'static str =
        "there is no such definition, so that nothing of it is converted; the chart weft-crds has it (smi.enabled)";

    /// Nothing, if it is of somebody else who converts, or nobody does.
    fn patch(&self, (namespace, name): (&str, &str), roots: &str) -> Vec<Value> {
        let conversion = self.spec.conversion.as_ref();
        let webhook = conversion.and_then(|conversion| conversion.webhook.as_ref());
        let config = webhook.and_then(|webhook| webhook.client_config.as_ref());
        let Some(config) = config else { return Vec::new() };
        let service = config.service.as_ref();
        let ours = service.is_some_and(|service| service.namespace == namespace && service.name == name);
        let same = config
            .ca_bundle
            .as_ref()
            .is_some_and(|bundle| bundle.0 == roots.as_bytes());
        if !ours || same {
            return Vec::new();
        }
        let path = "/spec/conversion/webhook/clientConfig";
        vec![
            json!({"op": "test", "path": format!("{path}/service/name"), "value": name}),
            json!({"op": "test", "path": format!("{path}/service/namespace"), "value": namespace}),
            json!({"op": "add", "path": format!("{path}/caBundle"), "value": BASE64_STANDARD.encode(roots)}),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(bundles: [Option<&str>; 2]) -> MutatingWebhookConfiguration {
        let webhook = |(at, bundle): (usize, Option<&str>)| {
            let mut client = json!({"service": {"name": "weft-operator", "namespace": "weft-system"}});
            if let Some(bundle) = bundle {
                client["caBundle"] = BASE64_STANDARD.encode(bundle).into();
            }
            json!({"name": format!("w{at}.weft.dev"), "clientConfig": client, "sideEffects": "None", "admissionReviewVersions": ["v1"]})
        };
        let webhooks: Vec<Value> = bundles.into_iter().enumerate().map(webhook).collect();
        serde_json::from_value(json!({"metadata": {"name": "weft-operator"}, "webhooks": webhooks})).expect("it is one")
    }

    #[test]
    fn only_what_differs_is_written_and_only_where_it_is_meant() {
        let expected = json!([
            {"op": "test", "path": "/webhooks/1/name", "value": "w1.weft.dev"},
            {"op": "add", "path": "/webhooks/1/clientConfig/caBundle", "value": BASE64_STANDARD.encode("both")},
        ]);
        let patch = |bundles| configuration(bundles).patch(("", ""), "both");
        assert_eq!(json!(patch([Some("both"), Some("old")])), expected);
        assert_eq!(json!(patch([Some("both"), None])), expected);
        assert!(patch([Some("both"), Some("both")]).is_empty());
    }

    #[test]
    fn only_definitions_whose_objects_we_convert_are_told() {
        let definition = |service: Option<&str>, bundle: Option<&str>| -> CustomResourceDefinition {
            let (_, mut definition) = smi_definitions().swap_remove(0);
            if let Some(service) = service {
                let mut config = json!({"service": {"namespace": "weft-system", "name": service, "path": "/convert"}});
                if let Some(bundle) = bundle {
                    config["caBundle"] = BASE64_STANDARD.encode(bundle).into();
                }
                let webhook = json!({"conversionReviewVersions": ["v1"], "clientConfig": config});
                definition["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": webhook});
            }
            serde_json::from_value(definition).expect("it is one")
        };
        let patch = |service, bundle| definition(service, bundle).patch(("weft-system", "weft-operator"), "new");
        for left in [
            (None, None),
            (Some("other"), None),
            (Some("other"), Some("theirs")),
            (Some("weft-operator"), Some("new")),
        ] {
            assert!(patch(left.0, left.1).is_empty(), "{left:?}");
        }
        for told in [None, Some("old")] {
            let patch = patch(Some("weft-operator"), told);
            assert_eq!(patch.last().expect("a change")["value"], BASE64_STANDARD.encode("new"));
        }
        assert_eq!(definitions().len(), smi_definitions().len());
    }
}
