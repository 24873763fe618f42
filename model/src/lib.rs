//! What a data plane runs on.
//!
//! Every resource is small, immutable once built, and *points up*: a [`Route`] names the listeners it attaches to, a
//! [`Workload`] the services it serves. Editing one field of one manifest therefore changes one resource, whatever the
//! size of the cluster. The same types travel on the wire, are printed by `weft translate`, and are held by goldens, so
//! their serde form is the contract: fields are camelCase, absent when empty, and unknown ones are ignored.

mod authorization;
mod certificate;
mod challenge;
mod collector;
mod filter;
mod frontend;
mod host;
mod identity;
mod key;
mod l4;
mod latencies;
mod listener;
mod peer;
mod report;
mod resource;
mod route;
mod service;
mod session;
mod trust;
pub mod view;

pub use authorization::{
    Action, AuthorizationPolicy, AuthorizationRule, AuthorizationSource, AuthorizationTarget, CertificateNames,
    DefaultAction, HeaderCondition, LabelCondition, LabelOperator, Member, Operation, ProbePath, Requests, Traffic,
};
pub use certificate::{Certificate, PrivateKeyPem};
pub use challenge::{Challenge, Proof};
pub use collector::{Collector, NoCollector};
pub use filter::{
    AuthProtocol, Cors, ExternalAuth, Filter, HeaderChange, HeaderEdit, Mirror, PathRewrite, Redirect, Rewrite,
};
pub use frontend::Frontend;
pub use host::{HostPattern, HostPatternError};
pub use identity::{IdentityError, MeshTrust, Revocations, Serial, SpiffeId, TrustDomain};
pub use key::{
    CertificateKey, ChallengeKey, GatewayKey, ListenerKey, ListenerSetKey, NamespaceKey, PolicyKey, RouteKey,
    ServiceKey, ServiceKind, TrustBundleKey, WorkloadKey,
};
pub use l4::{L4Backend, L4Route};
pub use latencies::Latencies;
pub use listener::{Listener, ListenerProtocol, ListenerTls, Transport};
pub use peer::{MeshNamespace, MeshService, Peer, Stage};
pub use report::{Counts, Edge, EdgeReport, Flow, Owner, Remote, Report, RouteReport, Way};
pub use resource::{Change, Key, Rejected, Resource};
pub use route::{
    Backend, BackendTarget, HeaderMatch, PathMatch, QueryMatch, Retry, Route, RouteKind, RouteMatch, RouteOwner,
    StringMatch, Timeouts,
};
pub use service::{BackendProtocol, NamedEndpoint, RetryBudget, Service, Workload};
pub use session::{CookiePath, SessionCarrier, SessionPersistence};
pub use trust::{
    BackendTls, ClientIdentity, ClientValidation, ClientValidationMode, SubjectAltName, TrustBundle, TrustRoots,
};
