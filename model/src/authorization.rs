//! Who may do what to whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    GatewayKey, HostPattern, ListenerKey, ListenerSetKey, NamespaceKey, PathMatch, PolicyKey, RouteKind, ServiceKey,
    SpiffeId, StringMatch, WorkloadKey,
};

/// What is allowed, denied or noted of what comes to its targets. It travels as it was written; whoever is told of it finds
/// out whether it is one of the targets, and merges all that are for it:
///
/// 1. What a rule of a [`Action::Deny`] takes is denied.
/// 2. Otherwise, if there is a policy of [`Action::Allow`], what no rule of any of them takes is denied.
/// 3. Otherwise the [`DefaultAction`] decides.
///
/// [`Action::Audit`] decides nothing.
///
/// What could not be understood of a policy is not in here, on the safe side: a rule that allows has become narrower by it, one
/// that denies wider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationPolicy {
    /// Its name, by which logs and metrics tell of it.
    pub key: PolicyKey,
    /// Whom it protects; never empty.
    pub targets: Vec<AuthorizationTarget>,
    /// What becomes of what its rules take.
    pub action: Action,
    /// It takes what one of these does; nothing when there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<AuthorizationRule>,
}

/// What becomes of what a rule takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// It is let in, unless something denies it, and nothing else is.
    Allow,
    /// It is denied, whatever allows it.
    Deny,
    /// It is told of, and that is all.
    Audit,
}

/// What becomes of what no policy decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DefaultAction {
    /// It is let in.
    #[default]
    Allow,
    /// It is let in if it comes with proof of who it is.
    Authenticated,
    /// It is denied.
    Deny,
}

/// Whom a policy protects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AuthorizationTarget {
    /// All workloads of a namespace.
    Namespace(NamespaceKey),
    /// The workloads of a namespace that have these labels, and others besides.
    Workloads {
        /// The namespace.
        namespace: NamespaceKey,
        /// All of these.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        labels: BTreeMap<String, String>,
        /// And all of these hold.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        expressions: Vec<LabelCondition>,
    },
    /// The workloads of a namespace that run as a service account.
    ServiceAccount {
        /// The namespace.
        namespace: NamespaceKey,
        /// The account.
        name: String,
    },
    /// The workloads behind a Service, at the ports to which it leads.
    Service {
        /// Its namespace.
        namespace: NamespaceKey,
        /// Its name.
        name: String,
        /// Only this one of its ports.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
    },
    /// What comes to a Gateway, by whatever listener.
    Gateway(GatewayKey),
    /// What comes by one listener of a Gateway, or of a ListenerSet of it.
    Listener {
        /// The Gateway.
        gateway: GatewayKey,
        /// The listener.
        listener: ListenerKey,
    },
    /// What comes by whatever listener of a ListenerSet.
    ListenerSet {
        /// The Gateway to which it adds, which is told of the policy.
        gateway: GatewayKey,
        /// The ListenerSet.
        set: ListenerSetKey,
    },
    /// What a route takes of what comes to Gateways.
    Route {
        /// Its kind.
        kind: RouteKind,
        /// Its namespace.
        namespace: NamespaceKey,
        /// Its name.
        name: String,
        /// Only the rules of this name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
        /// The Gateways to which it is attached, which are told of the policy.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        gateways: BTreeSet<GatewayKey>,
    },
}

/// A condition on a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabelCondition {
    /// The label.
    pub key: String,
    /// What of it.
    pub operator: LabelOperator,
    /// For the operators that compare.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// What of a label is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LabelOperator {
    /// It is one of the values.
    In,
    /// It is none of them, or absent.
    NotIn,
    /// It is there.
    Exists,
    /// It is not.
    DoesNotExist,
}

impl LabelCondition {
    /// Whether it holds of something with these labels.
    pub fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            LabelOperator::In => value.is_some_and(|value| self.values.contains(value)),
            LabelOperator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

/// What the kubelet asks for to see whether a pod lives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbePath {
    /// The port.
    pub port: u16,
    /// The path, without its query.
    pub path: String,
}

/// A pod with a sidecar as policies see it, told to that sidecar alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Its name, `namespace/pod`.
    pub key: WorkloadKey,
    /// Its service account.
    pub account: String,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The Service ports that lead to it, and to which of its ports. Whether it is ready makes no difference: it can be
    /// reached all the same.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<ServiceKey, u16>,
    /// What the kubelet asks it for, which no policy keeps it from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbePath>,
}

/// One rule: it takes what is both from and to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationRule {
    /// Who comes is one of these; anybody if absent, nobody if empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Vec<AuthorizationSource>>,
    /// What it does is one of these; anything if absent, nothing if empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<Operation>>,
}

/// Who comes. But for [`Self::Unauthenticated`], only who has proven it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AuthorizationSource {
    /// Anybody who has proven who it is.
    Authenticated,
    /// Anybody who has not: what comes in clear, from outside the mesh.
    Unauthenticated,
    /// This one.
    Identity(SpiffeId),
    /// Those whose identity begins like this, as text: `spiffe://cluster.local/ns/shop/`.
    IdentityPrefix(String),
    /// The workloads of a namespace, in the trust domain of the mesh.
    Namespace(NamespaceKey),
    /// Those that run as a service account, in the trust domain of the mesh.
    ServiceAccount {
        /// The namespace.
        namespace: NamespaceKey,
        /// The account.
        name: String,
    },
    /// Those who have proven themselves by a certificate with these names. At a Gateway, one that its listener trusts.
    Certificate(CertificateNames),
    /// Whoever comes from some addresses. It is here, and not beside, so that a data plane that does not know of it does not
    /// take the rule for one about anybody.
    Address {
        /// From one of these.
        ranges: Vec<IpNet>,
        /// And is one of these, if that is said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        who: Option<Vec<AuthorizationSource>>,
    },
}

