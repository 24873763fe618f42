//! `weft analyze`, `weft translate` and `weft explain`, as a user runs them.

mod support;

use std::fs;

use serde_json::Value;
use support::{run, run_with, stderr, stdout};

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: weft
  listeners:
  - {name: http, protocol: HTTP, port: 80}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ports: [{port: 80}]
";

/// A misspelt field, a reference to nothing, and an unsupported value, at known places.
const ROUTES: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: misspelt}
spec:
  parentRefs: [{name: edge}]
  rules:
  - backendRef: []
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: dangling}
spec:
  parentRefs: [{name: edge}]
  rules:
  - backendRefs:
    - name: nowhere
      port: 80
";

#[test]
fn every_problem_has_a_place_its_line_and_a_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("gateway.yaml"), GATEWAY).expect("written");
    let routes = folder.path().join("routes.yaml");
    fs::write(&routes, ROUTES).expect("written");
    let output = run(&["analyze", &folder.path().to_string_lossy()]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    let misspelt = format!(
        "error[M0005]: unknown field \"backendRef\" in a HTTPRoute\n  --> {}:7:5\n   |\n 7 |   - backendRef: []\n   |     ^\n  = help: did you mean \"backendRefs\"? known fields: backendRefs, filters,",
        routes.display()
    );
    assert!(text.contains(&misspelt), "{text}");
    let dangling = format!(
        "  --> {}:16:7\n    |\n 16 |     - name: nowhere\n    |       ^\n  = help: ",
        routes.display()
    );
    assert!(text.contains("error[W0306]") && text.contains(&dangling), "{text}");
    let last = text.lines().last().expect("there are lines");
    assert!(
        last.starts_with("2 errors, ") && last.ends_with(" in 4 objects"),
        "{last}"
    );
}

