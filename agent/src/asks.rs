//! Whom a sidecar talks to, as the operator is told.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use weft_discovery::{Asks, Say};
use weft_proxy::{Proxy, mesh::Mesh};

/// How often it is looked for namespaces that are not talked to any more.
const LOOK: Duration = Duration::from_secs(60);

/// What asks.
pub(crate) struct Asking {
    pub(crate) mesh: Arc<Mesh>,
    /// Told when there is something else to keep.
    pub(crate) changed: watch::Sender<()>,
}

#[weft_discovery::async_trait]
impl Asks for Asking {
    fn talks(&self) -> Vec<String> {
        self.mesh.talks().into_iter().collect()
    }

    fn connected(&self) {
        self.mesh.can_ask();
    }

    fn told_all(&self) {
        self.mesh.need_not_ask();
    }

    fn disconnected(&self) {
        self.mesh.cannot_ask();
    }

    async fn next(&self) -> Say {
        let (asked, left) = self.mesh.to_say().await;
        Say { asked, left }
    }

    fn answered(&self, address: IpAddr, namespaces: Vec<String>) {
        let joins = !namespaces.is_empty();
        self.mesh.answered(address, namespaces);
        if joins {
            self.changed.send_replace(());
        }
    }

    fn forgotten(&self, address: IpAddr) {
        self.mesh.forget_answer(address);
    }
}

/// Leaves namespaces that are not talked to any more, until it is dropped.
pub(crate) async fn leave(proxy: Arc<Proxy>) {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let snapshot = proxy.snapshot();
        let routed = snapshot.frontends().map(|entry| &entry.frontend);
        let routed = routed.filter(|frontend| frontend.clients.is_none());
        let routed = routed.map(|frontend| frontend.service.parts().0.to_owned());
        proxy.mesh().leave_unused(&routed.collect());
    }
}
