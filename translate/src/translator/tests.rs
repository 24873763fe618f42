use serde_json::{Value, json};

use super::*;

#[test]
fn of_what_is_gone_nothing_is_kept() {
    let parts = [
        (Kind::GatewayClass, json!({"controllerName": crate::CONTROLLER})),
        (
            Kind::Gateway,
            json!({"gatewayClassName": "o", "allowedListeners": {"namespaces": {"from": "All"}}, "listeners": [
                {"name": "http", "port": 80, "protocol": "HTTP"},
                {"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "o"}]}},
            ]}),
        ),
        (
            Kind::HttpRoute,
            json!({"parentRefs": [{"name": "o"}, {"group": "", "kind": "Service", "name": "o"}], "rules": [{"backendRefs": [
                {"name": "o", "port": 80}, {"name": "o", "namespace": "elsewhere", "port": 80},
            ]}]}),
        ),
        (
            Kind::ListenerSet,
            json!({"parentRef": {"name": "o"}, "listeners": [{"name": "o", "port": 8080, "protocol": "HTTP"}]}),
        ),
        (
            Kind::BackendTlsPolicy,
            json!({"targetRefs": [{"group": "", "kind": "Service", "name": "o"}], "validation": {
                "hostname": "o.example", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "o"}],
            }}),
        ),
        (
            Kind::Service,
            json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}),
        ),
        (
            Kind::TcpRoute,
            json!({"parentRefs": [{"group": "", "kind": "Service", "name": "o"}], "rules": [{"backendRefs": []}]}),
        ),
        (Kind::XMesh, json!({"controllerName": crate::CONTROLLER})),
        (
            Kind::XBackendTrafficPolicy,
            json!({"targetRefs": [{"group": "", "kind": "Service", "name": "o"}], "retryConstraint": {}}),
        ),
        (Kind::ReferenceGrant, json!({"from": [], "to": []})),
        (
            Kind::TrafficSplit,
            json!({"service": "o.default", "matches": [{"kind": "HTTPRouteGroup", "name": "o"}], "backends": [{"service": "o", "weight": 1}]}),
        ),
        (Kind::HttpRouteGroup, json!({"matches": [{"name": "o"}]})),
        (Kind::SmiTcpRoute, json!({"matches": {"ports": [80]}})),
        (Kind::IdentityBinding, json!({"schemes": {"serviceAccount": "o"}})),
        (
            Kind::TrafficTarget,
            json!({"destination": {"kind": "ServiceAccount", "name": "o"}, "sources": [{"kind": "IdentityBinding", "name": "o"}],
                "rules": [{"kind": "TCPRoute", "name": "o"}, {"kind": "HTTPRouteGroup", "name": "o"}]}),
        ),
    ];
    let object = |kind: Kind, value: Value| Object::from_value(kind, value).expect("an object");
    let mut objects: Vec<Object> = parts
        .into_iter()
        .map(|(kind, spec)| object(kind, json!({"metadata": {"name": "o"}, "spec": spec})))
        .collect();
    objects.push(object(
        Kind::EndpointSlice,
        json!({
            "metadata": {"name": "o", "labels": {"kubernetes.io/service-name": "o"}},
            "ports": [{"port": 8080}],
            "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "o", "conditions": {"ready": false}}],
        }),
    ));
    objects.push(object(
        Kind::Node,
        json!({"metadata": {"name": "o"}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
    ));
    objects.push(object(
        Kind::Namespace,
        json!({"metadata": {
            "name": "default", "labels": {"weft.dev/mesh": "observe"}, "annotations": {"weft.dev/smi-access": "deny-in-mesh"},
        }}),
    ));
    let certified = rcgen::generate_simple_self_signed(["o.example".to_owned()]).expect("a certificate");
    let pair = json!({"tls.crt": certified.cert.pem(), "tls.key": certified.signing_key.serialize_pem()});
    objects.push(object(
        Kind::Secret,
        json!({"metadata": {"name": "o"}, "stringData": pair}),
    ));
    objects.push(object(
        Kind::ConfigMap,
        json!({"metadata": {"name": "o"}, "data": {"ca.crt": certified.cert.pem()}}),
    ));

    for standalone in [false, true] {
        let empty = Translator::new(Options {
            controller_name: crate::CONTROLLER.into(),
            standalone,
            mesh: !standalone,
        });
        let mut translator = Translator::new(empty.options.clone());
        translator.apply(objects.iter().cloned().map(Edit::Put).collect());
        assert_ne!(translator.sizes(), empty.sizes());
        let kinds = |translator: &Translator| translator.resources().map(Resource::key).collect::<Vec<_>>();
        // In the mesh a frontend, and two policies of SMI.
        let of_mesh = if standalone { 0 } else { 3 };
        assert_eq!(kinds(&translator).len(), 8 + of_mesh, "{:?}", kinds(&translator));
        for object in &objects {
            translator.apply(vec![Edit::Delete(object.reference())]);
        }
        assert_eq!(translator.sizes(), empty.sizes());
    }
}

impl Translator {
    fn sizes(&self) -> (usize, [usize; 2], [usize; 9], [usize; 6]) {
        let Self {
            options: _,
            world,
            graph,
            owners,
            sets,
            routes,
            services,
            used,
            attached,
            claims,
            serving,
            ancestors,
            outcome,
        } = self;
        let counted = [
            owners.len(),
            sets.len(),
            routes.len(),
            services.len(),
            used.len(),
            attached.len(),
            claims.size(),
            serving.len(),
            ancestors.len(),
        ];
        (world.size(), graph.sizes(), counted, outcome.sizes())
    }
}