#[test]
fn json_has_what_the_text_has() {
    let folder = tempfile::tempdir().expect("a folder");
    let routes = folder.path().join("routes.yaml");
    fs::write(&routes, format!("{GATEWAY}---\n{ROUTES}")).expect("written");
    let output = run(&["analyze", &folder.path().to_string_lossy(), "--output", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let problems: Vec<Value> = serde_json::from_slice(&output.stdout).expect("a list");
    let of = |code: &str| problems.iter().find(|problem| problem["code"] == code).expect(code);
    let dangling = of("W0306");
    assert_eq!(dangling["level"], "error");
    assert_eq!(dangling["object"], "HTTPRoute default/dangling");
    assert_eq!(dangling["place"]["file"], routes.to_string_lossy().as_ref());
    assert_eq!(
        (dangling["place"]["line"].as_u64(), dangling["place"]["column"].as_u64()),
        (Some(30), Some(7))
    );
    assert_eq!(dangling["snippet"], "    - name: nowhere");
    for problem in &problems {
        for field in ["code", "level", "message", "remedy"] {
            assert!(
                problem[field].as_str().is_some_and(|text| !text.is_empty()),
                "{field} of {problem}"
            );
        }
        let documented = fs::read_to_string(support::root().join("docs/diagnostics.md")).expect("it is there");
        let code = problem["code"].as_str().expect("checked");
        assert!(
            documented.contains(&format!("| {code} | {} |", problem["level"].as_str().expect("checked"))),
            "{code}"
        );
    }
}

#[test]
fn what_is_only_worth_knowing_is_no_failure() {
    let output = run_with(GATEWAY, &["analyze", "-"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert_eq!(stdout(&output), "0 errors, 0 warnings, 0 notes in 2 objects\n");
    let output = run(&["analyze", "examples/storefront", "--output", "json"]);
    assert_eq!(output.status.code(), Some(0));
    let problems: Vec<Value> = serde_json::from_slice(&output.stdout).expect("a list");
    assert!(
        !problems.is_empty() && problems.iter().all(|problem| problem["level"] == "info"),
        "{problems:?}"
    );
}

#[test]
fn standard_input_is_named_as_it_was_asked_for() {
    let output = run_with(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\nspec: {rule: []}\n",
        &["analyze", "-"],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("\n  --> -:4:8\n"), "{}", stdout(&output));
}

#[test]
fn a_path_that_is_not_there_is_said_on_standard_error() {
    let output = run(&["analyze", "no/such/folder"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let said = stderr(&output);
    assert!(
        said.starts_with("error: no/such/folder cannot be read: ") && said.contains("name a file or a folder"),
        "{said}"
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    // Far more than a pipe holds.
    let text: String = (0..2000).map(|at| format!("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r{at}}}\nspec: {{rule: []}}\n---\n")).collect();
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("many.yaml"), text).expect("written");
    let mut child = support::command(["analyze"])
        .arg(folder.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("weft runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(stderr(&output), "");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn translate_prints_the_model_and_the_statuses_without_secrets() {
    let output = run(&["translate", "examples/storefront"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let kinds = |kind: &str| {
        told["resources"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|r| r["kind"] == kind)
            .count()
    };
    assert_eq!(
        (
            kinds("listener"),
            kinds("route"),
            kinds("service"),
            kinds("certificate")
        ),
        (2, 6, 6, 1)
    );
    let certificate = told["resources"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|r| r["kind"] == "certificate");
    assert_eq!(certificate.expect("counted")["privateKey"], "[redacted]");
    assert!(!stdout(&output).contains("PRIVATE KEY"));
    let statuses = told["statuses"].as_array().expect("a list");
    let gateway = statuses
        .iter()
        .find(|status| status["kind"] == "Gateway")
        .expect("there is one");
    assert_eq!(
        (gateway["namespace"].as_str(), gateway["name"].as_str()),
        (Some("store"), Some("storefront"))
    );
    let programmed = |conditions: &Value| {
        conditions
            .as_array()
            .expect("a list")
            .iter()
            .any(|c| c["type"] == "Programmed" && c["status"] == "True")
    };
    assert!(programmed(&gateway["status"]["conditions"]), "{gateway}");
    assert!(
        gateway["status"]["listeners"]
            .as_array()
            .expect("a list")
            .iter()
            .all(|l| programmed(&l["conditions"]))
    );
    assert_eq!(
        statuses.iter().filter(|status| status["kind"] == "HTTPRoute").count(),
        4
    );
}

#[test]
fn explain_says_what_takes_a_request_and_why_nothing_else_does() {
    let output = run(&[
        "explain",
        "http://shop.storefront.example:8080/api/items",
        "examples/storefront",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    let readme = fs::read_to_string(support::root().join("README.md")).expect("it is there");
    for line in [
        "GET http://shop.storefront.example:8080/api/items",
        "  listener  store/storefront/http (*.storefront.example)",
        "  route     HTTPRoute/store/api/1 (canary), match 0",
        "  backend   store/api-v1:80  90.0 %  0 endpoints",
        "  backend   store/api-v2:80  10.0 %  0 endpoints",
        "  not taken by",
        "    HTTPRoute/store/web/0  HTTPRoute/store/api/1 comes first: its path is longer",
        "    HTTPRoute/store/api/0  header x-preview is absent, not \"yes\"",
    ] {
        assert!(text.lines().any(|said| said == line), "{line:?} is missing in\n{text}");
        assert!(readme.contains(line), "the README does not say {line:?}");
    }
    assert!(
        text.contains("    HTTPRoute/store/checkout/0  path \"/api/items\" is not below \"/checkout\"\n"),
        "{text}"
    );
}

#[test]
fn explain_takes_headers_a_method_and_json() {
    let url = "https://shop.storefront.example:8443/api";
    let output = run(&[
        "explain",
        url,
        "-H",
        "X-Preview: yes",
        "examples/storefront",
        "-o",
        "json",
    ]);
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said["taken"]["route"], "HTTPRoute/store/api/0", "{said}");
    assert_eq!(said["listeners"], serde_json::json!(["store/storefront/https"]));
    let url = "http://shop.storefront.example:8080/checkout";
    let taken = |method: &str| stdout(&run(&["explain", url, "--method", method, "examples/storefront"]));
    assert!(taken("POST").contains("  route     HTTPRoute/store/checkout/0, match 0\n"));
    let text = taken("GET");
    assert!(
        text.contains("  route     HTTPRoute/store/web/0 (pages), match 0\n"),
        "{text}"
    );
    assert!(
        text.contains("    HTTPRoute/store/checkout/0  method GET is not POST\n"),
        "{text}"
    );
}

#[test]
fn explain_says_when_nothing_takes_a_request() {
    let explain = |url: &str| {
        let output = run(&["explain", url, "examples/storefront"]);
        assert_eq!(output.status.code(), Some(0));
        stdout(&output)
    };
    assert!(explain("http://shop.storefront.example:81/").contains("  nothing listens on that port\n"));
    assert!(explain("http://other.example:8080/").contains("  answers   404: no listener answers for that host\n"));
    let text = explain("http://inventory.storefront.example:8080/other");
    assert!(text.contains("  answers   404: no route takes it\n"), "{text}");
    assert!(text.contains("    GRPCRoute/store/inventory/0  path "), "{text}");
    let output = run(&["explain", "ftp://a", "examples/storefront"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("write it like http://shop.example:8080/cart?id=1"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_destination_by_name_is_named_and_what_is_wrong_with_it_has_its_place() {
    const XBACKENDS: &str = "apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackend
metadata: {name: api}
spec:
  type: ExternalHostname
  port: {port: 443}
  externalHostname: {hostname: api.elsewhere.example}
  tls: {mode: ServerOnly}
---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackend
metadata: {name: node}
spec:
  type: ExternalHostname
  port: {port: 80}
  externalHostname:
    hostname: 169.254.169.254
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: out}
spec:
  parentRefs: [{name: edge}]
  rules:
  - matches: [{path: {value: /api}}]
    backendRefs: [{group: gateway.networking.x-k8s.io, kind: XBackend, name: api}]
  - matches: [{path: {value: /node}}]
    backendRefs: [{group: gateway.networking.x-k8s.io, kind: XBackend, name: node}]
";
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("gateway.yaml"), GATEWAY).expect("written");
    fs::write(folder.path().join("out.yaml"), XBACKENDS).expect("written");
    let path = folder.path().to_str().expect("UTF-8");
    let explain = |url: &str| stdout(&run(&["explain", url, path]));
    let backend =
        "  backend   XBackend/default/api:443  100.0 %  api.elsewhere.example:443  TLS to api.elsewhere.example";
    let text = explain("http://a.example/api");
    assert!(text.lines().any(|line| line == backend), "{text}");
    let text = explain("http://a.example/node");
    assert!(
        text.contains("UnsupportedValue: the XBackend default/node cannot be served"),
        "{text}"
    );
    let output = run(&["analyze", path]);
    let text = stdout(&output);
    assert!(text.contains("out.yaml:17:5") && text.contains("W0101"), "{text}");
    assert!(text.contains("W0312"), "{text}");
}

/// A Service with the producer's routes and the one of a consumer.
const MESH: &str = "apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {weft.dev/mesh: observe}}
---
apiVersion: v1
kind: Namespace
metadata: {name: web, labels: {weft.dev/mesh: secure}}
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec:
  clusterIP: 10.96.0.7
  ports: [{name: http, port: 80}, {name: db, port: 5432}]
---
apiVersion: v1
kind: Service
metadata: {name: reviews-v2, namespace: shop}
spec:
  ports: [{port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: producer, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews, port: 80}]
  hostnames: [elsewhere.example]
  rules:
  - matches: [{path: {value: /v2}}]
    backendRefs: [{name: reviews-v2, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: consumer, namespace: web}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews, namespace: shop, port: 80}]
  rules:
  - backendRefs: [{name: reviews-v2, namespace: shop, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: outside, namespace: elsewhere}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews, namespace: shop}]
  rules:
  - backendRefs: [{name: reviews-v2, namespace: shop, port: 80}]
";

#[test]
fn routes_of_the_mesh_are_translated_and_told_apart_from_those_without_effect() {
    let text = stdout(&run_with(MESH, &["analyze", "-"]));
    assert!(
        text.contains("info[W0314]: the namespace elsewhere takes no part in the mesh"),
        "{text}"
    );
    assert!(text.contains("0 errors, 0 warnings"), "{text}");
    let told: Value = serde_json::from_slice(&run_with(MESH, &["translate", "-"]).stdout).expect("JSON");
    let frontends = told["resources"].as_array().expect("a list").iter();
    let frontends: Vec<&Value> = frontends.filter(|resource| resource["kind"] == "frontend").collect();
    let keys: Vec<&Value> = frontends.iter().map(|frontend| &frontend["key"]).collect();
    assert_eq!(keys, ["Service/shop/reviews:80", "Service/shop/reviews:80/web"]);
    assert_eq!(frontends[1]["clients"], "web");
    assert_eq!(frontends[0]["addresses"], serde_json::json!(["10.96.0.7"]));
}

#[test]
fn explain_answers_for_clients_in_the_mesh() {
    let explain = |url: &str, from: &str| stdout(&run_with(MESH, &["explain", url, "--from", from, "-"]));
    let producer = "  route     HTTPRoute/shop/producer/0, match 0\n";
    for url in [
        "http://reviews/v2",
        "http://reviews.shop/v2",
        "http://reviews.shop.svc.cluster.local./v2",
        "http://10.96.0.7/v2",
    ] {
        let text = explain(url, "shop");
        assert!(text.contains(producer), "{url}: {text}");
    }
    let text = explain("http://reviews.shop/other", "shop");
    assert!(text.contains("  answers   404: no route takes it\n"), "{text}");
    let text = explain("http://reviews.shop/other", "web");
    assert!(
        text.contains("  route     HTTPRoute/web/consumer/0, match 0\n"),
        "{text}"
    );
    for (url, from) in [
        ("http://reviews/v2", "web"),
        ("http://reviews.shop:5432/v2", "shop"),
        ("https://reviews.shop:80/v2", "shop"),
        ("http://reviews-v2.shop/v2", "shop"),
    ] {
        let text = explain(url, from);
        assert!(
            text.contains("  unrouted  no route is for it: it goes where it was going\n"),
            "{url}: {text}"
        );
    }
    let text = stdout(&run_with(MESH, &["explain", "http://reviews.shop/v2", "-"]));
    assert!(text.contains("  nothing listens on that port\n"), "{text}");
}

/// One policy for a Gateway, one for a route, and one for what is not there.
const POLICIES: &str = "apiVersion: weft.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: office}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
  action: ALLOW
  rules:
  - networkAttributes: {sourceRanges: [192.0.2.0/24]}
  - sources: [{type: ClientCertificate, clientCertificate: {dnsName: billing.example}}]
---
apiVersion: weft.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: read-only}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}]
  action: ALLOW
  rules: [{httpAttributes: {methods: [GET]}}]
---
apiVersion: weft.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: lost}
spec:
  targetRefs:
  - group: gateway.networking.k8s.io
    kind: HTTPRoute
    name: nowhere
  action: ALLOW
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{name: edge}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
";

#[test]
fn what_policies_would_decide_is_said_and_what_is_wrong_with_them_too() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("gateway.yaml"), GATEWAY).expect("written");
    fs::write(folder.path().join("policies.yaml"), POLICIES).expect("written");
    let made = rcgen::generate_simple_self_signed(["billing.example".to_owned()]).expect("a certificate");
    let shown = folder.path().join("client.pem");
    fs::write(&shown, made.cert.pem()).expect("written");
    let (path, shown) = (folder.path().to_string_lossy(), shown.to_string_lossy());
    let explain = |more: &[&str]| stdout(&run(&[&["explain", "http://a.example/x", &*path], more].concat()));
    let text = explain(&[]);
    assert!(
        text.contains("  answers   403: no rule allows it of AuthorizationPolicy/default/office\n"),
        "{text}"
    );
    for more in [["--client", "192.0.2.7"], ["--client-certificate", &*shown]] {
        let text = explain(&more);
        let policies = "  policies\n    AuthorizationPolicy/default/office  for the Gateway, allows it\n    AuthorizationPolicy/default/read-only  for the route, allows it\n";
        assert!(!text.contains("403") && text.contains(policies), "{text}");
        assert!(
            text.contains("  route     HTTPRoute/default/web/0, match 0\n"),
            "{text}"
        );
    }
    let text = explain(&["--client", "192.0.2.7", "--method", "PUT"]);
    assert!(
        text.contains("  answers   403: no rule allows it of AuthorizationPolicy/default/read-only\n"),
        "{text}"
    );
    let output = run(&["explain", "http://a.example/x", &*path, "-o", "json"]);
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said["verdict"], "denied", "{said}");
    assert_eq!(
        said["policies"][0],
        serde_json::json!({"policy": "AuthorizationPolicy/default/office", "level": "gateway", "action": "allow", "takes": false})
    );
    let output = run(&[
        "explain",
        "http://a.example/x",
        &*path,
        "--client-certificate",
        "no/such/file",
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("no/such/file holds no certificate"),
        "{}",
        stderr(&output)
    );

    let text = stdout(&run(&["analyze", &*path]));
    assert!(
        text.contains("warning[W0501]: there is no HTTPRoute default/nowhere"),
        "{text}"
    );
    assert!(text.contains("policies.yaml:26:5"), "{text}");
    assert!(
        !text.contains("takes no part in the mesh"),
        "no workloads are meant: {text}"
    );
    let text = stdout(&run(&["translate", &*path]));
    assert!(text.contains("AuthorizationPolicy/default/read-only"), "{text}");
}

#[test]
fn rules_that_ask_for_what_connections_do_not_show_are_told_of() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifests = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: weft
  listeners: [{name: mqtt, protocol: TCP, port: 1883}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: mqtt}
spec:
  parentRefs: [{name: edge}]
  rules: [{backendRefs: [{name: mqtt, port: 1883}]}]
---
apiVersion: weft.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: mqtt}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: TCPRoute, name: mqtt}]
  action: ALLOW
  rules:
  - httpAttributes: {methods: [GET]}
";
    fs::write(folder.path().join("mqtt.yaml"), manifests).expect("written");
    let text = stdout(&run(&["analyze", &folder.path().to_string_lossy()]));
    let said = "warning[W0503]: the rule asks for requests, which nobody sees at port 1883 (TCP) of the TCPRoute default/mqtt: \
                there it allows nothing";
    assert!(text.contains(said) && text.contains("mqtt.yaml:22:5"), "{text}");
}
