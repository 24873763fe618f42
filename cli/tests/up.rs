//! `weft up`: its logs, the admin pages, and what it says when it cannot do what it is asked to.

mod support;

use std::{
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpStream},
    num::NonZeroUsize,
    path::Path,
    thread,
};

use support::{Backend, Weft, client::Http, eventually, run, run_with, stderr, stdout};
use weft_openmetrics as metrics;

const HELLO: &str = "examples/hello";

#[test]
fn off_a_terminal_it_logs() {
    let weft = Weft::up(&[Path::new(HELLO)], &[8080], &["--echo"]);
    weft.get(8080, "a.example", "/x?status=500");
    eventually("a line of the access log", || weft.stdout.contains("\n"));
    let text = weft.stdout.text();
    let line: serde_json::Value = serde_json::from_str(text.trim()).expect("it is one JSON object a line");
    for (field, value) in [
        ("method", "GET"),
        ("host", "a.example"),
        ("path", "/x"),
        ("protocol", "HTTP/1.1"),
        ("route", "HTTPRoute/default/hello/0"),
        ("service", "default/hello:80"),
        ("flag", ""),
    ] {
        assert_eq!(line[field], value, "{field}");
    }
    assert_eq!(
        (line["status"].as_u64(), line["listener_port"].as_u64()),
        (Some(500), Some(8080))
    );
    assert!(
        !text.contains('\u{1b}'),
        "no control sequences are written to what is no terminal"
    );
    assert!(!weft.stderr.contains("\u{1b}"), "{}", weft.stderr.text());
}

#[test]
fn the_access_log_has_the_form_that_is_asked_for() {
    let args = ["--echo", "--access-log", "{method} {path} {status} by {service}"];
    let weft = Weft::up(&[Path::new(HELLO)], &[8080], &args);
    weft.get(8080, "a.example", "/x");
    eventually("the line", || weft.stdout.text() == "GET /x 200 by default/hello:80\n");

    let weft = Weft::up(&[Path::new(HELLO)], &[8080], &["--access-log-sample", "0", "--echo"]);
    let mut connection = weft.connect(8080);
    for _ in 0..20 {
        assert_eq!(connection.get("a.example", "/").status, 200);
    }
    assert_eq!(connection.get("a.example", "/../x").status, 400);
    eventually("the line of what failed", || weft.stdout.contains("\n"));
    assert!(
        weft.stdout.text().lines().all(|line| line.contains("\"status\":400")),
        "{}",
        weft.stdout.text()
    );

    let mut weft = Weft::up(&[Path::new(HELLO)], &[8080], &["--access-log", "off"]);
    assert_eq!(weft.get(8080, "a.example", "/").status, 503);
    weft.signal("TERM");
    assert!(weft.wait().success());
    assert_eq!(weft.stdout.text(), "");
}

