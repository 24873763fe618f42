//! BackendTLSPolicy: how TLS is spoken to a Service, and how the policy stands.

use std::{collections::BTreeSet, sync::Arc};

use weft_crds::{
    BackendTlsPolicy, BackendTlsValidation, CaCertificateReference, Condition, Kind, ObjectRef, PolicyStatus,
};
use weft_model::{BackendTls, ClientIdentity, HostPattern, SubjectAltName, TrustBundle, TrustRoots};

use crate::{
    diagnostic::{Code, Diagnostic},
    listener::Problem,
    policy,
    status::condition,
    trust::{self, Fault},
    world::Reader,
};

/// What a `BackendTLSPolicyValidation` comes to.
pub(crate) struct Lowered {
    /// How TLS is spoken; or why nothing may be sent.
    pub(crate) tls: Result<BackendTls, String>,
    pub(crate) bundles: Vec<Arc<TrustBundle>>,
    pub(crate) accepted: Result<(), Problem>,
    pub(crate) resolved: Result<(), Problem>,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// What holds for a port of a Service.
#[derive(Debug, Default)]
pub(crate) struct Effective {
    pub(crate) tls: Option<BackendTls>,
    pub(crate) bundles: Vec<Arc<TrustBundle>>,
    /// Why nothing may be sent.
    pub(crate) broken: Option<String>,
}

fn service(namespace: &str, name: &str) -> ObjectRef {
    ObjectRef::new(Kind::Service, namespace, name)
}

/// Whether a policy holds for a port of a Service.
pub(crate) fn applies(reader: &Reader<'_>, namespace: &str, name: &str, port: Option<&str>) -> bool {
    policy::effective(reader, Kind::BackendTlsPolicy, &service(namespace, name), port).is_some()
}

/// What holds for a port of a Service; `port` is its name.
pub(crate) fn effective(reader: &Reader<'_>, namespace: &str, name: &str, port: Option<&str>) -> Effective {
    let on = service(namespace, name);
    let found = policy::effective(reader, Kind::BackendTlsPolicy, &on, port);
    let Some(policy) = found.and_then(|found| reader.backend_tls_policy(&found.namespace, &found.name)) else {
        return Effective::default();
    };
    let lowered = lower(reader, policy);
    match lowered.tls {
        Ok(tls) => Effective {
            tls: Some(tls),
            bundles: lowered.bundles,
            broken: None,
        },
        // Nothing goes out in clear where TLS was asked for.
        Err(why) => Effective {
            broken: Some(format!(
                "BackendTLSPolicy {}/{}: {why}",
                policy.metadata.namespace(),
                policy.metadata.name
            )),
            ..Effective::default()
        },
    }
}

fn lower(reader: &Reader<'_>, policy: &BackendTlsPolicy) -> Lowered {
    let from = (Kind::BackendTlsPolicy, policy.metadata.namespace());
    validation(reader, from, &policy.spec.validation, "spec.validation")
}

/// Lowers what an object of this kind and namespace says of the certificates of a backend. `path` is that of the
/// validation.
pub(crate) fn validation(
    reader: &Reader<'_>,
    from: (Kind, &str),
    validation: &BackendTlsValidation,
    path: &str,
) -> Lowered {
    let mut lowered = Lowered {
        tls: Err(String::new()),
        bundles: Vec::new(),
        accepted: Ok(()),
        resolved: Ok(()),
        diagnostics: Vec::new(),
    };
    let roots = match (
        validation.well_known_ca_certificates.as_deref().unwrap_or_default(),
        validation.ca_certificate_refs.as_slice(),
    ) {
        ("System", []) => Some(TrustRoots::System),
        ("", references) => {
            let references: Vec<CaCertificateReference> = references
                .iter()
                .map(|reference| CaCertificateReference {
                    group: reference.group.clone(),
                    kind: reference.kind.clone(),
                    name: reference.name.clone(),
                    namespace: None,
                })
                .collect();
            let found = trust::roots(reader, from, &references, &format!("{path}.caCertificateRefs"));
            let keys = found.keys();
            lowered.diagnostics.extend(found.diagnostics);
            lowered.bundles = found.bundles;
            if let Some((fault, message)) = found.problem {
                let reason = match fault {
                    Fault::Kind => "InvalidKind",
                    Fault::Unusable | Fault::NotPermitted => "InvalidCACertificateRef",
                };
                if keys.is_empty() {
                    lowered.accepted = Err(("NoValidCACertificate", message.clone()));
                }
                lowered.resolved = Err((reason, message));
            }
            Some(TrustRoots::Bundles(keys))
        }
        (other, references) => {
            let (message, remedy) = if references.is_empty() {
                (
                    format!("the well-known roots {other:?} are not known"),
                    "use System, or refer to a ConfigMap",
                )
            } else {
                let message = "both caCertificateRefs and wellKnownCACertificates are set".to_owned();
                (message, "keep one of the two")
            };
            lowered.invalid(&format!("{path}.wellKnownCACertificates"), message, remedy);
            None
        }
    };
    if !matches!(validation.hostname.parse(), Ok(HostPattern::Exact(_))) {
        let message = format!("{:?} is not the name of one host", validation.hostname);
        let remedy = "use lower-case labels separated by dots";
        lowered.invalid(&format!("{path}.hostname"), message, remedy);
    }
    let mut names = Vec::new();
    for (at, name) in validation.subject_alt_names.iter().enumerate() {
        let path = format!("{path}.subjectAltNames[{at}]");
        match name.name_type.as_str() {
            "Hostname" => match name.hostname.parse() {
                Ok(host) => names.push(SubjectAltName::Dns(host)),
                Err(error) => lowered.invalid(&format!("{path}.hostname"), error.to_string(), "correct the hostname"),
            },
            "URI" if name.uri.contains(':') => names.push(SubjectAltName::Uri(name.uri.clone())),
            "URI" => {
                let message = format!("{:?} is not an absolute URI", name.uri);
                lowered.invalid(&format!("{path}.uri"), message, "begin it with a scheme: spiffe://…");
            }
            other => {
                let message = format!("a name of type {other:?} is not known");
                lowered.invalid(&format!("{path}.type"), message, "use Hostname or URI");
            }
        }
    }
    lowered.tls = match (&lowered.accepted, roots) {
        (Ok(()), Some(roots)) => Ok(BackendTls {
            hostname: validation.hostname.clone(),
            subject_alt_names: names,
            roots,
            identity: ClientIdentity::Gateway,
        }),
        (Err((_, message)), _) => Err(message.clone()),
        (Ok(()), None) => Err("it names no roots".into()),
    };
    lowered
}

impl Lowered {
    fn invalid(&mut self, path: &str, message: String, remedy: &str) {
        self.diagnostics.push(Code::Invalid.at(path, &message, remedy));
        if self.accepted.is_ok() {
            self.accepted = Err(("Invalid", message));
        }
    }
}

/// How a policy stands, given the Gateways through which requests come to a Service; none if there is no such policy.
pub(crate) fn stand(
    reader: &Reader<'_>,
    reference: &ObjectRef,
    gateways: impl Fn(&ObjectRef) -> BTreeSet<ObjectRef>,
) -> Option<(PolicyStatus, Vec<Diagnostic>)> {
    let policy = reader.backend_tls_policy(&reference.namespace, &reference.name)?;
    let generation = policy.metadata.generation();
    let Lowered {
        mut accepted,
        resolved,
        mut diagnostics,
        ..
    } = lower(reader, policy);
    let lost = policy::lost(reader, reference, &**policy);
    policy::say_lost(&lost, &mut diagnostics);
    let mut there = 0;
    let mut through = BTreeSet::new();
    for (at, target) in policy.spec.target_refs.iter().enumerate() {
        let path = format!("spec.targetRefs[{at}]");
        let on = policy::target(&**policy, target).filter(|on| on.kind == Kind::Service);
        let Some(on) = on else {
            let message = format!("TLS to a {} of group {:?} is not served", target.kind, target.group);
            diagnostics.push(Code::PolicyTarget.at(path, message, "name a Service"));
            continue;
        };
        let Some(found) = reader.service(&on.namespace, &on.name) else {
            let message = format!("there is no Service {}/{}", on.namespace, on.name);
            let remedy = "create it, or correct the name";
            diagnostics.push(Code::PolicyTarget.at(format!("{path}.name"), message, remedy));
            continue;
        };
        if let Some(section) = &target.section_name
            && !found.spec.ports.iter().any(|port| port.name.as_ref() == Some(section))
        {
            let message = format!("the Service {}/{} has no port named {section:?}", on.namespace, on.name);
            let remedy = "correct the name, or leave it out for all ports";
            diagnostics.push(Code::PolicyTarget.at(format!("{path}.sectionName"), message, remedy));
        }
        there += 1;
        through.extend(gateways(&on));
    }
    let mut said = "The policy is in effect".to_owned();
    match lost.first() {
        Some((_, winner)) if lost.len() >= there => {
            accepted = Err(("Conflicted", format!("{winner} is for the same target and comes first")));
        }
        Some((_, winner)) => {
            said = format!(
                "The policy is in effect, but for {} of its targets {winner} is",
                lost.len()
            );
        }
        None => {}
    }
    let say = |kind: &str, holds: &Result<(), Problem>, message: &str| -> Condition {
        match holds {
            Ok(()) => condition(kind, true, kind, message, generation),
            Err((reason, message)) => condition(kind, false, reason, message, generation),
        }
    };
    let conditions = [
        say("Accepted", &accepted, &said),
        say("ResolvedRefs", &resolved, "All references resolve"),
    ];
    Some((policy::status(reader, &through, &conditions), diagnostics))
}
