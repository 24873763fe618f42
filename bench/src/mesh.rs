//! The sidecars of two pods beside two Envoys that do the same: HTTP with mutual TLS from one to the other.
//!
//! On a real cluster, where the operator injects and certifies (`cargo xtask bench --mesh`). The load and the origin run in the
//! networks of pods, so what they send is intercepted as an application's is; Envoys are in the networks of pods without
//! sidecars, and are spoken to directly. Sidecars and Envoys are on core 0, load and origin on core 1.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::{fd::AsFd as _, linux::fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    configurations::{HOST, NGINX_HEAD, text},
    load::wrk,
    measure::{cpu_ns, median, rss},
    peer::{Running, certificate, envoy, envoy_flags, file, spawn, wait},
    steady::Steady,
};

const NAMESPACE: &str = "weft-bench";
/// Where the origin listens in its pod.
const ORIGIN: u16 = 8080;
/// Where the Envoy of the client listens, and the one of the server.
const ENVOY_OUT: u16 = 15001;
const ENVOY_IN: u16 = 15006;

/// Requests each second, evenly, of which latencies are.
const RATE: u32 = 1000;

/// What is asked for.
const IDLE_MB: f64 = 12.0;
const BUSY_MB: f64 = 20.0;
const ADDED_P50_US: f64 = 500.0;
const ADDED_P99_US: f64 = 1500.0;

/// A pod: where it is, and its network.
struct Pod {
    address: String,
    network: PathBuf,
}

/// One way from the client to the origin.
struct Way {
    name: &'static str,
    /// Whose network the load is in, and where it goes.
    client: usize,
    to: SocketAddr,
    /// What takes part.
    proxies: Vec<u32>,
}

/// What was measured of a way.
#[derive(Default)]
struct Figures {
    cpu_us: Vec<f64>,
    per_second: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    busy_mb: f64,
    idle_mb: f64,
}

/// Measures, and says so in Markdown; the second is whether everything is as it should be.
pub(crate) fn measure(rounds: usize, seconds: u64) -> anyhow::Result<(String, bool)> {
    kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found"])?;
    apply(&manifests())?;
    kubectl(&[
        "-n",
        NAMESPACE,
        "wait",
        "--for=condition=Ready",
        "pod",
        "--all",
        "--timeout=120s",
    ])?;
    let measured = ways(rounds, seconds);
    kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"])?;
    measured
}

