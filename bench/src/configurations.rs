//! What the proxies and the origin are configured to do: the same for all of them.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// The host all requests are for.
pub(crate) const HOST: &str = "bench.example";
/// The name that TLS connections are for which are passed through: one that resolves, since wrk makes the SNI of its URL.
pub(crate) const PASSED: &str = "localhost";

/// A proxy's ports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) http: u16,
    pub(crate) https: u16,
    pub(crate) h2c: u16,
    /// TCP, to the origin's HTTP.
    pub(crate) tcp: u16,
    /// TLS that is passed through, to the origin's HTTPS.
    pub(crate) tls: u16,
    /// Datagrams.
    pub(crate) udp: u16,
}

/// nginx's module for TCP and UDP.
pub(crate) const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
/// What every nginx here begins with.
pub(crate) const NGINX_HEAD: &str = "daemon off; master_process off; pid nginx.pid; error_log /dev/null crit; worker_rlimit_nofile 40000;\nevents { worker_connections 18000; }\n";

pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}

pub(crate) fn origin_conf(folder: &Path, ports: Ports) -> String {
    let (root, Ports { http, https, h2c, .. }) = (text(&folder.join("www")), ports);
    let head = NGINX_HEAD.replace("nginx.pid", "origin.pid");
    format!(
        "{head}http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; keepalive_timeout 600s; open_file_cache max=10 inactive=600s; http2_max_concurrent_streams 1000;\n server {{ listen 127.0.0.1:{http} backlog=4096; root {root}; }}\n server {{ listen 127.0.0.1:{h2c} http2; root {root}; }}\n server {{ listen 127.0.0.1:{https} ssl http2; ssl_certificate {c}; ssl_certificate_key {k}; ssl_session_tickets off; root {root}; }} }}\n",
        c = text(&folder.join("tls.crt")),
        k = text(&folder.join("tls.key")),
    )
}

pub(crate) fn nginx_conf(folder: &Path, ports: Ports, origin: Ports) -> String {
    let Ports {
        http,
        https,
        h2c,
        tcp,
        tls,
        udp,
    } = ports;
    let location = "proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; proxy_buffers 8 32k; proxy_max_temp_file_size 0;";
    let stream = format!(
        "stream {{ map $ssl_preread_server_name $passed {{ {PASSED} 127.0.0.1:{}; }}\n server {{ listen 127.0.0.1:{tcp} backlog=4096; proxy_pass 127.0.0.1:{}; proxy_buffer_size 64k; tcp_nodelay on; }}\n server {{ listen 127.0.0.1:{tls} backlog=4096; ssl_preread on; proxy_pass $passed; tcp_nodelay on; }}\n server {{ listen 127.0.0.1:{udp} udp; proxy_pass 127.0.0.1:{}; proxy_timeout 60s; }} }}\n",
        origin.tls, origin.tcp, origin.udp
    );
    format!(
        "load_module {NGINX_STREAM};\n{NGINX_HEAD}{stream}http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600s; http2_max_concurrent_streams 1000; ssl_session_tickets off; ssl_session_cache off; ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;\n upstream origin {{ server 127.0.0.1:{o}; keepalive 512; keepalive_requests 100000000; }}\n upstream origin2 {{ server 127.0.0.1:{o2}; keepalive 64; keepalive_requests 100000000; }}\n server {{ listen 127.0.0.1:{http} backlog=4096; server_name {HOST}; location / {{ {location} }} }}\n server {{ listen 127.0.0.1:{https} ssl http2 backlog=4096; server_name {HOST}; ssl_certificate {c}; ssl_certificate_key {k}; location / {{ {location} }} }}\n server {{ listen 127.0.0.1:{h2c} http2; server_name {HOST}; location / {{ grpc_set_header X-Forwarded-For $remote_addr; grpc_set_header X-Forwarded-Proto $scheme; grpc_pass grpc://origin2; }} }} }}\n",
        o = origin.http,
        o2 = origin.h2c,
        c = text(&folder.join("tls.crt")),
        k = text(&folder.join("tls.key")),
    )
}

