//! `weft up` on every folder in `examples/`: what README and docs say of them is so.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};

use support::{
    Backend, Weft,
    client::{self, Http},
    eventually,
    h2c::H2c,
    message,
};

const SHOP: &str = "shop.storefront.example";

#[test]
fn the_shop_with_policies_lets_in_whom_they_allow() {
    let folder = "examples/policies";
    let weft = Weft::up(&[Path::new(folder)], &[8080], &["--echo"]);
    let ask = |method: &str, path: &str, lines: &str| {
        let answer = weft.connect(8080).request(method, "localhost", path, lines);
        answer.status
    };
    assert_eq!(ask("GET", "/", ""), 200);
    assert_eq!(ask("DELETE", "/", ""), 403);
    assert_eq!(ask("GET", "/admin", ""), 403);
    assert_eq!(ask("GET", "/admin", "X-Team: shop\r\n"), 200);
    assert_eq!(ask("DELETE", "/admin", "X-Team: shop\r\n"), 403);
    let url = "http://localhost:8080/admin";
    let elsewhere = ["explain", url, "-H", "X-Team: shop", "--client", "192.0.2.7", folder];
    let said = support::stdout(&support::run(&elsewhere));
    assert!(
        said.contains("  answers   403: no rule allows it of AuthorizationPolicy/default/administration\n"),
        "{said}"
    );
    assert_eq!(support::run(&["analyze", folder]).status.code(), Some(0));
}

/// The storefront, on one worker: then shares of traffic are exact.
fn storefront() -> Weft {
    let folder = Path::new("examples/storefront");
    Weft::up(&[folder], &[8080, 8443], &["--echo", "--workers", "1"])
}

