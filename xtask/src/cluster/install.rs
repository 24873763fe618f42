//! What is installed into the cluster: the Gateway API, names, Weft.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use super::{API, RUN, inside, kubectl, output, template, until};

/// The namespace of Weft.
const SYSTEM: &str = "weft-system";

/// Applies the definitions of the Gateway API's experimental channel, of the very release that the suite is of.
pub(super) fn gateway_api() -> anyhow::Result<()> {
    let module = module("conformance", "sigs.k8s.io/gateway-api")?;
    let definitions = module.join("config/crd/experimental").display().to_string();
    // Some are too large for an annotation that says what they were.
    kubectl(&["apply", "--server-side", "--force-conflicts", "-k", &definitions])?;
    established(&["crd", "--all"])
}

/// Waits until kinds are served. One that has just been made has no conditions yet, by which `kubectl wait` fails instead of waiting.
fn established(definitions: &[&str]) -> anyhow::Result<()> {
    let wait = [&["wait"], definitions, &["--for=condition=Established", "--timeout=5s"]].concat();
    until("the kinds are defined", || Ok(kubectl(&wait).is_ok()))
}

/// Where the files of a Go module are that a program of `e2e/` is built from.
fn module(program: &str, module: &str) -> anyhow::Result<PathBuf> {
    let folder = output(
        Command::new("go")
            .args(["list", "-mod=readonly", "-m", "-f", "{{.Dir}}", module])
            .current_dir(Path::new("e2e").join(program)),
    )?;
    Ok(PathBuf::from(folder.trim()))
}

/// Definitions that are in the cluster for a while.
#[must_use]
pub(crate) struct Definitions(Vec<String>);

impl Definitions {
    /// Takes them away, and all objects that are of them.
    pub(crate) fn remove(self) -> anyhow::Result<()> {
        for file in self.0 {
            kubectl(&["delete", "--ignore-not-found", "--timeout=60s", "-f", &file])?;
        }
        Ok(())
    }
}

/// Applies those definitions of cert-manager that are needed to sign, of the very release that is built.
pub(super) fn cert_manager() -> anyhow::Result<Definitions> {
    let folder = module("cert-manager", "github.com/cert-manager/cert-manager")?.join("deploy/crds");
    let mut files = Vec::new();
    for kind in ["certificaterequests", "issuers", "clusterissuers"] {
        let file = folder
            .join(format!("cert-manager.io_{kind}.yaml"))
            .display()
            .to_string();
        // Some are too large for an annotation that says what they were.
        kubectl(&["apply", "--server-side", "-f", &file])?;
        let definition = format!("crd/{kind}.cert-manager.io");
        established(&[&definition])?;
        files.push(file);
    }
    Ok(Definitions(files))
}

/// Applies the definition of a kind of which the chart has objects if it is told so.
pub(super) fn monitors() -> anyhow::Result<()> {
    kubectl(&["apply", "--server-side", "-f", "e2e/cluster/podmonitors.yaml"])?;
    established(&["crd/podmonitors.monitoring.coreos.com"])
}

/// Starts the name server; waits until it answers inside the cluster's network.
pub(super) fn dns() -> anyhow::Result<()> {
    let manifest = Path::new(RUN).join("dns.yaml");
    std::fs::write(&manifest, template("dns.yaml", &[])?)?;
    kubectl(&["apply", "--server-side", "-f", &manifest.display().to_string()])?;
    let script = "mount --bind \"$0\" /etc/resolv.conf && exec getent hosts kubernetes.default.svc.cluster.local";
    until("names are answered for", || {
        let resolv = format!("{RUN}/resolv.conf");
        let answer = output(inside("unshare").args(["--mount", "sh", "-c", script, &resolv]));
        Ok(answer.is_ok_and(|answer| answer.starts_with(API)))
    })
}

/// Installs Weft as its users do, from the charts.
pub(super) fn charts() -> anyhow::Result<()> {
    let helm = |args: &[&str]| output(inside("helm").args(args));
    let common = ["upgrade", "--install", "--create-namespace", "--namespace", SYSTEM];
    let smi = ["--set", "smi.enabled=true"];
    helm(&[&common[..], &["weft-crds", "helm/weft-crds"], &smi].concat())?;
    let values = ["--values", "e2e/cluster/values.yaml", "--wait", "--timeout", "3m"];
    helm(&[&common[..], &["weft", "helm/weft"], &values].concat()).with_context(|| {
        format!("to see why: cargo xtask cluster run -- kubectl -n {SYSTEM} describe pods; cargo xtask cluster run -- kubectl -n {SYSTEM} logs -l app.kubernetes.io/name=weft")
    })?;
    Ok(())
}

/// Starts anew what runs images that have changed; waits for it.
pub(super) fn restart(changed: &[&str]) -> anyhow::Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let each = r#"jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name} {.spec.template.spec.containers[*].image}{"\n"}{end}"#;
    let deployments = kubectl(&["get", "deployments", "-A", "-o", each])?;
    let outdated: Vec<[&str; 2]> = deployments
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let name = [words.next()?, words.next()?];
            words.any(|image| changed.contains(&image)).then_some(name)
        })
        .collect();
    for [namespace, name] in &outdated {
        kubectl(&["rollout", "restart", "deployment", name, "-n", namespace])?;
    }
    for [namespace, name] in &outdated {
        kubectl(&[
            "rollout",
            "status",
            "deployment",
            name,
            "-n",
            namespace,
            "--timeout=120s",
        ])?;
    }
    Ok(())
}
