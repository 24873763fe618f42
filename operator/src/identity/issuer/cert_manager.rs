//! cert-manager as the issuer: a CertificateRequest for each certificate, in the operator's own namespace, which is taken
//! away once it has been answered.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, PostParams},
};
use serde::Deserialize;
use serde_json::json;
use tokio::{sync::Semaphore, time::Instant};

use super::{IssueError, Issued, Order};
use crate::authority::pem;

/// How often it is looked for an answer.
const LOOK: Duration = Duration::from_millis(250);
/// Requests at once.
const ORDERS: usize = 16;

/// An issuer of cert-manager, or of one of its extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IssuerReference {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) group: String,
}

/// Has cert-manager sign.
pub(crate) struct CertManager {
    api: Api<DynamicObject>,
    resource: ApiResource,
    reference: IssuerReference,
    patience: Duration,
    room: Semaphore,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    conditions: Vec<Condition>,
    certificate: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
}

impl Status {
    /// Whether it is signed, and if not, whether it never will be.
    fn answer(&self) -> Option<Result<&str, IssueError>> {
        let refusal = self.conditions.iter().find(|condition| {
            let refused = matches!(condition.kind.as_str(), "Denied" | "InvalidRequest");
            let failed = condition.kind == "Ready" && matches!(condition.reason.as_str(), "Failed" | "Denied");
            (refused && condition.status == "True") || failed
        });
        if let Some(Condition {
            kind, reason, message, ..
        }) = refusal
        {
            let why = format!("cert-manager does not sign it ({kind}, {reason}): {message}");
            return Some(Err(IssueError::Denied(why)));
        }
        (!self.certificate.is_empty()).then_some(Ok(&self.certificate))
    }
}

impl CertManager {
    pub(crate) fn new(client: Client, namespace: &str, reference: IssuerReference, patience: Duration) -> Self {
        let gvk = kube::api::GroupVersionKind::gvk("cert-manager.io", "v1", "CertificateRequest");
        let resource = ApiResource::from_gvk(&gvk);
        Self {
            api: Api::namespaced_with(client, namespace, &resource),
            resource,
            reference,
            patience,
            room: Semaphore::new(ORDERS),
        }
    }

    pub(super) async fn issue(&self, order: &Order) -> Result<Issued, IssueError> {
        let deadline = Instant::now() + self.patience;
        let late = || {
            let IssuerReference { name, kind, .. } = &self.reference;
            IssueError::NotNow(format!(
                "cert-manager has not answered within {} s: see whether its {kind} {name} is ready, and whether requests for it are approved",
                self.patience.as_secs()
            ))
        };
        let room = tokio::time::timeout_at(deadline, self.room.acquire()).await;
        let _permit = room.map_err(|_| late())?;
        let request = self.request(order);
        let refused = |error: kube::Error| IssueError::NotNow(format!("cert-manager cannot be asked: {error}"));
        let made = self
            .api
            .create(&PostParams::default(), &request)
            .await
            .map_err(refused)?;
        let name = made.metadata.name.unwrap_or_default();
        let answered = tokio::time::timeout_at(deadline, self.answered(&name)).await;
        // Whatever came of it.
        if let Err(error) = self.api.delete(&name, &DeleteParams::default()).await {
            tracing::warn!(%name, %error, "a CertificateRequest that was answered could not be deleted");
        }
        let text = answered.unwrap_or_else(|_| Err(late()))?;
        let chain = pem::read(&text).map_err(IssueError::Other)?;
        Ok(Issued { chain })
    }

    async fn answered(&self, name: &str) -> Result<String, IssueError> {
        loop {
            tokio::time::sleep(LOOK).await;
            let request = match self.api.get(name).await {
                Ok(request) => request,
                Err(error) => {
                    tracing::debug!(name, %error, "a CertificateRequest could not be read");
                    continue;
                }
            };
            let status = request.data.get("status").cloned().unwrap_or_default();
            let status: Status = serde_json::from_value(status).unwrap_or_default();
            let Some(answer) = status.answer() else { continue };
            let text = STANDARD
                .decode(answer?)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok());
            return text.ok_or_else(|| IssueError::Other("what is not PEM".to_owned()));
        }
    }

    fn request(&self, order: &Order) -> DynamicObject {
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), order.identity.as_str());
        let mut request = DynamicObject::new(&format!("weft-{random:016x}"), &self.resource);
        request.metadata.labels = Some(BTreeMap::from([(
            "app.kubernetes.io/part-of".to_owned(),
            "weft".to_owned(),
        )]));
        request.metadata.annotations = Some(BTreeMap::from([(
            "weft.dev/identity".to_owned(),
            order.identity.to_string(),
        )]));
        request.data = json!({"spec": {
            "request": STANDARD.encode(&order.csr.pem),
            "issuerRef": {
                "name": self.reference.name,
                "kind": self.reference.kind,
                "group": self.reference.group,
            },
            "duration": format!("{}s", order.lifetime.as_secs()),
            "isCA": false,
            "usages": ["digital signature", "server auth", "client auth"],
        }});
        request
    }
}
