//! `weft stat`, `weft path`, `weft advance` and `weft retreat`, as an API server meets them.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Output},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};

/// An API server with one namespace, whose traffic goes otherwise once it is strict.
#[derive(Default)]
struct State {
    stage: Option<String>,
    version: u64,
    /// What lists of edges and callers hold, by the stage at which they are asked for.
    edges: BTreeMap<String, Vec<Value>>,
    callers: Vec<Value>,
    /// Whether the operator tells anything.
    told: bool,
}

struct Api {
    state: Arc<Mutex<State>>,
    config: PathBuf,
    _folder: tempfile::TempDir,
}

impl Api {
    fn new(state: State) -> Self {
        let state = Arc::new(Mutex::new(state));
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("an address");
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("config");
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{address}")}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "shop"}}],
            "users": [{"name": "test", "user": {}}],
        });
        fs::write(&config, kubeconfig.to_string()).expect("written");
        let shared = state.clone();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let state = shared.clone();
                thread::spawn(move || serve(stream, &state));
            }
        });
        Self {
            state,
            config,
            _folder: folder,
        }
    }

    fn weft(&self, args: &[&str]) -> (bool, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        let Output { status, stdout, stderr } = command
            .args(args)
            .env("KUBECONFIG", &self.config)
            .output()
            .expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (status.success(), text(stdout), text(stderr))
    }

    fn stage(&self) -> Option<String> {
        self.state.lock().expect("nobody panics with it").stage.clone()
    }
}

/// Answers requests of a connection.
fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().expect("it is open"));
    loop {
        let (mut line, mut length) = (String::new(), 0);
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut field = String::new();
            if reader.read_line(&mut field).unwrap_or(0) == 0 {
                return;
            }
            if field == "\r\n" {
                break;
            }
            let field = field.to_lowercase();
            if let Some(value) = field.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
        let mut words = line.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = target.split('?').next().unwrap_or_default();
        let (status, answer) = answer(&mut state.lock().expect("nobody panics with it"), method, path, &body);
        let answer = answer.to_string();
        let head = format!(
            "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        if stream.write_all((head + &answer).as_bytes()).is_err() {
            return;
        }
    }
}

fn answer(state: &mut State, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
    let view = "/apis/view.weft.dev/v1alpha1/namespaces/shop/";
    let stage = state.stage.clone();
    let namespace = |state: &State| {
        let labels: BTreeMap<&str, &String> = state.stage.iter().map(|stage| ("weft.dev/mesh", stage)).collect();
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": "shop", "resourceVersion": state.version.to_string(), "labels": labels,
        }})
    };
    let list = |items: Vec<Value>| json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items});
    let seen = |items: Vec<Value>| json!({"kind": "EdgeList", "apiVersion": "view.weft.dev/v1alpha1", "windowSeconds": 30.0, "since": 1_000_000, "items": items});
    let missing = |code: u16, reason: &str| {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason, "code": code});
        (code, status)
    };
    match (method, path) {
        ("GET", "/api" | "/apis") => {
            let kind = "APIGroupDiscoveryList";
            (
                200,
                json!({"kind": kind, "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": []}),
            )
        }
        ("GET", "/api/v1/namespaces/shop") => (200, namespace(state)),
        ("PATCH", "/api/v1/namespaces/shop") => {
            let patch: Value = serde_json::from_slice(body).expect("JSON");
            if patch["metadata"]["resourceVersion"] != json!(state.version.to_string()) {
                return missing(409, "Conflict");
            }
            state.version += 1;
            state.stage = patch["metadata"]["labels"]["weft.dev/mesh"].as_str().map(str::to_owned);
            (200, namespace(state))
        }
        ("GET", "/api/v1/namespaces/shop/pods" | "/api/v1/pods") => {
            (200, list(vec![pod("web", true), pod("front", true)]))
        }
        ("GET", "/api/v1/nodes") => (200, list(vec![])),
        ("GET", path) if path.starts_with(view) && !state.told => missing(404, "NotFound"),
        ("GET", path) if path == format!("{view}callers") => (200, seen(state.callers.clone())),
        ("GET", path) if path == format!("{view}edges") => {
            let of = stage.unwrap_or_default();
            (200, seen(state.edges.get(&of).cloned().unwrap_or_default()))
        }
        _ => missing(404, "NotFound"),
    }
}

