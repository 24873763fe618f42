//! What is made from the types and committed: the definitions of Weft's own kinds, and those of SMI.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

/// Where definitions go: a chart of their own, so that upgrades renew them.
const FOLDER: &str = "helm/weft-crds/templates";

/// Every file, and what is to be in it.
fn files() -> anyhow::Result<Vec<(PathBuf, String)>> {
    let own = weft_crds::definitions().into_iter();
    let own = own.map(|(kind, definition)| {
        let yaml = serde_saphyr::to_string(&definition)?;
        Ok((file(kind.name()), format!("{MADE}{yaml}")))
    });
    let smi = weft_crds::smi_definitions().into_iter();
    let smi = smi.map(|(kind, definition)| Ok((file(&format!("smi-{}", kind.name())), optional(definition)?)));
    own.chain(smi).collect()
}

const MADE: &str = "# Made by `cargo xtask generate` from the types in crds/.\n";

fn file(name: &str) -> PathBuf {
    PathBuf::from(FOLDER).join(format!("{}.yaml", name.to_lowercase()))
}

/// A definition of a kind that is not Weft's own: there if it is asked for, kept with its objects when the chart goes, and
/// converted by the operator if it has several versions.
fn optional(mut definition: Value) -> anyhow::Result<String> {
    let several = definition["spec"]["versions"].as_array().map_or(0, Vec::len) > 1;
    if several {
        let service = json!({
            "name": "{{ .Values.smi.operator.name }}",
            "namespace": "{{ .Values.smi.operator.namespace | default .Release.Namespace }}",
            "path": "/convert",
            "port": 443,
        });
        definition["spec"]["conversion"] = json!({
            "strategy": "Webhook",
            "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": {"service": service}},
        });
    }
    definition["metadata"]["annotations"] = json!({"helm.sh/resource-policy": "KEEP"});
    let yaml = serde_saphyr::to_string(&definition)?;
    // The annotation is there if the chart says so.
    let lines = yaml.lines().map(|line| {
        if line.contains("helm.sh/resource-policy") {
            let indent = &line[..line.len() - line.trim_start().len()];
            format!(
                "{indent}{{{{- if .Values.keep }}}}\n{indent}helm.sh/resource-policy: keep\n{indent}{{{{- end }}}}\n"
            )
        } else {
            format!("{line}\n")
        }
    });
    let yaml: String = lines.collect();
    Ok(format!(
        "{{{{- if .Values.smi.enabled }}}}\n{MADE}{yaml}{{{{- end }}}}\n"
    ))
}

/// Writes them all.
pub(crate) fn run() -> anyhow::Result<()> {
    fs::create_dir_all(FOLDER)?;
    for (path, text) in files()? {
        fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_is_what_is_made() {
        for (path, text) in files().expect("made") {
            let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
            let committed = fs::read_to_string(root.join(&path)).unwrap_or_default();
            assert_eq!(
                committed,
                text,
                "{} is not up to date: run `cargo xtask generate`",
                path.display()
            );
        }
    }
}
