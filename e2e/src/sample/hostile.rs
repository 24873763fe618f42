//! Those who want what is not theirs: each is refused, and the refusal is in a log.

use std::net::SocketAddr;

use anyhow::{Context as _, bail, ensure};
use futures::future::join_all;
use kube::api::{DynamicObject, PostParams};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use weft_discovery::{Endpoint, IdentityClient, IdentityError, Signed};

use super::{LIMIT, PROTOCOLS, Sample};
use crate::{
    cluster::{eventually, name},
    scene::{OPERATOR, OPERATORS, SYSTEM},
};

/// What workloads' tokens are for, and the name of the operator's certificate.
const AUDIENCE: &str = "weft.dev";
const SERVER_NAME: &str = "operator.weft.dev";
/// Whom nobody is to believe any more.
const REVOCATIONS: &str = "weft-revocations";

/// Where a pod leads to the operator.
const RELAY: u16 = 15010;

/// All of them.
pub(super) async fn all(sample: &Sample<'_>) -> anyhow::Result<()> {
    sample.label("secure").await?;
    names_of_others(sample).await.context("a name of somebody else")?;
    stolen_tokens(sample).await.context("a token that is not good")?;
    token_of_another(sample)
        .await
        .context("a token that another pod shows")?;
    forged_headers(sample).await.context("a forged header")?;
    sample.label("strict").await?;
    eventually("all have had time to hear of it", async || {
        Ok(!sample.answers(&PROTOCOLS[0]).await)
    })
    .await?;
    users_of_the_sidecar(sample).await.context("a user of the sidecar")?;
    revoked(sample).await.context("a workload that is revoked")
}

/// A pod asks for a certificate of another's name, and of more than its own.
async fn names_of_others(sample: &Sample<'_>) -> anyhow::Result<()> {
    let pod = sample
        .cluster
        .get("Pod", &sample.namespace, sample.pod("caller")?.0)
        .await?;
    let token = token(sample, &pod, AUDIENCE).await?;
    let (own, other) = (identity(sample, "caller"), identity(sample, "web"));
    for names in [vec![other.as_str()], vec![own.as_str(), other.as_str()]] {
        refused(sign(sample, &token, &names).await, "PermissionDenied", "name")?;
    }
    sign(sample, &token, &[&own]).await.context("its own")?;
    operator_says(sample, "asks for a name other than").await
}

/// Somebody shows a token of a pod that is gone, and one that a pod has for somebody else.
async fn stolen_tokens(sample: &Sample<'_>) -> anyhow::Result<()> {
    let pod = sample
        .cluster
        .get("Pod", &sample.namespace, sample.pod("caller")?.0)
        .await?;
    let own = identity(sample, "caller");
    let elsewhere = token(sample, &pod, "https://kubernetes.default.svc").await?;
    refused(sign(sample, &elsewhere, &[&own]).await, "Unauthenticated", "")?;
    let gone = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "gone", "namespace": sample.namespace},
        "spec": {"serviceAccountName": "caller", "nodeSelector": {"there": "none"}, "containers": [{"name": "gone", "image": "weft.dev/sample:dev"}]},
    });
    sample.cluster.apply_object(gone).await?;
    let pod = sample.cluster.get("Pod", &sample.namespace, "gone").await?;
    let stolen = token(sample, &pod, AUDIENCE).await?;
    sign(sample, &stolen, &[&own]).await.context("while its pod is there")?;
    sample.cluster.kill(&sample.namespace, "gone").await?;
    // The API server may remember for some seconds that it was good.
    eventually("a token ends with its pod", async || {
        match sign(sample, &stolen, &[&own]).await {
            Ok(_) => Ok(false),
            refusal => refused(refusal, "Unauthenticated", "").map(|()| true),
        }
    })
    .await?;
    operator_says(sample, "does not prove a workload").await
}

