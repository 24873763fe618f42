//! Parts of the cluster fail while requests are made. Nothing is lost, and what is said of everything is true at the end.

mod api;
pub(crate) mod churn;
pub(crate) mod control;
mod gateway;
pub(crate) mod mesh;
mod node;
mod pods;
mod process;
mod refused;
mod renewal;

use std::{future::Future, pin::Pin, process::ExitCode, time::Instant};

use crate::{
    cluster::{Cluster, eventually, name},
    report,
    scene::PREFIX,
};

type Test = fn(Cluster) -> Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

macro_rules! tests {
    ($($module:ident::$name:ident),* $(,)?) => {
        &[$((stringify!($name), |cluster| Box::pin(async move { $module::$name(&cluster).await }))),*]
    };
}

/// All of them, by name.
const TESTS: &[(&str, Test)] = tests![
    churn::a_thousand_live_edits,
    churn::a_thousand_endpoints_flap,
    pods::backends_are_restarted,
    pods::gateways_are_restarted,
    pods::the_operator_is_restarted,
    gateway::a_listener_comes_and_goes,
    gateway::what_a_gateway_has_follows_it,
    control::operators_are_killed,
    control::a_gateway_is_cut_off,
    control::a_gateway_starts_while_the_operator_is_away,
    control::the_lease_is_disputed,
    mesh::a_namespace_takes_the_path_up_and_down,
    mesh::workloads_of_the_mesh_come_and_go,
    mesh::the_root_of_the_mesh_is_rotated,
    mesh::a_strict_service_without_endpoints_is_nobody,
    mesh::the_kubelet_is_restarted,
    renewal::certificates_of_workloads_are_renewed,
    refused::a_resource_is_refused_beside_good_ones,
    node::a_node_is_not_heard_of,
    api::the_api_server_is_away_for_a_minute,
    api::etcd_is_restarted,
];

/// Runs those whose names contain the filter.
pub(crate) async fn run(filter: Option<&str>) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect().await?;
    let wanted = TESTS
        .iter()
        .filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter)));
    let (mut passed, mut failed) = (0, 0);
    for (title, test) in wanted {
        let start = Instant::now();
        match test(cluster.clone()).await {
            Ok(()) => {
                passed += 1;
                report::passed(title, start);
            }
            Err(error) => {
                failed += 1;
                println!("FAILED  {title} ({:.0} s): {error:#}", start.elapsed().as_secs_f64());
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    // What comes after finds the cluster as it was, but for what is left of a test that has failed.
    if failed == 0 {
        eventually("the namespaces of the tests are gone", async || {
            let namespaces = cluster.list("Namespace", "", "").await?;
            Ok(!namespaces.iter().any(|found| name(found).starts_with(PREFIX)))
        })
        .await?;
    }
    Ok(if failed == 0 && passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
