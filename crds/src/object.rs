//! Objects of any kind, and their names.

use std::{fmt, ops::Deref, sync::Arc};

use schemars::Schema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    AcmeIssuer, AuthorizationPolicy, BackendTlsPolicy, ConfigMap, EndpointSlice, Gateway, GatewayClass,
    GatewayParameters, GrpcRoute, HttpRoute, HttpRouteGroup, IdentityBinding, ListenerSet, Metadata, Namespace, Node,
    ReferenceGrant, Secret, Service, SmiTcpRoute, SmiUdpRoute, TcpRoute, TlsRoute, TrafficSplit, TrafficTarget,
    UdpRoute, XBackend, XBackendTrafficPolicy, XMesh,
};

/// Why a value is not an object of its kind, with the path to what is wrong.
pub type ParseError = serde_path_to_error::Error<serde_json::Error>;

macro_rules! kinds {
    ($($kind:ident($type:ty) = $group:literal $name:literal $scope:ident),* $(,)?) => {
        /// The kinds Weft reads.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Kind {
            $(#[doc = concat!("`", $name, "`.")] $kind,)*
        }

        /// An object of any kind Weft reads.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object {
            $(#[doc = concat!("A `", $name, "`.")] $kind(Arc<$type>),)*
        }

        impl Kind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The API group; empty for the core group.
            pub fn group(self) -> &'static str {
                match self { $(Self::$kind => $group),* }
            }

            /// The name, as in a manifest.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name),* }
            }

            /// Whether its objects belong to no namespace.
            pub fn is_cluster_scoped(self) -> bool {
                match self { $(Self::$kind => kinds!(@scope $scope)),* }
            }

            /// The fields its objects may have.
            pub fn schema(self) -> Schema {
                match self { $(Self::$kind => schemars::schema_for!($type)),* }
            }
        }

        impl Object {
            /// Its kind.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind),* }
            }

            /// Its metadata.
            pub fn metadata(&self) -> &Metadata {
                match self { $(Self::$kind(object) => &object.metadata),* }
            }

            /// Reads an object of a kind.
            ///
            /// # Errors
            /// A field has not the type it must have; the error's path says which.
            pub fn from_value(kind: Kind, value: Value) -> Result<Self, ParseError> {
                Ok(match kind {
                    $(Kind::$kind => Self::$kind(Arc::new(serde_path_to_error::deserialize(value)?))),*
                })
            }
        }
    };
    (@scope cluster) => { true };
    (@scope namespaced) => { false };
}

kinds! {
    Namespace(Namespace) = "" "Namespace" cluster,
    GatewayClass(GatewayClass) = "gateway.networking.k8s.io" "GatewayClass" cluster,
    Gateway(Gateway) = "gateway.networking.k8s.io" "Gateway" namespaced,
    ListenerSet(ListenerSet) = "gateway.networking.k8s.io" "ListenerSet" namespaced,
    HttpRoute(HttpRoute) = "gateway.networking.k8s.io" "HTTPRoute" namespaced,
    GrpcRoute(GrpcRoute) = "gateway.networking.k8s.io" "GRPCRoute" namespaced,
    XBackend(XBackend) = "gateway.networking.x-k8s.io" "XBackend" namespaced,
    XBackendTrafficPolicy(XBackendTrafficPolicy) = "gateway.networking.x-k8s.io" "XBackendTrafficPolicy" namespaced,
    XMesh(XMesh) = "gateway.networking.x-k8s.io" "XMesh" cluster,
    BackendTlsPolicy(BackendTlsPolicy) = "gateway.networking.k8s.io" "BackendTLSPolicy" namespaced,
    TlsRoute(TlsRoute) = "gateway.networking.k8s.io" "TLSRoute" namespaced,
    TcpRoute(TcpRoute) = "gateway.networking.k8s.io" "TCPRoute" namespaced,
    UdpRoute(UdpRoute) = "gateway.networking.k8s.io" "UDPRoute" namespaced,
    ReferenceGrant(ReferenceGrant) = "gateway.networking.k8s.io" "ReferenceGrant" namespaced,
    Service(Service) = "" "Service" namespaced,
    EndpointSlice(EndpointSlice) = "discovery.k8s.io" "EndpointSlice" namespaced,
    Node(Node) = "" "Node" cluster,
    Secret(Secret) = "" "Secret" namespaced,
    ConfigMap(ConfigMap) = "" "ConfigMap" namespaced,
    GatewayParameters(GatewayParameters) = "weft.dev" "GatewayParameters" namespaced,
    AcmeIssuer(AcmeIssuer) = "weft.dev" "AcmeIssuer" namespaced,
    TrafficTarget(TrafficTarget) = "access.smi-spec.io" "TrafficTarget" namespaced,
    IdentityBinding(IdentityBinding) = "access.smi-spec.io" "IdentityBinding" namespaced,
    HttpRouteGroup(HttpRouteGroup) = "specs.smi-spec.io" "HTTPRouteGroup" namespaced,
    SmiTcpRoute(SmiTcpRoute) = "specs.smi-spec.io" "TCPRoute" namespaced,
    SmiUdpRoute(SmiUdpRoute) = "specs.smi-spec.io" "UDPRoute" namespaced,
    TrafficSplit(TrafficSplit) = "split.smi-spec.io" "TrafficSplit" namespaced,
    AuthorizationPolicy(AuthorizationPolicy) = "weft.dev" "AuthorizationPolicy" namespaced,
}

