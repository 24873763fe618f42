//! Pebble, Let's Encrypt's small CA for tests, and the DNS server it asks, on the node's address and port.

use std::{fs, net::IpAddr, path::Path, process::Stdio};

use anyhow::{Context as _, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
};

use crate::cluster::eventually;

/// Where the CA is, where that is managed, where names are asked for and where these are said.
const CA: u16 = 14000;
const CA_MANAGEMENT: u16 = 14001;
const NAMES: u16 = 14053;
const NAMES_MANAGEMENT: u16 = 14055;

/// A running CA, ended when dropped.
pub(super) struct Pebble {
    _processes: [Child; 2],
    _folder: TempDir,
    /// What its own certificate leads to.
    pub(super) roots_pem: String,
    /// The URL of its directory.
    pub(super) directory: String,
}

impl Pebble {
    /// Starts it. It comes to the ports 80 and 443 of whoever it is to prove something to it.
    pub(super) async fn start(node: IpAddr) -> anyhow::Result<Self> {
        for address in [(node, CA), ([127, 0, 0, 1].into(), NAMES_MANAGEMENT)] {
            let free = std::net::TcpListener::bind(address);
            free.with_context(|| format!("port {} is taken: does the CA of an earlier run still run?", address.1))?;
        }
        let folder = tempfile::tempdir()?;
        let roots_pem = certificate(folder.path(), node)?;
        let config = json!({"pebble": {
            "listenAddress": format!("{node}:{CA}"),
            "managementListenAddress": format!("127.0.0.1:{CA_MANAGEMENT}"),
            "certificate": folder.path().join("cert.pem"), "privateKey": folder.path().join("key.pem"),
            "httpPort": 80, "tlsPort": 443,
            "externalAccountBindingRequired": false,
            "retryAfter": {"authz": 1, "order": 1},
            "profiles": {"default": {"description": "default", "validityPeriod": 7_776_000}},
        }});
        let path = folder.path().join("config.json");
        fs::write(&path, config.to_string())?;
        let (dns, management) = (format!("127.0.0.1:{NAMES}"), format!("127.0.0.1:{NAMES_MANAGEMENT}"));
        let mut names = program("WEFT_PEBBLE_NAMES")?;
        for unused in [
            "-http01",
            "-https01",
            "-tlsalpn01",
            "-doh",
            "-defaultIPv4",
            "-defaultIPv6",
        ] {
            names.args([unused, ""]);
        }
        let names = names.args(["-dnsserver", &dns, "-management", &management]).spawn()?;
        let pebble = program("WEFT_PEBBLE")?
            .arg("-config")
            .arg(path)
            .args(["-dnsserver", &dns])
            .spawn()?;
        eventually("Pebble answers", async || {
            TcpStream::connect((node, CA)).await?;
            TcpStream::connect(&management).await?;
            Ok(true)
        })
        .await?;
        Ok(Self {
            _processes: [names, pebble],
            _folder: folder,
            roots_pem,
            directory: format!("https://{node}:{CA}/dir"),
        })
    }

    /// Says where a host is.
    pub(super) async fn name(&self, host: &str, address: IpAddr) -> anyhow::Result<()> {
        let body = json!({"host": format!("{host}."), "addresses": [address]}).to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", NAMES_MANAGEMENT)).await?;
        let length = body.len();
        let request = format!(
            "POST /add-a HTTP/1.1\r\nHost: names\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "the DNS server says {answer}");
        Ok(())
    }
}

fn program(variable: &str) -> anyhow::Result<Command> {
    let program =
        std::env::var_os(variable).with_context(|| format!("{variable} names no program: use cargo xtask acme"))?;
    let mut command = Command::new(program);
    command
        .env("PEBBLE_VA_NOSLEEP", "1")
        // Every order is to be proven anew, and some nonces are refused, as they may be.
        .env("PEBBLE_AUTHZREUSE", "0")
        .env("PEBBLE_WFE_NONCEREJECT", "10")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    Ok(command)
}

/// Its own certificate, for the node's address; returns the root.
fn certificate(folder: &Path, node: IpAddr) -> anyhow::Result<String> {
    let root_key = KeyPair::generate()?;
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let made = root.self_signed(&root_key)?;
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::IpAddress(node)];
    let leaf = leaf.signed_by(&key, &Issuer::new(root, root_key))?;
    fs::write(folder.join("cert.pem"), leaf.pem())?;
    fs::write(folder.join("key.pem"), key.serialize_pem())?;
    Ok(made.pem())
}
