//! Who is who in the cluster: an authority, certificates and kubeconfigs.

use std::{fs, path::Path, process::Command};

use super::{API, NODE, RUN, output, template};

/// A name, the subject and the names it answers to.
const CERTIFICATES: [(&str, &str, &str); 7] = [
    (
        "apiserver",
        "/CN=kube-apiserver",
        "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:NODE,IP:API",
    ),
    ("front-proxy", "/CN=front-proxy-client", ""),
    ("admin", "/O=system:masters/CN=admin", ""),
    ("kubelet", "/O=system:nodes/CN=system:node:node1", "DNS:node1,IP:NODE"),
    ("controller-manager", "/CN=system:kube-controller-manager", ""),
    ("scheduler", "/CN=system:kube-scheduler", ""),
    ("proxy", "/CN=system:kube-proxy", ""),
];
/// Who speaks to the API server.
const USERS: [&str; 5] = ["admin", "kubelet", "controller-manager", "scheduler", "proxy"];
/// Days; a cluster that lives longer is to be made anew.
const VALIDITY: &str = "365";

/// Makes what is missing.
pub(super) fn make() -> anyhow::Result<()> {
    let folder = Path::new(RUN).join("pki");
    fs::create_dir_all(&folder)?;
    let path = |name: &str| folder.join(name);
    if !path("ca.crt").exists() {
        key(&path("ca.key"))?;
        output(
            openssl(&[
                "req",
                "-x509",
                "-new",
                "-days",
                VALIDITY,
                "-subj",
                "/CN=kubernetes",
                "-key",
            ])
            .arg(path("ca.key"))
            .arg("-out")
            .arg(path("ca.crt")),
        )?;
    }
    for (name, subject, names) in CERTIFICATES {
        let certificate = path(&format!("{name}.crt"));
        if !certificate.exists() {
            sign(&folder, name, subject, &names.replace("NODE", NODE).replace("API", API))?;
        }
    }
    // Signs the tokens of service accounts.
    if !path("sa.key").exists() {
        key(&path("sa.key"))?;
    }
    for user in USERS {
        let kubeconfig = Path::new(RUN).join(format!("{user}.conf"));
        fs::write(kubeconfig, template("kubeconfig.yaml", &[("USER", user)])?)?;
    }
    Ok(())
}

fn sign(folder: &Path, name: &str, subject: &str, names: &str) -> anyhow::Result<()> {
    let file = |ending: &str| folder.join(format!("{name}.{ending}"));
    key(&file("key"))?;
    let mut extensions = "extendedKeyUsage=serverAuth,clientAuth\n".to_owned();
    if !names.is_empty() {
        extensions.push_str(&format!("subjectAltName={names}\n"));
    }
    fs::write(file("ext"), extensions)?;
    output(
        openssl(&["req", "-new", "-subj", subject, "-key"])
            .arg(file("key"))
            .arg("-out")
            .arg(file("csr")),
    )?;
    output(
        openssl(&["x509", "-req", "-days", VALIDITY, "-CAcreateserial", "-in"])
            .arg(file("csr"))
            .arg("-CA")
            .arg(folder.join("ca.crt"))
            .arg("-CAkey")
            .arg(folder.join("ca.key"))
            .arg("-extfile")
            .arg(file("ext"))
            .arg("-out")
            .arg(file("crt")),
    )?;
    Ok(())
}

fn key(path: &Path) -> anyhow::Result<()> {
    output(openssl(&["ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out"]).arg(path))?;
    Ok(())
}

fn openssl(args: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(args);
    command
}
