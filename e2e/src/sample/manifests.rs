//! What the application consists of. No probe names a port of an application: the kubelet would be let in there.

use rcgen::{CertificateParams, KeyPair};

use super::REPORT;

/// A server, the pods of which each Service is of its name.
struct Server {
    name: &'static str,
    ports: &'static [u16],
    command: &'static [&'static str],
}

const SERVERS: [Server; 4] = [
    Server {
        name: "grpc",
        ports: &[8080],
        command: &["/grpc/server", "-port=8080"],
    },
    Server {
        name: "redis",
        ports: &[6379],
        command: &["redis-server", "--protected-mode", "no", "--save", ""],
    },
    Server {
        name: "postgres",
        ports: &[5432],
        // Whoever comes has the address of the pod itself.
        command: &[
            "sh",
            "-c",
            "cd /usr/lib/postgresql/*/bin && ./initdb -D /data/db -U sample -A trust --no-locale -E UTF8 --no-sync && \
             echo 'host all all all trust' >> /data/db/pg_hba.conf && \
             exec ./postgres -D /data/db -k /data -c listen_addresses='*' -c fsync=off",
        ],
    },
    Server {
        name: "caller",
        ports: &[8080],
        command: &["python3", "-B", "/sample/call.py"],
    },
];

/// All of it, in a namespace that is observed.
pub(super) fn all(namespace: &str) -> anyhow::Result<String> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(["web".to_owned()])?.self_signed(&key)?;
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "web", "namespace": namespace},
        "stringData": {"tls.crt": certificate.pem(), "tls.key": key.serialize_pem()},
    });
    let web = Server {
        name: "web",
        ports: &[8080, 8081, 8443, 8025],
        command: &["python3", "-B", "/sample/serve.py"],
    };
    let mut all = format!(
        r#"
apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}, labels: {{weft.dev/mesh: observe}}}}
---
{secret}
---
apiVersion: v1
kind: Service
metadata: {{name: pods, namespace: {namespace}}}
spec: {{clusterIP: None, selector: {{app: web}}, ports: [{{name: http, port: 8080}}]}}
---
{}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: web, namespace: {namespace}}}
spec: {{serviceName: pods, replicas: 2, podManagementPolicy: Parallel, {}}}
"#,
        service(&web, namespace),
        pods(&web),
    );
    for server in &SERVERS {
        all.push_str(&format!(
            r#"
---
{}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {}, namespace: {namespace}}}
spec: {{{}}}
"#,
            service(server, namespace),
            server.name,
            pods(server),
        ));
    }
    Ok(all)
}

/// Its Service and its account.
fn service(Server { name, ports, .. }: &Server, namespace: &str) -> String {
    let ports: Vec<_> = ports
        .iter()
        .map(|port| serde_json::json!({"name": format!("port-{port}"), "port": port}))
        .collect();
    let service = serde_json::json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": ports},
    });
    let account = serde_json::json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}});
    format!("{service}\n---\n{account}")
}

/// The fields of a spec that say what its pods are.
fn pods(Server { name, command, .. }: &Server) -> String {
    let template = serde_json::json!({
        "metadata": {
            "labels": {"app": name},
            "annotations": {"weft.dev/skip-inbound-ports": REPORT.to_string(), "weft.dev/sidecar-access-log": "json"},
        },
        "spec": {
            "serviceAccountName": name,
            "terminationGracePeriodSeconds": 2,
            "containers": [{
                "name": name, "image": "weft.dev/sample:dev", "command": command,
                "volumeMounts": [{"name": "certificate", "mountPath": "/certificate"}, {"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "certificate", "secret": {"secretName": "web"}}, {"name": "data", "emptyDir": {}}],
        },
    });
    format!(r#"selector: {{matchLabels: {{app: {name}}}}}, template: {template}"#)
}