/// A pod shows the token of another pod, which is there and well.
async fn token_of_another(sample: &Sample<'_>) -> anyhow::Result<()> {
    let operator = operator(sample).await?;
    // It passes on whatever it is told, so that to the operator it is the pod that speaks.
    let script = format!(
        "
import asyncio
async def copy(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
async def relay(reader, writer):
    there, to = await asyncio.open_connection('{}', {})
    await asyncio.gather(copy(reader, to), copy(there, writer), return_exceptions=True)
async def main():
    server = await asyncio.start_server(relay, '0.0.0.0', {RELAY})
    await server.serve_forever()
asyncio.run(main())
",
        operator.ip(),
        operator.port()
    );
    sample
        .cluster
        .apply_object(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "thief", "namespace": sample.namespace, "labels": {"weft.dev/inject": "disabled"}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "thief", "image": "weft.dev/sample:dev", "command": ["python3", "-c", script]}],
            },
        }))
        .await?;
    eventually("the thief passes on", async || {
        let thief = sample.cluster.get("Pod", &sample.namespace, "thief").await?;
        Ok(TcpStream::connect((crate::cluster::address(&thief)?, RELAY))
            .await
            .is_ok())
    })
    .await?;
    let thief = sample.cluster.get("Pod", &sample.namespace, "thief").await?;
    let relay = SocketAddr::new(crate::cluster::address(&thief)?, RELAY);
    let caller = sample.pod("caller")?.0;
    let pod = sample.cluster.get("Pod", &sample.namespace, caller).await?;
    let stolen = token(sample, &pod, AUDIENCE).await?;
    let namespace = &sample.namespace;
    let why = format!("the address of the pod {namespace}/thief");
    let own = identity(sample, "caller");
    // What the API server has in memory may be a moment old.
    eventually("it is refused", async || {
        match sign_by(sample, relay, &stolen, &[&own]).await {
            Ok(_) => Ok(false),
            refusal => refused(refusal, "PermissionDenied", &why).map(|()| true),
        }
    })
    .await?;
    let folder = tempfile::tempdir()?;
    let mut client = IdentityClient::connect(&endpoint(sample, &folder, relay, &stolen).await?).await?;
    let told = client.trust().await;
    ensure!(
        matches!(told, Err(IdentityError::Refused(_))),
        "it is told whom to trust"
    );
    eventually("the operator's log names both, and not the token", async || {
        let mut named = false;
        for pod in sample.cluster.list("Pod", SYSTEM, OPERATORS).await? {
            let log = sample.cluster.log(SYSTEM, name(&pod), "operator").await?;
            ensure!(!log.contains(&stolen), "the token is in the log");
            let both = [format!("{namespace}/{caller}"), format!("{namespace}/thief")];
            let mut lines = log.lines().filter(|line| line.contains("was shown by another pod"));
            named |= lines.any(|line| both.iter().all(|pod| line.contains(pod)));
        }
        Ok(named)
    })
    .await?;
    // What is its own it may show, and whose token was stolen goes on.
    let token = token(sample, &thief, AUDIENCE).await?;
    let default = identity(sample, "default");
    sign_by(sample, relay, &token, &[&default]).await.context("its own")?;
    sample.more(1).await?;
    sample.cluster.kill(&sample.namespace, "thief").await
}

/// Somebody from outside of the mesh says by headers to be a workload that may come.
async fn forged_headers(sample: &Sample<'_>) -> anyhow::Result<()> {
    let own = identity(sample, "caller");
    sample
        .cluster
        .apply_object(json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "AuthorizationPolicy", "metadata": {"name": "web", "namespace": sample.namespace},
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": "web"}], "action": "ALLOW",
                "rules": [{"sources": [{"type": "ServiceAccount", "serviceAccount": {"name": "caller"}}]}],
            },
        }))
        .await?;
    let address = sample.pod("web")?.1;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: web\r\nX-Forwarded-Client-Cert: By={own};URI={own}\r\nX-Spiffe-Id: {own}\r\nX-Forwarded-For: {}\r\n\
         Forwarded: for={}\r\nConnection: close\r\n\r\n",
        sample.pod("caller")?.1,
        sample.pod("caller")?.1
    );
    eventually("it is denied", async || {
        let mut stream = TcpStream::connect((address, 8080)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        timeout(LIMIT, stream.read_to_end(&mut answer)).await??;
        Ok(answer.starts_with(b"HTTP/1.1 403 "))
    })
    .await?;
    eventually("it is in the log of who denied it", async || {
        let log = sample.log("web").await?;
        Ok(log
            .lines()
            .any(|line| line.contains("403") && line.contains("AuthorizationPolicy")))
    })
    .await?;
    // Who may come does.
    sample.more(1).await?;
    sample
        .cluster
        .delete("AuthorizationPolicy", &sample.namespace, "web")
        .await
}

