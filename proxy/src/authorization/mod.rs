//! Who may do what in the pod that this is beside: policies as the operator tells them, merged for this pod, and asked about each
//! request, and about each connection that carries something else. At a Gateway, who may do what by a listener, and by a rule of
//! a route: see [`edge`].
//!
//! While the namespace of a pod is in `observe`, all of it is only counted and written down.

pub(crate) mod edge;
mod entry;
mod path;
mod policies;
mod policy;
mod proof;
mod tally;
#[cfg(test)]
mod tests;

use std::{cell::Cell, fmt, net::SocketAddr, sync::Arc};

use weft_model::{Action, DefaultAction, ProbePath, SpiffeId, Stage};

pub use self::tally::Verdict;
pub(crate) use self::{
    entry::{Entry, Kept},
    policies::Policies,
    policy::{Doing, Policy, Request, Who},
    proof::{Proof, Shown},
    tally::Tally,
};
use crate::{
    edges::EdgeCells,
    fields::{Fields, RequestView},
    mesh::{Inbound, Mesh},
};

/// Why something is denied, or not.
type Decision = Result<(), String>;

/// All that protects the pod. A change makes another.
#[derive(Default)]
pub(crate) struct Protection {
    /// Another one has another.
    pub(crate) generation: u64,
    /// Another one that decides otherwise has another.
    pub(crate) rulings: u64,
    /// Whether what is denied is kept out, or only told of.
    pub(crate) enforced: bool,
    default: DefaultAction,
    default_tally: Arc<Tally>,
    /// Those that protect it, those that deny first.
    selected: Box<[Selected]>,
    probes: Box<[ProbePath]>,
    /// Whether nobody may come who does not prove who it is, but for probes.
    strict: bool,
    /// Whether it is a Gateway that decides, where most have nothing to prove.
    edge: bool,
}

/// A policy that protects the pod, or some of its ports.
struct Selected {
    policy: Arc<Policy>,
    ports: Option<Box<[u16]>>,
}

/// What came of asking all policies.
#[derive(Clone, Copy)]
enum Ruling<'p> {
    /// It is the kubelet, which looks whether the pod lives.
    Probe,
    /// It has proven nothing, comes where the kubelet may, and does something else.
    Unproven,
    AllowedBy(&'p Policy),
    AllowedByDefault,
    DeniedBy(&'p Policy),
    /// There are policies that allow, and none of them allows this.
    Unlisted,
    DeniedByDefault,
}

impl Ruling<'_> {
    fn denies(self) -> bool {
        matches!(
            self,
            Self::Unproven | Self::DeniedBy(_) | Self::Unlisted | Self::DeniedByDefault
        )
    }
}

/// Who is on a connection: what does not change while it is open.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    pub(crate) client: SocketAddr,
    pub(crate) port: u16,
    /// Who it has proven to be.
    pub(crate) identity: Option<SpiffeId>,
    /// Who it would prove to be if the namespace were further than `observe`, where nobody proves anything.
    pub(crate) supposed: Option<SpiffeId>,
    /// The generation of the policies by which its connection was let in.
    pub(crate) judged: Cell<u64>,
}

impl Guard {
    fn who(&self, enforced: bool) -> Who<'_> {
        let supposed = self.supposed.as_ref().filter(|_| !enforced);
        let identity = self.identity.as_ref().or(supposed);
        Who {
            port: self.port,
            address: self.client.ip().to_canonical(),
            proof: identity.map_or(Proof::Nothing, Proof::Workload),
        }
    }

    /// Who it has proven to be, as text; empty if it has not.
    pub(crate) fn peer(&self) -> &str {
        self.identity.as_ref().map_or("", SpiffeId::as_str)
    }

    /// Whether it has come in clear to where all but probes have to prove who they are.
    pub(crate) fn is_unproven(&self, mesh: &Mesh) -> bool {
        let strict = || mesh.inbound(self.port) == Inbound::Strict || mesh.protection().takes_probes_only(self.port);
        self.identity.is_none() && strict()
    }

    /// Whether a request may pass; if not, why. What would be denied in a later stage is counted of the edge.
    pub(crate) fn request<F: Fields>(
        &self,
        mesh: &Mesh,
        view: &RequestView<'_, F>,
        edge: Option<&EdgeCells>,
    ) -> Decision {
        if self.identity.is_none() && mesh.inbound(self.port) == Inbound::Strict {
            return Err("it has not proven who it is, and the namespace is strict by now".to_owned());
        }
        let protection = mesh.protection();
        let request = Request::of(view);
        let doing = Doing::Request(&request);
        if let Some(edge) = edge {
            protection.count_unproven(self, &doing, edge);
        }
        protection.decide_of(self, &doing, edge)
    }

    /// Whether a request would not pass. Nothing is counted.
    pub(crate) fn bars<F: Fields>(&self, mesh: &Mesh, view: &RequestView<'_, F>) -> bool {
        if self.identity.is_none() && mesh.inbound(self.port) == Inbound::Strict {
            return true;
        }
        let protection = mesh.protection();
        let denies = || {
            protection
                .ask(&self.who(true), &Doing::Request(&Request::of(view)))
                .denies()
        };
        protection.enforced && protection.guards(self) && denies()
    }

    /// Whether a connection that carries something else than requests may go on; if not, why.
    pub(crate) fn opaque(&self, mesh: &Mesh, edge: &EdgeCells) -> Decision {
        let protection = mesh.protection();
        let decision = protection.decide_of(self, &Doing::Opaque, Some(edge));
        // What goes on is counted once it is seen what it carries.
        if decision.is_err() {
            protection.count_unproven(self, &Doing::Opaque, edge);
        }
        decision
    }
}

