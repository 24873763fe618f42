//! Goldens: each `goldens/NAME.in.yaml` holds a pod about one behaviour, after a Namespace if that has something to say, and
//! `NAME.out.yaml` what becomes of it. `UPDATE_GOLDENS=1` writes the out files anew; read the difference before committing it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use weft_injection::{LogLevel, Namespace, Outcome, Resources, Settings, Spans, inject, uninject};

fn settings() -> Settings {
    Settings {
        image: "weft.dev/sidecar:1".to_owned(),
        pull_policy: "IfNotPresent".to_owned(),
        operator: "weft-operator.weft-system.svc:15010".to_owned(),
        server_name: "operator.weft.dev".to_owned(),
        resources: Resources {
            cpu_request: Some("10m".parse().expect("an amount")),
            memory_request: Some("32Mi".parse().expect("an amount")),
            ..Resources::default()
        },
        log_level: LogLevel::Info,
        spans: Spans::default(),
    }
}

/// The Namespace and the pod of an input.
fn read(text: &str) -> (Namespace, Value) {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).expect("it is YAML");
    let mut namespace = Namespace::default();
    let mut pod = Value::Null;
    for document in documents {
        if document["kind"] == "Namespace" {
            let texts = |field: &str| serde_json::from_value(document["metadata"][field].clone()).unwrap_or_default();
            namespace = Namespace {
                labels: texts("labels"),
                annotations: texts("annotations"),
            };
        } else {
            pod = document;
        }
    }
    (namespace, pod)
}

/// Only what was put there of a pod, since the rest is the input's.
fn shown(outcome: &Result<Outcome, weft_injection::Refusal>, whole: bool) -> Value {
    match outcome {
        Err(refusal) => json!({"refused": refusal.to_string()}),
        Ok(Outcome::Left(left)) => json!({"left": left.to_string(), "wanted": left.is_wanted()}),
        Ok(Outcome::Injected(injected)) if whole => json!({"injected": injected.pod, "warnings": injected.warnings}),
        Ok(Outcome::Injected(injected)) => {
            let mut parts = injected.parts.init_containers.clone();
            let plain = inject(
                &json!({"spec": {"containers": [{"name": "app"}]}}),
                &Namespace::default(),
                &settings(),
            );
            let Ok(Outcome::Injected(plain)) = plain else {
                panic!("a plain pod is injected")
            };
            let mut differs = json!({});
            for (part, plain) in parts.iter_mut().zip(&plain.parts.init_containers) {
                let name = part["name"].as_str().expect("a name").to_owned();
                for (field, value) in part.as_object().expect("a container") {
                    if plain[field] != *value {
                        differs[&name][field] = value.clone();
                    }
                }
            }
            json!({"differs": differs, "warnings": injected.warnings})
        }
    }
}

fn inputs() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let files = fs::read_dir(folder).expect("there are goldens");
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    files.retain(|file| file.to_string_lossy().ends_with(".in.yaml"));
    files.sort();
    assert!(!files.is_empty());
    files
}

#[test]
fn what_becomes_of_each_pod_is_as_written_down() {
    let update = std::env::var_os("UPDATE_GOLDENS").is_some();
    let mut wrong = Vec::new();
    for input in inputs() {
        let text = fs::read_to_string(&input).expect("readable");
        let (namespace, pod) = read(&text);
        let outcome = inject(&pod, &namespace, &settings());
        let shown = shown(&outcome, text.starts_with("# whole"));
        let rendered = serde_saphyr::to_string(&shown).expect("it can be written");
        let output = PathBuf::from(input.to_string_lossy().replace(".in.yaml", ".out.yaml"));
        if fs::read_to_string(&output).is_ok_and(|known| known == rendered) {
            continue;
        }
        if update {
            fs::write(&output, &rendered).expect("written");
        } else {
            wrong.push(format!("{}:\n{rendered}", output.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "set UPDATE_GOLDENS=1 if that is meant:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn it_is_done_once_and_can_be_undone() {
    let mut count = 0;
    for input in inputs() {
        let (namespace, pod) = read(&fs::read_to_string(&input).expect("readable"));
        let Ok(Outcome::Injected(once)) = inject(&pod, &namespace, &settings()) else {
            continue;
        };
        count += 1;
        let bare = uninject(&pod);
        assert_eq!(uninject(&once.pod), bare, "{}", input.display());
        let Ok(Outcome::Injected(twice)) = inject(&once.pod, &namespace, &settings()) else {
            panic!("{} is not injected again", input.display())
        };
        assert_eq!(twice.pod, once.pod, "{}", input.display());
        let mut other = settings();
        other.image = "weft.dev/sidecar:2".to_owned();
        let fresh = inject(&bare, &namespace, &other);
        assert_eq!(
            inject(&once.pod, &namespace, &other).ok().map(pod_of),
            fresh.ok().map(pod_of)
        );
    }
    assert!(count > 3);
}

fn pod_of(outcome: Outcome) -> Value {
    match outcome {
        Outcome::Injected(injected) => injected.pod,
        Outcome::Left(left) => panic!("{left}"),
    }
}
