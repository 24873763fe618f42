//! Certificates by ACME on the real cluster: two Gateways of two pods each, one for each way to prove whose a host is, and a CA that
//! comes to them as it would from the internet: by a name, and by the ports 80 and 443 of the Gateway's Service.

mod pebble;

use std::{net::IpAddr, process::ExitCode, sync::Arc, time::Instant};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use self::pebble::Pebble;
use crate::{
    cluster::{Cluster, eventually, name},
    report::passed,
    scene::{self, GATEWAY, HTTP, OF_GATEWAY, PREFIX, gateway},
};

/// The Secret that the listener refers to.
const SECRET: &str = "served";
/// The pods of each Gateway.
const PODS: u32 = 2;
/// Connections that are made, so that each pod gets one.
const CONNECTIONS: usize = 10;

/// Plays it, and takes everything down.
pub(crate) async fn run() -> anyhow::Result<ExitCode> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cluster = Cluster::connect().await?;
    let nodes = cluster.list("Node", "", "").await?;
    let node = nodes.first().context("there is no node")?;
    let addresses = node.data["status"]["addresses"].as_array().into_iter().flatten();
    let node = addresses
        .filter(|address| address["type"] == "InternalIP")
        .find_map(|address| address["address"].as_str());
    let pebble = Pebble::start(node.context("the node has no address")?.parse()?).await?;
    for challenge in ["HTTP-01", "TLS-ALPN-01"] {
        let start = Instant::now();
        let namespace = format!("{PREFIX}acme-{}", challenge.to_lowercase());
        cluster.without(&namespace).await?;
        let outcome = ordered(&cluster, &pebble, &namespace, challenge).await;
        cluster.delete("Namespace", "", &namespace).await?;
        outcome.with_context(|| format!("by {challenge}"))?;
        passed(challenge, start);
    }
    Ok(ExitCode::SUCCESS)
}

async fn ordered(cluster: &Cluster, pebble: &Pebble, namespace: &str, challenge: &str) -> anyhow::Result<()> {
    let host = format!("{}.example", challenge.to_lowercase());
    cluster.apply(&manifests(namespace, &host)).await?;
    let roots = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "pebble", "namespace": namespace},
        "data": {"ca.crt": pebble.roots_pem},
    });
    cluster.apply_object(roots).await?;
    let issuer = json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "AcmeIssuer", "metadata": {"name": "pebble", "namespace": namespace},
        "spec": {
            "server": pebble.directory, "email": "admin@example.com", "challenge": challenge,
            "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "pebble"}],
        },
    });
    cluster.apply_object(issuer).await?;
    eventually("an account is registered", async || {
        cluster.holds("AcmeIssuer", namespace, "pebble", "Ready").await
    })
    .await?;
    // The name leads there before the CA is told to come, as a user would have it.
    eventually("the Gateway has an address", async || {
        cluster.gateway_address(namespace, GATEWAY).await.map(|_| true)
    })
    .await?;
    let address = cluster.gateway_address(namespace, GATEWAY).await?;
    pebble.name(&host, address).await?;
    // Its pods are ready, and everybody knows.
    eventually("the Gateway is reached", async || {
        TcpStream::connect((address, 80)).await?;
        Ok(true)
    })
    .await?;
    let annotation = json!({"metadata": {"annotations": {"weft.dev/acme-issuer": "pebble"}}});
    cluster.merge("Gateway", namespace, GATEWAY, &annotation).await?;
    eventually("the certificate is there", async || {
        let secret = cluster.api("Secret", namespace)?.get_opt(SECRET).await?;
        Ok(secret.is_some_and(|secret| secret.data["type"] == "kubernetes.io/tls"))
    })
    .await?;
    let secret = cluster.get("Secret", namespace, SECRET).await?;
    let chain = STANDARD.decode(
        secret.data["data"]["tls.crt"]
            .as_str()
            .context("it has no certificate")?,
    )?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&chain).collect::<Result<_, _>>()?;
    cluster.programmed(namespace, GATEWAY).await?;
    let pods = cluster.list("Pod", namespace, OF_GATEWAY).await?;
    ensure!(pods.len() == PODS as usize, "the Gateway has {} pods", pods.len());
    eventually("it is served", async || {
        served(address, &host, &chain).await.map(|()| true)
    })
    .await?;
    for _ in 0..CONNECTIONS {
        served(address, &host, &chain).await.context("by every pod")?;
    }
    let events = cluster.list("Event", namespace, "").await?;
    let issued = events.iter().any(|event| event.data["reason"] == "CertificateIssued");
    let told: Vec<_> = events
        .iter()
        .map(|event| (name(event), &event.data["reason"]))
        .collect();
    ensure!(issued, "no event says that it was issued: {told:?}");
    Ok(())
}

/// Shakes hands by the Gateway's address; holds that who answers proves the host by that very chain.
async fn served(address: IpAddr, host: &str, chain: &[CertificateDer<'static>]) -> anyhow::Result<()> {
    let mut roots = RootCertStore::empty();
    // The root itself is not among them: what has signed the first is believed.
    roots.add(chain.get(1).context("it is signed by nobody")?.clone())?;
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect((address, 443)).await?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from(host.to_owned())?, stream)
        .await?;
    ensure!(
        stream.get_ref().1.peer_certificates() == Some(chain),
        "another certificate is served"
    );
    Ok(())
}

fn manifests(namespace: &str, host: &str) -> String {
    let https = format!(
        "{{name: https, protocol: HTTPS, port: 443, hostname: {host}, tls: {{certificateRefs: [{{name: {SECRET}}}]}}}}"
    );
    let gateway = gateway(namespace, PODS, &[HTTP, &https]);
    format!("{}---{gateway}", scene::namespace(namespace))
}