fn ways(rounds: usize, seconds: u64) -> anyhow::Result<(String, bool)> {
    let folder = TempDir::new()?;
    let path = folder.path();
    certificate(path)?;
    fs::create_dir_all(path.join("www"))?;
    fs::write(path.join("www/1k"), vec![b'x'; 1024])?;
    let pods = ["client", "server", "plain-client", "plain-server"].map(pod);
    let [client, server, plain_client, plain_server] = pods;
    let pods = [client?, server?, plain_client?, plain_server?];
    let mut running = Vec::new();
    for at in [1, 3] {
        running.push(within(&pods[at].network, || origin(path, at))?);
    }
    let sidecars = [sidecar(&pods[0].network)?, sidecar(&pods[1].network)?];
    for pid in sidecars {
        ensure!(
            Command::new("taskset")
                .args(["-acp", "0", &pid.to_string()])
                .output()?
                .status
                .success(),
            "a sidecar cannot be put on core 0"
        );
    }
    let idle = [rss(sidecars[0])?, rss(sidecars[1])?];
    let binary = envoy()?;
    let mut envoys = Vec::new();
    for (at, port, conf) in [
        (2, ENVOY_OUT, envoy_out(path, &pods[3].address)),
        (3, ENVOY_IN, envoy_in(path)),
    ] {
        let conf = file(path, &format!("envoy{at}.json"), &conf)?;
        let envoy = within(&pods[at].network, || {
            let envoy = spawn(0, &text(&binary), &envoy_flags(&conf))?;
            wait(port)?;
            Ok(envoy)
        })?;
        envoys.push(envoy.0.id());
        running.push(envoy);
    }
    let idle_envoys = [rss(envoys[0])?, rss(envoys[1])?];
    let service = |name: &str| {
        kubectl(&[
            "-n",
            NAMESPACE,
            "get",
            "service",
            name,
            "-o",
            "jsonpath={.spec.clusterIP}",
        ])
    };
    let way = |name, client, host: IpAddr, port: u16, proxies: &[u32]| Way {
        name,
        client,
        to: SocketAddr::new(host, port),
        proxies: proxies.to_vec(),
    };
    let ways = [
        way("direct", 2, pods[3].address.parse()?, ORIGIN, &[]),
        way("weft", 0, service("server")?.parse()?, ORIGIN, &sidecars),
        way("weft, routed", 0, service("routed")?.parse()?, ORIGIN, &sidecars),
        way("envoy", 2, Ipv4Addr::LOCALHOST.into(), ENVOY_OUT, &envoys),
    ];
    let mut figures: Vec<Figures> = ways.iter().map(|_| Figures::default()).collect();
    for (at, idle) in [(1, idle), (2, idle), (3, idle_envoys)] {
        figures[at].idle_mb = megabytes(idle);
    }
    // Memory at a steady rate comes before all that could leave more.
    for round in 0..rounds {
        for turn in 0..ways.len() {
            let at = (turn + round) % ways.len();
            let way = &ways[at];
            let steady = Steady {
                to: way.to,
                rate: RATE,
                seconds,
            };
            let steady = within(&pods[way.client].network, || steady.measure())?;
            figures[at].p50_us.push(steady.p50_us);
            figures[at].p99_us.push(steady.p99_us);
            if round == 0
                && let [one, other] = way.proxies[..]
            {
                figures[at].busy_mb = megabytes([rss(one)?, rss(other)?]);
            }
            println!(
                "round {} {:<13} 1,000/s  p50 {:6.0} us  p99 {:6.0} us",
                round + 1,
                way.name,
                steady.p50_us,
                steady.p99_us
            );
        }
    }
    for round in 0..rounds {
        for turn in 0..ways.len() {
            let at = (turn + round) % ways.len();
            let way = &ways[at];
            let used = || way.proxies.iter().map(|pid| cpu_ns(*pid)).sum::<anyhow::Result<u64>>();
            let before = used()?;
            let load = within(&pods[way.client].network, || {
                wrk(&format!("http://{}/1k", way.to), 64, seconds, false)
            })?;
            let cpu_us = (used()? - before) as f64 / 1000.0 / load.requests as f64;
            figures[at].cpu_us.push(cpu_us);
            figures[at].per_second.push(load.per_second);
            println!(
                "round {} {:<13} {:8.0}/s  {cpu_us:6.1} us CPU",
                round + 1,
                way.name,
                load.per_second
            );
        }
    }
    Ok(report(rounds, seconds, &ways, &figures))
}

