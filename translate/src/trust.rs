//! Roots, out of ConfigMaps and Secrets.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use weft_crds::{CaCertificateReference, Kind};
use weft_model::{TrustBundle, TrustBundleKey};

use crate::{
    certificate,
    diagnostic::{Code, Diagnostic},
    world::Reader,
};

const FIELD: &str = "ca.crt";

/// In which way a reference to roots is wrong. The APIs that have such references name it differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There is no such object, or it holds no roots.
    Unusable,
    /// It is of a kind that holds none.
    Kind,
    /// It is in another namespace that does not allow it.
    NotPermitted,
}

/// What came of a list of references.
#[derive(Default)]
pub(crate) struct Roots {
    /// Those that can be used.
    pub(crate) bundles: Vec<Arc<TrustBundle>>,
    /// What is wrong with the first that cannot.
    pub(crate) problem: Option<(Fault, String)>,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

impl Roots {
    pub(crate) fn keys(&self) -> Vec<TrustBundleKey> {
        self.bundles.iter().map(|bundle| bundle.key.clone()).collect()
    }
}

/// Finds the roots that an object of this kind and namespace refers to. `path` is that of the list.
pub(crate) fn roots<'r>(
    reader: &Reader<'_>,
    from: (Kind, &str),
    references: impl IntoIterator<Item = &'r CaCertificateReference>,
    path: &str,
) -> Roots {
    let mut found = Roots::default();
    let mut any = false;
    for (at, reference) in references.into_iter().enumerate() {
        any = true;
        match bundle(reader, from, reference) {
            Ok(bundle) => found.bundles.push(Arc::new(bundle)),
            Err((fault, message, remedy)) => {
                let code = match fault {
                    Fault::NotPermitted => Code::MissingGrant,
                    Fault::Unusable | Fault::Kind => Code::InvalidTrust,
                };
                let place = format!("{path}[{at}]");
                found.diagnostics.push(code.at(place, &message, remedy));
                found.problem.get_or_insert((fault, message));
            }
        }
    }
    if !any {
        let message = "there is no reference to roots, so nobody can be trusted".to_owned();
        let remedy = "refer to a ConfigMap with a ca.crt";
        found.diagnostics.push(Code::MissingField.at(path, &message, remedy));
        found.problem = Some((Fault::Unusable, message));
    }
    found
}

fn bundle(
    reader: &Reader<'_>,
    (kind, namespace): (Kind, &str),
    reference: &CaCertificateReference,
) -> Result<TrustBundle, (Fault, String, String)> {
    let holder = match (reference.group.as_str(), reference.kind.as_str()) {
        ("", "ConfigMap") => Kind::ConfigMap,
        ("", "Secret") => Kind::Secret,
        (group, kind) => {
            let message = format!("roots cannot be a {kind} of group {group:?}");
            return Err((Fault::Kind, message, "refer to a ConfigMap or a Secret".into()));
        }
    };
    let to = reference.namespace.as_deref().unwrap_or(namespace);
    let name = &reference.name;
    if !reader.permits((kind, namespace), ("", holder.name(), to, name)) {
        let message = format!("no ReferenceGrant in {to} lets {kind}s of {namespace} use the {holder} {name}");
        let remedy = format!("add a ReferenceGrant to {to}, from {kind} in {namespace} to {holder} {name}");
        return Err((Fault::NotPermitted, message, remedy));
    }
    let full = format!("{holder} {to}/{name}");
    let unusable = |message: String, remedy: &str| (Fault::Unusable, message, remedy.to_owned());
    let pem = match holder {
        Kind::Secret => reader.secret(to, name).map(|secret| certificate::pem(secret, FIELD)),
        _ => reader.config_map(to, name).map(|map| map.data.get(FIELD).cloned()),
    };
    let Some(pem) = pem else {
        return Err(unusable(format!("there is no {full}"), "create it, with a ca.crt"));
    };
    let Some(pem) = pem.filter(|pem| !pem.trim().is_empty()) else {
        return Err(unusable(
            format!("the {full} has no {FIELD}"),
            "put certificates there, as PEM",
        ));
    };
    check(&pem).map_err(|why| unusable(format!("the {full}: {why}"), "replace its ca.crt"))?;
    Ok(TrustBundle {
        key: TrustBundleKey::from(format!("{holder}/{to}/{name}")),
        roots_pem: pem,
    })
}

/// Whether these are certificates of authorities, all of them.
fn check(pem: &str) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("{FIELD} is not PEM: {error}"))?;
        let added = store.add(certificate);
        added.map_err(|error| format!("{FIELD} holds a certificate that cannot be a root: {error}"))?;
    }
    if store.is_empty() {
        return Err(format!("{FIELD} holds no certificate"));
    }
    Ok(())
}