/// Names in a certificate, all of which must be there.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateNames {
    /// A DNS name among its subject alternative names: this one, or one that this pattern means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<HostPattern>,
    /// A URI among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// The common name of its subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common_name: Option<String>,
    /// An organization of its subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
}

/// What is done: to one of some ports, and by what is carried there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// The ports of the workload at which it arrives (at a Gateway, of the listener); any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// What is carried there.
    #[serde(default, skip_serializing_if = "Traffic::is_any")]
    pub traffic: Traffic,
}

/// What a connection carries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Traffic {
    /// Whatever it is.
    #[default]
    Any,
    /// Requests like these: only what is HTTP, gRPC included.
    ///
    /// Of a connection whose requests cannot be seen, a rule that allows by requests takes nothing, and one that denies
    /// everything: what is not known to be harmless is not let by.
    Http(Requests),
    /// Anything but HTTP.
    Opaque,
}

impl Traffic {
    fn is_any(&self) -> bool {
        *self == Self::Any
    }
}

/// Requests of HTTP: all conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    /// One of these methods, in their own spelling; any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// One of these paths; any when empty. What is compared is the path without its query and without what different servers
    /// read differently: percent-encoding undone, empty segments, `.` and `..` resolved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathMatch>,
    /// All of these headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderCondition>,
}

/// A condition on a header. Where it comes several times, all of them must be so for a rule that allows, and one of them for
/// any other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderCondition {
    /// Lower-case. `:authority` and `host` are the same.
    pub name: String,
    /// What its value must be; anything, as long as it is there, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<StringMatch>,
}

impl Action {
    /// Its name in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Audit => "audit",
        }
    }
}

impl DefaultAction {
    /// Its name, as it is written in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Authenticated => "authenticated",
            Self::Deny => "deny",
        }
    }

    /// Reads one; none if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Allow, Self::Authenticated, Self::Deny]
            .into_iter()
            .find(|action| action.as_str() == text)
    }

    /// Whether it is [`Self::Allow`].
    pub fn is_allow(&self) -> bool {
        *self == Self::Allow
    }
}

impl AuthorizationTarget {
    /// The namespace whose workloads are meant; none where it is not workloads.
    pub fn workloads_of(&self) -> Option<&NamespaceKey> {
        match self {
            Self::Namespace(namespace)
            | Self::Workloads { namespace, .. }
            | Self::ServiceAccount { namespace, .. }
            | Self::Service { namespace, .. } => Some(namespace),
            Self::Gateway(_) | Self::Listener { .. } | Self::ListenerSet { .. } | Self::Route { .. } => None,
        }
    }

    /// The Gateways at which something is meant; none where it is workloads.
    pub fn gateways(&self) -> impl Iterator<Item = &GatewayKey> {
        let (one, all) = match self {
            Self::Gateway(gateway) | Self::Listener { gateway, .. } | Self::ListenerSet { gateway, .. } => {
                (Some(gateway), None)
            }
            Self::Route { gateways, .. } => (None, Some(gateways)),
            _ => (None, None),
        };
        one.into_iter().chain(all.into_iter().flatten())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anybody_and_nobody_are_told_apart() {
        let read = |text| serde_json::from_str::<AuthorizationRule>(text).expect("read");
        assert_eq!(read("{}"), AuthorizationRule::default());
        let nobody = read(r#"{"from":[]}"#);
        assert_eq!(nobody.from, Some(Vec::new()));
        assert_eq!(serde_json::to_string(&nobody).expect("written"), r#"{"from":[]}"#);
    }

    #[test]
    fn what_an_older_data_plane_does_not_know_of_a_rule_does_not_widen_it() {
        let unknown = r#"{"from":[{"address":{"ranges":["10.0.0.0/8"]}},{"moon":{}}]}"#;
        assert!(serde_json::from_str::<AuthorizationRule>(unknown).is_err());
        let unknown = r#"{"from":[{"certificate":{"dns":"a.example","phase":"full"}}]}"#;
        assert!(serde_json::from_str::<AuthorizationRule>(unknown).is_err());
    }

    #[test]
    fn a_policy_is_written_briefly() {
        let policy = AuthorizationPolicy {
            key: PolicyKey::of("AuthorizationPolicy", "shop", "cart"),
            targets: vec![AuthorizationTarget::Namespace("shop".into())],
            action: Action::Allow,
            rules: vec![AuthorizationRule {
                from: Some(vec![
                    AuthorizationSource::Authenticated,
                    AuthorizationSource::Namespace("front".into()),
                ]),
                to: Some(vec![Operation {
                    ports: vec![80],
                    traffic: Traffic::Http(Requests {
                        methods: vec!["GET".to_owned()],
                        paths: vec![PathMatch::Prefix("/cart".to_owned())],
                        headers: Vec::new(),
                    }),
                }]),
            }],
        };
        let text = serde_json::to_string(&policy).expect("written");
        assert_eq!(
            text,
            r#"{"key":"AuthorizationPolicy/shop/cart","targets":[{"namespace":"shop"}],"action":"allow","rules":[{"from":["authenticated",{"namespace":"front"}],"to":[{"ports":[80],"traffic":{"http":{"methods":["GET"],"paths":[{"prefix":"/cart"}]}}}]}]}"#
        );
        assert_eq!(
            serde_json::from_str::<AuthorizationPolicy>(&text).expect("read"),
            policy
        );
        assert_eq!(policy.key.parts(), ("AuthorizationPolicy", "shop", "cart"));
    }
}
