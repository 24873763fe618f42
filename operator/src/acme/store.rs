//! The Secrets of accounts, orders and certificates. What is written carries the version that was read: of two that write, one
//! does, and one that has lost the Lease meanwhile does no harm.

use std::{collections::BTreeMap, time::Instant};

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{Api, Client, api::PostParams, core::ObjectMeta};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;
use weft_crds::ISSUER_ANNOTATION;
use weft_translate::{
    MANAGED_BY,
    acme::{self, STATE},
};

use super::error::AcmeError;
use crate::{
    infrastructure::apply::MANAGER,
    lease::{Claim, is_held},
};

/// Says, at a certificate, which CA has issued it.
pub(crate) const SERVER: &str = "weft.dev/acme-server";
const TLS: &str = "kubernetes.io/tls";

/// The Secrets of one namespace, for as long as this replica writes.
pub(crate) struct Store {
    api: Api<Secret>,
    namespace: String,
    claim: watch::Receiver<Claim>,
}

/// What is written down, and the Secret it was read from.
pub(crate) struct Held<T> {
    name: String,
    kind: &'static str,
    secret: Option<Secret>,
    owner: Option<OwnerReference>,
    pub(crate) state: T,
    /// As it was read or written last.
    written: Vec<u8>,
}

/// A certificate with its key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Issued {
    pub(crate) chain_pem: String,
    pub(crate) key_pem: String,
}

impl Store {
    pub(crate) fn new(client: Client, namespace: &str, claim: watch::Receiver<Claim>) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            claim,
        }
    }

    pub(crate) async fn get(&self, name: &str) -> Result<Option<Secret>, AcmeError> {
        self.api.get_opt(name).await.map_err(|error| self.explain(error))
    }

    /// What is written down under a name; the default if nothing is. A Secret made for it goes with its owner.
    pub(crate) async fn state<T: Default + Serialize + DeserializeOwned>(
        &self,
        name: String,
        kind: &'static str,
        owner: Option<OwnerReference>,
    ) -> Result<Held<T>, AcmeError> {
        let secret = self.get(&name).await?;
        let ours = secret
            .as_ref()
            .is_none_or(|secret| secret.type_.as_deref() == Some(kind));
        if !ours {
            return Err(AcmeError::Foreign(format!("{}/{name}", self.namespace)));
        }
        let data = secret.as_ref().and_then(|secret| secret.data.as_ref()?.get(STATE));
        let written = data.map(|data| data.0.clone()).unwrap_or_default();
        // What an older or newer version has written and cannot be read is begun anew.
        let state = serde_json::from_slice(&written).unwrap_or_default();
        Ok(Held {
            name,
            kind,
            secret,
            owner,
            state,
            written,
        })
    }

    /// Writes down what has changed.
    pub(crate) async fn save<T: Serialize>(&self, held: &mut Held<T>) -> Result<(), AcmeError> {
        let text = serde_json::to_vec(&held.state).map_err(kube::Error::SerdeError)?;
        if text == held.written {
            return Ok(());
        }
        let data = BTreeMap::from([(STATE.to_owned(), ByteString(text.clone()))]);
        let secret = match held.secret.take() {
            Some(secret) => Secret {
                data: Some(data),
                ..secret
            },
            None => Secret {
                metadata: ObjectMeta {
                    owner_references: held.owner.clone().map(|owner| vec![owner]),
                    ..metadata(&held.name, BTreeMap::new())
                },
                type_: Some(held.kind.to_owned()),
                data: Some(data),
                ..Secret::default()
            },
        };
        held.secret = Some(self.write(&held.name, secret).await?);
        held.written = text;
        Ok(())
    }

    /// Puts a certificate in the place of the one that was read, if there was one.
    pub(crate) async fn put_certificate(
        &self,
        name: &str,
        before: Option<Secret>,
        issued: &Issued,
        (issuer, server): (&str, &str),
    ) -> Result<(), AcmeError> {
        let entry = |name: &str, pem: &str| (name.to_owned(), ByteString(pem.as_bytes().to_vec()));
        let data = BTreeMap::from([entry("tls.crt", &issued.chain_pem), entry("tls.key", &issued.key_pem)]);
        let said = BTreeMap::from(
            [(ISSUER_ANNOTATION, issuer), (SERVER, server)].map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        let secret = match before {
            Some(mut secret) => {
                secret.metadata.annotations.get_or_insert_default().extend(said);
                Secret {
                    data: Some(data),
                    ..secret
                }
            }
            None => Secret {
                metadata: metadata(name, said),
                type_: Some(TLS.to_owned()),
                data: Some(data),
                ..Secret::default()
            },
        };
        self.write(name, secret).await.map(drop)
    }

    async fn write(&self, name: &str, secret: Secret) -> Result<Secret, AcmeError> {
        if !self.may_write() {
            return Err(AcmeError::NotHeld);
        }
        let parameters = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        let written = match secret.metadata.resource_version {
            Some(_) => self.api.replace(name, &parameters, &secret).await,
            None => self.api.create(&parameters, &secret).await,
        };
        written.map_err(|error| self.explain(error))
    }

    /// Whether this replica still writes: a CA is asked for nothing new otherwise.
    pub(crate) fn may_write(&self) -> bool {
        is_held(*self.claim.borrow(), Instant::now())
    }

    fn explain(&self, error: kube::Error) -> AcmeError {
        match error {
            kube::Error::Api(status) if status.code == 403 => AcmeError::Forbidden(self.namespace.clone()),
            error => AcmeError::Api(error),
        }
    }
}

/// Whether the operator made the certificate in a Secret.
pub(crate) fn is_ours(secret: &Secret) -> bool {
    let metadata = &secret.metadata;
    let both = metadata.labels.as_ref().zip(metadata.annotations.as_ref());
    both.is_some_and(|(labels, annotations)| acme::is_ours(labels, annotations))
}

pub(crate) fn annotation<'s>(secret: &'s Secret, name: &str) -> Option<&'s str> {
    secret.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

fn metadata(name: &str, annotations: BTreeMap<String, String>) -> ObjectMeta {
    let (label, operator) = MANAGED_BY;
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(BTreeMap::from([(label.to_owned(), operator.to_owned())])),
        annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
        ..ObjectMeta::default()
    }
}
