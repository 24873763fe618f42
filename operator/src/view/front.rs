//! Whose word is taken for who asks: the API server's, as the ConfigMap `extension-apiserver-authentication` describes it.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwapOption;
use futures::StreamExt as _;
use http::HeaderMap;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, watcher, watcher::watch_object},
};
use rustls::{
    RootCertStore,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

/// Where the API server says by what it is known.
const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";

/// The API server, as it speaks for others.
#[derive(Debug)]
pub(crate) struct Front {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// Names of which its certificate must have one; any, if there are none.
    pub(super) names: Vec<String>,
    user: Vec<String>,
    groups: Vec<String>,
    extra: Vec<String>,
}

/// The same, as it is at the moment.
pub(crate) type Fronts = Arc<ArcSwapOption<Front>>;

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) groups: Vec<String>,
    pub(super) extra: BTreeMap<String, Vec<String>>,
}

impl Front {
    /// Reads what the API server says.
    pub(super) fn read(map: &ConfigMap) -> Result<Self, String> {
        let data = map.data.as_ref().ok_or("it is empty")?;
        let pem = data
            .get("requestheader-client-ca-file")
            .ok_or("it has no requestheader-client-ca-file: the API server has no aggregation layer")?;
        let verifier = verifier(pem)?;
        let list = |name: &str| -> Result<Vec<String>, String> {
            let text = data.get(name).map_or("[]", String::as_str);
            serde_json::from_str(text).map_err(|error| format!("{name} is no list: {error}"))
        };
        Ok(Self {
            verifier,
            names: list("requestheader-allowed-names")?,
            user: list("requestheader-username-headers")?,
            groups: list("requestheader-group-headers")?,
            extra: list("requestheader-extra-headers-prefix")?,
        })
    }

    /// For whom it asks.
    pub(super) fn user(&self, headers: &HeaderMap) -> Option<User> {
        let text = |name: &String| headers.get(name.as_str())?.to_str().ok();
        let name = self.user.iter().find_map(text).filter(|name| !name.is_empty())?;
        let groups = self.groups.iter().flat_map(|name| headers.get_all(name.as_str()));
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for prefix in &self.extra {
            let prefix = prefix.to_ascii_lowercase();
            for (name, value) in headers {
                if let (Some(key), Ok(value)) = (name.as_str().strip_prefix(&prefix), value.to_str()) {
                    extra.entry(decoded(key)).or_default().push(value.to_owned());
                }
            }
        }
        Some(User {
            name: name.to_owned(),
            groups: groups
                .filter_map(|group| Some(group.to_str().ok()?.to_owned()))
                .collect(),
            extra,
        })
    }
}

/// Believes who shows a certificate of these roots.
pub(super) fn verifier(pem: &str) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let root = root.map_err(|error| format!("the roots cannot be read: {error}"))?;
        roots
            .add(root)
            .map_err(|error| format!("a root cannot be used: {error}"))?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
    verifier.map_err(|error| error.to_string())
}

/// Without percent-encoding, which keys have for special characters.
pub(super) fn decoded(key: &str) -> String {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Keeps what is known of the API server, until it is dropped.
pub(super) async fn keep(client: Client, fronts: Fronts) {
    let api: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let watched = watch_object(api, NAME).backoff(watcher::DefaultBackoff::default());
    let mut watched = std::pin::pin!(watched);
    while let Some(event) = watched.next().await {
        match event {
            Ok(Some(map)) => match Front::read(&map) {
                Ok(front) => fronts.store(Some(Arc::new(front))),
                Err(why) => {
                    tracing::warn!(
                        why,
                        "the ConfigMap {NAMESPACE}/{NAME} does not say by what the API server is known: nobody is shown the traffic"
                    );
                    fronts.store(None);
                }
            },
            Ok(None) => {
                tracing::warn!("there is no ConfigMap {NAMESPACE}/{NAME}: nobody is shown the traffic");
                fronts.store(None);
            }
            Err(error) => tracing::debug!(%error, "the ConfigMap {NAMESPACE}/{NAME} cannot be watched"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_who_the_api_server_says() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let made = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).expect("made");
        let map: ConfigMap = serde_json::from_value(serde_json::json!({"data": {
            "requestheader-client-ca-file": made.cert.pem(),
            "requestheader-allowed-names": "[\"front-proxy-client\"]",
            "requestheader-username-headers": "[\"X-Remote-User\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
        }}))
        .expect("a ConfigMap");
        let front = Front::read(&map).expect("it can be read");
        assert_eq!(front.names, ["front-proxy-client"]);
        let mut headers = HeaderMap::new();
        assert_eq!(front.user(&headers), None);
        for (name, value) in [
            ("x-remote-user", "ada"),
            ("x-remote-group", "dev"),
            ("x-remote-group", "system:authenticated"),
            ("x-remote-extra-acme.com%2fproject", "x"),
            ("x-other", "y"),
        ] {
            headers.append(name, value.parse().expect("a value"));
        }
        let user = front.user(&headers).expect("it says who");
        assert_eq!((user.name.as_str(), user.groups.len()), ("ada", 2));
        assert_eq!(
            user.extra,
            BTreeMap::from([("acme.com/project".to_owned(), vec!["x".to_owned()])])
        );
        assert!(Front::read(&ConfigMap::default()).is_err());
    }
}
