//! Pebble, Let's Encrypt's small CA for tests, and the DNS server that leads it to loopback.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use instant_acme::{BodyWrapper, HttpClient as _};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use super::PATIENCE;
use crate::acme::{http::Http, patience::Patience};

/// The ports, before the offset, of the DNS server, of the CA, and of what both are managed by.
const NAMES: u16 = 53;
const CA: u16 = 54;
const CA_MANAGEMENT: u16 = 55;
const NAMES_MANAGEMENT: u16 = 56;

/// A running CA, ended when dropped.
pub(super) struct Pebble {
    processes: Vec<Child>,
    _folder: tempfile::TempDir,
    /// What its own certificate leads to.
    pub(super) roots_pem: String,
    pub(super) directory: String,
    management: String,
    said: Arc<Mutex<Vec<String>>>,
}

/// What is added to the ports of a Gateway so that those which the CA comes to, 80 and 443, can be bound by anybody; what
/// runs for the test is at such ports too. They are below the ports that the kernel gives out, and for each test others, for
/// they are bound long after, and a connection of anybody may have a port of the kernel's meanwhile.
pub(super) fn free_offset() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let offsets = (0..1000).map(|_| {
        let next = std::process::id() * 11 + GIVEN.fetch_add(1, Ordering::Relaxed);
        10_000 + u16::try_from(next % 40).expect("it is below 40") * 500
    });
    let free = |port| {
        let address = (Ipv4Addr::LOCALHOST, port);
        TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
    };
    let ports = [80, 443, NAMES, CA, CA_MANAGEMENT, NAMES_MANAGEMENT];
    let mut free = offsets.filter(|offset| ports.iter().all(|port| free(offset + port)));
    free.next().expect("all ports are free")
}

impl Pebble {
    /// Starts it. It comes to the ports 80 and 443 with `offset` added, whatever the host.
    pub(super) fn start(offset: u16) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let [names, listen, management, challenge] =
            [NAMES, CA, CA_MANAGEMENT, NAMES_MANAGEMENT].map(|port| port + offset);
        let dns = format!("127.0.0.1:{names}");
        let roots_pem = certificate(folder.path());
        let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let config = json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{listen}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": certificate, "privateKey": key,
            "httpPort": 80 + offset, "tlsPort": 443 + offset,
            "externalAccountBindingRequired": false,
            "domainBlocklist": ["blocked.example"],
            "retryAfter": {"authz": 1, "order": 1},
            "profiles": {"default": {"description": "default", "validityPeriod": 7_776_000}},
        }});
        let path = folder.path().join("config.json");
        fs::write(&path, config.to_string()).expect("written");
        let spawn = |variable: &str, arguments: &[&str], stdout: Stdio| {
            let program = std::env::var_os(variable);
            let program = program.unwrap_or_else(|| panic!("{variable} names no program: use `cargo xtask pebble`"));
            Command::new(program)
                .args(arguments)
                .env("PEBBLE_VA_NOSLEEP", "1")
                // Every order is to be proven anew, and some nonces are refused, as they may be.
                .env("PEBBLE_AUTHZREUSE", "0")
                .env("PEBBLE_WFE_NONCEREJECT", "10")
                .stdout(stdout)
                .stderr(Stdio::null())
                .spawn()
                .expect("it starts")
        };
        let nowhere = [
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
            "-doh",
            "",
            "-defaultIPv6",
            "",
        ];
        let management_address = format!("127.0.0.1:{challenge}");
        let serving = ["-dnsserver", &dns, "-management", &management_address];
        let names_server = spawn(
            "WEFT_PEBBLE_NAMES",
            &[&nowhere[..], &serving[..]].concat(),
            Stdio::null(),
        );
        let config = path.to_str().expect("UTF-8");
        let mut pebble = spawn("WEFT_PEBBLE", &["-config", config, "-dnsserver", &dns], Stdio::piped());
        let said = Arc::new(Mutex::new(Vec::new()));
        let (lines, stdout) = (said.clone(), pebble.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                lines.lock().expect("nobody panics with it").push(line);
            }
        });
        let started = Self {
            processes: vec![names_server, pebble],
            _folder: folder,
            roots_pem,
            directory: format!("https://localhost:{listen}/dir"),
            management: format!("https://localhost:{management}"),
            said,
        };
        let end = Instant::now() + PATIENCE;
        for port in [names, listen, management, challenge] {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
                assert!(Instant::now() < end, "Pebble does not start: {:?}", started.said());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        started
    }

    /// What it has written to its log.
    pub(super) fn said(&self) -> Vec<String> {
        self.said.lock().expect("nobody panics with it").clone()
    }

    /// The root that certificates it issues lead to.
    pub(super) async fn issuing_root(&self) -> String {
        let answer = self.manage("GET", "/roots/0", Bytes::new()).await;
        String::from_utf8(answer.to_vec()).expect("PEM")
    }

    /// Has it suggest when a certificate is to be renewed.
    pub(super) async fn suggest(&self, chain_pem: &str, start: &str, end: &str) {
        let answer = json!({"suggestedWindow": {"start": start, "end": end}});
        let body: Value = json!({"certificate": chain_pem, "ariResponse": answer.to_string()});
        self.manage("POST", "/set-renewal-info/", body.to_string().into()).await;
    }

    async fn manage(&self, method: &str, path: &str, body: Bytes) -> Bytes {
        let http = Http::new(Some(&self.roots_pem), Patience::default()).expect("roots");
        let uri = format!("{}{path}", self.management);
        let request = Request::builder().method(method).uri(uri).header("User-Agent", "weft");
        let request = request.body(BodyWrapper::from(body.to_vec()));
        let mut response = http.request(request.expect("a request")).await.expect("answered");
        let body = response.body.into_bytes().await.expect("a body");
        assert!(response.parts.status.is_success(), "{path}: {body:?}");
        body
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Its own certificate, for localhost; returns the root.
fn certificate(folder: &Path) -> String {
    let root_key = KeyPair::generate().expect("a key");
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let made = root.self_signed(&root_key).expect("a root");
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let leaf = leaf
        .signed_by(&key, &Issuer::new(root, root_key))
        .expect("a certificate");
    fs::write(folder.join("cert.pem"), leaf.pem()).expect("written");
    fs::write(folder.join("key.pem"), key.serialize_pem()).expect("written");
    made.pem()
}