#[test]
fn every_example_has_a_test() {
    let folders = fs::read_dir(support::root().join("examples")).expect("there are examples");
    let names: BTreeSet<String> = folders
        .map(|entry| {
            entry
                .expect("it can be read")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert_eq!(
        names,
        ["guarded", "hello", "mutual-tls", "policies", "storefront", "streams"]
            .map(String::from)
            .into(),
        "a new example wants a test here"
    );
}

#[test]
fn hello_answers() {
    let weft = Weft::up(&[Path::new("examples/hello")], &[8080], &["--echo"]);
    let answer = weft.get(8080, "anything.example", "/a?b=c");
    assert_eq!((answer.status, answer.service()), (200, "default/hello".into()));
    let said = answer.json();
    for (field, value) in [
        ("path", "/a"),
        ("query", "b=c"),
        ("host", "anything.example"),
        ("method", "GET"),
        ("protocol", "HTTP/1.1"),
    ] {
        assert_eq!(said[field], value, "{field}");
    }
    assert_eq!(said["headers"]["host"], serde_json::json!(["anything.example"]));
}

#[test]
fn accounts_are_guarded_and_carts_are_kept_by_one_endpoint() {
    let weft = Weft::up(&[Path::new("examples/guarded")], &[8080], &["--echo", "--workers", "1"]);
    let account = weft.get(8080, "a.example", "/account");
    assert_eq!((account.status, account.service()), (200, "default/accounts".into()));
    let denied = weft.get(8080, "a.example", "/account?status=401");
    assert_eq!((denied.status, denied.service()), (401, "default/authz".into()));
    assert_eq!(denied.json()["path"], "/check/account");

    let first = weft.get(8080, "a.example", "/cart");
    let set = first.header("set-cookie").expect("a session begins");
    assert!(set.starts_with("cart=") && set.contains("; Path=/cart"), "{set}");
    let cookie = set.split(';').next().expect("it has a name");
    let field = format!("Cookie: {cookie}\r\n");
    let next = weft.connect(8080).request("GET", "a.example", "/cart", &field);
    assert_eq!(next.header("set-cookie"), None, "it goes on");

    // One of three tries is allowed by the policy, and then none for a while.
    let statuses = [(); 2].map(|()| weft.get(8080, "a.example", "/cart?status=503"));
    assert_eq!(statuses[0].status, 503);
    assert_eq!(statuses[1].text(), "retry_budget\n");
}

#[test]
fn without_echo_a_service_without_endpoints_is_unavailable() {
    let weft = Weft::up(&[Path::new("examples/hello")], &[8080], &[]);
    assert_eq!(weft.get(8080, "a.example", "/").status, 503);
    assert!(weft.stderr.contains("info[W0311]"), "and it is said");
}

#[test]
fn the_storefront_routes_as_it_is_written() {
    let weft = storefront();
    let pages = weft.get(8080, SHOP, "/about");
    assert_eq!((pages.status, pages.service()), (200, "store/web".into()));
    assert_eq!(pages.header("cache-control").as_deref(), Some("max-age=60"));

    let preview = weft
        .connect(8080)
        .request("GET", SHOP, "/api/items", "X-Preview: yes\r\n");
    assert_eq!(
        (preview.service(), preview.json()["path"].clone()),
        ("store/api-v2".into(), "/api/items".into())
    );

    let mut connection = weft.connect(8080);
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..100 {
        let answer = connection.get(SHOP, "/api/items");
        let said = answer.json();
        assert_eq!(
            (said["path"].as_str(), &said["headers"]["x-edge"]),
            (Some("/items"), &serde_json::json!(["weft"]))
        );
        *shares.entry(answer.service()).or_default() += 1;
    }
    assert_eq!(
        shares,
        [("store/api-v1".into(), 90), ("store/api-v2".into(), 10)].into()
    );

    let preflight = connection.request(
        "OPTIONS",
        SHOP,
        "/api/items",
        "Origin: https://shop.storefront.example\r\nAccess-Control-Request-Method: POST\r\n",
    );
    assert!(preflight.status == 200 || preflight.status == 204, "{preflight:?}");
    assert_eq!(
        preflight.header("access-control-allow-origin").as_deref(),
        Some("https://shop.storefront.example")
    );
    assert_eq!(preflight.header("access-control-max-age").as_deref(), Some("600"));

    let order = weft
        .connect(8080)
        .request("POST", SHOP, "/checkout", "Content-Length: 0\r\n");
    assert_eq!((order.status, order.service()), (200, "payments/checkout".into()));
    assert_eq!(
        weft.get(8080, SHOP, "/checkout").service(),
        "store/web",
        "only orders are sent there"
    );

    let moved = weft.get(8080, "www.storefront.example", "/old?a=b");
    assert_eq!(moved.status, 301);
    assert_eq!(
        moved.header("location").as_deref(),
        Some("http://shop.storefront.example:8080/old?a=b")
    );

    for (host, path) in [
        ("other.example", "/"),
        ("storefront.example", "/"),
        ("inventory.storefront.example", "/"),
    ] {
        assert_eq!(weft.get(8080, host, path).status, 404, "{host}{path}");
    }
}

#[test]
fn the_storefront_times_out_and_tries_again_as_it_is_written() {
    let weft = storefront();
    let begun = Instant::now();
    assert_eq!(weft.get(8080, SHOP, "/api/?delay=20s").status, 504);
    // Each try gets two seconds, the request with all of its tries five.
    let taken = begun.elapsed();
    assert!(
        (Duration::from_secs(5)..Duration::from_secs(10)).contains(&taken),
        "{taken:?}"
    );
    assert_eq!(weft.get(8080, SHOP, "/api/?status=503").status, 503);
    eventually("a line of the log that says that it was tried three times", || {
        weft.stdout.text().lines().any(|line| {
            let line: serde_json::Value = serde_json::from_str(line).expect("the log is JSON lines");
            line["status"] == 503 && line["tries"] == 3 && line["route"] == "HTTPRoute/store/api/1"
        })
    });
}

#[test]
fn the_storefront_is_served_over_tls_and_http2() {
    let weft = storefront();
    let mut secure = Http::secure(weft.address(8443), SHOP);
    assert_eq!(secure.get(SHOP, "/").service(), "store/web");
    let other = secure.get("elsewhere.example", "/");
    assert_eq!(other.status, 404, "no listener answers for that host");
    let stream = client::secure(weft.address(8443), SHOP, &[b"h2", b"http/1.1"]);
    assert_eq!(stream.conn.alpn_protocol(), Some(b"h2".as_slice()));

    let h2c = H2c::connect(weft.address(8080));
    let pages = h2c.request("GET", "http://shop.storefront.example/");
    assert_eq!((pages.status, pages.service()), (200, "store/web".into()));
    let call = h2c.request("POST", "http://inventory.storefront.example/store.Inventory/Get");
    assert_eq!((call.status, call.service()), (200, "store/inventory".into()));
    assert_eq!(call.json()["protocol"], "HTTP/2.0");
    assert_eq!(
        h2c.request("POST", "http://inventory.storefront.example/store.Other/Get")
            .status,
        404
    );
}

#[test]
fn every_order_is_copied_to_the_audit_service() {
    let audit = Backend::new("noted");
    let folder = tempfile::tempdir().expect("a folder");
    let slice = folder.path().join("audit.yaml");
    fs::write(
        &slice,
        format!(
            "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: audit, namespace: store, labels: {{kubernetes.io/service-name: audit}}}}
addressType: IPv4
ports: [{{name: http, port: {}}}]
endpoints: [{{addresses: [127.0.0.1]}}]
",
            audit.address.port()
        ),
    )
    .expect("written");
    let sources = [Path::new("examples/storefront"), &slice];
    let weft = Weft::up(&sources, &[8080, 8443], &["--echo"]);
    let order = weft
        .connect(8080)
        .request("POST", SHOP, "/checkout/1?a=b", "Content-Length: 0\r\nX-Order: 7\r\n");
    assert_eq!(order.service(), "payments/checkout");
    eventually("the copy", || !audit.heads().is_empty());
    let head = &audit.heads()[0];
    assert!(head.starts_with("POST /checkout/1?a=b HTTP/1.1\r\n"), "{head}");
    assert_eq!(message::header(head, "x-order").as_deref(), Some("7"));
}

#[test]
fn an_echo_can_be_slow() {
    let weft = Weft::up(&[Path::new("examples/hello")], &[8080], &["--echo"]);
    let begun = Instant::now();
    assert_eq!(weft.get(8080, "a.example", "/?delay=300ms&status=418").status, 418);
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

#[test]
fn what_is_served_is_said_as_kubectl_would() {
    let weft = storefront();
    let said = weft.stderr.text();
    for row in [
        "GATEWAY LISTENER ROUTES ACCEPTED PROGRAMMED RESOLVEDREFS",
        "store/storefront http 5 True True True",
        "store/storefront https 4 True True True",
        "KIND ROUTE PARENT ACCEPTED RESOLVEDREFS",
        "HTTPRoute store/moved storefront/http True True",
        "GRPCRoute store/inventory storefront True True",
    ] {
        let words: Vec<&str> = row.split(' ').collect();
        assert!(
            said.lines()
                .any(|line| line.split_whitespace().collect::<Vec<_>>() == words),
            "{row:?} in\n{said}"
        );
    }
    assert!(said.contains("not read: apps/v1 Deployment (1)\n"), "{said}");
}

/// A server of the example's backend: HTTP/1.1 over TLS, for whoever shows a certificate of the example's authority. It
/// answers with the SNI.
fn orders() -> SocketAddr {
    let roots = Arc::new(example_roots());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build();
    let (chain, key) = example_pair("orders.pem");
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.expect("a verifier"))
        .with_single_cert(chain, key);
    let config = Arc::new(config.expect("a certificate"));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let connection = rustls::ServerConnection::new(config.clone()).expect("a connection");
            thread::spawn(move || {
                let mut stream = BufReader::new(rustls::StreamOwned::new(connection, stream));
                let mut line = String::new();
                while stream.read_line(&mut line).is_ok_and(|read| read > 0) {
                    if line != "\r\n" {
                        line.clear();
                        continue;
                    }
                    let sni = stream.get_ref().conn.server_name().unwrap_or("none").to_owned();
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{sni}", sni.len());
                    if stream.get_mut().write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                    line.clear();
                }
            });
        }
    });
    address
}

