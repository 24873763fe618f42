//! Who comes, and from where.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_crds::{AuthorizationClientCertificate as CertificateSpec, AuthorizationSource as SourceSpec};
use weft_model::{AuthorizationSource, CertificateNames, HostPattern, SpiffeId};

use super::Lower;
use crate::diagnostic::{Code, Diagnostic};

impl Lower<'_> {
    pub(super) fn source(&mut self, source: &SourceSpec, path: &str) -> Result<AuthorizationSource, Box<Diagnostic>> {
        let needs = |field: &str| {
            let message = format!("a source of the type {} needs {field}", source.source_type);
            Box::new(Code::MissingField.at(format!("{path}.{field}"), message, "set it"))
        };
        Ok(match source.source_type.as_str() {
            "Authenticated" => AuthorizationSource::Authenticated,
            "Unauthenticated" => AuthorizationSource::Unauthenticated,
            "Namespace" => {
                let namespace = source.namespace.as_deref().filter(|name| !name.is_empty());
                AuthorizationSource::Namespace(namespace.ok_or_else(|| needs("namespace"))?.into())
            }
            "ServiceAccount" => {
                let account = source.service_account.as_ref().ok_or_else(|| needs("serviceAccount"))?;
                let namespace = account.namespace.as_deref().unwrap_or(self.namespace);
                match account.name.as_str() {
                    "" => return Err(needs("serviceAccount.name")),
                    "*" => AuthorizationSource::Namespace(namespace.into()),
                    name => AuthorizationSource::ServiceAccount {
                        namespace: namespace.into(),
                        name: name.to_owned(),
                    },
                }
            }
            "SPIFFE" => {
                let text = source.spiffe.as_deref().ok_or_else(|| needs("spiffe"))?;
                match text.strip_suffix('*') {
                    Some(prefix) if prefix.starts_with("spiffe://") && !prefix.contains('*') => {
                        AuthorizationSource::IdentityPrefix(prefix.to_owned())
                    }
                    _ => AuthorizationSource::Identity(SpiffeId::parse(text).map_err(|error| {
                        let remedy = "write it like spiffe://cluster.local/ns/shop/sa/front, or its beginning and a *";
                        Box::new(Code::Invalid.at(format!("{path}.spiffe"), error.to_string(), remedy))
                    })?),
                }
            }
            "ClientCertificate" => {
                let names = source.client_certificate.as_ref();
                let names = names.ok_or_else(|| needs("clientCertificate"))?;
                AuthorizationSource::Certificate(certificate(names, &format!("{path}.clientCertificate"))?)
            }
            other => {
                let message = format!("{other:?} is not a type of sources");
                let remedy =
                    "use ServiceAccount, Namespace, SPIFFE, ClientCertificate, Authenticated or Unauthenticated";
                return Err(Box::new(Code::Invalid.at(format!("{path}.type"), message, remedy)));
            }
        })
    }

    /// Those of some sources that come from some addresses; of anybody, if no sources are said.
    pub(super) fn within(
        &mut self,
        ranges: &[String],
        from: Option<Vec<AuthorizationSource>>,
        path: &str,
    ) -> Option<Vec<AuthorizationSource>> {
        if ranges.is_empty() {
            return from;
        }
        match self.each(ranges, &format!("{path}.sourceRanges"), Self::range) {
            None => from,
            // Nothing of it was understood.
            Some(ranges) if ranges.is_empty() => Some(Vec::new()),
            Some(ranges) => Some(vec![AuthorizationSource::Address { ranges, who: from }]),
        }
    }

    #[expect(clippy::unused_self, reason = "as the others")]
    fn range(&mut self, text: &String, path: &str) -> Result<IpNet, Box<Diagnostic>> {
        let single = || text.parse::<IpAddr>().map(IpNet::from);
        let range = text.parse::<IpNet>().map_err(|_| ()).or_else(|()| single());
        range.map(|range| range.trunc()).map_err(|_| {
            let message = format!("{text:?} is not a range of addresses");
            Box::new(Code::Invalid.at(path, message, "write it like 10.0.0.0/8 or fd00::/8"))
        })
    }
}

fn certificate(spec: &CertificateSpec, path: &str) -> Result<CertificateNames, Box<Diagnostic>> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let dns = given(&spec.dns_name).map(|text| {
        text.to_ascii_lowercase().parse::<HostPattern>().map_err(|error| {
            let remedy = "write it like billing.example, or *.example for all below";
            Box::new(Code::InvalidHostname.at(format!("{path}.dnsName"), error.to_string(), remedy))
        })
    });
    let names = CertificateNames {
        dns: dns.transpose()?,
        uri: given(&spec.uri),
        common_name: given(&spec.common_name),
        organization: given(&spec.organization),
    };
    if names == CertificateNames::default() {
        let message = "the source says nothing of the certificate";
        let remedy = "set dnsName, uri, commonName or organization; whoever shows one that is trusted is Authenticated";
        return Err(Box::new(Code::MissingField.at(path, message, remedy)));
    }
    Ok(names)
}
