//! TrafficTargets, as policies that allow: whom one protects is sent what a target allows, and nothing else.
//!
//! What cannot be honoured of a target is left out of its policy, so that less is allowed than was written, never more.

use std::collections::{BTreeMap, BTreeSet};

use weft_crds::{IdentityBinding, Kind, SMI_ACCESS, SmiTcpRoute, TrafficSubject, TrafficTarget, TrafficTargetRule};
use weft_model::{
    Action, AuthorizationPolicy, AuthorizationRule, AuthorizationSource, AuthorizationTarget, LabelCondition,
    Operation, PolicyKey, Requests, SpiffeId, Traffic,
};

use super::{Derived, requests};
use crate::{
    authorization::label_condition,
    diagnostic::{Code, Diagnostic},
    mesh,
    world::Reader,
};

/// The kind of subjects that are service accounts.
const ACCOUNT: &str = "ServiceAccount";

/// The policy that a TrafficTarget is.
pub(super) fn target(reader: &Reader<'_>, namespace: &str, name: &str) -> Option<Derived> {
    let target = reader.traffic_target(namespace, name)?;
    let mut lowering = Lowering {
        reader,
        target,
        namespace,
        diagnostics: Vec::new(),
    };
    if let Err((message, remedy)) = mesh::takes_part(reader, namespace, "TrafficTarget") {
        let path = target.path("destination");
        lowering.diagnostics.push(Code::NoMesh.at(path, message, remedy));
        return Some(lowering.end(None));
    }
    let targets = lowering.destination();
    let rule = AuthorizationRule {
        from: Some(lowering.sources()),
        to: Some(lowering.operations()),
    };
    // Without a source or an operation it lets nobody in, and says all the same that not everybody is.
    let policy = (!targets.is_empty()).then(|| AuthorizationPolicy {
        key: PolicyKey::of(Kind::TrafficTarget.name(), namespace, name),
        targets,
        action: Action::Allow,
        rules: vec![rule],
    });
    Some(lowering.end(policy))
}

/// What a namespace says of those whom no TrafficTarget names: by SMI they are sent nothing, at least by others in the mesh.
pub(super) fn namespace(reader: &Reader<'_>, name: &str) -> Option<Derived> {
    let said = reader.namespace("", name)?.metadata.annotations.get(SMI_ACCESS)?;
    let path = format!("metadata.annotations.{SMI_ACCESS}");
    if let Err((message, remedy)) = mesh::takes_part(reader, name, "annotation") {
        return Some(Derived {
            policy: None,
            diagnostics: vec![Code::NoMesh.at(path, message, remedy)],
        });
    }
    let mut diagnostics = Vec::new();
    let from = if said == "deny-in-mesh" {
        vec![AuthorizationSource::Unauthenticated]
    } else {
        // Whoever writes something here wants less to be allowed.
        let message = format!("{said:?} is not known; whom no TrafficTarget names is sent nothing");
        let remedy = "use deny-in-mesh; to deny everybody say weft.dev/default-action: deny";
        diagnostics.push(Code::Invalid.at(path, message, remedy));
        Vec::new()
    };
    let rule = AuthorizationRule {
        from: Some(from),
        to: None,
    };
    Some(Derived {
        policy: Some(AuthorizationPolicy {
            key: PolicyKey::of(Kind::Namespace.name(), name, name),
            targets: vec![AuthorizationTarget::Namespace(name.into())],
            action: Action::Allow,
            rules: vec![rule],
        }),
        diagnostics,
    })
}

