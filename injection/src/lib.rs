//! The sidecar in a pod: what is put there, and how it is taken out again.
//!
//! Pure. Pods are JSON, so that fields which nobody here knows come through as they are. The operator's webhook does this to
//! pods, the command `weft inject` to the templates in manifests (docs/decisions/041-injection.md).

mod blanks;
mod names;
mod place;
mod quantity;
mod render;
mod settings;
mod suitable;
mod why;
mod wishes;

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use weft_crds::Stage;

pub use self::{
    blanks::{Blank, Blanks},
    names::{INJECT, INJECTED, INTERCEPT, LISTS, PREFIX, PROBES, ROOTS, SIDECAR, STATE, TOKEN},
    place::{is_injected, uninject},
    quantity::{Quantity, QuantityError},
    render::Parts,
    settings::{LogLevel, Resources, Settings, Spans, UnknownLogLevel},
    why::{Left, Refusal},
    wishes::{KNOWN, check},
};
use self::{suitable::Suitability, wishes::Wishes};

/// What the namespace of a pod has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its labels: its stage, and the Pod Security Standard that it enforces.
    pub labels: BTreeMap<String, String>,
    /// Its annotations, which hold for pods that have not the same ones.
    pub annotations: BTreeMap<String, String>,
}

impl Namespace {
    /// Its stage, if it is in the mesh.
    pub fn stage(&self) -> Option<Stage> {
        Stage::of(&self.labels).ok().flatten()
    }

    /// Whether everything in it has to go on working, whatever it is.
    fn only_observed(&self) -> bool {
        self.stage().is_none_or(|stage| stage < Stage::Secure)
    }
}

/// What became of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It has the sidecar now.
    Injected(Injected),
    /// It is left as it is.
    Left(Left),
}

/// A pod with the sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct Injected {
    /// All of it.
    pub pod: Value,
    /// What was put into it.
    pub parts: Parts,
    /// What its author should know.
    pub warnings: Vec<String>,
}

/// Puts the sidecar into a pod, or the template of one: an object with `metadata` and `spec`. One that is there already is
/// replaced if it is not as it would be made now.
///
/// # Errors
/// An annotation says something that cannot be understood, or the sidecar cannot be in this pod although its namespace has
/// come further than being observed.
pub fn inject(pod: &Value, namespace: &Namespace, settings: &Settings) -> Result<Outcome, Refusal> {
    let metadata = &pod["metadata"];
    suitable::shape(pod)?;
    let opted_out = wishes::opted_out(metadata)?;
    match suitable::judge(pod, namespace, opted_out) {
        Suitability::Never(left) => return Ok(Outcome::Left(left)),
        Suitability::Unfit(left) if namespace.only_observed() => return Ok(Outcome::Left(left)),
        Suitability::Unfit(left) => return Err(Refusal::from(&left)),
        Suitability::Suitable => {}
    }
    let wishes = Wishes::read(metadata, namespace)?;
    let as_sidecar = suitable::as_sidecar(pod);
    if let Some(container) = as_sidecar.first().filter(|_| !namespace.only_observed()) {
        return Err(Refusal::from(container.as_str()));
    }
    let mut warnings = wishes.warnings.clone();
    warnings.extend(as_sidecar);
    let parts = render::parts(&wishes, settings);
    let pod = place::place(pod, &parts);
    Ok(Outcome::Injected(Injected { pod, parts, warnings }))
}

/// The texts under a field of `metadata`.
fn texts<'v>(metadata: &'v Value, field: &str) -> Option<&'v Map<String, Value>> {
    metadata.get(field)?.as_object()
}

fn text<'v>(metadata: &'v Value, field: &str, name: &str) -> Option<&'v str> {
    texts(metadata, field)?.get(name)?.as_str()
}

/// The members of a list, none if there is no list.
fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value
        .get(field)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}
