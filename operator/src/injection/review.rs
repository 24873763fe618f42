//! What the API server asks (AdmissionReview), and the answer to it. Pure.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use weft_injection::{Namespace, Outcome, Settings, inject};

const API_VERSION: &str = "admission.k8s.io/v1";

/// A question about a pod.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Question {
    uid: String,
    /// Where the pod is to be.
    pub(super) namespace: String,
    pod: Value,
}

/// It is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoQuestion {
    #[error("this is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("this is no AdmissionReview of {API_VERSION}: it is {0}")]
    Kind(String),
    #[error("the AdmissionReview has no {0}")]
    Incomplete(&'static str),
}

/// How it came out, for who counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Injected,
    Left,
    Refused,
}

impl Verdict {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Left => "left",
            Self::Refused => "refused",
        }
    }
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    /// Why there is no sidecar, if there is none.
    pub(super) why: String,
    pub(super) review: Value,
}

/// Reads a question: about a pod that is to be made.
pub(super) fn read(body: &[u8]) -> Result<Question, NoQuestion> {
    let mut review: Value = serde_json::from_slice(body)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = format!("{}/{}", text(&review["apiVersion"]), text(&review["kind"]));
    if kind != format!("{API_VERSION}/AdmissionReview") {
        return Err(NoQuestion::Kind(kind));
    }
    let request = &mut review["request"];
    let (uid, namespace) = (text(&request["uid"]), text(&request["namespace"]));
    if uid.is_empty() {
        return Err(NoQuestion::Incomplete("request.uid"));
    }
    let pod = request["object"].take();
    if pod["kind"] != "Pod" {
        return Err(NoQuestion::Incomplete("pod in request.object"));
    }
    Ok(Question { uid, namespace, pod })
}

/// Answers it.
pub(super) fn answer(question: &Question, namespace: &Namespace, settings: &Settings) -> Answer {
    let mut response = json!({"uid": question.uid, "allowed": true});
    let (verdict, why) = match inject(&question.pod, namespace, settings) {
        Ok(Outcome::Injected(injected)) => {
            let patch = patch(&question.pod, &injected.pod);
            if !patch.is_empty() {
                response["patchType"] = "JSONPatch".into();
                response["patch"] = BASE64_STANDARD.encode(Value::Array(patch).to_string()).into();
            }
            warn(&mut response, injected.warnings);
            (Verdict::Injected, String::new())
        }
        Ok(Outcome::Left(left)) => {
            if !left.is_wanted() {
                warn(&mut response, vec![format!("the pod gets no sidecar: {left}")]);
            }
            (Verdict::Left, left.to_string())
        }
        Err(refusal) => {
            response["allowed"] = false.into();
            response["status"] = json!({"code": 400, "reason": "BadRequest", "message": format!("weft: {refusal}")});
            (Verdict::Refused, refusal.to_string())
        }
    };
    let audit = if why.is_empty() { verdict.name() } else { &why };
    response["auditAnnotations"] = json!({"sidecar": audit});
    Answer {
        verdict,
        review: json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}),
        why,
    }
}

fn warn(response: &mut Value, warnings: Vec<String>) {
    if !warnings.is_empty() {
        response["warnings"] = warnings.into_iter().map(|warning| format!("weft: {warning}")).collect();
    }
}

/// The places that injection changes, as a JSON patch (RFC 6902). What is there already is replaced by `add`.
fn patch(before: &Value, after: &Value) -> Vec<Value> {
    let places = [("metadata", "labels"), ("spec", "initContainers"), ("spec", "volumes")];
    let changed = places
        .iter()
        .filter(|(parent, field)| before[parent][field] != after[parent][field]);
    changed
        .map(
            |(parent, field)| json!({"op": "add", "path": format!("/{parent}/{field}"), "value": after[parent][field]}),
        )
        .collect()
}

/// Does what a JSON patch of [`patch`] says, as an API server would.
#[cfg(test)]
pub(super) fn patched(pod: &Value, review: &Value) -> Value {
    let mut pod = pod.clone();
    let Some(patch) = review["response"]["patch"].as_str() else {
        return pod;
    };
    let patch = BASE64_STANDARD.decode(patch).expect("base64");
    let operations: Vec<Value> = serde_json::from_slice(&patch).expect("a patch");
    for operation in operations {
        let path = operation["path"].as_str().expect("a path");
        let (parent, field) = path[1..].split_once('/').expect("two levels");
        assert_eq!(operation["op"], "add");
        pod[parent][field] = operation["value"].clone();
    }
    pod
}
