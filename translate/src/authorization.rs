//! AuthorizationPolicy: what it comes to for the workloads it protects, and how it stands.
//!
//! What cannot be understood of a policy is on the safe side. A rule that allows, or only tells, takes nothing by what is not
//! understood of it; a rule that denies takes everything by it. So a mistake is felt where it was made, and opens nothing.

use std::sync::Arc;

use weft_crds::{
    AncestorStatus, AuthorizationHeader, AuthorizationHttpAttributes, AuthorizationPolicy as Spec,
    AuthorizationRule as RuleSpec, AuthorizationSource as SourceSpec, AuthorizationTargetReference as TargetSpec,
    Condition, Kind, LabelSelector, MESH_LABEL, ObjectRef, ParentReference, PolicyStatus, Stage,
};
use weft_model::{
    Action, AuthorizationPolicy, AuthorizationRule, AuthorizationSource, AuthorizationTarget, HeaderCondition,
    LabelCondition, LabelOperator, Operation, PathMatch, PolicyKey, Requests, SpiffeId, StringMatch, Traffic,
};

use crate::{
    diagnostic::{Code, Diagnostic, Level},
    rule::{compiles, path_match},
    status::condition,
    world::Reader,
};

const TARGETS: usize = 16;
/// All headers of a rule, and so on, in the API.
const RULES: usize = 64;
/// Bytes of a regular expression, of which a data plane makes a table.
const LONGEST_PATTERN: usize = 1024;

/// What comes of a policy.
pub(crate) struct Derived {
    /// None where it protects nobody.
    pub(crate) policy: Option<Arc<AuthorizationPolicy>>,
    pub(crate) status: PolicyStatus,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// A target, and how the policy stands with it.
struct Target {
    model: Option<AuthorizationTarget>,
    shown: ParentReference,
    /// Why it is none.
    missing: Option<String>,
}

/// Derives a policy; none if there is none, or nobody here whom one could protect.
pub(crate) fn derive(reader: &Reader<'_>, reference: &ObjectRef) -> Option<Derived> {
    let policy = reader.authorization_policy(&reference.namespace, &reference.name)?;
    let mut lower = Lower {
        action: Action::Allow,
        namespace: &reference.namespace,
        diagnostics: Vec::new(),
    };
    let action = lower.action(policy);
    let rules = match action {
        Some(action) => {
            lower.action = action;
            lower.rules(&policy.spec.rules)
        }
        // Whatever it was to do, it is to protect: nothing is let by.
        None => Vec::new(),
    };
    let targets = lower.targets(reader, &policy.spec.target_refs);
    let mut diagnostics = lower.diagnostics;
    let enforced = enforced(reader, policy, &mut diagnostics);
    let wrong: Vec<&Diagnostic> = diagnostics.iter().filter(|found| found.level == Level::Error).collect();
    let status = status(reader, policy, &targets, &wrong, &enforced);
    let protected: Vec<AuthorizationTarget> = targets.into_iter().filter_map(|target| target.model).collect();
    let model = AuthorizationPolicy {
        key: PolicyKey::of(Kind::AuthorizationPolicy.name(), &reference.namespace, &reference.name),
        targets: protected,
        action: action.unwrap_or(Action::Allow),
        rules,
    };
    let told = reader.options.mesh && !model.targets.is_empty();
    Some(Derived {
        policy: told.then(|| Arc::new(model)),
        status,
        diagnostics,
    })
}

/// Whether the policy is enforced in its namespace.
fn enforced(reader: &Reader<'_>, policy: &Spec, diagnostics: &mut Vec<Diagnostic>) -> Condition {
    let namespace = policy.metadata.namespace();
    let generation = policy.metadata.generation();
    let stage = match Stage::of(&reader.namespace_labels(namespace)) {
        Ok(stage) if reader.options.mesh => stage,
        _ => None,
    };
    match stage {
        Some(Stage::Secure | Stage::Strict) => condition(
            "Enforced",
            true,
            "Enforced",
            "What the policy denies is denied",
            generation,
        ),
        Some(Stage::Observe) => {
            let message = "The namespace is in observe: what the policy would deny is let in, counted and logged";
            condition("Enforced", false, "Observed", message, generation)
        }
        None => {
            let message =
                format!("the namespace {namespace} takes no part in the mesh, so the policy protects nobody there");
            let remedy = format!("label the namespace: {MESH_LABEL}={}", Stage::Observe);
            diagnostics.push(Code::PolicyTarget.at("spec.targetRefs", &message, remedy));
            condition("Enforced", false, "NotInMesh", message, generation)
        }
    }
}

fn status(
    reader: &Reader<'_>,
    policy: &Spec,
    targets: &[Target],
    wrong: &[&Diagnostic],
    enforced: &Condition,
) -> PolicyStatus {
    let generation = policy.metadata.generation();
    let accepted = |target: &Target| match (wrong.first(), &target.missing) {
        (Some(first), _) => {
            let more = match wrong.len() {
                1 => String::new(),
                count => format!(" (and {} more)", count - 1),
            };
            let message = format!(
                "{}: {}{more}. Until it is corrected, what is not understood allows nothing, and denies everything it might",
                first.path, first.message
            );
            condition("Accepted", false, "Invalid", message, generation)
        }
        (None, Some(missing)) => condition("Accepted", false, "TargetNotFound", missing, generation),
        (None, None) => condition("Accepted", true, "Accepted", "The policy holds", generation),
    };
    let mut ancestors: Vec<AncestorStatus> = Vec::new();
    for target in targets.iter().take(TARGETS) {
        if ancestors.iter().any(|known| known.ancestor_ref == target.shown) {
            continue;
        }
        ancestors.push(AncestorStatus {
            ancestor_ref: target.shown.clone(),
            controller_name: reader.options.controller_name.clone(),
            conditions: vec![accepted(target), enforced.clone()],
        });
    }
    PolicyStatus { ancestors }
}

/// Lowers a policy, and gathers what is wrong with it.
struct Lower<'p> {
    action: Action,
    namespace: &'p str,
    diagnostics: Vec<Diagnostic>,
}

