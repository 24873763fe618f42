//! The components of Kubernetes, each a process.

use std::{fs, path::Path};

use super::{
    NODE, NODE6, PODS, PODS6, RUN, SERVICES, SERVICES6, inside, kubectl,
    network::Families,
    output,
    processes::{must_live, start},
    template, until,
};

/// Starts etcd and what manages the cluster; waits for the API.
pub(super) fn control_plane(kube: &Path, families: Families) -> anyhow::Result<()> {
    let etcd = [
        "etcd".to_owned(),
        format!("--data-dir={RUN}/etcd"),
        // Nobody mourns this data.
        "--unsafe-no-fsync".to_owned(),
        "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
        "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
    ];
    start("etcd", &etcd, "")?;
    let pki = format!("{RUN}/pki");
    component(
        kube,
        "apiserver",
        "",
        &[
            "--etcd-servers=http://127.0.0.1:2379",
            &format!("--advertise-address={NODE}"),
            &format!("--bind-address={NODE}"),
            "--secure-port=6443",
            &format!("--service-cluster-ip-range={}", families.list(SERVICES, SERVICES6)),
            &format!("--cert-dir={pki}"),
            &format!("--tls-cert-file={pki}/apiserver.crt"),
            &format!("--tls-private-key-file={pki}/apiserver.key"),
            &format!("--client-ca-file={pki}/ca.crt"),
            "--service-account-issuer=https://kubernetes.default.svc",
            &format!("--service-account-key-file={pki}/sa.key"),
            &format!("--service-account-signing-key-file={pki}/sa.key"),
            "--authorization-mode=Node,RBAC",
            "--allow-privileged",
            "--enable-admission-plugins=NodeRestriction",
            // Else it looks the node's name up when it is asked for logs, and no name server knows it.
            "--kubelet-preferred-address-types=InternalIP",
            &format!("--kubelet-client-certificate={pki}/admin.crt"),
            &format!("--kubelet-client-key={pki}/admin.key"),
            // APIs that others serve, as SMI's metrics.
            "--enable-aggregator-routing",
            &format!("--proxy-client-cert-file={pki}/front-proxy.crt"),
            &format!("--proxy-client-key-file={pki}/front-proxy.key"),
            &format!("--requestheader-client-ca-file={pki}/ca.crt"),
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        ],
    )?;
    until("the API server is ready", || {
        must_live("etcd")?;
        must_live("apiserver")?;
        Ok(kubectl(&["get", "--raw", "/readyz"]).is_ok())
    })?;
    component(
        kube,
        "controller-manager",
        "",
        &[
            &format!("--kubeconfig={RUN}/controller-manager.conf"),
            &format!("--authentication-kubeconfig={RUN}/controller-manager.conf"),
            &format!("--authorization-kubeconfig={RUN}/controller-manager.conf"),
            &format!("--service-account-private-key-file={pki}/sa.key"),
            &format!("--root-ca-file={pki}/ca.crt"),
            "--use-service-account-credentials",
            &format!("--cluster-signing-cert-file={pki}/ca.crt"),
            &format!("--cluster-signing-key-file={pki}/ca.key"),
            "--allocate-node-cidrs",
            &format!("--cluster-cidr={}", families.list(PODS, PODS6)),
            "--node-cidr-mask-size-ipv4=20",
            &format!("--flex-volume-plugin-dir={RUN}/kubelet/volume-plugins"),
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
        ],
    )?;
    component(
        kube,
        "scheduler",
        "",
        &[
            &format!("--kubeconfig={RUN}/scheduler.conf"),
            &format!("--authentication-kubeconfig={RUN}/scheduler.conf"),
            &format!("--authorization-kubeconfig={RUN}/scheduler.conf"),
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
        ],
    )
}

/// Starts what runs containers.
pub(super) fn containerd(families: Families) -> anyhow::Result<()> {
    fs::create_dir_all(format!("{RUN}/cni/config"))?;
    fs::create_dir_all(format!("{RUN}/containerd"))?;
    let range = |pods: &str| format!(r#"[{{"subnet": "{pods}"}}]"#);
    let route = |all: &str| format!(r#"{{"dst": "{all}"}}"#);
    let ranges = families.list(&range(PODS), &range(PODS6));
    let routes = families.list(&route("0.0.0.0/0"), &route("::/0"));
    let network = template("cni.json", &[("RANGES", &ranges), ("ROUTES", &routes)])?;
    // The name's number says that it comes first.
    fs::write(format!("{RUN}/cni/config/10-weft.conflist"), network)?;
    let (path, config) = (
        format!("{RUN}/containerd/config.toml"),
        template("containerd.toml", &[])?,
    );
    fs::write(&path, &config)?;
    start(
        "containerd",
        &["containerd".to_owned(), format!("--config={path}")],
        &config,
    )?;
    until("containerd is ready", || {
        must_live("containerd")?;
        Ok(output(inside("ctr").arg("version")).is_ok())
    })
}

/// Starts the node; waits until it takes pods.
pub(super) fn node(kube: &Path, families: Families) -> anyhow::Result<()> {
    let (path, config) = (format!("{RUN}/kubelet.yaml"), template("kubelet.yaml", &[])?);
    fs::write(&path, &config)?;
    fs::write(format!("{RUN}/resolv.conf"), template("resolv.conf", &[])?)?;
    // What pods that do not want the cluster's names are given.
    fs::write(format!("{RUN}/resolv.none"), "")?;
    component(
        kube,
        "kubelet",
        &config,
        &[
            &format!("--config={path}"),
            &format!("--kubeconfig={RUN}/kubelet.conf"),
            "--hostname-override=node1",
            &format!("--node-ip={}", families.list(NODE, NODE6)),
            &format!("--root-dir={RUN}/kubelet"),
            &format!("--cert-dir={RUN}/pki"),
        ],
    )?;
    component(
        kube,
        "proxy",
        "",
        &[
            &format!("--kubeconfig={RUN}/proxy.conf"),
            "--proxy-mode=nftables",
            &format!("--cluster-cidr={}", families.list(PODS, PODS6)),
            "--hostname-override=node1",
            // Limits of the whole machine, which are not this cluster's to set.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ],
    )?;
    until("the node is ready", || {
        for name in ["controller-manager", "scheduler", "containerd", "kubelet", "proxy"] {
            must_live(name)?;
        }
        // What the API says may be of an earlier kubelet; this one is asked as well.
        let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        Ok(
            kubectl(&["get", "--raw", "/api/v1/nodes/node1/proxy/healthz"]).is_ok_and(|health| health == "ok")
                && kubectl(&["get", "node", "node1", "-o", ready]).is_ok_and(|ready| ready == "True"),
        )
    })
}

fn component(kube: &Path, name: &str, config: &str, flags: &[&str]) -> anyhow::Result<()> {
    let mut command = vec![kube.display().to_string(), name.to_owned()];
    command.extend(flags.iter().map(|flag| (*flag).to_owned()));
    start(name, &command, config)
}
