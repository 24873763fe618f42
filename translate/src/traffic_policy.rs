//! XBackendTrafficPolicy: what of the requests to a Service or an XBackend may be tried again and which stay together,
//! and how the policy stands.

use std::{collections::BTreeSet, time::Duration};

use weft_crds::{Kind, ObjectRef, PolicyStatus, RetryConstraint, XBackendTrafficPolicy};
use weft_model::{CookiePath, RetryBudget, SessionPersistence};

use crate::{
    diagnostic::{Code, Diagnostic, Level},
    duration, policy,
    rule::invalid_duration,
    session,
    status::condition,
    world::Reader,
};

const KIND: Kind = Kind::XBackendTrafficPolicy;
const TARGETS: usize = 16;

/// What holds for a target.
#[derive(Debug, Default)]
pub(crate) struct Effective {
    pub(crate) retry_budget: Option<RetryBudget>,
    pub(crate) session: Option<SessionPersistence>,
}

/// What holds for a Service or an XBackend; nothing if the policy that counts is one that an API server would have refused.
pub(crate) fn effective(reader: &Reader<'_>, on: &ObjectRef) -> Effective {
    let found = policy::effective(reader, KIND, on, None);
    let found = found.and_then(|found| reader.traffic_policy(&found.namespace, &found.name));
    let lowered = found.map(|policy| lower(policy));
    match lowered {
        Some((effective, refused)) if refused.is_empty() => effective,
        _ => Effective::default(),
    }
}

/// What a policy comes to, and what an API server would refuse of it.
fn lower(policy: &XBackendTrafficPolicy) -> (Effective, Vec<Diagnostic>) {
    let mut refused = Vec::new();
    let spec = &policy.spec;
    if !(1..=TARGETS).contains(&spec.target_refs.len()) {
        let message = format!(
            "there are {} targets where the API allows 1 to {TARGETS}",
            spec.target_refs.len()
        );
        refused.push(Code::Invalid.at("spec.targetRefs", message, "spread them over several policies"));
    }
    for (at, target) in spec.target_refs.iter().enumerate() {
        if target.section_name.is_some() {
            let message = "the policy is for whole Services, not for ports of them";
            let path = format!("spec.targetRefs[{at}].sectionName");
            refused.push(Code::Invalid.at(path, message, "remove it"));
        }
    }
    let constraint = spec.retry_constraint.as_ref();
    let retry_budget = constraint.map(|constraint| budget(constraint, &mut refused));
    let session = spec.session_persistence.as_ref().map(|spec| {
        let seed = session::seed(KIND, &policy.metadata);
        session::lower(spec, CookiePath::Unset, seed, "spec.sessionPersistence", &mut refused)
    });
    (Effective { retry_budget, session }, refused)
}

fn budget(constraint: &RetryConstraint, refused: &mut Vec<Diagnostic>) -> RetryBudget {
    let default = RetryBudget::default();
    let path = "spec.retryConstraint";
    let (budget, rate) = (constraint.budget.as_ref(), constraint.min_retry_rate.as_ref());
    let mut interval = |text: Option<&String>, default: Duration, least: Duration, field: &str| {
        let Some(text) = text else { return default };
        let path = format!("{path}.{field}.interval");
        let Some(found) = duration::parse(text) else {
            refused.push(invalid_duration(path, text));
            return default;
        };
        if !(least..=Duration::from_secs(3600)).contains(&found) {
            let message = format!("{text} is not between {least:?} and an hour");
            refused.push(Code::Invalid.at(path, message, "choose one that is"));
            return default;
        }
        found
    };
    let over = budget.and_then(|budget| budget.interval.as_ref());
    let over = interval(over, default.interval, Duration::from_secs(1), "budget");
    let each = rate.and_then(|rate| rate.interval.as_ref());
    let each = interval(each, default.min_interval, Duration::from_millis(1), "minRetryRate");
    let mut number = |number: Option<i64>, default: i64, least: i64, most: i64, field: &str| {
        let number = number.unwrap_or(default);
        if !(least..=most).contains(&number) {
            let message = format!("{number} is not between {least} and {most}");
            refused.push(Code::Invalid.at(format!("{path}.{field}"), message, "choose one that is"));
            return default;
        }
        number
    };
    let percent = budget.and_then(|budget| budget.percent);
    let percent = number(percent, default.percent.into(), 0, 100, "budget.percent");
    let count = rate.and_then(|rate| rate.count);
    let count = number(count, default.min_count.into(), 1, 1_000_000, "minRetryRate.count");
    RetryBudget {
        percent: u8::try_from(percent).unwrap_or(default.percent),
        interval: over,
        min_count: u32::try_from(count).unwrap_or(default.min_count),
        min_interval: each,
    }
}

/// How a policy stands with each Gateway through which requests come to its targets; none if there is no such policy.
pub(crate) fn stand(
    reader: &Reader<'_>,
    reference: &ObjectRef,
    gateways_of: impl Fn(&ObjectRef) -> BTreeSet<ObjectRef>,
) -> Option<(PolicyStatus, Vec<Diagnostic>)> {
    let policy = reader.traffic_policy(&reference.namespace, &reference.name)?;
    let generation = policy.metadata.generation();
    let (_, mut diagnostics) = lower(policy);
    let refused = diagnostics.iter().find(|diagnostic| diagnostic.level == Level::Error);
    let refused = refused.map(|diagnostic| diagnostic.message.clone());
    let mut gateways = BTreeSet::new();
    let mut there = 0;
    for (at, target) in policy.spec.target_refs.iter().enumerate() {
        let path = format!("spec.targetRefs[{at}]");
        let on = policy::target(&**policy, target);
        let Some(on) = on.filter(|on| matches!(on.kind, Kind::Service | Kind::XBackend)) else {
            let message = format!(
                "a target of kind {} in group {:?} is not served",
                target.kind, target.group
            );
            diagnostics.push(Code::PolicyTarget.at(format!("{path}.kind"), message, "name a Service or an XBackend"));
            continue;
        };
        if reader.object(on.clone()).is_none() {
            let message = format!("there is no {on}");
            diagnostics.push(Code::PolicyTarget.at(format!("{path}.name"), message, "create it, or correct the name"));
            continue;
        }
        there += 1;
        gateways.extend(gateways_of(&on));
    }
    let lost = policy::lost(reader, reference, &**policy);
    policy::say_lost(&lost, &mut diagnostics);
    let accepted = match (refused, lost.first()) {
        (Some(why), _) => condition("Accepted", false, "Invalid", why, generation),
        (None, Some((_, winner))) if lost.len() >= there => {
            let message = format!("{winner} is for the same target and comes first");
            condition("Accepted", false, "Conflicted", message, generation)
        }
        (None, Some((_, winner))) => {
            let message = format!("The policy holds, but for {} of its targets {winner} does", lost.len());
            condition("Accepted", true, "Accepted", message, generation)
        }
        (None, None) => condition("Accepted", true, "Accepted", "The policy holds", generation),
    };
    Some((policy::status(reader, &gateways, &[accepted]), diagnostics))
}
