//! `weft uninstall`: nothing is left but what was asked to stay.

mod sidecars;

use std::{
    collections::BTreeSet,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::bail;
use clap::Parser;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use serde_json::json;

use super::{AUTHORITY, CHILDREN, Cluster, GROUP, OPERATOR, OPERATOR_NAME, PART, Where, connection::name_of};

/// How long something may take to be gone.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Parser)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    place: Where,
    /// Leave the pods of Gateways running, with the configuration they have.
    #[arg(long)]
    keep_gateways: bool,
    /// Leave the kinds that Weft owns, and with them all objects of these kinds.
    #[arg(long)]
    keep_crds: bool,
    /// Even if workloads prove who they are, and could not for long without Weft.
    #[arg(long)]
    force: bool,
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

/// Something to remove.
struct Doomed {
    resource: ApiResource,
    object: DynamicObject,
}

pub(crate) async fn run(args: Uninstall) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect(args.place.context.as_deref()).await?;
    let doomed = find(&cluster, &args).await?;
    if doomed.is_empty() {
        println!("there is nothing of Weft in the cluster");
        return Ok(ExitCode::SUCCESS);
    }
    for one in &doomed {
        println!(
            "{} {}",
            if args.dry_run { "would remove" } else { "to remove:" },
            name_of(&one.object)
        );
    }
    // Where there is no operator any more, to wait for a step back would help nobody.
    let operator = cluster.operator(&args.place.namespace).await?;
    let lifetime = operator.as_ref().map(sidecars::lifetime);
    let refusal = match lifetime {
        Some(lifetime) => sidecars::refusal(&sidecars::find(&cluster).await?, lifetime),
        None => None,
    };
    if args.dry_run {
        if let Some(why) = refusal {
            println!("note: {why}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(why) = refusal
        && !args.force
    {
        bail!("nothing is removed: {why}");
    }
    if !args.yes && !confirmed(doomed.len())? {
        return Ok(ExitCode::FAILURE);
    }
    let_go(&cluster, &args.place.namespace).await?;
    for one in &doomed {
        remove(&cluster, one).await?;
    }
    // The operator may have made something between the search and its own end.
    let left = find(&cluster, &args).await?;
    for one in &left {
        remove(&cluster, one).await?;
    }
    println!("Weft is gone: {} objects were removed", doomed.len() + left.len());
    for left in sidecars::find(&cluster).await? {
        println!("{}", left.told(lifetime.unwrap_or(sidecars::LIFETIME)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Everything that is to go, in the order in which it is to go: first who would be asked and not answer, and who would make
/// the rest anew.
async fn find(cluster: &Cluster, args: &Uninstall) -> anyhow::Result<Vec<Doomed>> {
    let mut found = cluster.labelled(PART).await?;
    if !args.keep_gateways {
        found.extend(cluster.labelled(CHILDREN).await?);
    }
    let named = [("coordination.k8s.io", "Lease", OPERATOR), ("", "Secret", AUTHORITY)];
    for (group, kind, name) in named {
        let Some(api) = cluster.api(group, "v1", kind) else {
            continue;
        };
        let object = api.constrain(&args.place.namespace).get_opt(name).await?;
        found.extend(object.map(|object| (resource(group, kind), object)));
    }
    if let Some(api) = cluster.api("apiextensions.k8s.io", "v1", "CustomResourceDefinition") {
        let ours = api.list(&ListParams::default()).await?.into_iter();
        let ours = ours.filter(|crd| crd.data.pointer("/spec/group").is_some_and(|group| group == GROUP));
        found.extend(ours.map(|crd| (resource("apiextensions.k8s.io", "CustomResourceDefinition"), crd)));
    }
    if args.keep_crds {
        found.retain(|(resource, _)| resource.kind != "CustomResourceDefinition");
    }
    // Of what goes, so that Helm still knows of the definitions where they are kept.
    found.extend(releases(cluster, args, &found).await?);
    let mut seen = BTreeSet::new();
    let mut doomed = Vec::new();
    for (resource, mut object) in found {
        object.types = Some(kube::api::TypeMeta {
            api_version: resource.api_version.clone(),
            kind: resource.kind.clone(),
        });
        // What belongs to something that goes, goes with it.
        let made = ["Pod", "ReplicaSet", "EndpointSlice", "Endpoints"].contains(&resource.kind.as_str());
        if !made && seen.insert(name_of(&object)) {
            doomed.push(Doomed { resource, object });
        }
    }
    doomed.sort_by_key(|one| (rank(one), name_of(&one.object)));
    Ok(doomed)
}

/// Definitions of SMI stay, with their objects. Those that are converted by the operator are converted by nobody from now on:
/// else their objects could not be read in another version than they are stored in.
async fn let_go(cluster: &Cluster, namespace: &str) -> anyhow::Result<()> {
    let Some(api) = cluster.api("apiextensions.k8s.io", "v1", "CustomResourceDefinition") else {
        return Ok(());
    };
    for crd in api.list(&ListParams::default()).await? {
        if !is_converted_by(&crd, namespace) {
            continue;
        }
        let name = crd.metadata.name.as_deref().unwrap_or_default();
        let patch = json!({"spec": {"conversion": {"strategy": "None", "webhook": null}}});
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        println!(
            "left {}, of which only what is stored as it is asked for is whole",
            name_of(&crd)
        );
    }
    Ok(())
}

/// Whether a definition of SMI has its objects converted by an operator in a namespace.
fn is_converted_by(crd: &DynamicObject, namespace: &str) -> bool {
    let text = |path: &str| {
        crd.data
            .pointer(path)
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default()
    };
    text("/spec/group").ends_with(".smi-spec.io")
        && text("/spec/conversion/webhook/clientConfig/service/namespace") == namespace
        && text("/spec/conversion/webhook/clientConfig/service/path") == "/convert"
}

/// What Helm remembers of releases, if it was Helm that installed them.
async fn releases(
    cluster: &Cluster,
    args: &Uninstall,
    found: &[(ApiResource, DynamicObject)],
) -> anyhow::Result<Vec<(ApiResource, DynamicObject)>> {
    let names: BTreeSet<&String> = found
        .iter()
        .filter_map(|(_, object)| object.metadata.annotations.as_ref()?.get("meta.helm.sh/release-name"))
        .collect();
    let Some(api) = cluster.api("", "v1", "Secret") else {
        return Ok(Vec::new());
    };
    let api = api.constrain(&args.place.namespace);
    let mut all = Vec::new();
    for name in names {
        let params = ListParams::default().labels(&format!("owner=helm,name={name}"));
        let secrets = api.list(&params).await?;
        all.extend(secrets.into_iter().map(|secret| (resource("", "Secret"), secret)));
    }
    Ok(all)
}

fn resource(group: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&kube::api::GroupVersionKind::gvk(group, "v1", kind))
}

/// The webhook and the API first, for without an operator they would keep pods from starting and namespaces from going; then the operator, so that nothing is made
/// anew; its namespace and its kinds last.
fn rank(one: &Doomed) -> u8 {
    let labels = one.object.metadata.labels.as_ref();
    let operator = labels
        .and_then(|labels| labels.get(OPERATOR_NAME))
        .is_some_and(|name| name == OPERATOR);
    match one.resource.kind.as_str() {
        "MutatingWebhookConfiguration" | "APIService" => 0,
        "Deployment" if operator => 1,
        "GatewayClass" => 2,
        "CustomResourceDefinition" => 4,
        "Namespace" => 5,
        _ => 3,
    }
}

/// Removes it, and waits until it is gone.
async fn remove(cluster: &Cluster, one: &Doomed) -> anyhow::Result<()> {
    let resource = &one.resource;
    let Some(api) = cluster.api(&resource.group, &resource.version, &resource.kind) else {
        return Ok(());
    };
    let api = api.constrain(one.object.metadata.namespace.as_deref().unwrap_or_default());
    let name = one.object.metadata.name.as_deref().unwrap_or_default();
    match api.delete(name, &DeleteParams::foreground()).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let start = Instant::now();
    while let Some(object) = api.get_opt(name).await? {
        if object.metadata.uid != one.object.metadata.uid {
            // Somebody has made another of that name.
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            let finalizers = object.metadata.finalizers.unwrap_or_default().join(", ");
            bail!(
                "{} is not gone after {} s; finalizers: {finalizers}",
                name_of(&one.object),
                PATIENCE.as_secs()
            );
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("removed {}", name_of(&one.object));
    Ok(())
}

fn confirmed(count: usize) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("say --yes to remove these {count} objects, or --dry-run to only see them");
    }
    print!("Remove these {count} objects? [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_definitions_that_this_operator_converts_are_let_go() {
        let crd = |group: &str, service: serde_json::Value| -> DynamicObject {
            let conversion = json!({"strategy": "Webhook", "webhook": {"clientConfig": {"service": service}}});
            let crd = json!({"metadata": {"name": "x"}, "spec": {"group": group, "conversion": conversion}});
            serde_json::from_value(crd).expect("an object")
        };
        let ours = json!({"namespace": "weft-system", "name": "weft-operator", "path": "/convert"});
        let theirs = json!({"namespace": "osm-system", "name": "osm-bootstrap", "path": "/convert"});
        assert!(is_converted_by(&crd("split.smi-spec.io", ours.clone()), "weft-system"));
        assert!(!is_converted_by(&crd("split.smi-spec.io", theirs), "weft-system"));
        assert!(!is_converted_by(&crd("cert-manager.io", ours), "weft-system"));
    }
}
