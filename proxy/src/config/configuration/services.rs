//! Services and their workloads.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use weft_model::{Key, NamedEndpoint, Service, ServiceKey, Workload, WorkloadKey};

use super::{
    super::{Endpoint, Named, ServiceEntry, ServiceId, Snapshot},
    Configuration, Name, remove_from,
    tls::bundles_of,
};
use crate::session::Session;

impl Snapshot {
    /// A name, with what it has come to.
    pub(super) fn named(&self, name: &NamedEndpoint) -> Named {
        Named {
            endpoint: name.clone(),
            resolution: self.names.get(&name.hostname).cloned().flatten(),
        }
    }
}

impl Configuration {
    /// The number of a service that is used once more.
    pub(super) fn acquire(&mut self, key: &ServiceKey) -> ServiceId {
        if let Some(name) = self.names.get_mut(key) {
            name.uses += 1;
            return name.id;
        }
        let id = ServiceId(self.new_id());
        self.names.insert(key.clone(), Name { id, uses: 1 });
        id
    }

    pub(super) fn release(&mut self, key: &ServiceKey) {
        if let Some(name) = self.names.get_mut(key) {
            name.uses -= 1;
            if name.uses == 0 {
                self.names.remove(key);
            }
        }
    }

    pub(super) fn put_service(&mut self, service: Arc<Service>) -> Result<bool, String> {
        let key = service.key.clone();
        let old = self.next.services.get(&key).cloned();
        let tls = match &old {
            Some(old) if old.service == service => return Ok(false),
            Some(old) if old.service.tls == service.tls => old.tls.clone(),
            _ => self.next.backend_tls(&service)?,
        };
        let session = service.session.as_ref().map(Session::new).transpose()?.map(Arc::new);
        for bundle in old.iter().flat_map(|old| &old.service.tls).flat_map(bundles_of) {
            remove_from(&mut self.trusted_by, bundle, &Key::Service(key.clone()));
        }
        for bundle in service.tls.iter().flat_map(bundles_of) {
            let by = self.trusted_by.entry(bundle.clone()).or_default();
            by.insert(Key::Service(key.clone()));
        }
        for certificate in old.iter().filter_map(|old| old.service.tls.as_ref()?.certificate()) {
            remove_from(&mut self.shown_by, certificate, &Key::Service(key.clone()));
        }
        for certificate in service.tls.iter().filter_map(|tls| tls.certificate()) {
            let by = self.shown_by.entry(certificate.clone()).or_default();
            by.insert(Key::Service(key.clone()));
        }
        self.rename(&key, old.as_deref().map(|old| &*old.service), Some(&service));
        let (id, endpoints, names) = match &old {
            Some(old) => (old.id, Arc::clone(&old.endpoints), Arc::clone(&old.names)),
            None => (self.acquire(&key), Arc::default(), Arc::default()),
        };
        self.touched.services.insert(key);
        self.next.sessions += usize::from(session.is_some());
        self.next.sessions -= usize::from(old.is_some_and(|old| old.session.is_some()));
        self.insert_service(ServiceEntry {
            id,
            service,
            session,
            endpoints,
            names,
            tls,
        });
        Ok(true)
    }

    /// Keeps track of who has which names. What a name has come to is kept for as long as somebody has it.
    pub(super) fn rename(&mut self, key: &ServiceKey, before: Option<&Service>, after: Option<&Service>) {
        let hostnames = |service: Option<&Service>| -> BTreeSet<String> {
            let names = service.into_iter().flat_map(|service| &service.names);
            names.map(|name| name.hostname.clone()).collect()
        };
        let (before, after) = (hostnames(before), hostnames(after));
        for hostname in after.difference(&before) {
            self.named_by.entry(hostname.clone()).or_default().insert(key.clone());
            self.next.names.entry(hostname, || None);
        }
        for hostname in before.difference(&after) {
            remove_from(&mut self.named_by, hostname, key);
            self.touched.names.insert(hostname.clone());
        }
    }

    pub(super) fn remove_service(&mut self, key: &ServiceKey) -> bool {
        let Some(old) = self.next.services.remove(key) else {
            return false;
        };
        self.next.sessions -= usize::from(old.session.is_some());
        self.next.services_by_id.remove(&old.id);
        for bundle in old.service.tls.iter().flat_map(bundles_of) {
            remove_from(&mut self.trusted_by, bundle, &Key::Service(key.clone()));
        }
        for certificate in old.service.tls.iter().filter_map(|tls| tls.certificate()) {
            remove_from(&mut self.shown_by, certificate, &Key::Service(key.clone()));
        }
        self.rename(key, Some(&old.service), None);
        self.release(key);
        true
    }

    pub(super) fn insert_service(&mut self, entry: ServiceEntry) {
        let entry = Arc::new(entry);
        self.next.services_by_id.insert(entry.id, Arc::clone(&entry));
        self.next.services.insert(entry.service.key.clone(), entry);
    }

    pub(super) fn put_workload(&mut self, workload: Arc<Workload>) -> bool {
        if self.next.workloads.get(&workload.key) == Some(&workload) {
            return false;
        }
        self.remove_workload(&workload.key);
        for (service, port) in &workload.services {
            let endpoint = (workload.key.clone(), SocketAddr::new(workload.address, *port));
            self.endpoints.entry(service.clone()).or_default().insert(endpoint);
            self.touched.services.insert(service.clone());
        }
        self.next.workloads.insert(workload.key.clone(), workload);
        true
    }

    pub(super) fn remove_workload(&mut self, key: &WorkloadKey) -> bool {
        let Some(old) = self.next.workloads.remove(key) else {
            return false;
        };
        for (service, port) in &old.services {
            remove_from(
                &mut self.endpoints,
                service,
                &(key.clone(), SocketAddr::new(old.address, *port)),
            );
            self.touched.services.insert(service.clone());
        }
        true
    }

    /// Makes the list of a service's endpoints anew, if it has changed.
    pub(super) fn settle_service(&mut self, key: &ServiceKey) {
        let Some(entry) = self.next.services.get(key) else {
            return;
        };
        let names: Arc<[Named]> = entry.service.names.iter().map(|name| self.next.named(name)).collect();
        let known = self.endpoints.get(key).into_iter().flatten().cloned();
        let known = known.map(|(workload, address)| Endpoint { address, workload });
        let endpoints: Arc<[Endpoint]> = known.chain(names.iter().flat_map(Named::endpoints)).collect();
        if endpoints != entry.endpoints || names != entry.names {
            let entry = ServiceEntry {
                // Whoever looks for a change looks for another allocation.
                endpoints: if endpoints == entry.endpoints {
                    Arc::clone(&entry.endpoints)
                } else {
                    endpoints
                },
                names,
                ..ServiceEntry::clone(entry)
            };
            self.insert_service(entry);
        }
    }
}
