//! The last configuration, on a disk in memory that lives as long as the pod: a container that starts anew while the
//! operator is away serves by it. It holds private keys, so nobody else may read it.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use weft_model::{GatewayKey, Resource};
use weft_proxy::Proxy;

/// It is written at most this often, whatever changes.
const PACE: Duration = Duration::from_secs(2);
const FILE: &str = "configuration.json";

/// Keeps a configuration in a folder.
pub(crate) struct Store {
    folder: PathBuf,
    gateway: GatewayKey,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    gateway: GatewayKey,
    /// Each as it is in the model; what a newer version cannot read is left out, and told anew by the operator.
    resources: Vec<serde_json::Value>,
}

impl Store {
    pub(crate) fn new(folder: &Path, gateway: &GatewayKey) -> Self {
        Self {
            folder: folder.to_owned(),
            gateway: gateway.clone(),
        }
    }

    /// What was kept of this Gateway; nothing if that cannot be read.
    pub(crate) fn load(&self) -> Vec<Resource> {
        let path = self.folder.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "the last configuration cannot be read");
                return Vec::new();
            }
        };
        match serde_json::from_slice::<Kept>(&text) {
            Ok(kept) if kept.gateway == self.gateway => {
                let resources = kept.resources.into_iter();
                resources
                    .filter_map(|resource| serde_json::from_value(resource).ok())
                    .collect()
            }
            Ok(_) => Vec::new(),
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "the last configuration is damaged");
                Vec::new()
            }
        }
    }

    /// Keeps what is in use whenever that changes, until it is dropped.
    pub(crate) async fn keep(self, proxy: Arc<Proxy>, mut changes: watch::Receiver<()>) {
        let store = Arc::new(self);
        while changes.changed().await.is_ok() {
            let (store, resources) = (store.clone(), proxy.snapshot().resources());
            let saved = tokio::task::spawn_blocking(move || store.save(&resources)).await;
            if let Ok(Err(error)) = saved {
                tracing::warn!(%error, "the configuration cannot be kept: a restart while the operator is away would serve nothing");
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// Puts it in the place of the one before, whole or not at all.
    pub(crate) fn save(&self, resources: &[Resource]) -> io::Result<()> {
        #[derive(Serialize)]
        struct Now<'a> {
            gateway: &'a GatewayKey,
            resources: &'a [Resource],
        }
        // Such a file is made so that only its owner may read it.
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        let mut writer = io::BufWriter::new(file.as_file_mut());
        let now = Now {
            gateway: &self.gateway,
            resources,
        };
        serde_json::to_writer(&mut writer, &now)?;
        writer.flush()?;
        drop(writer);
        file.persist(self.folder.join(FILE))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use weft_model::{Certificate, PrivateKeyPem};

    use super::*;

    fn resources() -> Vec<Resource> {
        let certificate = |name: &str| Certificate {
            key: name.into(),
            chain_pem: "chain".to_owned(),
            private_key: PrivateKeyPem::new("key"),
        };
        ["n/a", "n/b"]
            .map(|name| Resource::Certificate(Arc::new(certificate(name))))
            .into()
    }

    #[test]
    fn what_is_kept_is_read_again_by_the_same_gateway_and_nobody_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::new(folder.path(), &"n/edge".into());
        assert_eq!(store.load(), []);
        store.save(&resources()).expect("saved");
        store.save(&resources()).expect("saved in the place of the first");
        assert_eq!(store.load(), resources());
        assert_eq!(Store::new(folder.path(), &"n/other".into()).load(), []);
        let files: Vec<_> = fs::read_dir(folder.path()).expect("a folder").flatten().collect();
        assert_eq!(files.len(), 1);
        let mode = files[0].metadata().expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_is_damaged_is_nothing_and_what_is_unknown_is_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::new(folder.path(), &"n/edge".into());
        fs::write(folder.path().join(FILE), "{").expect("written");
        assert_eq!(store.load(), []);
        let newer = serde_json::json!({"gateway": "n/edge", "resources": [{"kind": "later"}, resources()[1]]});
        fs::write(folder.path().join(FILE), newer.to_string()).expect("written");
        assert_eq!(store.load(), resources()[1..]);
    }
}