fn example(name: &str) -> Vec<u8> {
    fs::read(support::root().join("examples/mutual-tls").join(name)).expect("a file of the example")
}

fn example_roots() -> rustls::RootCertStore {
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&example("roots.pem")) {
        roots.add(root.expect("PEM")).expect("a root");
    }
    roots
}

fn example_pair(name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let pem = example(name);
    let chain = CertificateDer::pem_slice_iter(&pem).map(|certificate| certificate.expect("PEM"));
    (chain.collect(), PrivateKeyDer::from_pem_slice(&pem).expect("a key"))
}

#[test]
fn mutual_tls_is_spoken_on_both_sides() {
    let folder = tempfile::tempdir().expect("a folder");
    let slice = folder.path().join("endpoints.yaml");
    let stated = String::from_utf8(example("endpoints.yaml")).expect("text");
    let stated = stated.replace("port: 9443", &format!("port: {}", orders().port()));
    fs::write(&slice, stated).expect("written");
    let part = |name: &str| Path::new("examples/mutual-tls").join(name);
    let weft = Weft::up(&[&part("gateway.yaml"), &part("shop.yaml"), &slice], &[8080, 8443], &[]);
    let said = weft.stderr.text();
    assert!(!said.contains("error["), "{said}");
    let explained = support::run(&["explain", "https://shop.example:8443/", "examples/mutual-tls"]);
    let explained = support::stdout(&explained);
    let backend = "  backend   shop/orders:443  100.0 %  1 endpoints  TLS to orders.internal";
    assert!(explained.lines().any(|line| line == backend), "{explained}");
    let ask = |shown: Option<&str>| -> std::io::Result<String> {
        let builder =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_root_certificates(example_roots());
        let config = match shown {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let (chain, key) = example_pair(name);
                builder.with_client_auth_cert(chain, key).expect("a certificate")
            }
        };
        let name = "shop.example".try_into().expect("a name");
        let connection = rustls::ClientConnection::new(Arc::new(config), name).expect("a connection");
        let mut stream = rustls::StreamOwned::new(connection, TcpStream::connect(weft.address(8443))?);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask(Some("client.pem")).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\norders.internal"), "{answer}");
    assert!(ask(None).is_err(), "who shows no certificate is turned away");
}

