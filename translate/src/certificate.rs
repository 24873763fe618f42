//! The certificates of listeners, out of Secrets.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use weft_crds::{Kind, ListenerSpec, Secret, SecretReference};
use weft_model::{Certificate, CertificateKey, Challenge, PrivateKeyPem};

use crate::{
    acme::{self, Acme, Outcome},
    diagnostic::{Code, Diagnostic},
    listener::Problem,
    world::Reader,
};

/// The certificates of a listener that terminates TLS.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// Those that can be used.
    pub(crate) found: Vec<Arc<Certificate>>,
    /// Those that are not there yet, for they are being ordered.
    pub(crate) awaited: Vec<CertificateKey>,
    /// What is wrong with the first that cannot be used.
    pub(crate) problem: Option<Problem>,
    /// What is to be had by ACME,
    pub(crate) acme: Vec<acme::Part>,
    /// what CAs ask meanwhile,
    pub(crate) challenges: Vec<Arc<Challenge>>,
    /// and why one that is in use could not be renewed.
    pub(crate) note: Option<String>,
}

/// Finds the certificates of a listener that terminates TLS. One that cannot be used makes the listener unresolved, but those that can
/// are still shown.
pub(crate) fn terminate(
    reader: &Reader<'_>,
    from: (Kind, &str),
    spec: &ListenerSpec,
    acme: Option<&Acme<'_, '_>>,
    path: &str,
    diagnostics: &mut Vec<Diagnostic>,
) -> Shown {
    let mut shown = Shown::default();
    let tls = spec.tls.as_ref();
    let references = tls.map(|tls| tls.certificate_refs.as_slice()).unwrap_or_default();
    if references.is_empty() {
        let message = "a listener that terminates TLS needs a certificate".to_owned();
        diagnostics.push(Code::MissingField.at(
            format!("{path}.tls.certificateRefs"),
            &message,
            "refer to a kubernetes.io/tls Secret",
        ));
        shown.problem = Some(("InvalidCertificateRef", message));
        return shown;
    }
    for (at, reference) in references.iter().enumerate() {
        let path = format!("{path}.tls.certificateRefs[{at}].name");
        let outcome = acme.and_then(|acme| acme.outcome(reference));
        match (certificate(reader, from, reference), &outcome) {
            (Ok(certificate), outcome) => {
                shown.found.push(Arc::new(certificate));
                let said = outcome.as_ref().and_then(|outcome| outcome.said.as_ref());
                shown.note = shown.note.or_else(|| {
                    said.map(|said| format!("The certificate in {} is not renewed: {said}", reference.name))
                });
            }
            (
                Err((_, reason, message, _)),
                Some(Outcome {
                    said: Some(said), part, ..
                }),
            ) => {
                let message = format!("{message}: {said}");
                let remedy = "see the AcmeIssuer, or make the Secret yourself";
                // One that is on its way is no fault.
                if part.is_none() {
                    diagnostics.push(Code::AcmeNotOrdered.at(path, &message, remedy));
                }
                shown.awaited.extend(part.as_ref().map(|part| part.secret.clone()));
                shown.problem.get_or_insert((reason, message));
            }
            (Err((code, reason, message, remedy)), _) => {
                diagnostics.push(code.at(path, &message, remedy));
                shown.problem.get_or_insert((reason, message));
            }
        }
        if let Some(outcome) = outcome {
            shown.acme.extend(outcome.part);
            shown.challenges.extend(outcome.challenge);
        }
    }
    shown
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