pub(crate) fn haproxy_conf(folder: &Path, ports: Ports, origin: Ports, splice: bool) -> String {
    let Ports {
        http,
        https,
        h2c,
        tcp,
        tls,
        udp: _,
    } = ports;
    let (splice, splice_both) = if splice {
        (
            "  option splice-response\n",
            "  option splice-request\n  option splice-response\n",
        )
    } else {
        ("", "")
    };
    let streams = format!(
        "frontend t\n  mode tcp\n  bind 127.0.0.1:{tcp} backlog 4096\n{splice_both}  default_backend bt\nbackend bt\n  mode tcp\n{splice_both}  server s 127.0.0.1:{}\nfrontend p\n  mode tcp\n  bind 127.0.0.1:{tls} backlog 4096\n  tcp-request inspect-delay 5s\n  tcp-request content accept if {{ req.ssl_hello_type 1 }}\n  use_backend bp if {{ req.ssl_sni -i {PASSED} }}\nbackend bp\n  mode tcp\n  server s 127.0.0.1:{}\n",
        origin.tcp, origin.tls
    );
    format!(
        "global\n  nbthread 1\n  maxconn 4000\n  tune.ssl.cachesize 0\n  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256\n  ssl-default-bind-options no-tls-tickets ssl-min-ver TLSv1.3\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 600s\n  timeout server 600s\n  http-reuse always\n  option forwardfor\n{splice}frontend f\n  http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]\n  bind 127.0.0.1:{http} backlog 4096\n  bind 127.0.0.1:{https} ssl crt {pem} alpn h2,http/1.1 backlog 4096\n  acl host hdr(host) -i {HOST}\n  acl path path_beg /\n  use_backend b if host path\nbackend b\n  server s 127.0.0.1:{o} pool-max-conn 512\nfrontend f2\n  bind 127.0.0.1:{h2c} proto h2\n  http-request set-header X-Forwarded-Proto http\n  acl host hdr(host) -i {HOST}\n  use_backend b2 if host\nbackend b2\n  server s 127.0.0.1:{o2} proto h2\n{streams}",
        pem = text(&folder.join("tls.pem")),
        o = origin.http,
        o2 = origin.h2c,
    )
}