#[test]
fn what_an_option_cannot_be_is_said_at_once() {
    let output = run(&["up", HELLO, "--access-log-sample", "1.5"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("from 0 to 1"), "{}", stderr(&output));
    let output = run(&["up", HELLO, "--access-log", "{methud} {path}"]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(
        said.contains("methud") && said.contains("duration_us, listener_port, route"),
        "{said}"
    );
    let output = run(&["up", HELLO, "--spans", "collector:4317"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("write it like http://"), "{}", stderr(&output));
    let output = run(&["up", HELLO, "--drain", "soon"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("write it like 30s or 500ms"),
        "{}",
        stderr(&output)
    );
    let output = run(&["up"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(2), ""));
    let output = run_with("", &["up", "no/such/folder"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("no/such/folder cannot be read"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn metrics_are_openmetrics() {
    let weft = Weft::up(&[Path::new(HELLO)], &[8080], &["--echo"]);
    let mut connection = weft.connect(8080);
    for path in ["/", "/", "/?status=404", "/?status=503"] {
        connection.get("a.example", path);
    }
    let page = weft.page("/metrics");
    let kind = page.header("content-type");
    assert_eq!(
        kind.as_deref(),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    let families = metrics::parse(&page.text()).expect("it is valid");
    let requests = &families["weft_requests"];
    assert_eq!(metrics::sum(requests, &[("port", "8080"), ("class", "2xx")]), 2.0);
    assert_eq!(metrics::sum(requests, &[("port", "8080"), ("class", "4xx")]), 1.0);
    assert_eq!(metrics::sum(requests, &[("port", "8080"), ("class", "5xx")]), 1.0);
    let upstream = &families["weft_upstream_requests"];
    assert_eq!(metrics::sum(upstream, &[("service", "default/hello:80")]), 4.0);
    let failures = &families["weft_upstream_failures"];
    assert_eq!(metrics::sum(failures, &[("service", "default/hello:80")]), 1.0);
    let durations = &families["weft_request_duration_seconds"];
    let counts = durations
        .samples
        .iter()
        .filter(|sample| sample.name.ends_with("_count"));
    assert_eq!(counts.map(|sample| sample.value).sum::<f64>(), 4.0);
    assert_eq!(families["weft_connections_open"].samples[0].value, 1.0);
    assert_eq!(families["weft_upstream_connections"].samples[0].value, 1.0);
    assert_eq!(families["weft_upstream_reuses"].samples[0].value, 3.0);

    // What docs/observe.md names is there, and nothing else.
    let documented = fs::read_to_string(support::root().join("docs/observe.md")).expect("it is there");
    for name in families.keys() {
        let short = name.strip_prefix("weft_connections").unwrap_or(name);
        assert!(documented.contains(short), "{name} is not documented");
    }
}

#[test]
fn the_admin_pages_say_what_is_in_use() {
    let weft = Weft::up(&[Path::new("examples/storefront")], &[8080, 8443], &["--echo"]);
    assert_eq!((weft.page("/ready").status, weft.page("/live").status), (200, 200));
    let config = weft.page("/config");
    assert!(!config.text().contains("PRIVATE KEY"), "keys are not shown");
    let resources = config.json();
    let resources = resources.as_array().expect("a list");
    let certificate = resources
        .iter()
        .find(|resource| resource["kind"] == "certificate")
        .expect("there is one");
    assert_eq!(certificate["key"], "store/storefront-tls");
    assert_eq!(certificate["privateKey"], "[redacted]");
    assert!(
        certificate["chainPem"]
            .as_str()
            .is_some_and(|chain| chain.contains("BEGIN CERTIFICATE"))
    );

    weft.get(8080, "shop.storefront.example", "/");
    weft.get(8080, "shop.storefront.example", "/?status=500");
    let stats = weft.json("/stats");
    let row = |list: &str, name: &str| {
        let rows = stats[list].as_array().expect("a list");
        rows.iter()
            .find(|row| row["name"] == name)
            .unwrap_or_else(|| panic!("{name} in {stats}"))
            .clone()
    };
    let route = row("routes", "HTTPRoute/store/web/0");
    assert_eq!(
        (route["requests"].as_u64(), route["failures"].as_u64()),
        (Some(2), Some(1))
    );
    assert!(route["p99Ms"].as_f64().is_some_and(|p99| p99 > 0.0), "{route}");
    let service = row("services", "store/web:80");
    assert_eq!(
        (service["requests"].as_u64(), service["endpoints"].as_u64()),
        (Some(2), Some(1))
    );
    assert_eq!(row("routes", "HTTPRoute/store/moved/0")["requests"], 0);

    let nothing = weft.page("/nothing");
    assert_eq!(nothing.status, 404);
    assert!(nothing.text().contains("/metrics"), "it says which pages there are");
}

#[test]
fn five_thousand_routes_have_less_than_a_thousand_series() {
    const ROUTES: usize = 5000;
    let backends: Vec<Backend> = (0..16).map(|_| Backend::new("hello")).collect();
    let mut text = String::from(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: weft
  listeners: [{name: http, protocol: HTTP, port: 80}]
",
    );
    for at in 0..ROUTES {
        write!(
            text,
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r{at}}}
spec:
  parentRefs: [{{name: edge}}]
  hostnames: [h{at}.example]
  rules:
  - backendRefs: [{{name: s{at}, port: 80}}]
---
apiVersion: v1
kind: Service
metadata: {{name: s{at}}}
spec: {{ports: [{{port: 80}}]}}
"
        )
        .expect("text");
        // Of each eighth nobody answers.
        if at % 8 != 4 {
            let port = backends[at % backends.len()].address.port();
            write!(
                text,
                "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: s{at}, labels: {{kubernetes.io/service-name: s{at}}}}}
addressType: IPv4
ports: [{{port: {port}}}]
endpoints: [{{addresses: [127.0.0.1]}}]
"
            )
            .expect("text");
        }
        // Some have a policy.
        if at % 16 == 0 {
            write!(
                text,
                "---
apiVersion: weft.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: p{at}}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r{at}}}]
  action: ALLOW
  rules: [{{httpAttributes: {{paths: [{{type: Exact, value: /}}]}}}}]
"
            )
            .expect("text");
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("routes.yaml"), text).expect("written");
    // Without --echo: it would want a port for each Service. Every fourth route is used.
    let weft = Weft::up(&[folder.path()], &[80], &["--access-log", "off"]);
    let mut connection = weft.connect(80);
    for at in (0..ROUTES).step_by(4) {
        let mut ask = |path: &str| connection.get(&format!("h{at}.example"), path).status;
        assert_eq!(ask("/"), if at % 8 == 4 { 503 } else { 200 });
        if at % 16 == 0 {
            assert_eq!(ask("/elsewhere"), 403);
        }
    }
    let families = metrics::parse(&weft.page("/metrics").text()).expect("it is valid");
    assert_eq!(families["weft_config_routes"].samples[0].value, ROUTES as f64);
    let series: usize = families.values().map(|family| family.samples.len()).sum();
    assert!(series < 1000, "{series} series");
    // What has no series of its own is counted all the same.
    let requests = &families["weft_upstream_requests"];
    assert_eq!(metrics::sum(requests, &[("class", "2xx")]), (ROUTES / 8) as f64);
    let verdicts = &families["weft_policy_verdicts"];
    let policies = ROUTES.div_ceil(16) as f64;
    for verdict in ["allowed", "denied"] {
        assert_eq!(metrics::sum(verdicts, &[("verdict", verdict)]), policies, "{verdict}");
    }
    let others = metrics::sum(verdicts, &[("policy", "_other"), ("verdict", "denied")]);
    assert!(others > 0.0 && others < policies, "{others}");
}

#[test]
fn listeners_bind_where_they_are_told_to() {
    // All of 127.0.0.0/8 is this machine.
    let there = |weft: &Weft| SocketAddr::from(([127, 0, 0, 9], weft.address(8080).port()));
    let weft = Weft::up(&[Path::new(HELLO)], &[8080], &["--echo", "--address", "127.0.0.9"]);
    assert_eq!(
        Http::connect(there(&weft)).get("a.example", "/").service(),
        "default/hello"
    );
    assert!(TcpStream::connect(weft.address(8080)).is_err(), "and nowhere else");
    let weft = Weft::up(&[Path::new(HELLO)], &[8080], &["--echo"]);
    assert_eq!(weft.get(8080, "a.example", "/").service(), "default/hello");
    assert!(
        TcpStream::connect(there(&weft)).is_err(),
        "by default at 127.0.0.1 alone"
    );
    let weft = Weft::up(&[Path::new(HELLO)], &[8080], &["--echo", "--address", "0.0.0.0"]);
    assert_eq!(weft.get(8080, "a.example", "/").service(), "default/hello");
    assert_eq!(
        Http::connect(there(&weft)).get("a.example", "/").service(),
        "default/hello"
    );
    // An address of another machine (RFC 5737).
    let mut weft = Weft::start(&[Path::new(HELLO)], weft.offset(), &["--address", "192.0.2.1"]);
    let said = weft.stderr.text();
    assert!(said.contains(" on 192.0.2.1 cannot be bound: "), "{said}");
    assert!(weft.is_running());
    let output = run(&["up", HELLO, "--address", "localhost"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--address"), "{}", stderr(&output));
}

#[test]
fn there_are_as_many_workers_as_are_asked_for_each_with_a_socket_of_its_own() {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    for (args, workers) in [
        (&["--echo", "--workers", "1"][..], 1),
        (&["--echo", "--workers", "5"], 5),
        (&["--echo"], cores),
    ] {
        let weft = Weft::up(&[Path::new(HELLO)], &[8080], args);
        let tasks = fs::read_dir(format!("/proc/{}/task", weft.process())).expect("it runs");
        let names = tasks.map(|task| fs::read_to_string(task.expect("a thread").path().join("comm")));
        let count = names.filter(|name| name.as_ref().is_ok_and(|name| name.starts_with("worker-")));
        assert_eq!(count.count(), workers, "{args:?}");
        assert_eq!(listening(weft.address(8080).port()), workers, "{args:?}");
        // The kernel spreads connections over the sockets: all of them are listened to.
        let mut open: Vec<_> = (0..100).map(|_| weft.connect(8080)).collect();
        for connection in &mut open {
            assert_eq!(connection.get("a.example", "/").status, 200);
        }
    }
}

/// How many sockets listen at a port of 127.0.0.1.
fn listening(port: u16) -> usize {
    let sockets = fs::read_to_string("/proc/net/tcp").expect("there is procfs");
    let wanted = format!("0100007F:{port:04X}");
    sockets
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(1) == Some(&wanted.as_str()) && fields.get(3) == Some(&"0A"))
        .count()
}

#[test]
fn a_port_that_is_taken_is_said_with_what_to_do() {
    let first = Weft::up(&[Path::new(HELLO)], &[8080], &["--echo"]);
    let mut second = Weft::start(&[Path::new(HELLO)], first.offset(), &["--echo"]);
    let port = first.address(8080).port();
    let said = second.stderr.text();
    assert!(
        said.contains(&format!("port {port} on 127.0.0.1 cannot be bound: ")),
        "{said}"
    );
    assert!(
        said.contains("another process has it: stop that one, or add to all ports with --port-offset"),
        "{said}"
    );
    let row = ["default/hello", "http", "1", "True", "False", "(Invalid)", "True"];
    assert!(
        said.lines()
            .any(|line| line.split_whitespace().collect::<Vec<_>>() == row),
        "{said}"
    );
    assert!(
        said.contains("no Gateway is served: correct what is wrong above"),
        "{said}"
    );
    assert!(second.is_running(), "what else there is would be served");
    assert_eq!(
        first.get(8080, "a.example", "/").status,
        200,
        "the first is not disturbed"
    );

    let admin = first.admin.to_string();
    let output = run(&["up", HELLO, "--admin", &admin, "--port-offset", "40000"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains(&format!("the admin address {admin} cannot be bound")),
        "{said}"
    );
    assert!(said.contains("choose another with --admin"), "{said}");
}

#[test]
fn a_port_that_becomes_free_is_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = folder.path().join("hello.yaml");
    fs::copy(support::root().join("examples/hello/hello.yaml"), &manifest).expect("copied");
    let (offset, other) = support::taken(8080);
    let weft = Weft::start(&[folder.path()], offset, &["--echo"]);
    assert!(weft.stderr.contains("cannot be bound"), "{}", weft.stderr.text());
    drop(other);
    eventually("the listener", || weft.stderr.contains("no longer wrong: error[M0101]"));
    assert_eq!(weft.get(8080, "a.example", "/").status, 200);
}

#[test]
fn standard_input_is_served() {
    let manifests = fs::File::open(support::root().join("examples/hello/hello.yaml")).expect("it is there");
    let weft = Weft::up_from(manifests, &[8080], &["--echo"]);
    assert_eq!(weft.get(8080, "a.example", "/").service(), "default/hello");
}

#[test]
fn without_a_gateway_it_waits_for_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let weft = Weft::up(&[folder.path()], &[8080], &["--echo"]);
    assert!(
        weft.stderr.contains("there is no Gateway: add one"),
        "{}",
        weft.stderr.text()
    );
    fs::copy(
        support::root().join("examples/hello/hello.yaml"),
        folder.path().join("hello.yaml"),
    )
    .expect("copied");
    eventually("the listener", || {
        std::net::TcpStream::connect(weft.address(8080)).is_ok()
    });
    assert_eq!(weft.get(8080, "a.example", "/").service(), "default/hello");
}

#[test]
fn more_services_are_echoed_than_files_may_be_open_at_first() {
    let mut text = fs::read_to_string(support::root().join("examples/hello/hello.yaml")).expect("it is there");
    for at in 0..300 {
        write!(
            text,
            "---
apiVersion: v1
kind: Service
metadata: {{name: s{at}}}
spec: {{ports: [{{port: 80}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r{at}}}
spec:
  parentRefs: [{{name: hello}}]
  hostnames: [h{at}.example]
  rules:
  - backendRefs: [{{name: s{at}, port: 80}}]
"
        )
        .expect("text");
    }
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("hello.yaml"), text).expect("written");
    let answered = |weft: &Weft, numbers: std::ops::Range<usize>| {
        let mut statuses = numbers.map(|at| weft.get(8080, &format!("h{at}.example"), "/").status);
        statuses.all(|status| status == 200)
    };
    // The limit that is given at first is raised.
    let weft = Weft::limited("-S -n 200", folder.path(), 8080);
    assert!(!weft.stderr.contains("M0102"), "{}", weft.stderr.text());
    assert!(answered(&weft, 0..300));
    // One that cannot be raised is said, and the others are served.
    let weft = Weft::limited("-n 200", folder.path(), 8080);
    let said = weft.stderr.text();
    assert!(said.contains("warning[M0102]") && said.contains("ulimit -n"), "{said}");
    assert!(answered(&weft, 90..100), "there is room for connections");
}
