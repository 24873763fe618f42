//! Installation and removal, as a user does both: `weft check` finds nothing wrong, `weft uninstall` leaves nothing, and cuts off
//! nobody who is in the mesh.

use anyhow::ensure;

use super::{ensure_up, inside, install, kubectl, output, until};
use crate::{e2e, tools};

/// What an installation consists of, or the operator makes, as `kubectl` names these kinds.
const KINDS: &str = "deployments,services,serviceaccounts,configmaps,secrets,poddisruptionbudgets,horizontalpodautoscalers,leases,roles,rolebindings,networkpolicies,podmonitors,clusterroles,clusterrolebindings,gatewayclasses,customresourcedefinitions,mutatingwebhookconfigurations,validatingwebhookconfigurations,apiservices,namespaces";
/// What an object of ours has in its name or its labels.
const MARK: &str = "weft";

/// Removes what the charts have installed, installs Weft by `weft install`, removes that, and brings the charts back.
pub(crate) fn run() -> anyhow::Result<()> {
    ensure_up()?;
    tools::build("dev")?;
    all_is_well()?;
    e2e::removal()?;
    nothing_left(&["namespace/weft-system"])?;
    let images = [
        "--operator-image",
        "weft.dev/operator:dev",
        "--gateway-image",
        "weft.dev/gateway:dev",
        "--sidecar-image",
        "weft.dev/sidecar:dev",
    ];
    weft(&[&["install", "--apply", "--image-pull-policy", "Never"], &images[..]].concat())?;
    all_is_well()?;
    weft(&["uninstall", "--yes"])?;
    nothing_left(&[])?;
    install::charts()
}

/// Waits until `weft check` finds nothing wrong: what has failed on purpose, or been installed, may still be on its way.
fn all_is_well() -> anyhow::Result<()> {
    println!("weft check");
    let mut said = String::new();
    let well = until("weft check finds nothing wrong", || {
        let checked = inside(tools::target()?.join("debug/weft")).arg("check").output()?;
        said = String::from_utf8_lossy(&checked.stdout).into_owned();
        Ok(checked.status.success())
    });
    print!("{said}");
    well
}

fn weft(args: &[&str]) -> anyhow::Result<()> {
    println!("weft {}", args.join(" "));
    print!("{}", output(inside(tools::target()?.join("debug/weft")).args(args))?);
    Ok(())
}

/// Looks for itself, not by what `weft` believes to be its own.
fn nothing_left(but: &[&str]) -> anyhow::Result<()> {
    let columns =
        r"custom-columns=KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name,LABELS:.metadata.labels";
    let all = kubectl(&["get", KINDS, "-A", "--no-headers", "-o", columns])?;
    let left: Vec<&str> = all
        .lines()
        .filter(|line| line.contains(MARK))
        .filter(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let name = format!("{}/{}", words[0].to_lowercase(), words[2]);
            // What Kubernetes itself puts into a namespace goes with it.
            let kubernetes = words[2] == "kube-root-ca.crt" || words[2] == "default";
            !kubernetes && !but.contains(&name.as_str())
        })
        .collect();
    ensure!(left.is_empty(), "left after weft uninstall:\n{}", left.join("\n"));
    Ok(())
}