/// What is wrong with an IdentityBinding.
pub(super) fn binding(reader: &Reader<'_>, namespace: &str, name: &str) -> Option<Derived> {
    let binding = reader.identity_binding(namespace, name)?;
    let mut diagnostics = Vec::new();
    let schemes = &binding.spec.schemes;
    let path = "spec.schemes";
    if schemes.pod_label_selector.is_some() && schemes.service_account.is_some() {
        let message = "podLabelSelector and serviceAccount exclude each other; both hold";
        diagnostics.push(Code::Invalid.at(path, message, "keep one of the two"));
    }
    if schemes.pod_label_selector.is_none() && schemes.service_account.is_none() && schemes.spiffe_identities.is_empty()
    {
        let message = "the binding has no scheme, so that it is nobody";
        diagnostics.push(Code::MissingField.at(path, message, "add serviceAccount"));
    }
    if let Some(selector) = &schemes.pod_label_selector {
        let path = format!("{path}.podLabelSelector");
        if selector.match_labels.is_empty() && selector.match_expressions.is_empty() {
            let message = "the selector has no labels, so that it stands for no pod";
            diagnostics.push(Code::MissingField.at(format!("{path}.matchLabels"), message, "add labels"));
        }
        for (at, requirement) in selector.match_expressions.iter().enumerate() {
            if let Err((why, remedy)) = label_condition(requirement) {
                let message = format!("{why}: the binding stands for no pod");
                diagnostics.push(Code::Invalid.at(format!("{path}.matchExpressions[{at}].operator"), message, remedy));
            }
        }
    }
    for (at, text) in schemes.spiffe_identities.iter().enumerate() {
        if let Err(why) = identity(text) {
            let remedy = "write it like cluster.local/ns/NAMESPACE/sa/SERVICE-ACCOUNT";
            diagnostics.push(Code::SmiUnserved.at(format!("{path}.spiffeIdentities[{at}]"), why, remedy));
        }
    }
    Some(Derived {
        policy: None,
        diagnostics,
    })
}

/// Reads the SPIFFE ID of a workload, with or without its scheme.
fn identity(text: &str) -> Result<SpiffeId, String> {
    let bare = text.strip_prefix("spiffe://").unwrap_or(text);
    SpiffeId::parse(&format!("spiffe://{bare}")).map_err(|error| error.to_string())
}

/// A TrafficTarget that becomes a policy.
struct Lowering<'r, 'w> {
    reader: &'r Reader<'w>,
    target: &'w TrafficTarget,
    namespace: &'r str,
    diagnostics: Vec<Diagnostic>,
}

/// Ports; all, or only these.
type Ports = Option<BTreeSet<u16>>;

