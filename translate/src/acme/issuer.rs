//! AcmeIssuers: whether one can be used, and how it stands.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use weft_crds::{AcmeIssuerSpec, AcmeIssuerStatus, Condition, Kind, ObjectRef};

use super::{ACCOUNT_TYPE, Account, account_secret, state};
use crate::{
    certificate,
    diagnostic::{Code, Diagnostic},
    status::condition,
    trust,
    world::Reader,
};

/// The entry of the Secret that `externalAccountBinding` names.
const HMAC_KEY: &str = "hmac-key";

/// An issuer that can be used, with what it refers to.
#[derive(Clone, PartialEq, Eq)]
pub struct Issuer {
    /// What it says.
    pub spec: AcmeIssuerSpec,
    /// The roots that the CA's own certificate leads to, as PEM; those of the system when absent.
    pub roots_pem: Option<String>,
    /// The account that somebody has with the CA already.
    pub binding: Option<Binding>,
}

/// An account with a CA that exists outside of ACME.
#[derive(Clone, PartialEq, Eq)]
pub struct Binding {
    /// What the CA calls the key.
    pub key_id: String,
    /// The key.
    pub key: Vec<u8>,
}

/// Finds what an issuer refers to; else why it cannot be used.
pub(crate) fn resolve(reader: &Reader<'_>, reference: &ObjectRef) -> Result<Issuer, String> {
    let mut diagnostics = Vec::new();
    look(reader, reference, &mut diagnostics).map_err(|(_, why)| why)
}

fn look(
    reader: &Reader<'_>,
    reference: &ObjectRef,
    diagnostics: &mut Vec<Diagnostic>,
) -> Result<Issuer, (&'static str, String)> {
    let (namespace, name) = (&reference.namespace, &reference.name);
    let Some(issuer) = reader.acme_issuer(namespace, name) else {
        return Err(("NotFound", format!("there is no AcmeIssuer {namespace}/{name}")));
    };
    let spec = &issuer.spec;
    let mut invalid = |path: &str, message: String, remedy: &str| {
        diagnostics.push(Code::Invalid.at(path, &message, remedy));
        ("Invalid", message)
    };
    let is_url = spec.server().strip_prefix("https://").is_some_and(|rest| {
        let host = rest.split('/').next().unwrap_or_default();
        !host.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic())
    });
    if !is_url {
        let message = format!("{:?} is not the URL of a directory", spec.server());
        return Err(invalid("spec.server", message, "give one that begins with https://"));
    }
    if spec.email.as_deref().is_some_and(|email| !email.contains('@')) {
        let message = "the email is not an address".to_owned();
        return Err(invalid("spec.email", message, "correct or remove it"));
    }
    let mut roots_pem = None;
    if !spec.ca_certificate_refs.is_empty() {
        let from = (Kind::AcmeIssuer, namespace.as_str());
        let roots = trust::roots(reader, from, &spec.ca_certificate_refs, "spec.caCertificateRefs");
        diagnostics.extend(roots.diagnostics);
        if let Some((_, message)) = roots.problem {
            return Err(("InvalidCACertificateRef", message));
        }
        let pems = roots.bundles.iter().map(|bundle| bundle.roots_pem.as_str());
        roots_pem = Some(pems.collect::<Vec<_>>().join("\n"));
    }
    let binding = match &spec.external_account_binding {
        None => None,
        Some(binding) => {
            let secret = &binding.secret_ref.name;
            let key = reader
                .secret(namespace, secret)
                .and_then(|secret| certificate::pem(secret, HMAC_KEY));
            let key = key.and_then(|key| URL_SAFE_NO_PAD.decode(key.trim().trim_end_matches('=')).ok());
            let Some(key) = key.filter(|key| !key.is_empty()) else {
                let message = format!("the Secret {namespace}/{secret} holds no {HMAC_KEY} in base64url");
                let path = "spec.externalAccountBinding.secretRef.name";
                diagnostics.push(Code::Invalid.at(path, &message, "put the key there as the CA gave it"));
                return Err(("InvalidBinding", message));
            };
            Some(Binding {
                key_id: binding.key_id.clone(),
                key,
            })
        }
    };
    Ok(Issuer {
        spec: spec.clone(),
        roots_pem,
        binding,
    })
}

/// How an issuer stands; none if there is none.
pub(crate) fn stand(reader: &Reader<'_>, reference: &ObjectRef) -> Option<(AcmeIssuerStatus, Vec<Diagnostic>)> {
    let issuer = reader.acme_issuer(&reference.namespace, &reference.name)?;
    let generation = issuer.metadata.generation();
    let mut diagnostics = Vec::new();
    let (accepted, ready) = match look(reader, reference, &mut diagnostics) {
        Ok(found) => (
            condition("Accepted", true, "Accepted", "The issuer is valid", generation),
            ready(reader, reference, found.spec.server(), generation),
        ),
        Err((reason, message)) => (
            condition("Accepted", false, reason, &message, generation),
            condition("Ready", false, "NotAccepted", &message, generation),
        ),
    };
    let status = AcmeIssuerStatus {
        conditions: vec![accepted, ready],
    };
    Some((status, diagnostics))
}

fn ready(reader: &Reader<'_>, reference: &ObjectRef, server: &str, generation: i64) -> Condition {
    if reader.options.standalone {
        let message = "certificates are ordered by ACME in a cluster only";
        return condition("Ready", false, "NotServed", message, generation);
    }
    let secret = reader.secret(&reference.namespace, &account_secret(&reference.name));
    let account: Option<Account> = secret.and_then(|secret| state::read(secret, ACCOUNT_TYPE));
    let account = account.filter(|account| account.server == server).unwrap_or_default();
    if let Some(failure) = &account.failure {
        return condition("Ready", false, &failure.reason, &failure.message, generation);
    }
    if account.credentials.is_some() {
        let message = format!("There is an account with {server}");
        return condition("Ready", true, "AccountRegistered", message, generation);
    }
    let message = format!("an account with {server} is being registered");
    condition("Ready", false, "Pending", message, generation)
}