pub(crate) fn envoy_conf(folder: &Path, ports: Ports, origin: Ports) -> String {
    use serde_json::json;
    let address = |protocol: &str, port: u16| json!({"socket_address": {"protocol": protocol, "address": "127.0.0.1", "port_value": port}});
    let listener = |name: &str, port: u16, cluster: &str, codec: &str, tls: bool| {
        let manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name,
            "codec_type": codec,
            "generate_request_id": false,
            "use_remote_address": true,
            "route_config": {"virtual_hosts": [{
                "name": "bench", "domains": [HOST, format!("{HOST}:*")],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}],
            }]},
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router", "dynamic_stats": false}}],
        });
        let mut chain =
            json!({"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]});
        if tls {
            chain["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "disable_stateless_session_resumption": true,
                "common_tls_context": {
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
                    "tls_certificates": [{
                        "certificate_chain": {"filename": text(&folder.join("tls.crt"))},
                        "private_key": {"filename": text(&folder.join("tls.key"))},
                    }],
                },
            }});
        }
        json!({"name": name, "address": address("TCP", port), "filter_chains": [chain]})
    };
    let cluster = |name: &str, port: u16, http2: bool| {
        let mut cluster = json!({
            "name": name, "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address":
                {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}]}]},
        });
        if http2 {
            cluster["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }});
        }
        cluster
    };
    let tcp = |cluster: &str| {
        json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": cluster, "cluster": cluster,
        }})
    };
    let inspector = json!({"name": "envoy.filters.listener.tls_inspector", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"}});
    let udp = json!({"name": "envoy.filters.udp_listener.udp_proxy", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig",
        "stat_prefix": "udp",
        "matcher": {"on_no_match": {"action": {"name": "route", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.Route", "cluster": "udp"}}}},
    }});
    json!({"static_resources": {
        "listeners": [
            listener("http", ports.http, "h1", "HTTP1", false),
            listener("https", ports.https, "h1", "AUTO", true),
            listener("h2c", ports.h2c, "h2", "HTTP2", false),
            {"name": "tcp", "address": address("TCP", ports.tcp), "filter_chains": [{"filters": [tcp("tcp")]}]},
            {"name": "tls", "address": address("TCP", ports.tls), "listener_filters": [inspector], "filter_chains": [
                {"filter_chain_match": {"server_names": [PASSED]}, "filters": [tcp("tls")]}]},
            {"name": "udp", "address": address("UDP", ports.udp), "udp_listener_config": {}, "listener_filters": [udp]},
        ],
        "clusters": [
            cluster("h1", origin.http, false),
            cluster("h2", origin.h2c, true),
            cluster("tcp", origin.tcp, false),
            cluster("tls", origin.tls, false),
            cluster("udp", origin.udp, false),
        ],
    }})
    .to_string()
}

/// Ordinary manifests: what a user would apply.
pub(crate) fn weft_conf(folder: &Path, ports: Ports, origin: Ports) -> anyhow::Result<String> {
    let secret = |name: &str| -> anyhow::Result<String> { Ok(STANDARD.encode(fs::read(folder.join(name))?)) };
    let service = |name: &str, port: u16, further: &str| {
        let transport = if further.contains("UDP") { "UDP" } else { "TCP" };
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{name: p, port: 80, {further}}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{name: p, port: {port}, protocol: {transport}}}]\nendpoints: [{{addresses: [127.0.0.1]}}]\n---\n"
        )
    };
    let route = |name: &str, listeners: &[&str], service: &str| {
        let parents: Vec<String> = listeners
            .iter()
            .map(|listener| format!("{{name: bench, sectionName: {listener}}}"))
            .collect();
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n  parentRefs: [{}]\n  hostnames: [{HOST}]\n  rules:\n  - matches: [{{path: {{type: PathPrefix, value: /}}}}]\n    timeouts: {{request: 30s}}\n    backendRefs: [{{name: {service}, port: 80}}]\n---\n",
            parents.join(", ")
        )
    };
    let stream = |kind: &str, name: &str, hostnames: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{hostnames}parentRefs: [{{name: bench, sectionName: {name}}}], rules: [{{backendRefs: [{{name: {name}, port: 80}}]}}]}}\n---\n"
        )
    };
    let Ports {
        http,
        https,
        h2c,
        tcp,
        tls,
        udp,
    } = ports;
    Ok(format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: bench}}\nspec:\n  gatewayClassName: weft\n  listeners:\n  - {{name: http, protocol: HTTP, port: {http}}}\n  - {{name: https, protocol: HTTPS, port: {https}, tls: {{certificateRefs: [{{name: tls}}]}}}}\n  - {{name: h2c, protocol: HTTP, port: {h2c}}}\n  - {{name: tcp, protocol: TCP, port: {tcp}}}\n  - {{name: tls, protocol: TLS, port: {tls}, hostname: {PASSED}, tls: {{mode: Passthrough}}}}\n  - {{name: udp, protocol: UDP, port: {udp}}}\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: tls}}\ntype: kubernetes.io/tls\ndata: {{tls.crt: {}, tls.key: {}}}\n---\n{}{}{}{}{}{}{}{}{}{}",
        secret("tls.crt")?,
        secret("tls.key")?,
        service("h1", origin.http, "appProtocol: http"),
        service("h2", origin.h2c, "appProtocol: kubernetes.io/h2c"),
        service("tcp", origin.tcp, "protocol: TCP"),
        service("tls", origin.tls, "protocol: TCP"),
        service("udp", origin.udp, "protocol: UDP"),
        route("h1", &["http", "https"], "h1"),
        route("h2", &["h2c"], "h2"),
        stream("TCPRoute", "tcp", ""),
        stream("TLSRoute", "tls", &format!("hostnames: [{PASSED}], ")),
        stream("UDPRoute", "udp", ""),
    ))
}