impl<'w> Lowering<'_, 'w> {
    fn end(self, policy: Option<AuthorizationPolicy>) -> Derived {
        Derived {
            policy,
            diagnostics: self.diagnostics,
        }
    }

    fn say(&mut self, code: Code, field: &str, message: impl Into<String>, remedy: impl Into<String>) {
        self.diagnostics.push(code.at(self.target.path(field), message, remedy));
    }

    /// Whom it protects.
    fn destination(&mut self) -> Vec<AuthorizationTarget> {
        let subject = &self.target.spec.destination;
        let own = self.namespace;
        let of = subject.namespace.as_deref().unwrap_or(own);
        if of != own {
            // Else whoever may write targets somewhere could open workloads anywhere.
            let message =
                format!("the destination is in the namespace {of}; a target allows what is sent to its own, {own}");
            let remedy = format!("move the TrafficTarget to {of}");
            self.say(Code::NotAllowed, "destination.namespace", message, remedy);
            return Vec::new();
        }
        if subject.kind == ACCOUNT {
            return vec![AuthorizationTarget::ServiceAccount {
                namespace: own.into(),
                name: subject.name.clone(),
            }];
        }
        let Some(binding) = self.bound(subject, "destination") else {
            return Vec::new();
        };
        let schemes = &binding.spec.schemes;
        let mut targets = Vec::new();
        if let Some((labels, expressions)) = selected(binding) {
            targets.push(AuthorizationTarget::Workloads {
                namespace: own.into(),
                labels,
                expressions,
            });
        }
        let account = |name: &str| AuthorizationTarget::ServiceAccount {
            namespace: own.into(),
            name: name.to_owned(),
        };
        targets.extend(schemes.service_account.as_deref().map(account));
        for text in &schemes.spiffe_identities {
            let Ok(identity) = identity(text) else { continue };
            if identity.namespace() == own {
                targets.push(account(identity.account()));
            } else {
                let message = format!(
                    "the IdentityBinding {} names {text:?}, which is no workload of its namespace",
                    subject.name
                );
                let remedy = "protect that one by a TrafficTarget in its own namespace";
                self.say(Code::SmiUnserved, "destination", message, remedy);
            }
        }
        targets.sort();
        targets.dedup();
        if targets.is_empty() {
            let message = format!("the IdentityBinding {} stands for no workload", subject.name);
            self.say(Code::SmiReference, "destination", message, "see what is wrong with it");
        }
        targets
    }

    /// Who may.
    fn sources(&mut self) -> Vec<AuthorizationSource> {
        let mut sources = Vec::new();
        for (at, subject) in self.target.spec.sources.iter().enumerate() {
            let field = format!("sources[{at}]");
            let namespace = subject.namespace.as_deref().unwrap_or(self.namespace);
            let account = |name: &str| AuthorizationSource::ServiceAccount {
                namespace: namespace.into(),
                name: name.to_owned(),
            };
            if subject.kind == ACCOUNT {
                sources.push(account(&subject.name));
                continue;
            }
            let Some(binding) = self.bound(subject, &field) else {
                continue;
            };
            let schemes = &binding.spec.schemes;
            sources.extend(schemes.service_account.as_deref().map(account));
            let identities = schemes.spiffe_identities.iter();
            sources.extend(
                identities
                    .filter_map(|text| identity(text).ok())
                    .map(AuthorizationSource::Identity),
            );
            if schemes.pod_label_selector.is_some() {
                let message = format!(
                    "the IdentityBinding {} tells pods by their labels, which nobody can prove: they are not let in by it",
                    subject.name
                );
                self.say(Code::SmiUnserved, &field, message, "name their service account in it");
            }
        }
        if self.target.spec.sources.is_empty() {
            let message = "the target has no source, so that it lets nobody in";
            self.say(
                Code::MissingField,
                "sources",
                message,
                "name the service accounts that may",
            );
        }
        sources.sort();
        sources.dedup();
        sources
    }

    /// The IdentityBinding that a subject names.
    fn bound(&mut self, subject: &TrafficSubject, field: &str) -> Option<&'w IdentityBinding> {
        if subject.kind != Kind::IdentityBinding.name() {
            let message = format!("{:?} is not a kind of those who send or are sent to", subject.kind);
            let remedy = "use ServiceAccount, or IdentityBinding";
            self.say(Code::Invalid, &format!("{field}.kind"), message, remedy);
            return None;
        }
        let namespace = subject.namespace.as_deref().unwrap_or(self.namespace);
        let found = self.reader.identity_binding(namespace, &subject.name);
        if found.is_none() {
            let message = format!("there is no IdentityBinding {namespace}/{}", subject.name);
            let remedy = "create it, or correct the name";
            self.say(Code::SmiReference, &format!("{field}.name"), message, remedy);
        }
        found.map(AsRef::as_ref)
    }

    /// What they may do. Rules of TCPRoutes say to which ports, those of HTTPRouteGroups by which requests; with both, what is
    /// allowed is these requests to those ports.
    fn operations(&mut self) -> Vec<Operation> {
        let rules = &self.target.spec.rules;
        if rules.is_empty() {
            let message = "the target has no rule, so that it lets nothing in";
            let remedy = "name a TCPRoute for all that is sent, or an HTTPRouteGroup";
            self.say(Code::MissingField, "rules", message, remedy);
        }
        let (mut ports, mut matched): (Option<Ports>, Option<Vec<Requests>>) = (None, None);
        for (at, rule) in rules.iter().enumerate() {
            let field = format!("rules[{at}]");
            match rule.kind.as_str() {
                "TCPRoute" => {
                    let of = self.ports_of(rule, &field);
                    ports = Some(match (ports, of) {
                        (Some(None), _) | (_, None) => None,
                        (Some(Some(known)), Some(more)) => Some(&known | &more),
                        (None, more) => more,
                    });
                }
                "HTTPRouteGroup" => {
                    let of = self.requests_of(rule, &field);
                    matched.get_or_insert_default().extend(of);
                }
                "UDPRoute" => self.datagrams(rule, &field),
                other => {
                    let message = format!("{other:?} is not a kind of rules");
                    let remedy = "use HTTPRouteGroup, TCPRoute or UDPRoute";
                    self.say(Code::Invalid, &format!("{field}.kind"), message, remedy);
                }
            }
        }
        if ports.is_none() && matched.is_none() {
            return Vec::new();
        }
        let Some(ports) = self.reduced(ports.unwrap_or(None)) else {
            return Vec::new();
        };
        let operation = |traffic| Operation {
            ports: ports.clone(),
            traffic,
        };
        match matched {
            None => vec![operation(Traffic::Any)],
            Some(requests) => requests.into_iter().map(Traffic::Http).map(operation).collect(),
        }
    }

    /// The ports of the rules, of which the destination may allow one only. All when empty, and none if absent.
    fn reduced(&mut self, ports: Ports) -> Option<Vec<u16>> {
        let only = self.target.spec.destination.port;
        match (ports, only) {
            (None, only) => Some(only.into_iter().collect()),
            (Some(ports), None) => (!ports.is_empty()).then(|| ports.into_iter().collect()),
            (Some(ports), Some(only)) if ports.contains(&only) => Some(vec![only]),
            (Some(_), Some(only)) => {
                let message = format!("port {only} is none of those of the TCPRoutes, so that nothing is let in");
                self.say(Code::Invalid, "destination.port", message, "let the two agree");
                None
            }
        }
    }

    /// The ports of a TCPRoute; no port at all if it is not there.
    fn ports_of(&mut self, rule: &TrafficTargetRule, field: &str) -> Ports {
        let found: Option<&SmiTcpRoute> = self.reader.smi_tcp_route(self.namespace, &rule.name).map(AsRef::as_ref);
        let Some(route) = found else {
            self.missing(rule, field);
            return Some(BTreeSet::new());
        };
        let ports = &route.spec.matches.ports;
        (!ports.is_empty()).then(|| ports.iter().copied().collect())
    }

    /// The requests of an HTTPRouteGroup that a rule means.
    fn requests_of(&mut self, rule: &TrafficTargetRule, field: &str) -> Vec<Requests> {
        let Some(group) = self.reader.http_route_group(self.namespace, &rule.name) else {
            self.missing(rule, field);
            return Vec::new();
        };
        for (at, name) in rule.matches.iter().enumerate() {
            if group.spec.matches.iter().all(|known| known.name != *name) {
                let message = format!("the HTTPRouteGroup {} has no match {name:?}", rule.name);
                let known: Vec<&str> = group.spec.matches.iter().map(|known| known.name.as_str()).collect();
                let remedy = format!("use one of its matches: {}", known.join(", "));
                self.say(Code::SmiReference, &format!("{field}.matches[{at}]"), message, remedy);
            }
        }
        let meant = group.spec.matches.iter();
        let meant = meant.filter(|known| rule.matches.is_empty() || rule.matches.contains(&known.name));
        let mut found = Vec::new();
        for one in meant {
            match requests::lower(one, "") {
                Ok(matched) => found.push(matched.requests()),
                Err(why) => {
                    let message = format!(
                        "the match {:?} of the HTTPRouteGroup {} lets nothing in: {}",
                        one.name, rule.name, why.message
                    );
                    self.say(Code::SmiUnserved, field, message, why.remedy);
                }
            }
        }
        found
    }

    /// UDP is not turned to sidecars: it is neither let in by them nor kept out.
    fn datagrams(&mut self, rule: &TrafficTargetRule, field: &str) {
        if self.reader.smi_udp_route(self.namespace, &rule.name).is_none() {
            return self.missing(rule, field);
        }
        let message = "the mesh carries no UDP, so that it is not denied to others either";
        let remedy = "use a NetworkPolicy for it";
        self.say(Code::SmiDatagrams, field, message, remedy);
    }

    fn missing(&mut self, rule: &TrafficTargetRule, field: &str) {
        let message = format!(
            "there is no {} {}/{}: nothing is let in by it",
            rule.kind, self.namespace, rule.name
        );
        let remedy = "create it, or correct the name";
        self.say(Code::SmiReference, &format!("{field}.name"), message, remedy);
    }
}

/// How a binding tells its pods; none if it does not, or it is not understood: what it might mean is not let in by it.
fn selected(binding: &IdentityBinding) -> Option<(BTreeMap<String, String>, Vec<LabelCondition>)> {
    let selector = binding.spec.schemes.pod_label_selector.as_ref()?;
    let expressions = selector.match_expressions.iter().map(label_condition);
    let expressions: Vec<LabelCondition> = expressions.collect::<Result<_, _>>().ok()?;
    let labels = selector.match_labels.clone();
    (!labels.is_empty() || !expressions.is_empty()).then_some((labels, expressions))
}
