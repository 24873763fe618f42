//! The stream between the operator and its data planes: delta xDS (subscribe, versions, ACK and NACK, resumption after a
//! reconnect), in which Weft's own [`weft_model`] resources travel as JSON.
//!
//! The operator hands every change to a [`Publisher`], which knows what each Gateway uses and what the mesh does, and mails to each connected
//! data plane the names of what has changed for it. A session sends what is due, in the order in which nothing is ever
//! named before it is there, and never more than the data plane has said it took. What the data plane said last is in
//! [`Publisher::replicas`], for the statuses.
//!
//! A sidecar is told of its own namespace and of those that it talks to: when it meets an address of which it knows nothing, it
//! asks whose that is ([`Asks`]), and is told of that namespace from then on.
//!
//! The same server says to workloads who they are and whom to believe, and signs their keys ([`Identify`]), and hears what
//! data planes have seen ([`Hear`]).

mod asks;
mod audience;
mod endpoint;
mod identity;
mod party;
mod publisher;
mod reports;
mod session;
mod subscribe;
mod transport;
mod whose;
mod wire;

pub use asks::{Asks, Say};
pub use endpoint::Endpoint;
pub use identity::{Identify, IdentityClient, IdentityError, Refused, Shown, Signed, Trust, Trusts};
pub use party::DataPlane;
pub use publisher::{Epoch, Publisher, Replica, Replicas};
pub use reports::{Hear, Observe};
pub use session::{Authenticate, Denied, Server};
/// What [`Identify`] is implemented with.
pub use tonic::async_trait;

pub use subscribe::{Sink, SubscribeError, Subscriber, jittered};
pub use wire::TypeUrl;
