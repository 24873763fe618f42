//! Objects of SMI in other versions than they are stored in: what the API server asks (ConversionReview) of the webhook whose
//! definitions are Weft's own, and the answer to it. Pure; it is served where injection is.

use serde_json::{Value, json};
use weft_crds::convert;

/// Where it is asked.
pub(crate) const PATH: &str = "/convert";

const API_VERSION: &str = "apiextensions.k8s.io/v1";

/// It is no question.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoConversion {
    #[error("this is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("this is no ConversionReview of {API_VERSION}: it is {0}")]
    Kind(String),
    #[error("the ConversionReview has no {0}")]
    Incomplete(&'static str),
}

/// The answer to a question: all objects, or why one of them cannot be converted.
pub(crate) fn answer(body: &[u8]) -> Result<Value, NoConversion> {
    let mut review: Value = serde_json::from_slice(body)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = format!("{}/{}", text(&review["apiVersion"]), text(&review["kind"]));
    if kind != format!("{API_VERSION}/ConversionReview") {
        return Err(NoConversion::Kind(kind));
    }
    let request = &mut review["request"];
    let (uid, desired) = (text(&request["uid"]), text(&request["desiredAPIVersion"]));
    if uid.is_empty() {
        return Err(NoConversion::Incomplete("request.uid"));
    }
    let Value::Array(objects) = request["objects"].take() else {
        return Err(NoConversion::Incomplete("request.objects"));
    };
    let named = |object: Value| {
        let name = format!(
            "{}/{}",
            text(&object["metadata"]["namespace"]),
            text(&object["metadata"]["name"])
        );
        convert(object, &desired).map_err(|why| format!("weft: {name}: {why}"))
    };
    let converted: Result<Vec<Value>, String> = objects.into_iter().map(named).collect();
    let mut response = json!({"uid": uid});
    match converted {
        Ok(objects) => {
            response["convertedObjects"] = Value::Array(objects);
            response["result"] = json!({"status": "Success"});
        }
        Err(message) => {
            tracing::info!(desired, message, "objects of SMI cannot be converted");
            response["result"] = json!({"status": "Failure", "message": message});
        }
    }
    Ok(json!({"apiVersion": API_VERSION, "kind": "ConversionReview", "response": response}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(version: &str, weight: Value) -> Value {
        json!({
            "apiVersion": format!("split.smi-spec.io/{version}"), "kind": "TrafficSplit",
            "metadata": {"name": "canary", "namespace": "shop", "uid": "u", "resourceVersion": "7"},
            "spec": {"service": "web", "backends": [{"service": "web-v1", "weight": weight}]},
        })
    }

    fn ask(objects: Value) -> Result<Value, NoConversion> {
        let review = json!({
            "apiVersion": API_VERSION, "kind": "ConversionReview",
            "request": {"uid": "q", "desiredAPIVersion": "split.smi-spec.io/v1alpha4", "objects": objects},
        });
        answer(review.to_string().as_bytes())
    }

    #[test]
    fn all_objects_are_converted() {
        let review = ask(json!([split("v1alpha1", json!("2")), split("v1alpha2", json!(3))])).expect("answered");
        let response = &review["response"];
        assert_eq!(
            (&response["uid"], &response["result"]),
            (&json!("q"), &json!({"status": "Success"}))
        );
        let expected = json!([split("v1alpha4", json!(2)), split("v1alpha4", json!(3))]);
        assert_eq!(response["convertedObjects"], expected);
    }

    #[test]
    fn one_that_cannot_be_is_named() {
        let review = ask(json!([split("v1alpha2", json!(3)), split("v1alpha1", json!("much"))])).expect("answered");
        let result = &review["response"]["result"];
        assert_eq!(result["status"], "Failure");
        let message = result["message"].as_str().expect("a message");
        assert!(message.contains("shop/canary") && message.contains("much"), "{message}");
        assert!(review["response"]["convertedObjects"].is_null());
    }

    #[test]
    fn what_is_no_question_is_refused() {
        assert!(matches!(answer(b"no"), Err(NoConversion::Json(_))));
        assert!(matches!(answer(b"{}"), Err(NoConversion::Kind(_))));
        assert!(matches!(
            ask(json!({})),
            Err(NoConversion::Incomplete("request.objects"))
        ));
    }
}
