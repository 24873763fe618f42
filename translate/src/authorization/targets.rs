//! Whom a policy protects.

use weft_crds::{
    AuthorizationPolicy as Spec, AuthorizationTargetReference as TargetSpec, Condition, Kind, LabelSelector,
    MESH_LABEL, ObjectRef, ParentReference, SelectorRequirement, Stage,
};
use weft_model::{AuthorizationRule, AuthorizationTarget, LabelCondition, LabelOperator};

use super::{
    Lower, TARGETS,
    edge::{self, Aim},
};
use crate::{
    diagnostic::{Code, Diagnostic},
    status::condition,
    world::Reader,
};

/// A target, and how the policy stands with it.
pub(super) struct Target {
    pub(super) model: Option<AuthorizationTarget>,
    pub(super) shown: ParentReference,
    /// The reason, and the story, why the policy cannot hold for it.
    pub(super) amiss: Option<(&'static str, String)>,
    /// What is said where it can.
    pub(super) holds: &'static str,
    pub(super) enforced: Condition,
    /// What rules ask for that the target does not show, if they do.
    pub(super) unseen: Option<Condition>,
}

/// What a target is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Pods,
    ServiceAccount,
    Service,
    /// What a Gateway decides.
    Edge(Kind),
    Unknown,
}

fn sort(target: &TargetSpec) -> Sort {
    match (target.group.as_str(), target.kind.as_str()) {
        ("", "Pod") => Sort::Pods,
        ("", "ServiceAccount") => Sort::ServiceAccount,
        ("", "Service") => Sort::Service,
        (group, kind) => {
            let mut kinds = edge::KINDS.into_iter();
            let known = kinds.find(|known| known.group() == group && known.name() == kind);
            known.map_or(Sort::Unknown, Sort::Edge)
        }
    }
}

/// Whether a policy is enforced for the workloads of its namespace; and what is to be said where there can be none.
fn enforced(reader: &Reader<'_>, policy: &Spec) -> (Condition, Option<Diagnostic>) {
    let namespace = policy.metadata.namespace();
    let generation = policy.metadata.generation();
    let stage = match Stage::of(&reader.namespace_labels(namespace)) {
        Ok(stage) if reader.options.mesh => stage,
        _ => None,
    };
    match stage {
        Some(Stage::Secure | Stage::Strict) => (in_force(generation), None),
        Some(Stage::Observe) => {
            let message = "The namespace is in observe: what the policy would deny is let in, counted and logged";
            (condition("Enforced", false, "Observed", message, generation), None)
        }
        None => {
            let message =
                format!("the namespace {namespace} takes no part in the mesh, so the policy protects nobody there");
            let remedy = format!("label the namespace: {MESH_LABEL}={}", Stage::Observe);
            let said = Code::PolicyTarget.at("spec.targetRefs", &message, remedy);
            (
                condition("Enforced", false, "NotInMesh", message, generation),
                Some(said),
            )
        }
    }
}

/// What a requirement of a selector asks; or what is wrong with its operator, and what to do.
pub(crate) fn label_condition(requirement: &SelectorRequirement) -> Result<LabelCondition, (String, &'static str)> {
    let operator = match requirement.operator.as_str() {
        "In" => LabelOperator::In,
        "NotIn" => LabelOperator::NotIn,
        "Exists" => LabelOperator::Exists,
        "DoesNotExist" => LabelOperator::DoesNotExist,
        other => {
            let message = format!("{other:?} is not an operator");
            return Err((message, "use In, NotIn, Exists or DoesNotExist"));
        }
    };
    Ok(LabelCondition {
        key: requirement.key.clone(),
        operator,
        values: requirement.values.clone(),
    })
}

pub(super) fn in_force(generation: i64) -> Condition {
    let message = "What the policy denies is denied";
    condition("Enforced", true, "Enforced", message, generation)
}

