//! The names of resources. Each kind has its own type, so that a service is never looked up by a listener's name.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::Transport;

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

key! {
    /// `namespace/name` of a Gateway.
    GatewayKey
}
key! {
    /// `namespace/name` of a ListenerSet.
    ListenerSetKey
}
key! {
    /// What routes are attached to: `namespace/gateway/listener` of a Gateway, `ListenerSet/namespace/set/listener` of a
    /// ListenerSet, `Service/namespace/name:port` of a Service port in the mesh, with `/clients` after it where it is
    /// only for the clients in that namespace.
    ListenerKey
}
key! {
    /// `kind/namespace/name/rule`, the rule by its index: one rule of a route is one resource, whatever the kind.
    RouteKey
}
key! {
    /// `namespace/name:port` of a Service port, with `/udp` after it where it is one of UDP: a Service may have both
    /// under one number. What stands for a Service has its kind before it: `XBackend/namespace/name:port`.
    ServiceKey
}
key! {
    /// `namespace/pod`, with `/IPv6` after it for the pod as endpoint of Services that have no other address of it, or
    /// `namespace/slice/address` for an endpoint that names no pod.
    WorkloadKey
}
key! {
    /// The name of a namespace.
    NamespaceKey
}
key! {
    /// `namespace/name` of the Secret that holds a certificate.
    CertificateKey
}
key! {
    /// The [`ListenerKey`] and the Secret for which a certificate is being ordered, joined by `/`.
    ChallengeKey
}
key! {
    /// `kind/namespace/name` of the ConfigMap or Secret that holds roots.
    TrustBundleKey
}

key! {
    /// `kind/namespace/name` of a policy, or of what stands for one.
    PolicyKey
}

impl WorkloadKey {
    /// The key of a pod as endpoint of Services that have its IPv6 address alone.
    #[must_use]
    pub fn by_ipv6(&self) -> Self {
        Self(format!("{}/IPv6", self.0).into())
    }
}

impl PolicyKey {
    /// The key of an object.
    pub fn of(kind: &str, namespace: &str, name: &str) -> Self {
        Self(format!("{kind}/{namespace}/{name}").into())
    }

    /// `(kind, namespace, name)`; empty parts where the text is not of that form.
    pub fn parts(&self) -> (&str, &str, &str) {
        let (kind, rest) = self.0.split_once('/').unwrap_or(("", &self.0));
        let (namespace, name) = rest.split_once('/').unwrap_or(("", rest));
        (kind, namespace, name)
    }
}

impl ListenerKey {
    const SET: &str = "ListenerSet/";
    const SERVICE: &str = "Service/";

    /// The key of a listener of a Gateway.
    pub fn of_gateway(namespace: &str, gateway: &str, listener: &str) -> Self {
        Self(format!("{namespace}/{gateway}/{listener}").into())
    }

    /// The key of a listener of a ListenerSet.
    pub fn of_set(namespace: &str, set: &str, listener: &str) -> Self {
        Self(format!("{}{namespace}/{set}/{listener}", Self::SET).into())
    }

    /// The ListenerSet whose listener it is of; none if it is a Gateway's.
    pub fn set(&self) -> Option<ListenerSetKey> {
        let (set, _) = self.0.strip_prefix(Self::SET)?.rsplit_once('/')?;
        Some(set.into())
    }

    /// The key of a Service port as all clients in the mesh see it.
    pub fn of_service(namespace: &str, name: &str, port: u16) -> Self {
        Self(format!("{}{namespace}/{name}:{port}", Self::SERVICE).into())
    }

    /// The key of a Service port as the clients in one namespace see it.
    pub fn of_consumers(namespace: &str, name: &str, port: u16, clients: &str) -> Self {
        Self(format!("{}{namespace}/{name}:{port}/{clients}", Self::SERVICE).into())
    }

    /// Whether it is that of a [`crate::Frontend`], not of a listener. A namespace has no upper-case letters, so that none
    /// is taken for it.
    pub fn is_frontend(&self) -> bool {
        self.0.starts_with(Self::SERVICE)
    }
}

/// What a [`ServiceKey`] of UDP ends with.
const UDP: &str = "/udp";

