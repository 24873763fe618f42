//! What the charts render, held against what is committed in `helm/goldens`.
//!
//! `NAME.values.yaml` leads to `NAME.out.yaml`; `NAME.refused.yaml` are values that must not be accepted, its first line a
//! comment with what Helm has to say to them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{steps::Steps, tools};

const GOLDENS: &str = "helm/goldens";
/// The oldest Kubernetes that the charts are for.
const KUBERNETES: &str = "1.33.0";

/// What of the Gateway API's experimental channel is used where it is there.
const EXPERIMENTAL: &str = "gateway.networking.x-k8s.io/v1alpha1/XMesh";

/// The charts, and the golden of each with its defaults.
const CHARTS: [(&str, &str); 2] = [("weft-crds", "crds"), ("weft", "default")];

/// Holds the charts to their goldens, if there is Go to install Helm with.
pub(crate) fn test(steps: &mut Steps) {
    if tools::has_go() {
        steps.step("charts", || run(false));
    } else {
        steps.skip(
            "charts",
            "they are rendered by Helm, which is installed with Go: install Go to have it",
        );
    }
}

/// Renders all; writes down what has changed if `update`, else fails at it.
pub(crate) fn run(update: bool) -> anyhow::Result<()> {
    let helm = tools::helm()?;
    for (chart, golden) in CHARTS {
        let output = Command::new(&helm)
            .args(["lint", "--strict", "--quiet"])
            .arg(folder(chart))
            .output()?;
        ensure!(output.status.success(), "{chart}: {}", said(&output));
        compare(golden, &template(&helm, chart, None)?, update)?;
    }
    for file in files(".values.yaml")? {
        let name = name(&file, ".values.yaml");
        compare(&name, &template(&helm, chart_of(&name), Some(&file))?, update)?;
    }
    for file in files(".refused.yaml")? {
        let text = fs::read_to_string(&file)?;
        let expected = text.lines().next().and_then(|line| line.strip_prefix("# "));
        let expected =
            expected.with_context(|| format!("{}: the first line is to say what Helm says", file.display()))?;
        let output = render(&helm, chart_of(&name(&file, ".refused.yaml")), Some(&file))?;
        let said = said(&output);
        ensure!(!output.status.success(), "{} is not refused", file.display());
        ensure!(
            said.contains(expected),
            "{}: expected {expected:?} in: {said}",
            file.display()
        );
    }
    Ok(())
}

/// The chart that values are of: `crds-` begins the names of those for the definitions.
fn chart_of(name: &str) -> &'static str {
    if name.starts_with("crds-") { "weft-crds" } else { "weft" }
}

fn folder(chart: &str) -> PathBuf {
    Path::new("helm").join(chart)
}

fn template(helm: &Path, chart: &str, values: Option<&Path>) -> anyhow::Result<String> {
    let output = render(helm, chart, values)?;
    ensure!(output.status.success(), "{chart}: {}", said(&output));
    Ok(String::from_utf8(output.stdout)?)
}

fn render(helm: &Path, chart: &str, values: Option<&Path>) -> anyhow::Result<Output> {
    let mut command = Command::new(helm);
    command.args(["template", chart]).arg(folder(chart)).args([
        "--namespace",
        "weft-system",
        "--kube-version",
        KUBERNETES,
        "--api-versions",
        EXPERIMENTAL,
    ]);
    if let Some(values) = values {
        command.arg("--values").arg(values);
    }
    command.output().context("helm could not be started")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Whoever may not be spoken to where it listens, does nothing: a NetworkPolicy lets somebody come to every port of the pods.
fn reachable(rendered: &str) -> anyhow::Result<()> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(rendered)?;
    let of = |kind: &'static str| objects.iter().filter(move |object| object["kind"] == kind);
    let each = |value: &Value, path: &str| {
        value
            .pointer(path)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    for policy in of("NetworkPolicy") {
        let rules = each(policy, "/spec/ingress");
        let open: Vec<Value> = rules
            .iter()
            .flat_map(|rule| each(rule, "/ports"))
            .map(|port| port["port"].clone())
            .collect();
        let selected = policy["spec"]["podSelector"]["matchLabels"]
            .as_object()
            .context("it is for all pods")?;
        let mut ports = 0;
        for deployment in of("Deployment") {
            let pod = &deployment["spec"]["template"];
            ensure!(
                selected
                    .iter()
                    .all(|(name, value)| pod["metadata"]["labels"][name] == *value),
                "the NetworkPolicy is not for the pods of the operator"
            );
            for port in each(pod, "/spec/containers")
                .iter()
                .flat_map(|container| each(container, "/ports"))
            {
                ports += 1;
                ensure!(
                    open.contains(&port["name"]),
                    "the NetworkPolicy lets nobody come to the port {}",
                    port["name"]
                );
            }
        }
        ensure!(ports > 0, "no port is looked at");
    }
    Ok(())
}

fn compare(name: &str, rendered: &str, update: bool) -> anyhow::Result<()> {
    let golden = Path::new(GOLDENS).join(format!("{name}.out.yaml"));
    reachable(rendered).with_context(|| golden.display().to_string())?;
    let known = fs::read_to_string(&golden).unwrap_or_default();
    if known == rendered {
        return Ok(());
    }
    if update {
        println!("{} has changed", golden.display());
        return Ok(fs::write(golden, rendered)?);
    }
    let (at, line) = rendered
        .lines()
        .zip(known.lines().chain(std::iter::repeat("")))
        .enumerate()
        .find(|(_, (new, old))| new != old)
        .map_or((0, ""), |(at, (new, _))| (at + 1, new));
    anyhow::bail!(
        "{}:{at}: the chart renders {line:?}; if that is meant: cargo xtask charts --update",
        golden.display()
    )
}

fn files(ending: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(GOLDENS).context("run it at the root of the repository")? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(ending) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn name(file: &Path, ending: &str) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.trim_end_matches(ending).to_owned()
}