impl Kind {
    /// Whether it is one of SMI, the Service Mesh Interface. Clusters need not have these, and what is wrong with their objects
    /// has no place in them.
    pub fn is_smi(self) -> bool {
        self.group().ends_with(".smi-spec.io")
    }

    /// The kind that a manifest's `apiVersion` and `kind` name, if Weft reads it. Versions of a group that were served
    /// alike are taken alike.
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let found = Self::ALL
            .iter()
            .find(|known| known.group() == group && known.name() == kind)?;
        found.served().contains(&version).then_some(*found)
    }

    /// The values of `apiVersion` that are read, the best first.
    pub fn versions(self) -> Vec<String> {
        let versions = self.served().iter();
        versions
            .map(|version| match self.group() {
                "" => (*version).to_owned(),
                group => format!("{group}/{version}"),
            })
            .collect()
    }

    /// The versions that are read, the best first.
    pub fn served(self) -> &'static [&'static str] {
        match self {
            Self::TlsRoute => return &["v1", "v1alpha3", "v1alpha2"],
            Self::TcpRoute | Self::UdpRoute => return &["v1", "v1alpha2"],
            Self::IdentityBinding | Self::SmiUdpRoute => return &["v1alpha4"],
            Self::TrafficTarget | Self::HttpRouteGroup | Self::SmiTcpRoute | Self::TrafficSplit => {
                return &["v1alpha4", "v1alpha3", "v1alpha2", "v1alpha1"];
            }
            _ => {}
        }
        match self.group() {
            "gateway.networking.x-k8s.io" | "weft.dev" => &["v1alpha1"],
            _ => &["v1", "v1beta1"],
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Two of SMI are called like two of Gateway API.
        if matches!(self, Self::SmiTcpRoute | Self::SmiUdpRoute) {
            f.write_str("SMI ")?;
        }
        f.write_str(self.name())
    }
}

/// Names an object. It is kept in many places at once, so a copy is a pointer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectRef(Arc<ObjectName>);

/// What an [`ObjectRef`] says.
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectName {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty when its kind has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Deref for ObjectRef {
    type Target = ObjectName;

    fn deref(&self) -> &ObjectName {
        &self.0
    }
}

impl ObjectRef {
    /// Names an object.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        let namespace = if kind.is_cluster_scoped() { "" } else { namespace };
        Self(Arc::new(ObjectName {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }))
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

impl Object {
    /// Its name.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef::new(self.kind(), self.metadata().namespace(), &self.metadata().name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_group_version_and_name() {
        assert_eq!(
            Kind::of("gateway.networking.k8s.io/v1", "HTTPRoute"),
            Some(Kind::HttpRoute)
        );
        assert_eq!(
            Kind::of("gateway.networking.k8s.io/v1beta1", "ReferenceGrant"),
            Some(Kind::ReferenceGrant)
        );
        assert_eq!(Kind::of("v1", "Service"), Some(Kind::Service));
        let policy = |version: &str| {
            Kind::of(
                &format!("gateway.networking.x-k8s.io/{version}"),
                "XBackendTrafficPolicy",
            )
        };
        assert_eq!(policy("v1alpha1"), Some(Kind::XBackendTrafficPolicy));
        assert_eq!(policy("v1"), None);
        for version in ["v1", "v1alpha3", "v1alpha2"] {
            let api_version = format!("gateway.networking.k8s.io/{version}");
            assert_eq!(Kind::of(&api_version, "TLSRoute"), Some(Kind::TlsRoute));
            assert_eq!(Kind::of(&api_version, "TCPRoute").is_some(), version != "v1alpha3");
            assert_eq!(Kind::of(&api_version, "HTTPRoute").is_some(), version == "v1");
        }
        assert_eq!(Kind::of("apps/v1", "Deployment"), None);
        assert_eq!(Kind::of("specs.smi-spec.io/v1alpha4", "HTTPRoute"), None);
        assert_eq!(
            Kind::of("specs.smi-spec.io/v1alpha4", "TCPRoute"),
            Some(Kind::SmiTcpRoute)
        );
        assert_eq!(Kind::of("gateway.networking.k8s.io/v1alpha4", "TCPRoute"), None);
        assert_eq!(
            Kind::of("split.smi-spec.io/v1alpha1", "TrafficSplit"),
            Some(Kind::TrafficSplit)
        );
        assert!(Kind::SmiUdpRoute.is_smi() && !Kind::UdpRoute.is_smi());
    }

    #[test]
    fn defaults_are_those_of_the_api() {
        let value = serde_json::json!({
            "metadata": {"name": "a"},
            "spec": {"parentRefs": [{"name": "g"}], "rules": [{"backendRefs": [{"name": "s", "port": 80}]}]},
        });
        let Ok(Object::HttpRoute(route)) = Object::from_value(Kind::HttpRoute, value) else {
            panic!("a route")
        };
        assert_eq!(route.spec.parent_refs[0].listener_owner(), Some(Kind::Gateway));
        let backend = &route.spec.rules[0].backend_refs[0];
        assert_eq!((backend.backend.kind.as_str(), backend.weight), ("Service", 1));
    }

    #[test]
    fn an_error_says_where() {
        let value = serde_json::json!({"metadata": {"name": "a"}, "spec": {"rules": [{"backendRefs": [{"name": "s", "port": "x"}]}]}});
        let error = Object::from_value(Kind::HttpRoute, value).expect_err("a port is a number");
        assert!(
            error.path().to_string().starts_with("spec.rules[0].backendRefs[0]"),
            "{}",
            error.path()
        );
    }
}
