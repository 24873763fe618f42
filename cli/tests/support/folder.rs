//! Folders of manifests that are served while they are edited.

use std::{fs, path::PathBuf};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tempfile::TempDir;

use super::{Backend, Weft, client::Answer};

pub const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: weft
  listeners:
  - {name: http, protocol: HTTP, port: 80}
";

pub fn route(name: &str, prefix: &str, service: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}}}
spec:
  parentRefs: [{{name: edge}}]
  rules:
  - matches: [{{path: {{value: {prefix}}}}}]
    backendRefs: [{{name: {service}, port: 80}}]
"
    )
}

pub fn service(name: &str) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n")
}

pub fn slice(service: &str, backend: &Backend) -> String {
    format!(
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {service}, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: IPv4
ports: [{{port: {}}}]
endpoints: [{{addresses: [127.0.0.1]}}]
",
        backend.address.port()
    )
}

/// A folder of manifests and a gateway on it.
pub struct Folder {
    folder: TempDir,
    weft: Option<Weft>,
}

impl Folder {
    pub fn new(files: &[(&str, String)], ports: &[u16]) -> Self {
        let mut folder = Self {
            folder: tempfile::tempdir().expect("a folder"),
            weft: None,
        };
        for (name, text) in files {
            folder.write(name, text);
        }
        folder.weft = Some(Weft::up(&[folder.folder.path()], ports, &["--echo"]));
        folder
    }

    pub fn weft(&self) -> &Weft {
        self.weft.as_ref().expect("it runs")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces a file as editors do: in one step.
    pub fn write(&self, name: &str, text: &str) {
        let aside = self.path(".aside");
        fs::write(&aside, text).expect("written");
        fs::rename(&aside, self.path(name)).expect("renamed");
    }

    pub fn get(&self, path: &str) -> Answer {
        self.weft().get(80, "a.example", path)
    }

    pub fn is_served(&self, path: &str, service: &str) -> bool {
        let answer = self.get(path);
        answer.status == 200 && answer.service() == format!("default/{service}")
    }

    pub fn applied(&self) -> f64 {
        let page = self.weft().page("/metrics").text();
        let families = weft_openmetrics::parse(&page).expect("it is valid");
        families["weft_config_generation"].samples[0].value
    }
}

pub fn plain() -> Folder {
    let services = ["a", "b"].map(service).concat();
    let files = [
        ("gateway.yaml", GATEWAY.to_owned() + &services),
        ("a.yaml", route("a", "/a", "a")),
    ];
    Folder::new(&files, &[80, 81])
}

/// A certificate for a name, and its Secret.
pub fn certificate(name: &str) -> (Vec<u8>, String) {
    let key = rcgen::generate_simple_self_signed([name.to_owned()]).expect("it can be made");
    let text = format!(
        "---
apiVersion: v1
kind: Secret
metadata: {{name: tls}}
type: kubernetes.io/tls
data:
  tls.crt: {}
  tls.key: {}
",
        BASE64_STANDARD.encode(key.cert.pem()),
        BASE64_STANDARD.encode(key.signing_key.serialize_pem())
    );
    (key.cert.der().to_vec(), text)
}
