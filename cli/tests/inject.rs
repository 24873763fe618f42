//! `weft inject` and `weft uninject` as they are run.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

fn weft(args: &[&str], input: &str) -> Output {
    let mut process = Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = process.stdin.take().expect("a pipe");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = process.wait_with_output().expect("it ends");
    writer.join().expect("it was written");
    output
}

/// What a command prints, which must succeed.
fn printed(args: &[&str], input: &str) -> String {
    let output = weft(args, input);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{input}");
    String::from_utf8(output.stdout).expect("text")
}

fn inject(input: &str) -> String {
    printed(&["inject", "-"], input)
}

/// Manifests in all the styles that people write them in.
const MANIFESTS: &[&str] = &[
    // Comments everywhere.
    "# A shop.\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web # its name\nspec:\n  replicas: 2\n  selector: {matchLabels: {app: web}}\n  template:\n    # The pods.\n    metadata:\n      # Their labels.\n      labels:\n        app: web # selected by\n    spec:\n      # What runs.\n      containers:\n      - name: app\n        image: app:1   # pinned\n        command: [sh, -c, \"echo '# no comment'\"]\n      # The end.\n",
    // Lists that are there, indented, with comments between.
    "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\nspec:\n    initContainers:\n        # first\n        - name: setup\n          image: setup\n        # second\n        - image: more\n          name: more\n    volumes:\n        - {name: data, emptyDir: {}}\n    containers: [{name: app, image: app}]\n",
    // Empty lists and maps, and keys without a value in what is left alone.
    "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels: {}\nspec:\n  initContainers: []\n  volumes: [ ]\n  containers:\n    - name: app\n      image: app\n      env:\n",
    // No metadata of the template; several documents, some of them of no concern; no newline at the end.
    "---\n# only this\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  text: |\n    kind: Pod\n    spec:   \n\n  folded: >-\n    a\n    b\n---\napiVersion: batch/v1\nkind: Job\nmetadata: {name: once}\nspec:\n  template:\n    spec:\n      restartPolicy: Never\n      containers:\n      - {name: app, image: app}\n...\n---\napiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 80}]}",
    // JSON, on one line and on many.
    "{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"a\"}, \"spec\": {\"containers\": [{\"name\": \"app\", \"image\": \"app\"}]}}\n",
    "{\n  \"apiVersion\": \"batch/v1\",\n  \"kind\": \"CronJob\",\n  \"metadata\": {\"name\": \"c\"},\n  \"spec\": {\n    \"schedule\": \"* * * * *\",\n    \"jobTemplate\": {\n      \"spec\": {\n        \"template\": {\n          \"metadata\": {\n            \"labels\": {\n              \"app\": \"c\"\n            }\n          },\n          \"spec\": {\n            \"volumes\": [\n              {\n                \"name\": \"v\",\n                \"emptyDir\": {}\n              }\n            ],\n            \"containers\": [\n              {\n                \"name\": \"app\",\n                \"image\": \"app\"\n              }\n            ]\n          }\n        }\n      }\n    }\n  }\n}\n",
    // A list of kinds, with dashes on the first key.
    "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata:\n    name: a\n  spec:\n    containers:\n    - name: app\n      image: app\n- kind: Secret\n  apiVersion: v1\n  metadata: {name: s}\n-\n  apiVersion: apps/v1\n  kind: StatefulSet\n  metadata: {name: db}\n  spec:\n    template:\n      metadata: {labels: {app: db}}\n      spec: {containers: [{name: db, image: db}]}\n",
    // Windows' line ends, quotes, block scalars at the end of what is changed, anchors elsewhere.
    "apiVersion: apps/v1\r\nkind: DaemonSet\r\nmetadata:\r\n  name: 'd'\r\nspec:\r\n  template:\r\n    metadata:\r\n      annotations: &notes\r\n        \"app\": d\r\n    spec:\r\n      containers:\r\n      - name: app\r\n        image: app\r\n  selector:\r\n    matchLabels: *notes\r\n",
    "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: r}\nspec:\n  template:\n    metadata:\n      annotations:\n        note: |\n          two\n\n          lines\n\n    spec:\n      containers:\n        -\n          name: app\n          image: app\n          args:\n          - |+\n            kept\n\n      nodeSelector:\n        a: b\n",
    // Nothing for us.
    "",
    "# nothing\n",
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: n}   \n\n\n",
];

fn examples() -> Vec<String> {
    fn all(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                all(&path, found);
            } else if path.extension().is_some_and(|end| end == "yaml") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    let mut files = Vec::new();
    for folder in ["examples", "e2e/cluster", "helm/goldens"] {
        all(&root.join(folder), &mut files);
    }
    // What is filled in later is no manifest yet.
    let texts = files.iter().map(|file| fs::read_to_string(file).expect("text"));
    texts.filter(|text| !text.contains("${")).collect()
}

#[test]
fn it_is_done_once_and_undone_byte_for_byte() {
    let examples = examples();
    assert!(examples.len() > 5);
    for text in MANIFESTS.iter().copied().chain(examples.iter().map(String::as_str)) {
        let injected = inject(text);
        assert_eq!(inject(&injected), injected, "twice: {text}");
        assert_eq!(
            printed(&["uninject", "-"], &injected),
            text,
            "and back, from: {injected}"
        );
        assert_eq!(printed(&["uninject", "-"], text), text);
    }
}