/// An application that runs as the sidecar's user goes by the sidecar: it is not let into the namespace; and if nobody could see
/// that, it is not let in by others.
async fn users_of_the_sidecar(sample: &Sample<'_>) -> anyhow::Result<()> {
    let pod = |user: u32, command: &[&str]| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bypass", "namespace": sample.namespace},
            "spec": {"restartPolicy": "Never", "containers": [{
                "name": "bypass", "image": "weft.dev/sample:dev", "command": command, "securityContext": {"runAsUser": user},
            }]},
        })
    };
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let known = serde_json::from_value(pod(1337, &["sh"]))?;
    let tried = sample.cluster.api("Pod", &sample.namespace)?.create(&dry, &known).await;
    let error = tried
        .err()
        .context("a pod whose application runs as the sidecar's user is taken")?;
    ensure!(error.to_string().contains("user 1337"), "{error}");
    // It becomes the sidecar's user once it runs. An answer is no success of it.
    let script = "
import os, socket, sys
os.setuid(1337)
connection = socket.create_connection(('web', 8080), timeout=20)
connection.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
try:
    sys.exit(2 if connection.recv(1) else 0)
except ConnectionResetError:
    sys.exit(0)
";
    sample.cluster.apply_object(pod(0, &["python3", "-c", script])).await?;
    eventually("who goes by its sidecar is reset", async || {
        let pod = sample.cluster.get("Pod", &sample.namespace, "bypass").await?;
        match pod.data["status"]["phase"].as_str() {
            Some("Succeeded") => Ok(true),
            Some("Failed") => bail!("it was answered: {}", pod.data["status"]["containerStatuses"]),
            _ => Ok(false),
        }
    })
    .await?;
    let pod = sample.cluster.get("Pod", &sample.namespace, "bypass").await?;
    let from = format!("\"{}:", crate::cluster::address(&pod)?);
    eventually("it is in the log of who reset it", async || {
        let logs = ["web-0", "web-1"].map(|pod| sample.cluster.log(&sample.namespace, pod, "weft-sidecar"));
        let logs = join_all(logs).await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let mut lines = logs.iter().flat_map(|log| log.lines());
        Ok(lines.any(|line| line.contains(&from) && line.contains("does not prove who it is")))
    })
    .await?;
    sample.cluster.kill(&sample.namespace, "bypass").await
}

/// Somebody whose identity is revoked is let in nowhere, and gets no certificate; once it is not any more, all is well again.
async fn revoked(sample: &Sample<'_>) -> anyhow::Result<()> {
    let own = identity(sample, "caller");
    let pod = sample
        .cluster
        .get("Pod", &sample.namespace, sample.pod("caller")?.0)
        .await?;
    let token = token(sample, &pod, AUDIENCE).await?;
    let failures = sample.report().await?["http"].failures;
    sample
        .cluster
        .apply_object(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": REVOCATIONS, "namespace": SYSTEM},
            "data": {"identities": format!("{own} # a test\n")},
        }))
        .await?;
    let told = told(sample, &own, &token, failures).await;
    sample.cluster.delete("ConfigMap", SYSTEM, REVOCATIONS).await?;
    told?;
    sample.more(1).await.context("once it is not revoked any more")
}

async fn told(sample: &Sample<'_>, own: &str, token: &str, failures: u64) -> anyhow::Result<()> {
    eventually("its calls fail", async || {
        Ok(sample.report().await?["http"].failures > failures)
    })
    .await?;
    eventually("it gets no certificate", async || {
        match sign(sample, token, &[own]).await {
            Ok(_) => Ok(false),
            refusal => refused(refusal, "PermissionDenied", "is revoked").map(|()| true),
        }
    })
    .await?;
    eventually("it is in the log of who refused it", async || {
        let log = sample.log("redis").await?;
        Ok(log
            .lines()
            .any(|line| line.contains("is not let in") && line.contains("is revoked")))
    })
    .await
}

