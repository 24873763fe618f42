//! What is seen of the traffic: whether the API server can tell of it.

use kube::api::DynamicObject;
use serde_json::Value;
use weft_model::view::{GROUP, VERSION};

use super::Group;
use crate::cluster::{Cluster, OPERATOR, OPERATOR_NAME};

/// Whether `weft stat` and `weft edges` have something to go by.
pub(super) async fn view(cluster: &Cluster, namespace: &str) -> anyhow::Result<Group> {
    let mut group = Group::new("traffic");
    let what = "the API server asks the operator what is seen of the traffic";
    let name = format!("{VERSION}.{GROUP}");
    let service = match cluster.api("apiregistration.k8s.io", "v1", "APIService") {
        Some(api) => api.get_opt(&name).await?,
        None => None,
    };
    let Some(service) = service else {
        group.warn(
            "V001",
            what,
            format!("there is no APIService {name}: weft stat, weft edges and weft path tell nothing"),
            "helm upgrade with view.enabled=true, or weft install --apply",
        );
        return Ok(group);
    };
    group.ok("V001", what);
    group.holds(
        "V002",
        "the operator answers it",
        unavailable(&service),
        format!(
            "see that its pods are ready and that the API server reaches port 9444 of them; the operator writes what is to be \
             trusted within seconds: kubectl logs -n {namespace} -l {OPERATOR_NAME}={OPERATOR}"
        ),
    );
    Ok(group)
}

/// Why it is not there, in the API server's words.
fn unavailable(service: &DynamicObject) -> Option<String> {
    let conditions = service.data.pointer("/status/conditions").and_then(Value::as_array);
    let mut conditions = conditions.into_iter().flatten();
    let Some(available) = conditions.find(|condition| condition["type"] == "Available") else {
        return Some("the API server has not looked yet".to_owned());
    };
    (available["status"] != "True").then(|| {
        let text = |field: &str| available[field].as_str().unwrap_or_default().to_owned();
        format!("{}: {}", text("reason"), text("message"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_api_server_says_why_it_is_not_there() {
        let service = |conditions: Value| -> DynamicObject {
            let service = json!({"metadata": {"name": "v1alpha1.view.weft.dev"}, "status": {"conditions": conditions}});
            serde_json::from_value(service).expect("an object")
        };
        let available = |status: &str| json!([{"type": "Available", "status": status, "reason": "MissingEndpoints", "message": "none"}]);
        assert_eq!(unavailable(&service(available("True"))), None);
        assert_eq!(
            unavailable(&service(available("False"))).as_deref(),
            Some("MissingEndpoints: none")
        );
        assert!(unavailable(&service(json!([]))).is_some());
    }
}