fn report(rounds: usize, seconds: u64, ways: &[Way], figures: &[Figures]) -> (String, bool) {
    let mut out = format!(
        "\n## Two sidecars with mutual TLS\n\nMade by `cargo xtask bench --mesh` on the cluster that tests run on: {rounds} rounds of {seconds} s runs. An application calls one in\nanother pod, 1 KB of HTTP/1.1, by way of the sidecars of both or of two Envoys that do the same. `CPU` is of both together, at\nall that 64 connections ask for; latencies are at 1,000 requests/s that come evenly over 20 connections, when these\nare made and warm; memory is resident, of the larger of\nthe two, before all load and after the first seconds at that rate. `weft, routed` has an HTTPRoute for the Service.\n\n| way | CPU us a request | requests/s | p50 us | added | p99 us | added | MB idle | MB at 1,000/s |\n|---|---|---|---|---|---|---|---|---|\n"
    );
    let direct = (median(&figures[0].p50_us), median(&figures[0].p99_us));
    for (way, of) in ways.iter().zip(figures) {
        let (p50, p99) = (median(&of.p50_us), median(&of.p99_us));
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "| {} | {:.1} | {:.0} | {p50:.0} | {:.0} | {p99:.0} | {:.0} | {:.1} | {:.1} |",
            way.name,
            median(&of.cpu_us),
            median(&of.per_second),
            p50 - direct.0,
            p99 - direct.1,
            of.idle_mb,
            of.busy_mb,
        );
    }
    let mut all = true;
    out.push('\n');
    let envoy = median(&figures[3].cpu_us);
    for at in [1, 2] {
        let of = &figures[at];
        let (p50, p99) = (median(&of.p50_us) - direct.0, median(&of.p99_us) - direct.1);
        for (what, is, wanted) in [
            ("CPU over that of two Envoys", median(&of.cpu_us) / envoy, 1.0),
            ("added at p50, us", p50, ADDED_P50_US),
            ("added at p99, us", p99, ADDED_P99_US),
            ("MB idle", of.idle_mb, IDLE_MB),
            ("MB at 1,000/s", of.busy_mb, BUSY_MB),
        ] {
            let met = is <= wanted;
            all &= met;
            let verdict = if met { "met" } else { "missed" };
            let _ = writeln!(
                out,
                "- {}: {what}: at most {wanted}, is {is:.2}: {verdict}",
                ways[at].name
            );
        }
    }
    (out, all)
}

fn megabytes(bytes: [u64; 2]) -> f64 {
    bytes[0].max(bytes[1]) as f64 / 1e6
}

/// Two pods in the mesh and two without, which do nothing but have networks, and two Services of the same pod.
fn manifests() -> String {
    let pod = |name: &str, inject: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {NAMESPACE}, labels: {{app: {name}, weft.dev/inject: {inject}}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: app, image: 'registry.k8s.io/gateway-api/echo-advanced:v1.5.1', args: [--port=9999]}}\n"
        )
    };
    let service = |name: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\nspec: {{selector: {{app: server}}, ports: [{{port: {ORIGIN}}}]}}\n"
        )
    };
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}, labels: {{weft.dev/mesh: secure}}}}\n{}{}{}{}{}{}---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: routed, namespace: {NAMESPACE}}}\nspec:\n  parentRefs: [{{group: '', kind: Service, name: routed}}]\n  rules: [{{backendRefs: [{{name: routed, port: {ORIGIN}}}]}}]\n",
        pod("client", "enabled"),
        pod("server", "enabled"),
        pod("plain-client", "disabled"),
        pod("plain-server", "disabled"),
        service("server"),
        service("routed"),
    )
}

/// Runs something in the network of a pod, and what it starts, too.
fn within<T: Send>(network: &Path, run: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    let inside = || {
        let network = File::open(network)?;
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
        run()
    };
    thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn origin(folder: &Path, number: usize) -> anyhow::Result<Running> {
    let head = NGINX_HEAD.replace("nginx.pid", &format!("origin{number}.pid"));
    let conf = format!(
        "{head}http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; keepalive_timeout 600s; open_file_cache max=10 inactive=600s;\n server {{ listen {ORIGIN} backlog=4096; root {}; }} }}\n",
        text(&folder.join("www"))
    );
    let conf = file(folder, &format!("origin{number}.conf"), &conf)?;
    let running = spawn(1, "nginx", &["-p", &text(folder), "-c", &conf])?;
    wait(ORIGIN)?;
    Ok(running)
}

fn pod(name: &str) -> anyhow::Result<Pod> {
    let address = kubectl(&["-n", NAMESPACE, "get", "pod", name, "-o", "jsonpath={.status.podIP}"])?;
    let mut seen = BTreeSet::new();
    for pid in processes()? {
        let network = PathBuf::from(format!("/proc/{pid}/ns/net"));
        // One that has ended meanwhile has none.
        if !fs::metadata(&network).is_ok_and(|found| seen.insert(found.st_ino())) {
            continue;
        }
        let shown = Command::new("nsenter")
            .arg(format!("--net={}", network.display()))
            .args(["ip", "-o", "-4", "addr"])
            .output()?;
        if String::from_utf8_lossy(&shown.stdout).contains(&format!(" {address}/")) {
            return Ok(Pod { address, network });
        }
    }
    anyhow::bail!("no network has the address {address} of the pod {name}")
}

/// The sidecar in a network.
fn sidecar(network: &Path) -> anyhow::Result<u32> {
    let inode = fs::metadata(network)?.st_ino();
    let is_it = |pid: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let here = fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|net| net.st_ino() == inode);
        name.trim() == "weft-sidecar" && here
    };
    let found = processes()?.into_iter().find(is_it);
    found.context("a pod has no sidecar: is the mesh on, with images of this tree?")
}

