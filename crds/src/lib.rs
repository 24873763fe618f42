//! Rust types of every resource Weft reads: Gateway API v1.6, its experimental channel included, SMI v0.6, and the core kinds
//! they refer to. They are lenient towards unknown fields, since an API server may be newer than they are; where a file is
//! read, unknown fields are found by the schema ([`Kind::schema`]).

mod acme;
mod authorization;
mod backend;
mod core;
mod definition;
mod filter;
mod gateway;
mod l4;
mod mesh;
mod meta;
mod name;
mod object;
mod parameters;
mod policy;
mod reference;
mod route;
mod smi;
mod status;

pub use crate::{
    acme::{
        AcmeChallenge, AcmeIssuer, AcmeIssuerSpec, AcmeIssuerStatus, ExternalAccountBinding, ISSUER_ANNOTATION,
        SecretName,
    },
    authorization::{
        AuthorizationClientCertificate, AuthorizationHeader, AuthorizationHttpAttributes,
        AuthorizationNetworkAttributes, AuthorizationPolicy, AuthorizationPolicySpec, AuthorizationRule,
        AuthorizationSource, AuthorizationSourceServiceAccount, AuthorizationTargetReference,
        DEFAULT_ACTION_ANNOTATION,
    },
    backend::{ExternalHostname, XBackend, XBackendPort, XBackendSpec, XBackendTls},
    core::{
        ConfigMap, Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Namespace, Node, NodeCondition,
        NodeStatus, ObjectReference, Secret, Service, ServicePort, ServiceSpec,
    },
    definition::{definitions, smi_definitions},
    filter::{
        CorsFilter, ExtensionReference, ExternalAuthFilter, ForwardBody, Fraction, GrpcAuthConfig, GrpcRouteFilter,
        HeaderFilter, HeaderValue, HttpAuthConfig, HttpRouteFilter, MirrorFilter, PathModifier, RedirectFilter,
        RewriteFilter,
    },
    gateway::{
        AllowedKind, AllowedListeners, AllowedRoutes, ClientValidationSpec, FrontendTlsPort, FrontendTlsSettings,
        FrontendTlsSpec, Gateway, GatewayAddress, GatewayBackendTls, GatewayClass, GatewayClassSpec, GatewaySpec,
        GatewayTlsSpec, GrantFrom, GrantTo, Infrastructure, LabelSelector, ListenerSet, ListenerSetSpec, ListenerSpec,
        ListenerTlsSpec, NamespacesFrom, ParametersReference, ReferenceGrant, ReferenceGrantSpec, SelectorRequirement,
    },
    l4::{BackendRef, L4RouteRule, TcpRoute, TcpRouteSpec, TlsRoute, TlsRouteSpec, UdpRoute, UdpRouteSpec},
    mesh::{MESH_LABEL, Stage, UnknownStage, XMesh, XMeshSpec},
    meta::{Metadata, Unread},
    name::{name_hash, shortened},
    object::{Kind, Object, ObjectName, ObjectRef, ParseError},
    parameters::{
        AccessLogParameters, Autoscaling, GatewayParameters, GatewayParametersSpec, IpFamilyPolicy, LogLevel,
        PodParameters, Resources, ServiceParameters, ServiceType, SpansParameters, Toleration,
        TopologySpreadConstraint, TrafficPolicy,
    },
    policy::{
        BackendTlsPolicy, BackendTlsPolicySpec, BackendTlsValidation, BudgetDetails, PolicyTarget, RequestRate,
        RetryConstraint, SubjectAltNameSpec, XBackendTrafficPolicy, XBackendTrafficPolicySpec,
    },
    reference::{
        BackendObjectReference, CaCertificateReference, LocalReference, ParentGatewayReference, ParentReference,
        SecretReference,
    },
    route::{
        CookieConfig, GrpcBackendRef, GrpcHeaderMatch, GrpcMethodMatch, GrpcRoute, GrpcRouteMatch, GrpcRouteRule,
        GrpcRouteSpec, HttpBackendRef, HttpHeaderMatch, HttpPathMatch, HttpQueryMatch, HttpRoute, HttpRouteMatch,
        HttpRouteRule, HttpRouteSpec, RetrySpec, SessionCookie, SessionHeader, SessionPersistence, TimeoutsSpec,
    },
    smi::{
        ConvertError, HttpMatch, HttpMatchHeaders, HttpRouteGroup, HttpRouteGroupSpec, IdentityBinding,
        IdentityBindingSpec, IdentitySchemes, PodLabelSelector, PortMatches, SMI_ACCESS, SmiTcpRoute, SmiTcpRouteSpec,
        SmiUdpRoute, SmiUdpRouteSpec, SplitMatch, TrafficSplit, TrafficSplitBackend, TrafficSplitSpec, TrafficSubject,
        TrafficTarget, TrafficTargetRule, TrafficTargetSpec, Weight, WeightError, convert,
    },
    status::{
        AddressStatus, AncestorStatus, Condition, GatewayClassStatus, GatewayStatus, ListenerSetStatus, ListenerStatus,
        MeshStatus, ParentStatus, PolicyStatus, RouteKindStatus, RouteStatus, SupportedFeature, XBackendStatus,
    },
};
