//! What somebody has proven of itself: in the mesh, which workload it is; at a Gateway, the names in a certificate that the
//! listener trusts.

use rustls::pki_types::CertificateDer;
use weft_model::{CertificateNames, SpiffeId};
use x509_parser::extensions::GeneralName;

/// What it is by which somebody has proven itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Proof<'a> {
    Nothing,
    /// That it is this workload. That the trust domain is the mesh's is known by now: others are not let in at all.
    Workload(&'a SpiffeId),
    /// A certificate, of whomever the listener trusts.
    Certificate(&'a Shown),
}

/// The names in a certificate that is trusted.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    uris: Box<[Box<str>]>,
    /// Lower-case.
    dns: Box<[Box<str>]>,
    common_names: Box<[Box<str>]>,
    organizations: Box<[Box<str>]>,
    /// The workload of the mesh that it is, where the mesh's own roots say so: whom else a listener trusts may write any name
    /// into a certificate.
    workload: Option<SpiffeId>,
}

impl<'a> Proof<'a> {
    pub(crate) fn is_some(&self) -> bool {
        !matches!(self, Self::Nothing)
    }

    /// As it is told: an identity, or the most telling name.
    pub(crate) fn name(&self) -> &'a str {
        match self {
            Self::Nothing => "",
            Self::Workload(id) => id.as_str(),
            Self::Certificate(shown) => shown.name(),
        }
    }

    /// Whether it has an identity like this. A certificate has one if it has one URI; where what is not certain counts, each
    /// of several does.
    pub(super) fn is_identity(&self, narrow: bool, is: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::Nothing => false,
            Self::Workload(id) => is(id.as_str()),
            Self::Certificate(shown) if narrow && shown.uris.len() != 1 => false,
            Self::Certificate(shown) => shown.uris.iter().any(|uri| is(uri)),
        }
    }

    /// Whether it is a workload of the mesh like this; where what is not certain counts, whether it says so.
    pub(super) fn is_workload(&self, narrow: bool, is: impl Fn(&SpiffeId) -> bool) -> bool {
        match self {
            Self::Nothing => false,
            Self::Workload(id) => is(id),
            Self::Certificate(shown) if narrow => shown.workload.as_ref().is_some_and(is),
            Self::Certificate(shown) => {
                let mut said = shown.uris.iter().filter_map(|uri| SpiffeId::parse(uri).ok());
                said.any(|id| is(&id))
            }
        }
    }

    /// Whether it has all of these names.
    pub(super) fn has(&self, names: &CertificateNames) -> bool {
        let CertificateNames {
            dns,
            uri,
            common_name,
            organization,
        } = names;
        let one = |wanted: &Option<String>, of: &[Box<str>]| {
            wanted
                .as_ref()
                .is_none_or(|wanted| of.iter().any(|name| **name == **wanted))
        };
        match self {
            Self::Nothing => false,
            Self::Workload(id) => {
                let other = dns.is_some() || common_name.is_some() || organization.is_some();
                !other && uri.as_deref() == Some(id.as_str())
            }
            Self::Certificate(shown) => {
                dns.as_ref()
                    .is_none_or(|pattern| shown.dns.iter().any(|name| pattern.matches(name)))
                    && one(uri, &shown.uris)
                    && one(common_name, &shown.common_names)
                    && one(organization, &shown.organizations)
            }
        }
    }
}

impl Shown {
    /// Reads the names in a certificate; none if it cannot be read.
    pub(crate) fn read(certificate: &CertificateDer<'_>, workload: Option<SpiffeId>) -> Option<Self> {
        let (_, leaf) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let (mut uris, mut dns): (Vec<Box<str>>, Vec<Box<str>>) = (Vec::new(), Vec::new());
        let names = leaf.subject_alternative_name().ok()?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).into()),
                GeneralName::DNSName(name) => dns.push(name.to_ascii_lowercase().into()),
                _ => {}
            }
        }
        let subject = leaf.subject();
        let common_names = subject.iter_common_name().filter_map(|name| name.as_str().ok());
        let organizations = subject.iter_organization().filter_map(|name| name.as_str().ok());
        Some(Self {
            common_names: common_names.map(Into::into).collect(),
            organizations: organizations.map(Into::into).collect(),
            uris: uris.into(),
            dns: dns.into(),
            workload,
        })
    }

    /// The workload that a certificate says it is, whoever has issued it.
    pub(crate) fn workload_in(certificate: &CertificateDer<'_>) -> Option<SpiffeId> {
        let shown = Self::read(certificate, None)?;
        let [uri] = &*shown.uris else { return None };
        SpiffeId::parse(uri).ok()
    }

    /// The most telling of the names.
    pub(crate) fn name(&self) -> &str {
        let mut names = self.uris.iter().chain(&self.dns).chain(&self.common_names);
        names.next().map_or("a certificate without a name", |name| name)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    const FRONT: &str = "spiffe://cluster.local/ns/shop/sa/front";

    fn shown(names: &[&str], subject: &[(DnType, &str)], workload: Option<&str>) -> Shown {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        for name in names {
            let text = (*name).try_into().expect("ASCII");
            params.subject_alt_names.push(match name.contains(':') {
                true => SanType::URI(text),
                false => SanType::DnsName(text),
            });
        }
        let key = KeyPair::generate().expect("a key");
        let made = params.self_signed(&key).expect("a certificate");
        let workload = workload.map(|text| SpiffeId::parse(text).expect("an identity"));
        Shown::read(made.der(), workload).expect("it is read")
    }

    fn names(json: serde_json::Value) -> CertificateNames {
        serde_json::from_value(json).expect("names")
    }

    #[test]
    fn all_names_that_are_asked_for_must_be_there() {
        let shown = shown(
            &["Billing.partner.example", "https://partner.example/billing"],
            &[(DnType::CommonName, "billing"), (DnType::OrganizationName, "Partner")],
            None,
        );
        let proof = Proof::Certificate(&shown);
        for (asked, has) in [
            (serde_json::json!({"dns": "billing.partner.example"}), true),
            (serde_json::json!({"dns": "*.partner.example"}), true),
            (serde_json::json!({"dns": "*.other.example"}), false),
            (serde_json::json!({"uri": "https://partner.example/billing"}), true),
            (
                serde_json::json!({"commonName": "billing", "organization": "Partner"}),
                true,
            ),
            (
                serde_json::json!({"commonName": "billing", "organization": "Other"}),
                false,
            ),
            (
                serde_json::json!({"dns": "billing.partner.example", "commonName": "sales"}),
                false,
            ),
        ] {
            assert_eq!(proof.has(&names(asked.clone())), has, "{asked}");
        }
    }

    #[test]
    fn whose_roots_are_not_the_meshs_is_no_workload_of_it() {
        let says = |workload: &SpiffeId| workload.namespace() == "shop";
        let stranger = shown(&[FRONT], &[], None);
        let proof = Proof::Certificate(&stranger);
        assert!(
            !proof.is_workload(true, says),
            "anybody may write this into a certificate"
        );
        assert!(proof.is_workload(false, says), "what denies it denies it all the same");
        assert!(proof.is_identity(true, |text| text == FRONT));
        let ours = shown(&[FRONT], &[], Some(FRONT));
        assert!(Proof::Certificate(&ours).is_workload(true, says));
    }

    #[test]
    fn a_certificate_of_several_uris_has_no_identity() {
        let both = shown(&[FRONT, "spiffe://cluster.local/ns/bank/sa/back"], &[], None);
        let proof = Proof::Certificate(&both);
        assert!(!proof.is_identity(true, |text| text == FRONT) && proof.is_identity(false, |text| text == FRONT));
    }
}
