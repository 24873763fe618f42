//! Configuration, compiled: what the workers route by.
//!
//! [`Configuration`] lives in the control thread, takes changes and hands out immutable [`Snapshot`]s. Two successive
//! snapshots share everything that did not change between them, so an edit costs the same among 5,000 routes as among
//! 50. Everything here is pure: it opens no socket, reads no clock and holds no request state.

mod attached;
mod auth;
mod certificate;
mod challenges;
mod configuration;
mod cors;
mod edits;
mod explain;
mod filters;
mod frontend;
mod guards;
mod hosts;
mod l4;
mod matcher;
mod names;
mod paths;
mod pattern;
mod port;
mod redirect;
mod rule;
mod snapshot;
mod table;
mod trust;

pub use crate::authorization::edge::{Judged, Level};
pub(crate) use auth::{Ask, Auth};
pub use configuration::{Applied, Configuration};
pub(crate) use edits::HOP;
pub use explain::{
    Asker, Explanation, Opaque, Passed, Reason, Share, Step, Taken, Verdict, explain, explain_datagrams,
};
pub use filters::{Answer, Filters, MirrorTarget};
pub use frontend::FrontendEntry;
pub use l4::L4Rule;
pub(crate) use names::Named;
pub use names::Resolution;
pub(crate) use pattern::Pattern;
pub use port::{Flow, Found, Match, Port};
pub use rule::{BackendEntry, Rule, Target};
pub use snapshot::{Endpoint, Place, ServiceEntry, ServiceId, Snapshot};
pub use trust::BackendTls;
pub(crate) use trust::{ClientVerification, check_signatures, provider};
