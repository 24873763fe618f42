//! Policies as they were told, and which of them protect this pod.

use std::{collections::BTreeMap, sync::Arc};

use weft_model::{
    Action, AuthorizationPolicy, AuthorizationTarget, Change, DefaultAction, Key, Member, PolicyKey, ProbePath,
    Rejected, Resource, Stage, WorkloadKey,
};

use super::{DEFAULT, Policy, Protection, Selected, Verdict, tally::Tally};

/// What was told. It is changed by one, away from the path of requests.
#[derive(Default)]
pub(crate) struct Policies {
    policies: BTreeMap<PolicyKey, Arc<Policy>>,
    /// The pod itself. Once it is known it stays: its labels may change, but a pod does not become another.
    member: Option<Arc<Member>>,
    default: Arc<Tally>,
    generation: u64,
    /// What decides about the pod, and how many times it has become something else.
    deciding: Deciding,
    rulings: u64,
}

/// All on which it depends what is denied.
#[derive(Default, PartialEq)]
struct Deciding {
    policies: Vec<Reaching>,
    probes: Vec<ProbePath>,
    default: DefaultAction,
    stage: Stage,
}

/// A policy, and the ports to which it reaches, if not to all.
#[derive(PartialEq)]
struct Reaching {
    policy: Arc<AuthorizationPolicy>,
    ports: Option<Box<[u16]>>,
}

/// How far a policy reaches.
enum Reach {
    Nowhere,
    Ports(Vec<u16>),
    Pod,
}

impl Policies {
    /// Whether a change is one of these.
    pub(crate) fn is_of(change: &Change) -> bool {
        matches!(
            change,
            Change::Upsert(Resource::Authorization(_) | Resource::Member(_))
                | Change::Remove(Key::Authorization(_) | Key::Member(_))
        )
    }

    /// Takes a change over. A policy that cannot be understood in part holds all the same, on the safe side.
    pub(crate) fn apply(&mut self, change: Change) -> Result<(), Rejected> {
        match change {
            Change::Upsert(Resource::Authorization(policy)) => self.put(policy)?,
            Change::Remove(Key::Authorization(key)) => drop(self.policies.remove(&key)),
            Change::Upsert(Resource::Member(member)) => self.member = Some(member),
            _ => {}
        }
        Ok(())
    }

    fn put(&mut self, source: Arc<AuthorizationPolicy>) -> Result<(), Rejected> {
        let key = source.key.clone();
        let tally = self
            .policies
            .get(&key)
            .map_or_else(Arc::default, |before| before.tally.clone());
        let (policy, compiled) = Policy::new(source, tally);
        self.policies.insert(key.clone(), Arc::new(policy));
        compiled.map_err(|reason| Rejected {
            key: Key::Authorization(key),
            reason,
        })
    }

    /// As they were told.
    pub(crate) fn resources(&self) -> impl Iterator<Item = Resource> {
        let policies = self.policies.values().map(|policy| policy.source.clone());
        let member = self.member.iter().cloned().map(Resource::Member);
        member.chain(policies.map(Resource::Authorization))
    }

    /// What protects the pod.
    pub(crate) fn protect(&mut self, own: &WorkloadKey, stage: Stage, default: DefaultAction) -> Protection {
        self.generation += 1;
        let member = self.member.as_deref().filter(|member| member.key == *own);
        let selected = self.policies.values().filter_map(|policy| {
            let ports = match reach(&policy.source, own, member) {
                Reach::Nowhere => return None,
                Reach::Ports(ports) => Some(ports.into()),
                Reach::Pod => None,
            };
            let policy = policy.clone();
            Some(Selected { policy, ports })
        });
        let mut selected: Vec<Selected> = selected.collect();
        in_order(&mut selected);
        let of = |selected: &Selected| Reaching {
            policy: selected.policy.source.clone(),
            ports: selected.ports.clone(),
        };
        let deciding = Deciding {
            policies: selected.iter().map(of).collect(),
            probes: member.map(|member| member.probes.clone()).unwrap_or_default(),
            default,
            stage,
        };
        let probes = deciding.probes.as_slice().into();
        if deciding != self.deciding {
            self.deciding = deciding;
            self.rulings += 1;
        }
        Protection {
            generation: self.generation,
            rulings: self.rulings,
            selected: selected.into(),
            probes,
            default_tally: self.default.clone(),
            ..Protection::of(stage, default)
        }
    }

    /// What was counted, by policy.
    pub(crate) fn counted(&self) -> Vec<(String, [(Verdict, u64); Verdict::COUNT])> {
        let policies = self.policies.iter();
        let named = policies.map(|(key, policy)| (key.to_string(), &*policy.tally));
        let all = named.chain([(DEFAULT.to_owned(), &*self.default)]);
        all.map(|(name, tally)| (name, tally.verdicts())).collect()
    }
}

/// Puts those that deny first and those that audit last; those of one action stay in the order of their names.
pub(super) fn in_order(selected: &mut [Selected]) {
    selected.sort_by_key(|selected| match selected.policy.source.action {
        Action::Deny => 0,
        Action::Allow => 1,
        Action::Audit => 2,
    });
}

/// How far a policy reaches in a pod. Before the pod's labels are known, whatever might reach it does.
fn reach(policy: &AuthorizationPolicy, own: &WorkloadKey, member: Option<&Member>) -> Reach {
    let Some((namespace, _)) = own.as_str().split_once('/') else {
        return Reach::Nowhere;
    };
    let mut ports = Vec::new();
    for target in &policy.targets {
        if target.workloads_of().is_none_or(|of| of.as_str() != namespace) {
            continue;
        }
        let Some(member) = member else { return Reach::Pod };
        match target {
            AuthorizationTarget::Namespace(_) => return Reach::Pod,
            AuthorizationTarget::Workloads {
                labels, expressions, ..
            } => {
                let has = labels
                    .iter()
                    .all(|(label, value)| member.labels.get(label) == Some(value));
                if has && expressions.iter().all(|condition| condition.holds(&member.labels)) {
                    return Reach::Pod;
                }
            }
            AuthorizationTarget::ServiceAccount { name, .. } if member.account == *name => return Reach::Pod,
            AuthorizationTarget::Service {
                namespace, name, port, ..
            } => {
                let leading = member.services.iter().filter(|(key, _)| {
                    let (of, service, number) = key.parts();
                    of == namespace.as_str() && service == name && port.is_none_or(|port| port == number)
                });
                ports.extend(leading.map(|(_, to)| *to));
            }
            AuthorizationTarget::ServiceAccount { .. }
            | AuthorizationTarget::Gateway(_)
            | AuthorizationTarget::Listener { .. }
            | AuthorizationTarget::ListenerSet { .. }
            | AuthorizationTarget::Route { .. } => {}
        }
    }
    if ports.is_empty() {
        Reach::Nowhere
    } else {
        Reach::Ports(ports)
    }
}
