//! What a sidecar asks, and how it hears the answers.

use std::net::IpAddr;

/// Something that a sidecar says of whom it talks to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Say {
    /// Addresses of which it wants to know whose they are.
    pub asked: Vec<IpAddr>,
    /// Namespaces that it does not talk to any more.
    pub left: Vec<String>,
}

/// Asks whose addresses are.
#[tonic::async_trait]
pub trait Asks: Send + Sync + 'static {
    /// The namespaces that it talks to beside its own: it is told of these after it has connected.
    fn talks(&self) -> Vec<String>;

    /// It is connected to an operator that answers. Nothing of what was asked of another is answered.
    fn connected(&self);

    /// It is connected to an operator that does not answer, and has been told everything by that.
    fn told_all(&self);

    /// It is not connected any more. It may not have been.
    fn disconnected(&self);

    /// Waits for something to say.
    async fn next(&self) -> Say;

    /// An address is of these namespaces, and all that there is to be told of them is in use; it is nobody's if there are none.
    fn answered(&self, address: IpAddr, namespaces: Vec<String>);

    /// The operator does not remember that it was asked about an address.
    fn forgotten(&self, address: IpAddr);
}
