//! Which routes are for what is sent to a Service.

use std::{net::SocketAddr, sync::Arc};

use weft_model::{Frontend, ListenerKey, ListenerProtocol};

use super::{Configuration, remove_from};
use crate::config::FrontendEntry;

/// When a frontend is asked among those of one address: those for some clients come before the one for all.
pub(super) type Turn = (bool, ListenerKey);

impl Configuration {
    pub(super) fn put_frontend(&mut self, frontend: Arc<Frontend>) -> Result<bool, String> {
        let key = &frontend.key;
        let old = self.next.frontends.get(key);
        if old.is_some_and(|old| old.frontend == frontend) {
            return Ok(false);
        }
        check(&frontend)?;
        self.remove_frontend(key);
        let rules = self.next.attached(&self.attached, key);
        let mut entry = FrontendEntry::new(Arc::clone(&frontend));
        rules.iter().for_each(|rule| entry.attach(rule));
        for address in entry.addresses() {
            self.by_address.entry(address).or_default().insert(turn(&frontend));
            self.touched.addresses.insert(address);
        }
        self.next.frontends.insert(key.clone(), Arc::new(entry));
        Ok(true)
    }

    pub(super) fn remove_frontend(&mut self, key: &ListenerKey) -> bool {
        let Some(old) = self.next.frontends.remove(key) else {
            return false;
        };
        for address in old.addresses() {
            remove_from(&mut self.by_address, &address, &turn(&old.frontend));
            self.touched.addresses.insert(address);
        }
        true
    }

    /// Changes the rules of a frontend, if it is there.
    pub(super) fn change_frontend(&mut self, key: &ListenerKey, change: impl FnOnce(&mut FrontendEntry)) {
        let Some(entry) = self.next.frontends.get_mut(key) else {
            return;
        };
        let entry = Arc::make_mut(entry);
        let before = entry.is_routed();
        change(entry);
        if entry.is_routed() != before {
            self.touched.addresses.extend(entry.addresses());
        }
    }

    /// Says anew who has an address: the first that has routes.
    pub(super) fn settle_address(&mut self, address: SocketAddr) {
        let turns = self.by_address.get(&address).into_iter().flatten();
        let routed = |key: &&ListenerKey| self.next.frontends.get(*key).is_some_and(|entry| entry.is_routed());
        match turns.map(|(_, key)| key).find(routed) {
            Some(first) if self.next.frontends_at.get(&address) == Some(first) => {}
            Some(first) => drop(self.next.frontends_at.insert(address, first.clone())),
            None => drop(self.next.frontends_at.remove(&address)),
        }
    }
}

fn turn(frontend: &Frontend) -> Turn {
    (frontend.clients.is_none(), frontend.key.clone())
}

fn check(frontend: &Frontend) -> Result<(), String> {
    let Frontend { service, protocol, .. } = frontend;
    if service.parts().2 == 0 {
        return Err(format!("{service} is no port of a Service: it ends with :PORT"));
    }
    match protocol {
        ListenerProtocol::Http | ListenerProtocol::Tls | ListenerProtocol::Tcp => Ok(()),
        ListenerProtocol::Https | ListenerProtocol::Udp => Err(format!(
            "{protocol:?} is not routed in the mesh: HTTPRoute, GRPCRoute, TLSRoute and TCPRoute are"
        )),
    }
}
