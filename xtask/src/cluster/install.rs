//! What is installed into the cluster: the Gateway API, names, Weft.

use std::{path::Path, process::Command};

use anyhow::Context as _;

use super::{API, RUN, inside, kubectl, output, template, until};

/// The namespace of Weft.
const SYSTEM: &str = "weft-system";

/// Applies the definitions of the Gateway API's experimental channel, of the very release that the suite is of.
pub(super) fn gateway_api() -> anyhow::Result<()> {
    let module = output(
        Command::new("go")
            .args([
                "list",
                "-mod=readonly",
                "-m",
                "-f",
                "{{.Dir}}",
                "sigs.k8s.io/gateway-api",
            ])
            .current_dir("e2e/conformance"),
    )?;
    let definitions = format!("{}/config/crd/experimental", module.trim());
    // Some are too large for an annotation that says what they were.
    kubectl(&["apply", "--server-side", "--force-conflicts", "-k", &definitions])?;
    kubectl(&["wait", "crd", "--all", "--for=condition=Established", "--timeout=60s"])?;
    Ok(())
}

/// Applies the definition of a kind of which the chart has objects if it is told so.
pub(super) fn monitors() -> anyhow::Result<()> {
    kubectl(&["apply", "--server-side", "-f", "e2e/cluster/podmonitors.yaml"])?;
    let definition = "crd/podmonitors.monitoring.coreos.com";
    kubectl(&["wait", definition, "--for=condition=Established", "--timeout=60s"])?;
    Ok(())
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