/// All containers that start before the others, of a document of a text.
fn init_containers(text: &str, document: usize, path: &str) -> Vec<String> {
    let documents = weft_gateway::files::values(text).expect("YAML");
    let containers = documents[document].pointer(path).and_then(Value::as_array).expect(path);
    let names = containers
        .iter()
        .map(|container| container["name"].as_str().expect("a name").to_owned());
    names.collect()
}

#[test]
fn every_kind_that_makes_pods_gets_the_sidecar_first() {
    let ours = ["weft-intercept", "weft-sidecar"];
    let deployment = inject(MANIFESTS[0]);
    assert_eq!(
        init_containers(&deployment, 0, "/spec/template/spec/initContainers"),
        ours
    );
    assert!(deployment.contains("      # What runs.\n") && deployment.contains("image: app:1   # pinned"));
    let pod = inject(MANIFESTS[1]);
    assert_eq!(
        init_containers(&pod, 0, "/spec/initContainers"),
        ["weft-intercept", "weft-sidecar", "setup", "more"]
    );
    assert_eq!(
        init_containers(&inject(MANIFESTS[3]), 2, "/spec/template/spec/initContainers"),
        ours
    );
    let cron = inject(MANIFESTS[5]);
    assert_eq!(
        init_containers(&cron, 0, "/spec/jobTemplate/spec/template/spec/initContainers"),
        ours
    );
    let list = inject(MANIFESTS[6]);
    assert_eq!(init_containers(&list, 0, "/items/0/spec/initContainers"), ours);
    assert_eq!(
        init_containers(&list, 0, "/items/2/spec/template/spec/initContainers"),
        ours
    );
}

#[test]
fn flags_say_what_annotations_do_not_and_another_run_replaces_them() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  annotations: {weft.dev/skip-uids: \"7\"}\nspec:\n  containers: [{name: app, image: app}]\n";
    let args = [
        "inject",
        "--image",
        "example.com/s:2",
        "--skip-inbound-ports",
        "25,587",
        "--skip-uids",
        "0",
        "--memory-limit",
        "64Mi",
        "-",
    ];
    let injected = printed(&args, text);
    for expected in [
        "image: \"example.com/s:2\"",
        "\"--skip-inbound-ports=25,587\"",
        "\"--skip-uids=7\"",
        "limits:",
    ] {
        assert!(injected.contains(expected), "no {expected} in {injected}");
    }
    assert_eq!(inject(&injected), inject(text));
}

#[test]
fn what_is_left_alone_is_said_and_what_is_wrong_is_refused() {
    let agent = "kind: Pod\napiVersion: v1\nmetadata: {name: agent, namespace: n}\nspec: {hostNetwork: true, containers: [{name: a}]}\n";
    let output = weft(&["inject", "-"], agent);
    assert_eq!(String::from_utf8_lossy(&output.stdout), agent);
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("Pod n/agent: left as it is: "));
    for (text, said) in [
        (
            "kind: Pod\nmetadata: {name: a, annotations: {weft.dev/skip-uids: root}}\nspec: {containers: [{name: a}]}\n",
            "weft.dev/skip-uids",
        ),
        (
            "kind: Pod\nmetadata: {name: a, annotations: {weft.dev/skip-uids: 0}}\nspec: {containers: [{name: a}]}\n",
            "in quotes",
        ),
        (
            "kind: Pod\nmetadata: {name: a}\nspec:\n  <<: {initContainers: [{name: b}]}\n  containers: [{name: a}]\n",
            "too intricate",
        ),
        // The label would be in the selector as well.
        (
            "kind: Deployment\nmetadata: {name: a}\nspec:\n  template:\n    metadata: {labels: &labels {app: a}}\n    spec: {containers: [{name: a}]}\n  selector: {matchLabels: *labels}\n",
            "too intricate",
        ),
        ("kind: Pod\n- a\n", "not YAML"),
    ] {
        let output = weft(&["inject", "-"], text);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && output.stdout.is_empty() && error.contains(said),
            "{text}: {error}"
        );
    }
    let output = weft(&["inject", "--skip-uids", "root", "-"], "");
    assert!(String::from_utf8_lossy(&output.stderr).contains("\"root\" is not a user"));
}

#[test]
fn files_follow_each_other_as_documents() {
    let folder = tempfile::tempdir().expect("a folder");
    let names = ["a.yaml", "b.yaml"].map(|name| folder.path().join(name));
    fs::write(&names[0], "kind: ConfigMap\nmetadata: {name: a}").expect("written");
    fs::write(&names[1], "kind: ConfigMap\nmetadata: {name: b}\n").expect("written");
    let args: Vec<&str> = names.iter().map(|name| name.to_str().expect("text")).collect();
    let printed = printed(&[&["inject"], &args[..]].concat(), "");
    assert_eq!(
        printed,
        "kind: ConfigMap\nmetadata: {name: a}\n---\nkind: ConfigMap\nmetadata: {name: b}\n"
    );
}