impl Lower<'_> {
    fn wrong(&mut self, code: Code, path: impl Into<String>, message: impl Into<String>, remedy: &str) {
        self.diagnostics.push(code.at(path, message, remedy));
    }

    fn action(&mut self, policy: &Spec) -> Option<Action> {
        match policy.spec.action.as_str() {
            "ALLOW" => Some(Action::Allow),
            "DENY" => Some(Action::Deny),
            "AUDIT" => Some(Action::Audit),
            other => {
                let message = format!("{other:?} is not an action");
                self.wrong(Code::Invalid, "spec.action", message, "use ALLOW, DENY or AUDIT");
                None
            }
        }
    }

    /// Whether what is not understood is to be taken for everything, not for nothing.
    fn widens(&self) -> bool {
        self.action == Action::Deny
    }

    fn rules(&mut self, rules: &[RuleSpec]) -> Vec<AuthorizationRule> {
        if rules.len() > RULES {
            let message = format!("there are {} rules where the API allows {RULES}", rules.len());
            self.wrong(
                Code::Invalid,
                "spec.rules",
                message,
                "spread them over several policies",
            );
        }
        let rules = rules.iter().enumerate();
        rules
            .map(|(at, rule)| self.rule(rule, &format!("spec.rules[{at}]")))
            .collect()
    }

    fn rule(&mut self, rule: &RuleSpec, path: &str) -> AuthorizationRule {
        let from = rule
            .sources
            .as_ref()
            .and_then(|sources| self.each(sources, &format!("{path}.sources"), Self::source));
        let ports = rule
            .network_attributes
            .as_ref()
            .map(|network| self.each(&network.ports, &format!("{path}.networkAttributes.ports"), Self::port));
        let http = rule
            .http_attributes
            .as_ref()
            .map(|http| self.http(http, &format!("{path}.httpAttributes")));
        let ports = match (ports, &rule.network_attributes) {
            (Some(Some(ports)), Some(network)) if ports.is_empty() && !network.ports.is_empty() => None,
            (Some(ports), _) => Some(ports.unwrap_or_default()),
            (None, _) => Some(Vec::new()),
        };
        let to = match (ports, http) {
            // Nothing of it was understood.
            (None, _) | (_, Some(None)) => Some(Vec::new()),
            (Some(ports), None) if ports.is_empty() => None,
            (Some(ports), http) => Some(vec![Operation {
                ports,
                traffic: http.flatten().map_or(Traffic::Any, Traffic::Http),
            }]),
        };
        AuthorizationRule { from, to }
    }

    /// Lowers what is one of several. None, for all of them, if one was not understood and that is the safe side.
    fn each<T, U>(
        &mut self,
        specs: &[T],
        path: &str,
        lower: impl Fn(&mut Self, &T, &str) -> Result<U, Box<Diagnostic>>,
    ) -> Option<Vec<U>> {
        let (mut lowered, mut all) = (Vec::with_capacity(specs.len()), true);
        for (at, spec) in specs.iter().enumerate() {
            match lower(self, spec, &format!("{path}[{at}]")) {
                Ok(one) => lowered.push(one),
                Err(wrong) => {
                    self.diagnostics.push(*wrong);
                    all = false;
                }
            }
        }
        (all || !self.widens()).then_some(lowered)
    }

    #[expect(clippy::unused_self, reason = "as the others")]
    fn port(&mut self, port: &i32, path: &str) -> Result<u16, Box<Diagnostic>> {
        u16::try_from(*port).ok().filter(|port| *port > 0).ok_or_else(|| {
            let message = format!("{port} is not a port");
            Box::new(Code::Invalid.at(path, message, "use a number from 1 to 65535"))
        })
    }

    fn source(&mut self, source: &SourceSpec, path: &str) -> Result<AuthorizationSource, Box<Diagnostic>> {
        let needs = |field: &str| {
            let message = format!("a source of the type {} needs {field}", source.source_type);
            Box::new(Code::MissingField.at(format!("{path}.{field}"), message, "set it"))
        };
        Ok(match source.source_type.as_str() {
            "Authenticated" => AuthorizationSource::Authenticated,
            "Unauthenticated" => AuthorizationSource::Unauthenticated,
            "Namespace" => {
                let namespace = source.namespace.as_deref().filter(|name| !name.is_empty());
                AuthorizationSource::Namespace(namespace.ok_or_else(|| needs("namespace"))?.into())
            }
            "ServiceAccount" => {
                let account = source.service_account.as_ref().ok_or_else(|| needs("serviceAccount"))?;
                let namespace = account.namespace.as_deref().unwrap_or(self.namespace);
                match account.name.as_str() {
                    "" => return Err(needs("serviceAccount.name")),
                    "*" => AuthorizationSource::Namespace(namespace.into()),
                    name => AuthorizationSource::ServiceAccount {
                        namespace: namespace.into(),
                        name: name.to_owned(),
                    },
                }
            }
            "SPIFFE" => {
                let text = source.spiffe.as_deref().ok_or_else(|| needs("spiffe"))?;
                match text.strip_suffix('*') {
                    Some(prefix) if prefix.starts_with("spiffe://") && !prefix.contains('*') => {
                        AuthorizationSource::IdentityPrefix(prefix.to_owned())
                    }
                    _ => AuthorizationSource::Identity(SpiffeId::parse(text).map_err(|error| {
                        let remedy = "write it like spiffe://cluster.local/ns/shop/sa/front, or its beginning and a *";
                        Box::new(Code::Invalid.at(format!("{path}.spiffe"), error.to_string(), remedy))
                    })?),
                }
            }
            other => {
                let message = format!("{other:?} is not a type of sources");
                let remedy = "use ServiceAccount, Namespace, SPIFFE, Authenticated or Unauthenticated";
                return Err(Box::new(Code::Invalid.at(format!("{path}.type"), message, remedy)));
            }
        })
    }

    /// None if nothing is taken by it.
    fn http(&mut self, http: &AuthorizationHttpAttributes, path: &str) -> Option<Requests> {
        let methods = self.each(&http.methods, &format!("{path}.methods"), Self::method);
        let paths = self.each(&http.paths, &format!("{path}.paths"), |_, spec, path| {
            bounded(path_match(Some(spec), path)?, path)
        });
        let headers_path = format!("{path}.headers");
        let mut headers = Vec::with_capacity(http.headers.len());
        for (at, spec) in http.headers.iter().enumerate() {
            match header(spec, &format!("{headers_path}[{at}]")) {
                Ok(header) => headers.push(header),
                Err(wrong) => {
                    self.diagnostics.push(*wrong);
                    if !self.widens() {
                        return None;
                    }
                }
            }
        }
        let (methods, paths) = (methods.unwrap_or_default(), paths.unwrap_or_default());
        let lost = (methods.is_empty() && !http.methods.is_empty()) || (paths.is_empty() && !http.paths.is_empty());
        (self.widens() || !lost).then_some(Requests {
            methods,
            paths,
            headers,
        })
    }

    #[expect(clippy::unused_self, reason = "as the others")]
    fn method(&mut self, method: &String, path: &str) -> Result<String, Box<Diagnostic>> {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if method.is_empty() || !method.bytes().all(token) {
            let message = format!("{method:?} is not a method");
            return Err(Box::new(Code::Invalid.at(
                path,
                message,
                "write it as clients do, like GET",
            )));
        }
        Ok(method.clone())
    }

    fn targets(&mut self, reader: &Reader<'_>, targets: &[TargetSpec]) -> Vec<Target> {
        if !(1..=TARGETS).contains(&targets.len()) {
            let message = format!(
                "there are {} targets where the API allows 1 to {TARGETS}",
                targets.len()
            );
            self.wrong(
                Code::Invalid,
                "spec.targetRefs",
                message,
                "spread them over several policies",
            );
        }
        let targets = targets.iter().enumerate();
        targets
            .map(|(at, target)| self.target(reader, target, &format!("spec.targetRefs[{at}]")))
            .collect()
    }

    fn target(&mut self, reader: &Reader<'_>, target: &TargetSpec, path: &str) -> Target {
        let mut found = Target {
            model: None,
            shown: ParentReference {
                group: target.group.clone(),
                kind: target.kind.clone(),
                namespace: Some(self.namespace.to_owned()),
                name: target.name.clone(),
                section_name: target.section_name.clone(),
                port: None,
            },
            missing: None,
        };
        let kind = if target.group.is_empty() {
            target.kind.as_str()
        } else {
            ""
        };
        let named = !target.name.is_empty();
        if target.selector.is_some() && kind != "Pod" {
            self.wrong(
                Code::Invalid,
                format!("{path}.selector"),
                "only Pods are selected",
                "remove it, or name the kind Pod",
            );
        }
        if target.section_name.is_some() && kind != "Service" {
            let message = "only Services have ports that can be named";
            self.wrong(Code::Invalid, format!("{path}.sectionName"), message, "remove it");
        }
        if kind != "Pod" && !named && !kind.is_empty() {
            self.wrong(
                Code::MissingField,
                format!("{path}.name"),
                "the target has no name",
                "name it",
            );
        }
        match kind {
            "Pod" => {
                // Pods are many: what is shown is where they are.
                found.shown.kind = Kind::Namespace.name().to_owned();
                found.shown.name = self.namespace.to_owned();
                found.shown.namespace = None;
                found.model = Some(self.pods(target, path));
            }
            "ServiceAccount" if named => {
                found.model = Some(AuthorizationTarget::ServiceAccount {
                    namespace: self.namespace.into(),
                    name: target.name.clone(),
                });
            }
            "Service" if named => match self.service(reader, target) {
                Ok(model) => found.model = Some(model),
                Err((field, missing)) => {
                    let remedy = "create it, or correct the reference";
                    self.wrong(Code::PolicyTarget, format!("{path}.{field}"), &missing, remedy);
                    found.missing = Some(missing);
                }
            },
            "ServiceAccount" | "Service" => {}
            _ => {
                let message = format!(
                    "a target of kind {} in group {:?} is not served",
                    target.kind, target.group
                );
                let remedy = "name Pods by a selector, a ServiceAccount or a Service";
                self.wrong(Code::Invalid, format!("{path}.kind"), message, remedy);
            }
        }
        found
    }

    fn pods(&mut self, target: &TargetSpec, path: &str) -> AuthorizationTarget {
        if !target.name.is_empty() {
            let message = "Pods are selected by their labels, not named";
            self.wrong(
                Code::Invalid,
                format!("{path}.name"),
                message,
                "remove it, and use selector",
            );
        }
        let Some(selector) = &target.selector else {
            let message = "Pods need a selector";
            let remedy = "set it; an empty one, {}, is for all workloads of the namespace";
            self.wrong(Code::MissingField, format!("{path}.selector"), message, remedy);
            return AuthorizationTarget::Namespace(self.namespace.into());
        };
        let expressions = self.expressions(selector, path);
        if selector.match_labels.is_empty() && expressions.is_empty() {
            return AuthorizationTarget::Namespace(self.namespace.into());
        }
        AuthorizationTarget::Workloads {
            namespace: self.namespace.into(),
            labels: selector.match_labels.clone(),
            expressions,
        }
    }

    /// One that is not understood selects whatever it might.
    fn expressions(&mut self, selector: &LabelSelector, path: &str) -> Vec<LabelCondition> {
        let mut expressions = Vec::new();
        for (at, requirement) in selector.match_expressions.iter().enumerate() {
            let operator = match requirement.operator.as_str() {
                "In" => LabelOperator::In,
                "NotIn" => LabelOperator::NotIn,
                "Exists" => LabelOperator::Exists,
                "DoesNotExist" => LabelOperator::DoesNotExist,
                other => {
                    let path = format!("{path}.selector.matchExpressions[{at}].operator");
                    let message = format!("{other:?} is not an operator");
                    self.wrong(Code::Invalid, path, message, "use In, NotIn, Exists or DoesNotExist");
                    continue;
                }
            };
            expressions.push(LabelCondition {
                key: requirement.key.clone(),
                operator,
                values: requirement.values.clone(),
            });
        }
        expressions
    }

    /// What a Service comes to; or what of the reference is wrong, and why.
    fn service(&self, reader: &Reader<'_>, target: &TargetSpec) -> Result<AuthorizationTarget, (&'static str, String)> {
        let full = format!("{}/{}", self.namespace, target.name);
        let service = reader.service(self.namespace, &target.name);
        let service = service.ok_or_else(|| ("name", format!("there is no Service {full}")))?;
        if service.spec.selector.is_empty() {
            return Err((
                "name",
                format!("the Service {full} selects no pods: there is nobody to protect"),
            ));
        }
        let port = match &target.section_name {
            None => None,
            Some(name) => {
                let mut ports = service.spec.ports.iter();
                let port = ports.find(|port| port.name.as_deref() == Some(name));
                let missing = || {
                    (
                        "sectionName",
                        format!("the Service {full} has no port of the name {name:?}"),
                    )
                };
                Some(port.ok_or_else(missing)?.port)
            }
        };
        Ok(AuthorizationTarget::Service {
            namespace: self.namespace.into(),
            name: target.name.clone(),
            port,
        })
    }
}

