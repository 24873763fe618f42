//! cert-manager as the issuer: a CertificateRequest for each certificate, in the operator's own namespace, which is taken
//! away once it has been answered.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, PostParams},
};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

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
    /// The operator's own pod: what it leaves behind when it is killed goes with that.
    owner: Option<OwnerReference>,
    patience: Duration,
    room: Arc<Semaphore>,
}

/// A request that was made, or is about to be.
struct Asked {
    api: Api<DynamicObject>,
    reference: IssuerReference,
    request: DynamicObject,
    /// When it is given up.
    deadline: Instant,
    patience: Duration,
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

    /// What it waits for, as far as that is known.
    fn waits_for(&self) -> &str {
        let said = |kind: &str| self.conditions.iter().find(|condition| condition.kind == kind);
        match said("Ready") {
            Some(Condition { message, .. }) if !message.is_empty() => message,
            _ if said("Approved").is_some_and(|approved| approved.status == "True") => "it is approved, but not signed",
            _ => "nobody has approved or denied it",
        }
    }
}

impl CertManager {
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        reference: IssuerReference,
        owner: Option<OwnerReference>,
        patience: Duration,
    ) -> Self {
        let gvk = kube::api::GroupVersionKind::gvk("cert-manager.io", "v1", "CertificateRequest");
        let resource = ApiResource::from_gvk(&gvk);
        Self {
            api: Api::namespaced_with(client, namespace, &resource),
            resource,
            reference,
            owner,
            patience,
            room: Arc::new(Semaphore::new(ORDERS)),
        }
    }

    pub(super) async fn issue(&self, order: &Order) -> Result<Issued, IssueError> {
        let asked = Asked {
            api: self.api.clone(),
            reference: self.reference.clone(),
            request: self.request(order),
            deadline: Instant::now() + self.patience,
            patience: self.patience,
        };
        let room = timeout_at(asked.deadline, self.room.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = room else {
            return Err(asked.late("many others wait before it"));
        };
        // It is taken away again even if whoever asked is gone meanwhile.
        let answered = tokio::spawn(async move {
            let _permit = permit;
            asked.finish().await
        });
        let answered = answered.await.map_err(|error| IssueError::NotNow(error.to_string()))?;
        let chain = pem::read(&answered?).map_err(IssueError::Other)?;
        Ok(Issued { chain })
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
        request.metadata.owner_references = self.owner.clone().map(|owner| vec![owner]);
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

impl Asked {
    /// Makes it, waits for the answer, and takes it away again; returns what was signed, as PEM.
    async fn finish(self) -> Result<String, IssueError> {
        let name = self.request.metadata.name.clone().unwrap_or_default();
        let made = timeout_at(self.deadline, self.api.create(&PostParams::default(), &self.request)).await;
        let answered = match made {
            Ok(Ok(_)) => self.answered(&name).await,
            Ok(Err(error @ kube::Error::Api(_))) => {
                return Err(IssueError::NotNow(format!("cert-manager cannot be asked: {error}")));
            }
            // It may have been made all the same.
            Ok(Err(error)) => Err(IssueError::NotNow(format!("cert-manager cannot be asked: {error}"))),
            Err(_) => Err(self.late("the API server does not answer")),
        };
        match self.api.delete(&name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => tracing::warn!(%name, %error, "a CertificateRequest that was answered could not be deleted"),
            Ok(_) => {}
        }
        answered
    }

    async fn answered(&self, name: &str) -> Result<String, IssueError> {
        let mut status = Status::default();
        loop {
            if Instant::now() + LOOK > self.deadline {
                return Err(self.late(status.waits_for()));
            }
            tokio::time::sleep(LOOK).await;
            let request = match timeout_at(self.deadline, self.api.get(name)).await {
                Ok(Ok(request)) => request,
                Ok(Err(kube::Error::Api(error))) if error.is_not_found() => {
                    let why = "somebody has deleted the CertificateRequest before it was signed";
                    return Err(IssueError::NotNow(why.to_owned()));
                }
                Ok(Err(error)) => {
                    tracing::debug!(name, %error, "a CertificateRequest could not be read");
                    continue;
                }
                Err(_) => continue,
            };
            let found = request.data.get("status").cloned().unwrap_or_default();
            status = serde_json::from_value(found).unwrap_or_default();
            let Some(answer) = status.answer() else { continue };
            let text = STANDARD
                .decode(answer?)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok());
            return text.ok_or_else(|| IssueError::Other("what is not PEM".to_owned()));
        }
    }

    fn late(&self, why: &str) -> IssueError {
        let IssuerReference { name, kind, .. } = &self.reference;
        IssueError::NotNow(format!(
            "cert-manager has not signed within {} s ({why}): see whether it runs, whether its {kind} {name} is ready, and whether requests for that are approved",
            self.patience.as_secs()
        ))
    }
}
