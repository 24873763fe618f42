//! What all policies have in common (GEP-713): they name targets in their own namespace, of several for the same target
//! the oldest counts, and each says how it stands with every Gateway in which it takes effect.

use std::collections::BTreeSet;

use weft_crds::{
    AncestorStatus, BackendTlsPolicy, Condition, Kind, Metadata, Object, ObjectRef, ParentReference, PolicyStatus,
    PolicyTarget, XBackendTrafficPolicy,
};

use crate::{
    diagnostic::{Code, Diagnostic},
    world::Reader,
};

/// The most ancestors that a status may name.
const ANCESTORS: usize = 16;

/// An object that is a policy.
pub(crate) trait Policy {
    fn metadata(&self) -> &Metadata;
    fn targets(&self) -> &[PolicyTarget];
}

impl Policy for XBackendTrafficPolicy {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn targets(&self) -> &[PolicyTarget] {
        &self.spec.target_refs
    }
}

impl Policy for BackendTlsPolicy {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn targets(&self) -> &[PolicyTarget] {
        &self.spec.target_refs
    }
}

/// The policy that an object is, if it is one.
pub(crate) fn of(object: &Object) -> Option<&dyn Policy> {
    match object {
        Object::BackendTlsPolicy(policy) => Some(&**policy),
        Object::XBackendTrafficPolicy(policy) => Some(&**policy),
        _ => None,
    }
}

/// The object that a target names; none if it is of a kind that is not read.
pub(crate) fn target(policy: &dyn Policy, target: &PolicyTarget) -> Option<ObjectRef> {
    let mut kinds = Kind::ALL.iter();
    let kind = kinds.find(|kind| kind.group() == target.group && kind.name() == target.kind)?;
    Some(ObjectRef::new(*kind, policy.metadata().namespace(), &target.name))
}

/// By this, of several policies for the same target, the least comes first.
fn precedence(policy: &dyn Policy) -> (i64, &str, &str) {
    let metadata = policy.metadata();
    (metadata.created(), metadata.namespace(), &metadata.name)
}

/// The policy of a kind that counts for an object, or for this part of it.
pub(crate) fn first(reader: &Reader<'_>, kind: Kind, on: &ObjectRef, section: Option<&str>) -> Option<ObjectRef> {
    let policies = reader.policies(kind, on);
    let names = |policy: &dyn Policy| {
        let mut targets = policy.targets().iter();
        targets.any(|target| {
            self::target(policy, target).as_ref() == Some(on) && target.section_name.as_deref() == section
        })
    };
    let naming = policies.into_iter().filter(|(_, policy)| names(*policy));
    let first = naming.min_by(|(_, a), (_, b)| precedence(*a).cmp(&precedence(*b)));
    first.map(|(reference, _)| reference.clone())
}

/// The policy of a kind that holds for a part of an object: one for the part before one for the whole.
pub(crate) fn effective(reader: &Reader<'_>, kind: Kind, on: &ObjectRef, section: Option<&str>) -> Option<ObjectRef> {
    let own = section.and_then(|section| first(reader, kind, on, Some(section)));
    own.or_else(|| first(reader, kind, on, None))
}

/// The targets of a policy for which another comes first, with that other.
pub(crate) fn lost(reader: &Reader<'_>, reference: &ObjectRef, policy: &dyn Policy) -> Vec<(usize, ObjectRef)> {
    let targets = policy.targets().iter().enumerate();
    let lost = targets.filter_map(|(at, target)| {
        let on = self::target(policy, target)?;
        let winner = first(reader, reference.kind, &on, target.section_name.as_deref())?;
        (winner != *reference).then_some((at, winner))
    });
    lost.collect()
}

/// Says of each target that is lost to another policy that it is, and to which.
pub(crate) fn say_lost(lost: &[(usize, ObjectRef)], diagnostics: &mut Vec<Diagnostic>) {
    for (at, winner) in lost {
        let message = format!("{winner} is for the same target and comes first");
        let remedy = "remove one of the two, or let them name different ports";
        diagnostics.push(Code::PolicyConflict.at(format!("spec.targetRefs[{at}]"), message, remedy));
    }
}

/// A Gateway, as statuses name it.
pub(crate) fn parent_reference(gateway: &ObjectRef) -> ParentReference {
    ParentReference {
        group: gateway.kind.group().into(),
        kind: gateway.kind.name().into(),
        namespace: Some(gateway.namespace.clone()),
        name: gateway.name.clone(),
        section_name: None,
        port: None,
    }
}

/// A status with the same conditions for each Gateway.
pub(crate) fn status(reader: &Reader<'_>, gateways: &BTreeSet<ObjectRef>, conditions: &[Condition]) -> PolicyStatus {
    let ancestor = |gateway: &ObjectRef| AncestorStatus {
        ancestor_ref: parent_reference(gateway),
        controller_name: reader.options.controller_name.clone(),
        conditions: conditions.to_vec(),
    };
    PolicyStatus {
        ancestors: gateways.iter().take(ANCESTORS).map(ancestor).collect(),
    }
}
