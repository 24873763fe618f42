//! AuthorizationPolicy: what it comes to for the workloads it protects, and how it stands.
//!
//! What cannot be understood of a policy is on the safe side. A rule that allows, or only tells, takes nothing by what is not
//! understood of it; a rule that denies takes everything by it. So a mistake is felt where it was made, and opens nothing.

mod edge;
mod sources;
mod targets;
mod unseen;

use std::{collections::HashMap, sync::Arc};

use weft_crds::{
    AncestorStatus, AuthorizationHeader, AuthorizationHttpAttributes, AuthorizationPolicy as Spec,
    AuthorizationRule as RuleSpec, Kind, ObjectRef, PolicyStatus,
};
use weft_model::{
    Action, AuthorizationPolicy, AuthorizationRule, AuthorizationTarget, HeaderCondition, Operation, PathMatch,
    PolicyKey, Requests, StringMatch, Traffic,
};

use self::targets::Target;
pub(crate) use self::{edge::routes, targets::label_condition};
use crate::{
    diagnostic::{Code, Diagnostic, Level},
    route::RouteResult,
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

/// Derives a policy; none if there is none. Of routes it must be known what they have come to.
pub(crate) fn derive(
    reader: &Reader<'_>,
    reference: &ObjectRef,
    routes: &HashMap<ObjectRef, Box<RouteResult>>,
) -> Option<Derived> {
    let policy = reader.authorization_policy(&reference.namespace, &reference.name)?;
    let mut lower = Lower {
        reader,
        routes,
        namespace: &reference.namespace,
        generation: policy.metadata.generation(),
        action: Action::Allow,
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
    let targets = lower.targets(policy, &rules);
    let diagnostics = lower.diagnostics;
    let wrong: Vec<&Diagnostic> = diagnostics.iter().filter(|found| found.level == Level::Error).collect();
    let status = status(reader, policy, &targets, &wrong);
    let protected: Vec<AuthorizationTarget> = targets.into_iter().filter_map(|target| target.model).collect();
    let model = AuthorizationPolicy {
        key: PolicyKey::of(Kind::AuthorizationPolicy.name(), &reference.namespace, &reference.name),
        targets: protected,
        action: action.unwrap_or(Action::Allow),
        rules,
    };
    Some(Derived {
        policy: (!model.targets.is_empty()).then(|| Arc::new(model)),
        status,
        diagnostics,
    })
}

fn status(reader: &Reader<'_>, policy: &Spec, targets: &[Target], wrong: &[&Diagnostic]) -> PolicyStatus {
    let generation = policy.metadata.generation();
    let accepted = |target: &Target| match (wrong.first(), &target.amiss) {
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
        (None, Some((reason, why))) => condition("Accepted", false, reason, why, generation),
        (None, None) => condition("Accepted", true, "Accepted", target.holds, generation),
    };
    let mut ancestors: Vec<AncestorStatus> = Vec::new();
    for target in targets.iter().take(TARGETS) {
        if ancestors.iter().any(|known| known.ancestor_ref == target.shown) {
            continue;
        }
        let mut conditions = vec![accepted(target), target.enforced.clone()];
        conditions.extend(target.unseen.clone());
        ancestors.push(AncestorStatus {
            ancestor_ref: target.shown.clone(),
            controller_name: reader.options.controller_name.clone(),
            conditions,
        });
    }
    PolicyStatus { ancestors }
}

/// Lowers a policy, and gathers what is wrong with it.
struct Lower<'p> {
    reader: &'p Reader<'p>,
    /// What routes have come to.
    routes: &'p HashMap<ObjectRef, Box<RouteResult>>,
    /// Those of the policy.
    namespace: &'p str,
    generation: i64,
    action: Action,
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
        let from = match &rule.network_attributes {
            Some(network) => self.within(&network.source_ranges, from, &format!("{path}.networkAttributes")),
            None => from,
        };
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
