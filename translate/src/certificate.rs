//! The certificates of listeners, out of Secrets.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use weft_crds::{Kind, ListenerSpec, Secret, SecretReference};
use weft_model::{Certificate, CertificateKey, PrivateKeyPem};

use crate::{
    diagnostic::{Code, Diagnostic},
    listener::Problem,
    world::Reader,
};

/// Finds the certificates of a listener that terminates TLS. One that cannot be used makes the listener unresolved, but those that can
/// are still shown.
pub(crate) fn terminate(
    reader: &Reader<'_>,
    from: (Kind, &str),
    spec: &ListenerSpec,
    path: &str,
    diagnostics: &mut Vec<Diagnostic>,
) -> (Vec<Arc<Certificate>>, Option<Problem>) {
    let tls = spec.tls.as_ref();
    let references = tls.map(|tls| tls.certificate_refs.as_slice()).unwrap_or_default();
    if references.is_empty() {
        let message = "a listener that terminates TLS needs a certificate".to_owned();
        diagnostics.push(Code::MissingField.at(
            format!("{path}.tls.certificateRefs"),
            &message,
            "refer to a kubernetes.io/tls Secret",
        ));
        return (Vec::new(), Some(("InvalidCertificateRef", message)));
    }
    let mut found = Vec::new();
    let mut problem = None;
    for (at, reference) in references.iter().enumerate() {
        match certificate(reader, from, reference) {
            Ok(certificate) => found.push(Arc::new(certificate)),
            Err((code, reason, message, remedy)) => {
                diagnostics.push(code.at(format!("{path}.tls.certificateRefs[{at}].name"), &message, remedy));
                problem.get_or_insert((reason, message));
            }
        }
    }
    (found, problem)
}

/// What is wrong with a reference: the code, the reason of `ResolvedRefs`, the whole story, and what to do.
type Refused = (Code, &'static str, String, String);

/// Finds a certificate that an object of this kind and namespace refers to.
pub(crate) fn certificate(
    reader: &Reader<'_>,
    (kind, namespace): (Kind, &str),
    reference: &SecretReference,
) -> Result<Certificate, Refused> {
    let invalid = |message: String, remedy: &str| {
        (
            Code::InvalidCertificate,
            "InvalidCertificateRef",
            message,
            remedy.to_owned(),
        )
    };
    if !reference.group.is_empty() || reference.kind != "Secret" {
        let message = format!(
            "a certificate cannot be a {} of group {:?}",
            reference.kind, reference.group
        );
        return Err(invalid(message, "refer to a Secret"));
    }
    let to = reference.namespace.as_deref().unwrap_or(namespace);
    let full = format!("{to}/{}", reference.name);
    if !reader.permits((kind, namespace), ("", "Secret", to, &reference.name)) {
        let message = format!(
            "no ReferenceGrant in {to} lets {kind}s of {namespace} use the Secret {}",
            reference.name
        );
        let remedy = format!(
            "add a ReferenceGrant to {to}, from {kind} in {namespace} to Secret {}",
            reference.name
        );
        return Err((Code::MissingGrant, "RefNotPermitted", message, remedy));
    }
    let Some(secret) = reader.secret(to, &reference.name) else {
        return Err(invalid(
            format!("there is no Secret {full}"),
            "create it, with type kubernetes.io/tls",
        ));
    };
    let part = |name: &str| {
        pem(secret, name).ok_or_else(|| {
            invalid(
                format!("the Secret {full} has no {name}"),
                "put PEM text there, in base64",
            )
        })
    };
    let (chain_pem, key_pem) = (part("tls.crt")?, part("tls.key")?);
    check(&chain_pem, &key_pem)
        .map_err(|why| invalid(format!("the Secret {full}: {why}"), "replace its tls.crt and tls.key"))?;
    Ok(Certificate {
        key: CertificateKey::from(full),
        chain_pem,
        private_key: PrivateKeyPem::new(&key_pem),
    })
}

/// A part of a Secret as text.
pub(crate) fn pem(secret: &Secret, name: &str) -> Option<String> {
    if let Some(text) = secret.string_data.get(name) {
        return Some(text.clone());
    }
    // Base64 in a manifest may be folded over lines.
    let packed: String = secret.data.get(name)?.split_whitespace().collect();
    String::from_utf8(STANDARD.decode(packed).ok()?).ok()
}

/// Whether chain and key can be read and belong together.
fn check(chain: &str, key: &str) -> Result<(), String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("tls.crt is not PEM: {error}"))?;
    if certificates.is_empty() {
        return Err("tls.crt holds no certificate".into());
    }
    let key =
        PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| "tls.key holds no private key as PEM".to_owned())?;
    rustls::sign::CertifiedKey::from_der(certificates, key, &default_provider())
        .map(drop)
        .map_err(|error| format!("certificate and key cannot be used together: {error}"))
}