fn header(spec: &AuthorizationHeader, path: &str) -> Result<HeaderCondition, Box<Diagnostic>> {
    let name = spec.name.to_ascii_lowercase();
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || (name != ":authority" && !name.bytes().all(token)) {
        let message = format!("{:?} is not the name of a header", spec.name);
        return Err(Box::new(Code::Invalid.at(
            format!("{path}.name"),
            message,
            "correct it",
        )));
    }
    let value = match spec.match_type.as_deref().unwrap_or("Exact") {
        "Present" if spec.value.is_empty() => None,
        "Present" => {
            let message = "a header that only has to be there has no value to compare";
            return Err(Box::new(Code::Invalid.at(
                format!("{path}.value"),
                message,
                "remove it",
            )));
        }
        "Exact" => Some(StringMatch::Exact(spec.value.clone())),
        "RegularExpression" => {
            compiles(&spec.value, &format!("{path}.value"))?;
            Some(StringMatch::Regex(short(&spec.value, path)?.to_owned()))
        }
        other => {
            let message = format!("{other:?} is not a way to match a value");
            let remedy = "use Exact, RegularExpression or Present";
            return Err(Box::new(Code::Invalid.at(format!("{path}.type"), message, remedy)));
        }
    };
    Ok(HeaderCondition { name, value })
}

fn bounded(path_match: PathMatch, path: &str) -> Result<PathMatch, Box<Diagnostic>> {
    if let PathMatch::Regex(text) = &path_match {
        short(text, path)?;
    }
    Ok(path_match)
}

fn short<'t>(pattern: &'t str, path: &str) -> Result<&'t str, Box<Diagnostic>> {
    if pattern.len() > LONGEST_PATTERN {
        let message = format!("the expression is longer than {LONGEST_PATTERN} bytes");
        return Err(Box::new(Code::Invalid.at(
            format!("{path}.value"),
            message,
            "shorten it",
        )));
    }
    Ok(pattern)
}