/// All that run, the cluster's among them.
fn processes() -> anyhow::Result<Vec<u32>> {
    let names = fs::read_dir("/proc")?.map(|entry| Ok(entry?.file_name().to_str().and_then(|name| name.parse().ok())));
    let found: anyhow::Result<Vec<Option<u32>>> = names.collect();
    Ok(found?.into_iter().flatten().collect())
}

fn kubectl(args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("kubectl").args(args).output();
    let output = output.context("kubectl could not be run: use cargo xtask bench --mesh")?;
    ensure!(
        output.status.success(),
        "kubectl {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn apply(manifests: &str) -> anyhow::Result<()> {
    let folder = TempDir::new()?;
    let path = file(folder.path(), "all.yaml", manifests)?;
    kubectl(&["apply", "--server-side", "-f", &path]).map(drop)
}

/// HTTP in, HTTP over mutual TLS out to the other Envoy.
fn envoy_out(folder: &Path, server: &str) -> String {
    let mut cluster = cluster(server, ENVOY_IN);
    cluster["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": HOST,
        "common_tls_context": tls(folder),
    }});
    envoy_conf(ENVOY_OUT, None, &cluster)
}

/// HTTP over mutual TLS in, HTTP out to the application.
fn envoy_in(folder: &Path) -> String {
    let socket = json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": true,
        "common_tls_context": tls(folder),
    }});
    envoy_conf(ENVOY_IN, Some(socket), &cluster("127.0.0.1", ORIGIN))
}

fn tls(folder: &Path) -> serde_json::Value {
    json!({
        "alpn_protocols": ["http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{
            "certificate_chain": {"filename": text(&folder.join("tls.crt"))},
            "private_key": {"filename": text(&folder.join("tls.key"))},
        }],
        "validation_context": {"trusted_ca": {"filename": text(&folder.join("tls.crt"))}},
    })
}

fn cluster(address: &str, port: u16) -> serde_json::Value {
    json!({
        "name": "next", "type": "STATIC", "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "next", "endpoints": [{"lb_endpoints": [{"endpoint": {"address":
            {"socket_address": {"address": address, "port_value": port}}}}]}]},
    })
}

fn envoy_conf(port: u16, socket: Option<serde_json::Value>, cluster: &serde_json::Value) -> String {
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "mesh",
        "codec_type": "HTTP1",
        "generate_request_id": false,
        "route_config": {"virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "next"}}],
        }]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router", "dynamic_stats": false}}],
    });
    let mut chain =
        json!({"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]});
    if let Some(socket) = socket {
        chain["transport_socket"] = socket;
    }
    let address = json!({"socket_address": {"address": "0.0.0.0", "port_value": port}});
    json!({"static_resources": {
        "listeners": [{"name": "mesh", "address": address, "filter_chains": [chain]}],
        "clusters": [cluster],
    }})
    .to_string()
}