impl Protection {
    /// Whether there is anything to decide of what comes to a port.
    pub(crate) fn concerns(&self, port: u16) -> bool {
        !self.default.is_allow() || self.at(port).next().is_some()
    }

    /// Whether there is anything to decide of what somebody does.
    pub(crate) fn guards(&self, guard: &Guard) -> bool {
        self.concerns(guard.port) || (guard.identity.is_none() && self.takes_probes_only(guard.port))
    }

    /// Whether a port is one where, of those who do not prove who they are, only the kubelet may come, for its probes.
    pub(crate) fn takes_probes_only(&self, port: u16) -> bool {
        self.strict && self.knows_probes(port)
    }

    /// Whether probes can be told from everything else that comes to a port.
    fn knows_probes(&self, port: u16) -> bool {
        self.probes.iter().any(|probe| probe.port == port)
    }

    /// Whether of what somebody does it is counted what is no probe.
    pub(crate) fn tells_probes(&self, guard: &Guard) -> bool {
        guard.identity.is_none() && guard.supposed.is_none() && self.knows_probes(guard.port)
    }

    /// Counts what `strict` lets nobody do without proof, in whatever stage, where the kubelet may come.
    pub(crate) fn count_unproven(&self, guard: &Guard, doing: &Doing<'_>, edge: &EdgeCells) {
        let is_probe = || matches!(doing, Doing::Request(request) if self.is_probe(guard.port, request));
        if self.tells_probes(guard) && !is_probe() {
            edge.unproven();
        }
    }

    /// Whether all that somebody might do is allowed, whatever it turns out to be.
    pub(crate) fn allows_all(&self, guard: &Guard) -> bool {
        !self.ask(&guard.who(self.enforced), &Doing::Unseen).denies()
    }

    /// Whether nothing that somebody might do is allowed.
    pub(crate) fn denies_all(&self, guard: &Guard) -> bool {
        self.ask(&guard.who(self.enforced), &Doing::Anything).denies()
    }

    /// Whether a connection that carries something else than requests would be denied. Nothing is counted.
    pub(crate) fn denies_opaque(&self, guard: &Guard) -> bool {
        self.ask(&guard.who(self.enforced), &Doing::Opaque).denies()
    }

    fn at(&self, port: u16) -> impl Iterator<Item = &Policy> {
        let selected = self.selected.iter();
        let here = selected.filter(move |selected| selected.ports.as_ref().is_none_or(|ports| ports.contains(&port)));
        here.map(|selected| &*selected.policy)
    }

