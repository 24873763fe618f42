//! What a data plane has seen of the traffic, for the operator that asks.

use std::{sync::Arc, time::Duration};

use weft_discovery::Observe;
use weft_model::Report;
use weft_proxy::Proxy;

/// What is seen of the traffic.
pub(crate) struct Seen(pub(crate) Arc<Proxy>);

#[weft_discovery::async_trait]
impl Observe for Seen {
    async fn observed(&self) -> Report {
        self.0.report().await
    }

    fn tap(&self, time: Duration) {
        self.0.mesh().tap().open(time);
    }

    async fn tapped(&self) -> Vec<String> {
        self.0.mesh().tap().next().await
    }
}