/// What kind of object a [`ServiceKey`] is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServiceKind {
    /// `Service`.
    Service,
    /// `XBackend` (GEP-4894).
    XBackend,
}

impl ServiceKind {
    /// What keys of the kind begin with. A namespace has no upper-case letters, so that none is taken for it.
    fn prefix(self) -> &'static str {
        match self {
            Self::Service => "",
            Self::XBackend => "XBackend/",
        }
    }
}

impl ServiceKey {
    /// The key of one port of a Service, which is one of TCP.
    pub fn new(namespace: &str, name: &str, port: u16) -> Self {
        Self(format!("{namespace}/{name}:{port}").into())
    }

    /// The key of one port of a Service.
    pub fn of(namespace: &str, name: &str, port: u16, transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Self::new(namespace, name, port),
            Transport::Udp => Self(format!("{namespace}/{name}:{port}{UDP}").into()),
        }
    }

    /// The key of the port of an XBackend.
    pub fn of_xbackend(namespace: &str, name: &str, port: u16) -> Self {
        Self(format!("{}{namespace}/{name}:{port}", ServiceKind::XBackend.prefix()).into())
    }

    /// What kind of object it is of.
    pub fn kind(&self) -> ServiceKind {
        if self.0.starts_with(ServiceKind::XBackend.prefix()) {
            ServiceKind::XBackend
        } else {
            ServiceKind::Service
        }
    }

    /// `(namespace, name, port)`; empty parts and port 0 where the text is not of that form.
    pub fn parts(&self) -> (&str, &str, u16) {
        let text = self.0.strip_suffix(UDP).unwrap_or(&self.0);
        let text = text.strip_prefix(self.kind().prefix()).unwrap_or(text);
        let (namespace, rest) = text.split_once('/').unwrap_or(("", text));
        let (name, port) = rest.rsplit_once(':').unwrap_or((rest, "0"));
        (namespace, name, port.parse().unwrap_or(0))
    }

    /// What the port is one of.
    pub fn transport(&self) -> Transport {
        if self.0.ends_with(UDP) {
            Transport::Udp
        } else {
            Transport::Tcp
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_xbackend_is_another_than_the_service_of_its_name() {
        let (service, backend) = (ServiceKey::new("n", "a", 443), ServiceKey::of_xbackend("n", "a", 443));
        assert_eq!(backend.as_str(), "XBackend/n/a:443");
        assert_eq!(service.parts(), backend.parts());
        assert_eq!(
            (service.kind(), backend.kind()),
            (ServiceKind::Service, ServiceKind::XBackend)
        );
    }

    #[test]
    fn frontends_are_told_from_listeners() {
        let all = ListenerKey::of_service("n", "a", 80);
        let one = ListenerKey::of_consumers("n", "a", 80, "clients");
        assert_eq!(
            (all.as_str(), one.as_str()),
            ("Service/n/a:80", "Service/n/a:80/clients")
        );
        assert!(all.is_frontend() && one.is_frontend());
        assert!(!ListenerKey::of_gateway("n", "a", "http").is_frontend());
        assert!(!ListenerKey::of_set("n", "a", "http").is_frontend());
    }

    #[test]
    fn listeners_of_a_set_are_told_from_those_of_a_gateway() {
        assert_eq!(ListenerKey::of_set("n", "a", "http").set(), Some("n/a".into()));
        assert_eq!(ListenerKey::of_gateway("n", "a", "http").set(), None);
        assert_eq!(ListenerKey::of_service("n", "a", 80).set(), None);
    }

    #[test]
    fn a_port_of_udp_is_another_than_that_of_tcp() {
        let (tcp, udp) = (
            ServiceKey::new("kube-system", "dns", 53),
            ServiceKey::of("kube-system", "dns", 53, Transport::Udp),
        );
        assert_ne!(tcp, udp);
        assert_eq!(udp.as_str(), "kube-system/dns:53/udp");
        assert_eq!(
            (tcp.parts(), tcp.transport()),
            (("kube-system", "dns", 53), Transport::Tcp)
        );
        assert_eq!(
            (udp.parts(), udp.transport()),
            (("kube-system", "dns", 53), Transport::Udp)
        );
    }
}
