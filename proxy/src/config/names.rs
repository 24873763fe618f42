//! Services whose endpoints are names, and what these have come to.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use weft_model::{NamedEndpoint, WorkloadKey};

use super::Endpoint;
use crate::flag::Flag;

/// What is known of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// Where it leads, in ascending order: by the last answer, or, if there was none, by the last that there was.
    pub addresses: Vec<IpAddr>,
    /// Where it leads too by the last answer, and nothing may be sent.
    pub refused: Vec<IpAddr>,
    /// Why the last time it was asked for there was no answer.
    pub failure: Option<String>,
}

/// A name of a service; without a resolution as long as nobody has said what it has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) endpoint: NamedEndpoint,
    pub(crate) resolution: Option<Arc<Resolution>>,
}

impl Named {
    /// The endpoints it stands for.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        let NamedEndpoint { hostname, port } = &self.endpoint;
        let addresses = self.resolution.iter().flat_map(|resolution| &resolution.addresses);
        addresses.map(move |address| Endpoint {
            address: SocketAddr::new(*address, *port),
            workload: WorkloadKey::from(format!("{hostname}/{address}")),
        })
    }

    /// Why it stands for none.
    fn nowhere(&self) -> (Flag, String) {
        let hostname = &self.endpoint.hostname;
        let Some(resolution) = &self.resolution else {
            return (Flag::Unresolved, format!("{hostname} is not resolved yet"));
        };
        match (resolution.refused.first(), &resolution.failure) {
            (Some(address), _) => {
                let why = format!("{hostname} leads to {address}, where nothing is sent");
                (Flag::AddressRefused, why)
            }
            (None, Some(failure)) => (Flag::Unresolved, format!("{hostname}: {failure}")),
            (None, None) => (Flag::Unresolved, format!("{hostname} has no address")),
        }
    }
}

/// Why a service with these names has no endpoint.
pub(super) fn nowhere(names: &[Named]) -> (Flag, String) {
    names
        .first()
        .map_or_else(|| (Flag::NoEndpoint, String::new()), Named::nowhere)
}
