//! What rules ask for that nobody sees where they hold: requests, where connections and datagrams are passed on as they are,
//! and who clients are, where nobody asks them. Such a rule is on the safe side, which its author may not have meant.

use weft_crds::{Condition, ObjectRef};
use weft_model::{Action, AuthorizationRule, AuthorizationSource, Listener, ListenerProtocol, Traffic};

use super::Lower;
use crate::{
    diagnostic::{Code, Diagnostic},
    status::condition,
};

/// What a listener shows of what comes by it.
pub(super) struct Sight {
    port: u16,
    protocol: ListenerProtocol,
    /// Whether clients are asked who they are.
    proof: bool,
}

/// What a rule asks for that is not seen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lack {
    Requests,
    Proof,
}

impl Sight {
    pub(super) fn of(listener: &Listener) -> Self {
        Self {
            port: listener.port,
            protocol: listener.protocol,
            proof: listener.tls.as_ref().is_some_and(|tls| tls.client.is_some()),
        }
    }

    fn has_requests(&self) -> bool {
        matches!(self.protocol, ListenerProtocol::Http | ListenerProtocol::Https)
    }

    /// Whether nothing tells who comes. Of requests it is for the owner of the listener to know whether it asks.
    fn is_anonymous(&self) -> bool {
        !self.has_requests() && !self.proof
    }
}

impl Lack {
    fn reason(self) -> &'static str {
        match self {
            Self::Requests => "RequestsNotSeen",
            Self::Proof => "NothingProven",
        }
    }

    fn field(self) -> &'static str {
        match self {
            Self::Requests => "httpAttributes",
            Self::Proof => "sources",
        }
    }
}

/// What a rule lacks of what its target shows, and at which listeners; none if it lacks nothing.
fn lacking<'s>(action: Action, rule: &AuthorizationRule, sights: &'s [Sight]) -> Option<(Lack, Vec<&'s Sight>)> {
    let operations = rule.to.as_deref().unwrap_or_default();
    let ports: Vec<u16> = operations.iter().flat_map(|to| to.ports.iter().copied()).collect();
    let here = |sight: &&Sight| ports.is_empty() || ports.contains(&sight.port);
    let mut here: Vec<&Sight> = sights.iter().filter(here).collect();
    here.sort_by_key(|sight| sight.port);
    let proof = rule.from.as_deref().is_some_and(needs_proof);
    if proof && !here.is_empty() && here.iter().all(|sight| sight.is_anonymous()) {
        return Some((Lack::Proof, here));
    }
    let asks = operations.iter().any(|to| matches!(to.traffic, Traffic::Http(_)));
    // Where nobody proves anything, one that asks for proof denies nobody either.
    let unconcerned = |sight: &Sight| sight.has_requests() || (proof && sight.is_anonymous());
    let blind: Vec<&Sight> = here.iter().copied().filter(|sight| !unconcerned(sight)).collect();
    // A rule that allows, or tells of, requests at some listeners is not expected to do so at the others.
    let nowhere = !here.iter().any(|sight| sight.has_requests());
    (asks && !blind.is_empty() && (nowhere || action == Action::Deny)).then_some((Lack::Requests, blind))
}

/// Whether only who has proven something is meant by these.
fn needs_proof(from: &[AuthorizationSource]) -> bool {
    let needs = |source: &AuthorizationSource| match source {
        AuthorizationSource::Unauthenticated => false,
        AuthorizationSource::Address { who, .. } => who.as_deref().is_some_and(needs_proof),
        _ => true,
    };
    !from.is_empty() && from.iter().all(needs)
}

impl Lower<'_> {
    /// Says which rules ask for what a target does not show; there is no such condition where none does.
    pub(super) fn unseen(
        &mut self,
        target: &ObjectRef,
        sights: &[Sight],
        rules: &[AuthorizationRule],
    ) -> Option<Condition> {
        let rules = rules.iter().enumerate();
        let found: Vec<(Lack, Diagnostic)> = rules
            .filter_map(|(at, rule)| {
                let (lack, sights) = lacking(self.action, rule, sights)?;
                let path = format!("spec.rules[{at}].{}", lack.field());
                Some((lack, self.tell(lack, target, &sights, path)))
            })
            .collect();
        let (lack, first) = found.first()?;
        let more = match found.len() {
            1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        let message = format!("{}: {}{more}", first.path, first.message);
        let condition = condition("PartiallyInvalid", true, lack.reason(), message, self.generation);
        self.diagnostics.extend(found.into_iter().map(|(_, found)| found));
        Some(condition)
    }

    fn tell(&self, lack: Lack, target: &ObjectRef, sights: &[&Sight], path: String) -> Diagnostic {
        let mut ports: Vec<String> = sights
            .iter()
            .map(|sight| format!("{} ({})", sight.port, sight.protocol.as_str()))
            .collect();
        ports.dedup();
        let (port, ports) = (if ports.len() == 1 { "port" } else { "ports" }, ports.join(", "));
        let (message, remedy) = match lack {
            Lack::Requests => {
                let does = match self.action {
                    Action::Allow => "allows nothing",
                    Action::Deny => "denies everything that its other fields let it",
                    Action::Audit => "tells of nothing",
                };
                (
                    format!(
                        "the rule asks for requests, which nobody sees at {port} {ports} of the {target}: there it {does}"
                    ),
                    "remove it, or name the ports of HTTP in networkAttributes.ports",
                )
            }
            Lack::Proof => (
                format!(
                    "the rule asks who clients are, which nobody proves at {port} {ports} of the {target}: there it takes nobody"
                ),
                "use networkAttributes.sourceRanges, or a listener that ends TLS and validates clients",
            ),
        };
        Code::PolicyUnseen.at(path, message, remedy)
    }
}