/// Sends back all it gets, in clear or over TLS.
fn echo_back(tls: Option<Arc<rustls::ServerConfig>>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let tls = tls.clone();
            thread::spawn(move || match tls {
                None => {
                    let mut writer = stream.try_clone().expect("a second handle");
                    let _ = std::io::copy(&mut stream, &mut writer);
                }
                Some(tls) => {
                    let connection = rustls::ServerConnection::new(tls).expect("a connection");
                    let mut stream = rustls::StreamOwned::new(connection, stream);
                    let mut word = [0; 5];
                    if stream.read_exact(&mut word).is_ok() {
                        let _ = stream.write_all(&word).and_then(|()| stream.flush());
                    }
                }
            });
        }
    });
    port
}

#[test]
fn streams_go_as_they_are() {
    let file =
        |name: &str| fs::read(support::root().join("examples/streams").join(name)).expect("a file of the example");
    let pem = file("db.pem");
    let provider = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let database: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .map(|certificate| certificate.expect("PEM"))
        .collect();
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(database.clone(), PrivateKeyDer::from_pem_slice(&pem).expect("a key"))
        .expect("they fit");
    let names = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let names_port = names.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((read, from)) = names.recv_from(&mut buffer) {
            let _ = names.send_to(&buffer[..read], from);
        }
    });
    let folder = tempfile::tempdir().expect("a folder");
    let slices = folder.path().join("endpoints.yaml");
    let stated = String::from_utf8(file("endpoints.yaml")).expect("text");
    let stated = stated
        .replace("port: 9100", &format!("port: {}", echo_back(None)))
        .replace("port: 9153", &format!("port: {names_port}"))
        .replace("port: 9443", &format!("port: {}", echo_back(Some(Arc::new(config)))));
    fs::write(&slices, stated).expect("written");
    let part = |name: &str| Path::new("examples/streams").join(name);
    let weft = Weft::up(
        &[
            &part("gateway.yaml"),
            &part("routes.yaml"),
            &part("policies.yaml"),
            &slices,
        ],
        &[9000, 9053, 8443],
        &[],
    );
    let said = weft.stderr.text();
    assert!(!said.contains("error["), "{said}");

    let mut queue = TcpStream::connect(weft.address(9000)).expect("it listens");
    queue.write_all(b"hello").expect("it is read");
    queue.shutdown(Shutdown::Write).expect("a half is closed");
    let mut answer = String::new();
    queue.read_to_string(&mut answer).expect("an answer");
    assert_eq!(answer, "hello");

    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    client
        .set_read_timeout(Some(support::PATIENCE))
        .expect("a timeout can be set");
    client.send_to(b"hello", weft.address(9053)).expect("it is sent");
    let mut word = [0; 5];
    client.recv(&mut word).expect("an answer");
    assert_eq!(word, *b"hello");

    let queue = CertificateDer::from_pem_slice(&file("mq.crt")).expect("PEM");
    for (name, shown) in [("db.example", database[0].clone()), ("mq.example", queue)] {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(shown).expect("a root");
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = name.try_into().expect("a name");
        let connection = rustls::ClientConnection::new(Arc::new(config), server).expect("a connection");
        let stream = TcpStream::connect(weft.address(8443)).expect("it listens");
        let mut stream = rustls::StreamOwned::new(connection, stream);
        let mut word = [0; 5];
        stream
            .write_all(b"hello")
            .and_then(|()| stream.read_exact(&mut word))
            .expect(name);
        assert_eq!(word, *b"hello", "{name}");
    }

    let explained = |url: &str| support::stdout(&support::run(&["explain", url, "examples/streams"]));
    let (through, ended) = (
        explained("https://db.example:8443/"),
        explained("https://mq.example:8443/"),
    );
    assert!(
        through.contains("  route     TLSRoute/default/database/0, the whole connection, as it is\n"),
        "{through}"
    );
    assert!(
        through.contains("  backend   default/database:443  100.0 %  1 endpoints\n"),
        "{through}"
    );
    assert!(
        ended.contains("  route     TLSRoute/default/queue/0, the whole connection, TLS ends here\n"),
        "{ended}"
    );
    assert!(explained("https://other.example:8443/").contains("  closed    "));
    let asked = [
        "explain",
        "https://db.example:8443/",
        "examples/streams",
        "--client",
        "192.0.2.7",
    ];
    let denied = support::stdout(&support::run(&asked));
    for line in [
        "  resets the connection: no rule allows it of AuthorizationPolicy/default/database\n",
        "    AuthorizationPolicy/default/database  for the route, does not allow it\n",
    ] {
        assert!(denied.contains(line), "{denied}");
    }
}