impl Lower<'_> {
    /// The targets of a policy that has these rules.
    pub(super) fn targets(&mut self, policy: &Spec, rules: &[AuthorizationRule]) -> Vec<Target> {
        let targets = &policy.spec.target_refs;
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
        let (of_workloads, unmeshed) = enforced(self.reader, policy);
        if targets.iter().any(|target| !matches!(sort(target), Sort::Edge(_))) {
            self.diagnostics.extend(unmeshed);
        }
        let mut found = Vec::with_capacity(targets.len());
        for (at, spec) in targets.iter().enumerate() {
            let path = format!("spec.targetRefs[{at}]");
            let mut target = Target {
                model: None,
                shown: ParentReference {
                    group: spec.group.clone(),
                    kind: spec.kind.clone(),
                    namespace: Some(self.namespace.to_owned()),
                    name: spec.name.clone(),
                    section_name: spec.section_name.clone(),
                    port: None,
                },
                amiss: None,
                holds: "The policy holds",
                enforced: of_workloads.clone(),
                unseen: None,
            };
            self.target(spec, &path, rules, &mut target);
            found.push(target);
        }
        found
    }

    fn target(&mut self, spec: &TargetSpec, path: &str, rules: &[AuthorizationRule], found: &mut Target) {
        let sort = sort(spec);
        let named = !spec.name.is_empty();
        let pods = sort == Sort::Pods;
        if spec.selector.is_some() && !pods {
            let message = "only Pods are selected";
            let remedy = "remove it, or name the kind Pod";
            self.wrong(Code::Invalid, format!("{path}.selector"), message, remedy);
        }
        if spec.section_name.is_some() && !matches!(sort, Sort::Service | Sort::Edge(_)) {
            let message =
                "only Services have ports, Gateways and ListenerSets listeners and routes rules that can be named";
            self.wrong(Code::Invalid, format!("{path}.sectionName"), message, "remove it");
        }
        if !pods && !named && sort != Sort::Unknown {
            let message = "the target has no name";
            self.wrong(Code::MissingField, format!("{path}.name"), message, "name it");
        }
        let model = match sort {
            Sort::Pods => {
                // Pods are many: what is shown is where they are.
                found.shown.kind = Kind::Namespace.name().to_owned();
                found.shown.name = self.namespace.to_owned();
                found.shown.namespace = None;
                Some(self.pods(spec, path))
            }
            Sort::ServiceAccount if named => Some(AuthorizationTarget::ServiceAccount {
                namespace: self.namespace.into(),
                name: spec.name.clone(),
            }),
            Sort::Service if named => match self.service(spec) {
                Ok(model) => Some(model),
                Err((field, missing)) => {
                    let remedy = "create it, or correct the reference";
                    self.wrong(Code::PolicyTarget, format!("{path}.{field}"), &missing, remedy);
                    found.amiss = Some(("TargetNotFound", missing));
                    None
                }
            },
            Sort::ServiceAccount | Sort::Service => None,
            Sort::Edge(kind) => {
                if named {
                    let reference = ObjectRef::new(kind, self.namespace, &spec.name);
                    let aim = Aim { reference, spec, path };
                    self.edge(&aim, rules, found);
                }
                return;
            }
            Sort::Unknown => {
                let message = format!("a target of kind {} in group {:?} is not served", spec.kind, spec.group);
                let remedy =
                    "name Pods by a selector, a ServiceAccount, a Service, a Gateway, a ListenerSet or a route of one";
                self.wrong(Code::Invalid, format!("{path}.kind"), message, remedy);
                None
            }
        };
        // Where there is no mesh there are no workloads that could decide.
        found.model = model.filter(|_| self.reader.options.mesh);
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
            match label_condition(requirement) {
                Ok(condition) => expressions.push(condition),
                Err((message, remedy)) => {
                    let path = format!("{path}.selector.matchExpressions[{at}].operator");
                    self.wrong(Code::Invalid, path, message, remedy);
                }
            }
        }
        expressions
    }

    /// What a Service comes to; or what of the reference is wrong, and why.
    fn service(&self, target: &TargetSpec) -> Result<AuthorizationTarget, (&'static str, String)> {
        let full = format!("{}/{}", self.namespace, target.name);
        let service = self.reader.service(self.namespace, &target.name);
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
