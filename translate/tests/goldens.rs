//! Goldens: each `goldens/NAME.in.yaml` holds manifests about one behaviour, and `NAME.out.yaml` what they come to.
//!
//! `UPDATE_GOLDENS=1` writes the out files anew; read the difference before committing it. A first line
//! `# standalone` in an input translates as `weft up` does, where Gateways of every class are served by one process.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::Serialize;
use support::{apply, manifests, translator};
use weft_crds::{Condition, Kind, ListenerStatus, Object, ObjectRef, ParentReference, ParentStatus};
use weft_model::{Key, PrivateKeyPem, Resource};
use weft_translate::{Diagnostic, Status, Translator};

/// A route that uses everything in `defaults.yaml`, for inputs that have routes.
const USER: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: user}
spec:
  parentRefs: [{name: edge}]
  rules:
    - backendRefs: [{name: echo, port: 80}, {name: spare, port: 80}]
";

/// What an input comes to, as it is written down.
#[derive(Serialize)]
struct Golden {
    resources: Vec<Resource>,
    statuses: BTreeMap<String, Shown>,
    diagnostics: BTreeMap<String, Vec<String>>,
}

/// A status, with a line for each condition.
#[derive(Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
enum Shown {
    Conditions {
        conditions: Vec<String>,
    },
    Gateway {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        addresses: Vec<String>,
        conditions: Vec<String>,
        listeners: BTreeMap<String, ShownListener>,
        #[serde(skip_serializing_if = "is_zero")]
        attached_listener_sets: i32,
    },
    ListenerSet {
        conditions: Vec<String>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        listeners: BTreeMap<String, ShownListener>,
    },
    Policy {
        ancestors: Vec<ShownAncestor>,
    },
    Route {
        parents: Vec<ShownParent>,
    },
    XBackend {
        parents: Vec<ShownParent>,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownListener {
    attached_routes: i32,
    supported_kinds: Vec<String>,
    conditions: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownAncestor {
    ancestor_ref: ParentReference,
    conditions: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownParent {
    parent_ref: ParentReference,
    conditions: Vec<String>,
}

fn is_zero(count: &i32) -> bool {
    *count == 0
}

fn listeners(statuses: &[ListenerStatus]) -> BTreeMap<String, ShownListener> {
    let shown = statuses.iter().map(|listener| {
        let shown = ShownListener {
            attached_routes: listener.attached_routes,
            supported_kinds: listener.supported_kinds.iter().map(|kind| kind.kind.clone()).collect(),
            conditions: lines(&listener.conditions),
        };
        (listener.name.clone(), shown)
    });
    shown.collect()
}

fn lines(conditions: &[Condition]) -> Vec<String> {
    let line = |condition: &Condition| {
        let generation = match condition.observed_generation {
            0 => String::new(),
            generation => format!(" (generation {generation})"),
        };
        format!(
            "{} is {}, {}: {}{generation}",
            condition.condition_type, condition.status, condition.reason, condition.message
        )
    };
    conditions.iter().map(line).collect()
}

fn parents(statuses: &[ParentStatus]) -> Vec<ShownParent> {
    let shown = |parent: &ParentStatus| ShownParent {
        parent_ref: parent.parent_ref.clone(),
        conditions: lines(&parent.conditions),
    };
    statuses.iter().map(shown).collect()
}

fn shown(status: &Status) -> Shown {
    match status {
        Status::GatewayClass(class) => Shown::Conditions {
            conditions: lines(&class.conditions),
        },
        Status::XMesh(mesh) => Shown::Conditions {
            conditions: lines(&mesh.conditions),
        },
        Status::AcmeIssuer(issuer) => Shown::Conditions {
            conditions: lines(&issuer.conditions),
        },
        Status::Gateway(gateway) => Shown::Gateway {
            addresses: gateway.addresses.iter().map(|address| address.value.clone()).collect(),
            conditions: lines(&gateway.conditions),
            listeners: listeners(&gateway.listeners),
            attached_listener_sets: gateway.attached_listener_sets,
        },
        Status::ListenerSet(set) => Shown::ListenerSet {
            conditions: lines(&set.conditions),
            listeners: listeners(&set.listeners),
        },
        Status::Policy(policy) => Shown::Policy {
            ancestors: policy
                .ancestors
                .iter()
                .map(|ancestor| ShownAncestor {
                    ancestor_ref: ancestor.ancestor_ref.clone(),
                    conditions: lines(&ancestor.conditions),
                })
                .collect(),
        },
        Status::Route(route) => Shown::Route {
            parents: parents(&route.parents),
        },
        Status::XBackend(backend) => Shown::XBackend {
            parents: parents(&backend.parents),
        },
    }
}

fn diagnostic(found: &Diagnostic) -> String {
    let level = format!("{:?}", found.level).to_lowercase();
    format!(
        "{} {level} at {}: {} ({})",
        found.code, found.path, found.message, found.remedy
    )
}

/// The resource as it is shown: a certificate by its fingerprint, without the key.
fn safe(resource: &Resource) -> Resource {
    match resource {
        Resource::Certificate(certificate) => {
            let mut shown = certificate.redacted();
            assert_eq!(shown.private_key.expose(), PrivateKeyPem::REDACTED);
            let leaf = CertificateDer::from_pem_slice(shown.chain_pem.as_bytes()).expect("a certificate");
            shown.chain_pem = fingerprint(&leaf);
            Resource::Certificate(shown.into())
        }
        Resource::TrustBundle(bundle) => {
            let mut shown = (**bundle).clone();
            let roots = CertificateDer::pem_slice_iter(shown.roots_pem.as_bytes());
            shown.roots_pem = roots
                .map(|root| fingerprint(&root.expect("a certificate")))
                .collect::<Vec<_>>()
                .join("\n");
            Resource::TrustBundle(shown.into())
        }
        other => other.redacted(),
    }
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().expect("a suite of TLS 1.3");
    let digest = suite.common.hash_provider.hash(certificate);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn translate(objects: &BTreeMap<ObjectRef, Object>, standalone: bool) -> Translator {
    let mut translator = translator(standalone);
    apply(&mut translator, objects.values().cloned());
    translator
}

fn golden(input: &str, defaults: &BTreeMap<ObjectRef, Object>) -> Golden {
    let standalone = input.starts_with("# standalone");
    let stated = manifests(input);
    let mut base = defaults.clone();
    if stated
        .keys()
        .any(|stated| matches!(stated.kind, Kind::HttpRoute | Kind::GrpcRoute))
    {
        base.extend(manifests(USER));
    }
    let base = translate(&base, standalone);
    let known: BTreeMap<Key, &Resource> = base.resources().map(|resource| (resource.key(), resource)).collect();
    let known_statuses: BTreeMap<_, _> = base.statuses().collect();

    let mut objects = defaults.clone();
    objects.extend(stated.clone());
    let translator = translate(&objects, standalone);
    let mut diagnostics: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (reference, found) in translator.diagnostics() {
        diagnostics
            .entry(reference.to_string())
            .or_default()
            .push(diagnostic(found));
    }
    Golden {
        resources: translator
            .resources()
            .filter(|resource| known.get(&resource.key()) != Some(resource))
            .map(safe)
            .collect(),
        statuses: translator
            .statuses()
            .filter(|(reference, status)| {
                stated.contains_key(*reference) || known_statuses.get(*reference) != Some(status)
            })
            .map(|(reference, status)| (reference.to_string(), shown(status)))
            .collect(),
        diagnostics,
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

/// The names of the files that end so.
fn names(ending: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(folder()).expect("the folder of goldens");
    let files = entries.map(|entry| entry.expect("a file").file_name().into_string().expect("a UTF-8 name"));
    files
        .filter_map(|file| file.strip_suffix(ending).map(str::to_owned))
        .collect()
}

/// The lines by which two texts differ, with the two around each.
fn difference(wanted: &str, found: &str) -> String {
    const AROUND: usize = 2;
    let (a, b): (Vec<&str>, Vec<&str>) = (wanted.lines().collect(), found.lines().collect());
    // The length of the longest common subsequence of what follows.
    let mut common = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = if a[i] == b[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut script: Vec<(char, &str)> = Vec::new();
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            script.push((' ', a[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || i < a.len() && common[i + 1][j] >= common[i][j + 1] {
            script.push(('-', a[i]));
            i += 1;
        } else {
            script.push(('+', b[j]));
            j += 1;
        }
    }
    let near = |at: usize| {
        let around = at.saturating_sub(AROUND)..script.len().min(at + AROUND + 1);
        script[around].iter().any(|(sign, _)| *sign != ' ')
    };
    let mut text = String::new();
    for (at, (sign, line)) in script.iter().enumerate().filter(|(at, _)| near(*at)) {
        if at > 0 && !near(at - 1) {
            text.push_str("  ...\n");
        }
        let _ = writeln!(text, "  {sign} {line}");
    }
    text
}

#[test]
fn translation_is_as_the_goldens_say() {
    let update = std::env::var_os("UPDATE_GOLDENS").is_some();
    let defaults = manifests(&fs::read_to_string(folder().join("defaults.yaml")).expect("defaults.yaml"));
    let inputs = names(".in.yaml");
    assert!(!inputs.is_empty(), "there are no goldens");
    let mut wrong = Vec::new();
    for name in &inputs {
        let input = fs::read_to_string(folder().join(format!("{name}.in.yaml"))).expect("an input");
        let found = serde_saphyr::to_string(&golden(&input, &defaults)).expect("YAML");
        let path = folder().join(format!("{name}.out.yaml"));
        if update {
            fs::write(&path, &found).expect("an out file is written");
            continue;
        }
        match fs::read_to_string(&path) {
            Ok(wanted) if wanted == found => {}
            Ok(wanted) => wrong.push(format!("{name}:\n{}", difference(&wanted, &found))),
            Err(_) => wrong.push(format!(
                "{name}: there is no {name}.out.yaml; UPDATE_GOLDENS=1 writes it"
            )),
        }
    }
    for orphan in names(".out.yaml").difference(&inputs) {
        wrong.push(format!("{orphan}.out.yaml has no input"));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
