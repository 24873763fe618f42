//! The manifests of an installation: what the charts render with their defaults, with the few things changed that can be said
//! on the command line. Whoever wants more uses the charts.

use kube::api::DynamicObject;
use serde_json::{Value, json};

/// What `helm template` makes of the charts; `cargo xtask charts` holds it equal.
const CHART: &str = include_str!("../../../helm/goldens/default.out.yaml");
const CRDS: &str = include_str!("../../../helm/goldens/crds.out.yaml");
/// The namespace that [`CHART`] is rendered for.
const NAMESPACE: &str = "weft-system";

/// What can be changed.
#[derive(Clone, Debug)]
pub(crate) struct Changes {
    pub(crate) namespace: String,
    pub(crate) replicas: Option<u32>,
    pub(crate) operator_image: Option<String>,
    pub(crate) gateway_image: Option<String>,
    pub(crate) sidecar_image: Option<String>,
    pub(crate) pull_policy: Option<String>,
    /// Whether there is an XMesh: not every cluster has that kind.
    pub(crate) mesh: bool,
}

/// The kinds that Weft owns.
pub(crate) fn crds() -> anyhow::Result<Vec<DynamicObject>> {
    objects(CRDS)
}

/// Everything else, its namespace first.
pub(crate) fn installation(changes: &Changes) -> anyhow::Result<Vec<DynamicObject>> {
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": changes.namespace, "labels": {"app.kubernetes.io/part-of": "weft"}},
    });
    let mut objects: Vec<DynamicObject> = vec![serde_json::from_value(namespace)?];
    for mut document in documents(CHART)? {
        if document["kind"] == "XMesh" && !changes.mesh {
            continue;
        }
        relabel(&mut document);
        rename(&mut document, &changes.namespace);
        if document["kind"] == "Deployment" {
            change(&mut document["spec"], changes);
        }
        objects.push(serde_json::from_value(document)?);
    }
    Ok(objects)
}

/// As text that `kubectl apply` reads.
pub(crate) fn yaml(objects: &[DynamicObject]) -> anyhow::Result<String> {
    let mut text = String::new();
    for object in objects {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(&serde_json::to_value(object)?)?);
    }
    Ok(text)
}

fn objects(text: &str) -> anyhow::Result<Vec<DynamicObject>> {
    let documents = documents(text)?;
    let objects = documents.into_iter().map(serde_json::from_value);
    Ok(objects.collect::<Result<_, _>>()?)
}

fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// It is not Helm that manages this.
fn relabel(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("helm.sh/chart");
            if let Some(manager) = fields.get_mut("app.kubernetes.io/managed-by") {
                *manager = "weft".into();
            }
            fields.values_mut().for_each(relabel);
        }
        Value::Array(values) => values.iter_mut().for_each(relabel),
        _ => {}
    }
}

/// Puts another namespace wherever the chart has put its own.
fn rename(value: &mut Value, namespace: &str) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "namespace" && text == NAMESPACE => namespace.clone_into(text),
                    Value::String(text) => {
                        *text = text.replace(&format!(".{NAMESPACE}.svc"), &format!(".{namespace}.svc"))
                    }
                    value => rename(value, namespace),
                }
            }
        }
        Value::Array(values) => {
            for value in values {
                match value {
                    // Namespaces that are named in a list.
                    Value::String(text) if text == NAMESPACE => namespace.clone_into(text),
                    value => rename(value, namespace),
                }
            }
        }
        _ => {}
    }
}

fn change(deployment: &mut Value, changes: &Changes) {
    if let Some(replicas) = changes.replicas {
        deployment["replicas"] = replicas.into();
    }
    let container = &mut deployment["template"]["spec"]["containers"][0];
    if let Some(image) = &changes.operator_image {
        container["image"] = image.as_str().into();
    }
    if let Some(policy) = &changes.pull_policy {
        container["imagePullPolicy"] = policy.as_str().into();
    }
    let variables = [
        ("WEFT_GATEWAY_IMAGE", &changes.gateway_image),
        ("WEFT_GATEWAY_PULL_POLICY", &changes.pull_policy),
        ("WEFT_SIDECAR_IMAGE", &changes.sidecar_image),
        ("WEFT_SIDECAR_PULL_POLICY", &changes.pull_policy),
    ];
    for variable in container["env"].as_array_mut().into_iter().flatten() {
        for (name, value) in &variables {
            if let Some(value) = value
                && variable["name"] == *name
            {
                variable["value"] = value.as_str().into();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes() -> Changes {
        Changes {
            namespace: NAMESPACE.into(),
            replicas: None,
            operator_image: None,
            gateway_image: None,
            sidecar_image: None,
            pull_policy: None,
            mesh: true,
        }
    }

    #[test]
    fn by_itself_it_is_what_the_chart_renders() {
        let text = yaml(&installation(&changes()).expect("it is YAML")).expect("it is YAML");
        for image in ["operator", "gateway", "sidecar"] {
            let image = format!("weft.dev/{image}:{}", env!("CARGO_PKG_VERSION"));
            assert!(text.contains(&image), "no {image} in {text}");
        }
        let read_again = documents(&text).expect("it is YAML");
        assert_eq!(read_again.len(), documents(CHART).expect("it is YAML").len() + 1);
        assert!(!text.contains("Helm") && !text.contains("helm.sh"), "{text}");
    }

    #[test]
    fn what_is_said_is_changed_wherever_it_stands() {
        let said = Changes {
            namespace: "edge".into(),
            replicas: Some(3),
            operator_image: Some("example.com/operator:1".into()),
            gateway_image: Some("example.com/gateway:2".into()),
            sidecar_image: Some("example.com/sidecar:3".into()),
            pull_policy: Some("Never".into()),
            mesh: false,
        };
        let text = yaml(&installation(&said).expect("it is YAML")).expect("it is YAML");
        assert!(!text.contains(NAMESPACE), "{text}");
        for expected in [
            "weft-operator.edge.svc:15010",
            "replicas: 3",
            "example.com/operator:1",
            "example.com/gateway:2",
            "example.com/sidecar:3",
            "imagePullPolicy: Never",
        ] {
            assert!(text.contains(expected), "no {expected} in {text}");
        }
        assert!(!text.contains("XMesh"), "{text}");
    }

    #[test]
    fn the_kinds_are_those_of_weft() {
        for object in crds().expect("they are YAML") {
            let name = object.metadata.name.expect("they have names");
            assert!(name.ends_with(".weft.dev"), "{name}");
        }
    }
}
