//! Certificates, trust bundles and challenges, and who names them.

use std::sync::Arc;

use weft_model::{
    Certificate, CertificateKey, Challenge, ChallengeKey, Key, Rejected, Service, TrustBundle, TrustBundleKey,
    TrustRoots,
};

use super::{
    super::{BackendTls, ServiceEntry, Snapshot, certificate::CertificateEntry, trust::TrustEntry},
    Configuration,
};

impl Configuration {
    pub(super) fn put_certificate(&mut self, certificate: Arc<Certificate>) -> Result<bool, String> {
        let key = certificate.key.clone();
        if self
            .next
            .certificates
            .get(&key)
            .is_some_and(|old| old.source == certificate)
        {
            return Ok(false);
        }
        let entry = CertificateEntry::new(certificate)?;
        self.touched.certificates.insert(key.clone());
        self.next.certificates.insert(key, Arc::new(entry));
        Ok(true)
    }

    /// Gives a certificate to the listeners and services that show it.
    pub(super) fn settle_certificate(&mut self, key: &CertificateKey, rejected: &mut Vec<Rejected>) {
        for key in self.shown_by.get(key).cloned().into_iter().flatten() {
            self.secure_anew(key, rejected);
        }
    }

    /// Gives a listener or a service what it names of certificates and trust bundles.
    pub(super) fn secure_anew(&mut self, key: Key, rejected: &mut Vec<Rejected>) {
        match &key {
            Key::Listener(listener) => {
                if let Some(listener) = self.served.get(listener) {
                    self.next.serve(listener);
                }
            }
            Key::Service(service) => {
                let Some(entry) = self.next.services.get(service) else {
                    return;
                };
                match self.next.backend_tls(&entry.service) {
                    Ok(tls) => self.insert_service(ServiceEntry {
                        tls,
                        ..ServiceEntry::clone(entry)
                    }),
                    Err(reason) => rejected.push(Rejected { key, reason }),
                }
            }
            _ => {}
        }
    }
}

impl Configuration {
    pub(super) fn put_challenge(&mut self, challenge: Arc<Challenge>) -> Result<bool, String> {
        let challenges = self.next.challenges.get_or_insert_default();
        let changed = Arc::make_mut(challenges).put(challenge);
        self.next.challenges.take_if(|challenges| challenges.is_empty());
        changed
    }

    pub(super) fn remove_challenge(&mut self, key: &ChallengeKey) -> bool {
        let Some(challenges) = &mut self.next.challenges else {
            return false;
        };
        let changed = Arc::make_mut(challenges).remove(key);
        self.next.challenges.take_if(|challenges| challenges.is_empty());
        changed
    }
}

impl Configuration {
    pub(super) fn put_trust_bundle(&mut self, bundle: Arc<TrustBundle>) -> Result<bool, String> {
        let key = bundle.key.clone();
        if self
            .next
            .trust_bundles
            .get(&key)
            .is_some_and(|old| old.source == bundle)
        {
            return Ok(false);
        }
        let entry = TrustEntry::new(bundle)?;
        self.touched.trust_bundles.insert(key.clone());
        self.next.trust_bundles.insert(key, Arc::new(entry));
        Ok(true)
    }

    /// Gives a trust bundle to the listeners and services that trust by it.
    pub(super) fn settle_trust_bundle(&mut self, key: &TrustBundleKey, rejected: &mut Vec<Rejected>) {
        for key in self.trusted_by.get(key).cloned().into_iter().flatten() {
            self.secure_anew(key, rejected);
        }
    }
}

impl Snapshot {
    /// How TLS is spoken to a service, by the trust bundles and certificates that are there.
    pub(super) fn backend_tls(&self, service: &Service) -> Result<Option<Arc<BackendTls>>, String> {
        let Some(tls) = &service.tls else { return Ok(None) };
        let bundles = bundles_of(tls).iter().filter_map(|key| self.trust_bundles.get(key));
        let certificate = tls.certificate().and_then(|key| self.certificates.get(key));
        let certificate = certificate.map(|entry| &entry.certified);
        Ok(Some(Arc::new(BackendTls::new(tls, bundles, certificate)?)))
    }
}

/// The trust bundles that TLS to a service names.
pub(super) fn bundles_of(tls: &weft_model::BackendTls) -> &[TrustBundleKey] {
    match &tls.roots {
        TrustRoots::Bundles(keys) => keys,
        TrustRoots::System => &[],
    }
}