    fn ask(&self, who: &Who<'_>, doing: &Doing<'_>) -> Ruling<'_> {
        if let Doing::Request(request) = doing
            && !who.proof.is_some()
            && self.is_probe(who.port, request)
        {
            return Ruling::Probe;
        }
        if !who.proof.is_some() && self.takes_probes_only(who.port) {
            return Ruling::Unproven;
        }
        let mut listed = false;
        // Those that deny come first, those that only audit last.
        for policy in self.at(who.port) {
            match policy.source.action {
                Action::Deny if policy.takes(who, doing) => return Ruling::DeniedBy(policy),
                Action::Allow if policy.takes(who, doing) => return Ruling::AllowedBy(policy),
                Action::Allow => listed = true,
                Action::Deny => {}
                Action::Audit => break,
            }
        }
        match self.default {
            _ if listed => Ruling::Unlisted,
            DefaultAction::Allow => Ruling::AllowedByDefault,
            DefaultAction::Authenticated if who.proof.is_some() => Ruling::AllowedByDefault,
            DefaultAction::Authenticated | DefaultAction::Deny => Ruling::DeniedByDefault,
        }
    }

    fn is_probe(&self, port: u16, request: &Request<'_>) -> bool {
        let mut probes = self.probes.iter();
        matches!(request.method, "GET" | "POST") && probes.any(|probe| probe.port == port && probe.path == request.path)
    }

    fn decide_of(&self, guard: &Guard, doing: &Doing<'_>, edge: Option<&EdgeCells>) -> Decision {
        if !self.guards(guard) {
            return Ok(());
        }
        self.decide(guard.client, guard.who(self.enforced), doing, edge)
    }

    /// Asks all policies, counts what they say and writes it down. Returns why it is not to be let in.
    fn decide(&self, client: SocketAddr, who: Who<'_>, doing: &Doing<'_>, edge: Option<&EdgeCells>) -> Decision {
        let story = Story {
            client,
            who: &who,
            doing,
        };
        let audits = self.at(who.port).filter(|policy| policy.source.action == Action::Audit);
        for policy in audits.filter(|policy| policy.takes(&who, doing)) {
            policy.tally.count(Verdict::Audited);
            story.write(policy, Verdict::Audited, "a rule of it takes it");
        }
        let ruling = self.ask(&who, doing);
        match ruling {
            Ruling::Probe => return Ok(()),
            Ruling::AllowedBy(policy) => {
                policy.tally.count(Verdict::Allowed);
                return Ok(());
            }
            Ruling::AllowedByDefault => {
                self.default_tally.count(Verdict::Allowed);
                return Ok(());
            }
            Ruling::Unproven | Ruling::DeniedBy(_) | Ruling::Unlisted | Ruling::DeniedByDefault => {}
        }
        let verdict = if self.enforced {
            Verdict::Denied
        } else {
            Verdict::ShadowDenied
        };
        let reason = self.reason(ruling, who);
        let would_deny = |policy: &str| {
            if let Some(edge) = edge.filter(|_| !self.enforced) {
                edge.would_deny(self.rulings, policy);
            }
        };
        match ruling {
            Ruling::DeniedBy(policy) => {
                policy.tally.count(verdict);
                would_deny(policy.source.key.as_str());
                story.write(policy, verdict, &reason);
            }
            Ruling::Unlisted => {
                let mut first = true;
                for policy in self.allowing(who.port) {
                    policy.tally.count(verdict);
                    would_deny(policy.source.key.as_str());
                    if std::mem::take(&mut first) {
                        story.write(policy, verdict, &reason);
                    }
                }
            }
            _ => {
                self.default_tally.count(verdict);
                would_deny(DEFAULT);
                story.tell(&self.default_tally, DEFAULT, verdict, &reason);
            }
        }
        if self.enforced { Err(reason) } else { Ok(()) }
    }

    fn reason(&self, ruling: Ruling<'_>, who: Who<'_>) -> String {
        let reason = Reason {
            protection: self,
            ruling,
            who,
        };
        reason.to_string()
    }

    fn allowing(&self, port: u16) -> impl Iterator<Item = &Policy> {
        self.at(port).filter(|policy| policy.source.action == Action::Allow)
    }

    /// Makes what protects a pod of a namespace that is so far.
    fn of(stage: Stage, default: DefaultAction) -> Self {
        Self {
            enforced: stage >= Stage::Secure,
            strict: stage == Stage::Strict,
            default,
            ..Self::default()
        }
    }
}

/// What stands for the name of a policy where none decides.
pub(crate) const DEFAULT: &str = "default";

/// Names of policies in a reason, at most.
const NAMED: usize = 4;

/// Why something is denied.
struct Reason<'p> {
    protection: &'p Protection,
    ruling: Ruling<'p>,
    who: Who<'p>,
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ruling {
            Ruling::DeniedBy(policy) => write!(f, "{} denies it", policy.source.key)?,
            Ruling::Unlisted => {
                f.write_str("no rule allows it of ")?;
                let count = self.protection.allowing(self.who.port).count();
                for (at, policy) in self.protection.allowing(self.who.port).take(NAMED).enumerate() {
                    write!(f, "{}{}", if at == 0 { "" } else { ", " }, policy.source.key)?;
                }
                if count > NAMED {
                    write!(f, " and {} more", count - NAMED)?;
                }
            }
            Ruling::Unproven => f.write_str("the namespace is strict, and it is no probe of the kubelet's")?,
            _ if self.protection.default == DefaultAction::Authenticated => {
                f.write_str("no policy allows it, and the namespace lets in only who proves who it is")?;
            }
            _ => f.write_str("no policy allows it, and the namespace denies what none does")?,
        }
        if !self.who.proof.is_some() && !self.protection.edge {
            f.write_str("; it has not proven who it is")?;
        }
        Ok(())
    }
}

/// What is written down of a decision.
struct Story<'s> {
    client: SocketAddr,
    who: &'s Who<'s>,
    doing: &'s Doing<'s>,
}

impl Story<'_> {
    fn write(&self, policy: &Policy, verdict: Verdict, reason: &str) {
        self.tell(&policy.tally, policy.source.key.as_str(), verdict, reason);
    }

    fn tell(&self, tally: &Tally, policy: &str, verdict: Verdict, reason: &str) {
        if !tally.may_write() {
            return;
        }
        let (method, path) = match self.doing {
            Doing::Request(request) => (request.method, request.path),
            Doing::Opaque | Doing::Unseen | Doing::Anything => ("", ""),
        };
        let (verdict, source) = (verdict.as_str(), self.who.proof.name());
        tracing::info!(policy, verdict, source, client = %self.client, port = self.who.port, method, path, reason,
            "a policy has decided");
    }
}