fn pod(deployment: &str, meshed: bool) -> Value {
    let sidecar = if meshed {
        json!([{"name": "weft-sidecar"}])
    } else {
        json!([])
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": "shop", "name": format!("{deployment}-5d-1"), "labels": {"pod-template-hash": "5d"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{deployment}-5d"), "uid": "u", "controller": true}],
        },
        "spec": {"containers": [], "initContainers": sidecar},
        "status": {"phase": "Running"},
    })
}

/// What came from somebody to `web`.
fn edge(source: Value, secured: bool, requests: u64, failures: u64, refused: u64) -> Value {
    json!({
        "metadata": {"name": "e", "namespace": "shop"}, "source": source,
        "destination": {"namespace": "shop", "workload": {"kind": "Deployment", "name": "web"}},
        "port": 8080, "secured": secured, "side": "server", "lastSeen": 2_000_000,
        "flow": {
            "requests": {
                "classes": [0, requests - failures, 0, 0, failures], "failures": failures,
                "latencies": {"buckets": [[60, requests]], "sumMicros": 1},
            },
            "refused": refused,
        },
    })
}

fn front() -> Value {
    json!({"namespace": "shop", "workload": {"kind": "Deployment", "name": "front"}, "identity": "spiffe://cluster.local/ns/shop/sa/front"})
}

fn outside() -> Value {
    json!({"address": "10.9.9.9"})
}

fn secure() -> State {
    State {
        stage: Some("secure".to_owned()),
        version: 7,
        told: true,
        edges: [("secure".to_owned(), vec![edge(front(), true, 100, 0, 0)])].into(),
        ..State::default()
    }
}

#[test]
fn traffic_is_told_as_a_table() {
    let api = Api::new(secure());
    let (well, said, _) = api.weft(&["stat"]);
    let expected = "\
NAME          MESHED  SUCCESS  RPS  P50    P95    P99
deploy/front  1/1     -        -    -      -      -
deploy/web    1/1     100.00%  3.3  3.3ms  3.3ms  3.3ms
";
    assert!(well);
    assert_eq!(said, expected);
    let (well, said, _) = api.weft(&["edges", "-o", "json"]);
    let edges: Value = serde_json::from_str(&said).expect("JSON");
    assert!(well && edges["items"][0]["secured"] == true, "{said}");
}

#[test]
fn what_is_not_there_is_told_with_what_to_do() {
    let api = Api::new(State {
        told: false,
        ..secure()
    });
    for command in ["stat", "edges", "routes", "path", "advance"] {
        let args: &[&str] = match command {
            "path" | "advance" => &[command, "shop"],
            _ => &[command],
        };
        let (well, _, said) = api.weft(args);
        assert!(
            !well && said.contains("helm upgrade with view.enabled=true"),
            "{command}: {said}"
        );
    }
    assert_eq!(api.stage().as_deref(), Some("secure"));
    let (well, _, said) = api.weft(&["path", "other"]);
    assert!(!well && said.contains("there is no namespace other"), "{said}");
}

#[test]
fn a_step_that_cuts_somebody_off_is_not_taken() {
    let api = Api::new(State {
        callers: vec![edge(outside(), false, 3, 0, 0), edge(front(), true, 100, 0, 0)],
        ..secure()
    });
    let (well, said, _) = api.weft(&["path", "shop"]);
    assert!(well, "{said}");
    assert!(
        said.contains("shop       secure  2/2     strict  cut off 1 caller\n"),
        "{said}"
    );
    assert!(
        said.contains("  10.9.9.9 → shop/deploy/web:8080, 3 requests, last "),
        "{said}"
    );
    let (well, _, said) = api.weft(&["advance", "shop"]);
    assert!(
        !well && said.contains("shop stays at secure: cut off 1 caller"),
        "{said}"
    );
    assert_eq!(api.stage().as_deref(), Some("secure"));
    // Who wants it all the same has it.
    let (well, _, said) = api.weft(&["advance", "shop", "--force", "--watch=0s"]);
    assert!(well, "{said}");
    assert_eq!(api.stage().as_deref(), Some("strict"));
}