fn identity(sample: &Sample<'_>, account: &str) -> String {
    format!("spiffe://cluster.local/ns/{}/sa/{account}", sample.namespace)
}

/// A token of a pod, as the kubelet gets it.
async fn token(sample: &Sample<'_>, pod: &DynamicObject, audience: &str) -> anyhow::Result<String> {
    let account = pod.data["spec"]["serviceAccountName"]
        .as_str()
        .context("it has no account")?;
    let path = format!(
        "/api/v1/namespaces/{}/serviceaccounts/{account}/token",
        sample.namespace
    );
    let of = json!({"apiVersion": "v1", "kind": "Pod", "name": name(pod), "uid": pod.metadata.uid});
    let wanted = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": [audience], "expirationSeconds": 600, "boundObjectRef": of},
    });
    let request = http::Request::post(path).header("content-type", "application/json");
    let request = request.body(serde_json::to_vec(&wanted)?)?;
    let answer: Value = sample.cluster.client().request(request).await?;
    Ok(answer["status"]["token"]
        .as_str()
        .context("there is no token")?
        .to_owned())
}

/// Where the operator is.
async fn operator(sample: &Sample<'_>) -> anyhow::Result<SocketAddr> {
    let address = sample.cluster.cluster_ip(SYSTEM, OPERATOR).await?;
    Ok(SocketAddr::new(address, 15010))
}

/// How the operator is reached at an address, with a token.
async fn endpoint(
    sample: &Sample<'_>,
    folder: &TempDir,
    address: SocketAddr,
    token: &str,
) -> Result<Endpoint, anyhow::Error> {
    let roots = sample.cluster.get("ConfigMap", &sample.namespace, "weft-roots").await?;
    let endpoint = Endpoint {
        address: address.to_string(),
        server_name: SERVER_NAME.to_owned(),
        roots: folder.path().join("ca.crt"),
        token: folder.path().join("token"),
    };
    std::fs::write(
        &endpoint.roots,
        roots.data["data"]["ca.crt"].as_str().context("there are no roots")?,
    )?;
    std::fs::write(&endpoint.token, token)?;
    Ok(endpoint)
}

/// Asks the operator for a certificate, as a sidecar does.
async fn sign(sample: &Sample<'_>, token: &str, names: &[&str]) -> Result<Signed, anyhow::Error> {
    sign_by(sample, operator(sample).await?, token, names).await
}

/// The same by whoever leads to the operator.
async fn sign_by(
    sample: &Sample<'_>,
    address: SocketAddr,
    token: &str,
    names: &[&str],
) -> Result<Signed, anyhow::Error> {
    let folder = tempfile::tempdir()?;
    let endpoint = endpoint(sample, &folder, address, token).await?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names
        .iter()
        .map(|name| Ok(SanType::URI((*name).try_into()?)))
        .collect::<anyhow::Result<_>>()?;
    let request = params.serialize_request(&KeyPair::generate()?)?.pem()?;
    Ok(IdentityClient::connect(&endpoint).await?.sign(request).await?)
}

/// Holds that the operator has said no, by a code of gRPC and for a reason.
fn refused(outcome: anyhow::Result<Signed>, code: &str, why: &str) -> anyhow::Result<()> {
    let Err(error) = outcome else {
        bail!("a certificate was signed");
    };
    match error.downcast_ref::<IdentityError>() {
        Some(IdentityError::Refused(status))
            if format!("{:?}", status.code()) == code && status.message().contains(why) =>
        {
            Ok(())
        }
        _ => bail!("it is not refused as it should be ({code}, {why:?}): {error:#}"),
    }
}

/// Waits until a replica of the operator has said something in its log.
async fn operator_says(sample: &Sample<'_>, what: &str) -> anyhow::Result<()> {
    eventually(format!("the operator's log has {what:?}"), async || {
        for pod in sample.cluster.list("Pod", SYSTEM, OPERATORS).await? {
            if sample.cluster.log(SYSTEM, name(&pod), "operator").await?.contains(what) {
                return Ok(true);
            }
        }
        Ok(false)
    })
    .await
}
