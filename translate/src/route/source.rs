//! Routes of all kinds as one.

use weft_crds::{
    GrpcRoute, HttpRoute, HttpRouteRule, Kind, L4RouteRule, Metadata, ObjectRef, ParentReference, TcpRoute, TlsRoute,
    UdpRoute,
};
use weft_model::RouteKind;

use crate::{
    diagnostic::Diagnostic,
    rule::{LoweredRule, Lowering},
    validate,
    world::Reader,
};

/// A route of any kind.
pub(super) enum Source<'w> {
    Http(&'w HttpRoute),
    Grpc(&'w GrpcRoute),
    Tls(&'w TlsRoute),
    Tcp(&'w TcpRoute),
    Udp(&'w UdpRoute),
}

impl<'w> Source<'w> {
    pub(super) fn read(reader: &Reader<'w>, reference: &ObjectRef) -> Option<Self> {
        let (namespace, name) = (reference.namespace.as_str(), reference.name.as_str());
        Some(match reference.kind {
            Kind::GrpcRoute => Self::Grpc(reader.grpc_route(namespace, name)?),
            Kind::TlsRoute => Self::Tls(reader.tls_route(namespace, name)?),
            Kind::TcpRoute => Self::Tcp(reader.tcp_route(namespace, name)?),
            Kind::UdpRoute => Self::Udp(reader.udp_route(namespace, name)?),
            _ => Self::Http(reader.http_route(namespace, name)?),
        })
    }

    /// Whether all its parents are Services: no Gateway leads to it.
    pub(super) fn in_mesh(&self) -> bool {
        !self.parents().is_empty() && self.parents().iter().all(ParentReference::is_service)
    }

    pub(super) fn kind(&self) -> RouteKind {
        match self {
            Self::Http(_) => RouteKind::Http,
            Self::Grpc(_) => RouteKind::Grpc,
            Self::Tls(_) => RouteKind::Tls,
            Self::Tcp(_) => RouteKind::Tcp,
            Self::Udp(_) => RouteKind::Udp,
        }
    }

    pub(super) fn metadata(&self) -> &'w Metadata {
        match self {
            Self::Http(route) => &route.metadata,
            Self::Grpc(route) => &route.metadata,
            Self::Tls(route) => &route.metadata,
            Self::Tcp(route) => &route.metadata,
            Self::Udp(route) => &route.metadata,
        }
    }

    pub(super) fn parents(&self) -> &'w [ParentReference] {
        match self {
            Self::Http(route) => &route.spec.parent_refs,
            Self::Grpc(route) => &route.spec.parent_refs,
            Self::Tls(route) => &route.spec.parent_refs,
            Self::Tcp(route) => &route.spec.parent_refs,
            Self::Udp(route) => &route.spec.parent_refs,
        }
    }

    pub(super) fn hostnames(&self) -> &'w [String] {
        match self {
            Self::Http(route) => &route.spec.hostnames,
            Self::Grpc(route) => &route.spec.hostnames,
            Self::Tls(route) => &route.spec.hostnames,
            Self::Tcp(_) | Self::Udp(_) => &[],
        }
    }

    pub(super) fn rule_names(&self) -> Vec<Option<&'w str>> {
        match self {
            Self::Http(route) => route.spec.rules.iter().map(|rule| rule.name.as_deref()).collect(),
            Self::Grpc(route) => route.spec.rules.iter().map(|rule| rule.name.as_deref()).collect(),
            Self::Tls(_) | Self::Tcp(_) | Self::Udp(_) => {
                self.l4_rules().iter().map(|rule| rule.name.as_deref()).collect()
            }
        }
    }

    /// The rules of a route that looks at no request.
    pub(super) fn l4_rules(&self) -> &'w [L4RouteRule] {
        match self {
            Self::Tls(route) => &route.spec.rules,
            Self::Tcp(route) => &route.spec.rules,
            Self::Udp(route) => &route.spec.rules,
            Self::Http(_) | Self::Grpc(_) => &[],
        }
    }

    /// What the API server would have refused.
    pub(super) fn validate(&self) -> Vec<Diagnostic> {
        match self {
            Self::Http(route) => validate::http_route(route),
            Self::Grpc(route) => validate::grpc_route(route),
            Self::Tls(_) | Self::Tcp(_) | Self::Udp(_) => validate::l4_route(self.hostnames(), self.l4_rules()),
        }
    }

    pub(super) fn lower(&self, lowering: &Lowering<'_, '_>) -> Vec<LoweredRule> {
        let path = |at: usize| format!("spec.rules[{at}]");
        match self {
            Self::Http(route) => {
                // The API's default is one rule that takes everything. GRPCRoutes have none.
                let default = [HttpRouteRule::default()];
                let rules = match route.spec.rules.as_slice() {
                    [] => &default,
                    rules => rules,
                };
                let lower = |(at, rule): (usize, &HttpRouteRule)| lowering.http(rule, &path(at));
                rules.iter().enumerate().map(lower).collect()
            }
            Self::Grpc(route) => route
                .spec
                .rules
                .iter()
                .enumerate()
                .map(|(at, rule)| lowering.grpc(rule, &path(at)))
                .collect(),
            Self::Tls(_) | Self::Tcp(_) | Self::Udp(_) => {
                let lower = |(at, rule): (usize, &L4RouteRule)| lowering.l4(rule, &path(at));
                self.l4_rules().iter().enumerate().map(lower).collect()
            }
        }
    }
}