#[test]
fn a_step_by_which_policies_would_deny_something_is_not_taken() {
    let mut denied = edge(front(), false, 5, 0, 0);
    denied["wouldDeny"] = json!({"AuthorizationPolicy/shop/web": 4});
    let api = Api::new(State {
        stage: Some("observe".to_owned()),
        callers: vec![denied, edge(outside(), false, 3, 0, 0)],
        ..secure()
    });
    let (well, said, _) = api.weft(&["path", "shop"]);
    assert!(well, "{said}");
    assert!(
        said.contains("shop       observe  2/2     secure  deny 1 caller by policies\n"),
        "{said}"
    );
    assert!(
        said.contains("  shop/deploy/front → shop/deploy/web:8080, 4 times, last ")
            && said.contains(" ago: by AuthorizationPolicy/shop/web\n"),
        "{said}"
    );
    let (_, said, _) = api.weft(&["path", "shop", "-o", "json"]);
    let told: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        told["namespaces"][0]["denied"][0]["policies"],
        json!(["AuthorizationPolicy/shop/web"])
    );
    let (well, _, said) = api.weft(&["advance", "shop"]);
    assert!(
        !well && said.contains("shop stays at observe: deny 1 caller by policies; mend that, or say --force"),
        "{said}"
    );
    assert_eq!(api.stage().as_deref(), Some("observe"));
    let (well, _, said) = api.weft(&["advance", "shop", "--force", "--watch=0s"]);
    assert!(well, "{said}");
    assert_eq!(api.stage().as_deref(), Some("secure"));
}

#[test]
fn a_step_after_which_requests_fail_is_taken_back() {
    let mut state = secure();
    state
        .edges
        .insert("strict".to_owned(), vec![edge(front(), true, 100, 20, 0)]);
    let api = Api::new(state);
    let (well, said, why) = api.weft(&["advance", "shop", "--watch=1s"]);
    assert!(!well, "{said}");
    assert!(
        said.contains("shop: secure → strict\n") && said.contains("shop: strict → secure\n"),
        "{said}"
    );
    assert!(
        why.contains("80.00 of a hundred requests succeed, and 100.00 did before"),
        "{why}"
    );
    assert_eq!(api.stage().as_deref(), Some("secure"));
}

#[test]
fn a_step_after_which_somebody_is_refused_is_taken_back() {
    let mut state = secure();
    state
        .edges
        .insert("strict".to_owned(), vec![edge(outside(), false, 0, 0, 2)]);
    let api = Api::new(state);
    let (well, _, why) = api.weft(&["advance", "shop", "--watch=1s"]);
    assert!(!well && why.contains("2 connections were refused"), "{why}");
    assert_eq!(api.stage().as_deref(), Some("secure"));
}

#[test]
fn a_step_after_which_all_is_well_stays_and_can_be_taken_back() {
    let mut state = secure();
    state
        .edges
        .insert("strict".to_owned(), vec![edge(front(), true, 100, 0, 0)]);
    let api = Api::new(state);
    let (well, said, why) = api.weft(&["advance", "shop", "--watch=1s"]);
    assert!(well, "{said}{why}");
    assert!(
        said.contains("shop is at strict: 100.00 of a hundred requests succeed, of 100"),
        "{said}"
    );
    assert_eq!(api.stage().as_deref(), Some("strict"));
    let (well, said, _) = api.weft(&["advance", "shop"]);
    assert!(well && said.contains("at the end of the path"), "{said}");
    for stage in [Some("secure"), Some("observe"), None] {
        let (well, _, why) = api.weft(&["retreat", "shop"]);
        assert!(well, "{why}");
        assert_eq!(api.stage().as_deref(), stage);
    }
    let (well, said, _) = api.weft(&["retreat", "shop"]);
    assert!(well && said.contains("is not in the mesh"), "{said}");
}
