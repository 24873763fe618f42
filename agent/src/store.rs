//! The last configuration and the certificate, on a disk in memory that lives as long as the pod: a container that starts
//! anew while the operator is away serves by them. They hold private keys, so nobody else may read them.

use std::{fs, io, io::Write as _, path::PathBuf, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::watch;
use weft_discovery::DataPlane;
use weft_model::{MeshTrust, PrivateKeyPem, Resource};
use weft_proxy::Proxy;

/// It is written at most this often, whatever changes.
const PACE: Duration = Duration::from_secs(2);
const CONFIGURATION: &str = "configuration.json";
const TALKS: &str = "talks.json";
const IDENTITY: &str = "identity.json";

/// Keeps what a data plane goes on with in a folder.
pub(crate) struct Store {
    folder: PathBuf,
    of: DataPlane,
}

/// Something, and of which data plane it is.
#[derive(Serialize, Deserialize)]
struct Kept<T> {
    of: DataPlane,
    kept: T,
}

/// Who a data plane is, and whom it believes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KeptIdentity {
    pub(crate) chain_pem: String,
    pub(crate) key_pem: PrivateKeyPem,
    /// Until when the certificate holds, in seconds since 1970.
    pub(crate) not_after: u64,
    pub(crate) trust: MeshTrust,
}

impl Store {
    pub(crate) fn new(folder: PathBuf, of: DataPlane) -> Self {
        Self { folder, of }
    }

    /// The configuration that was kept of this data plane; nothing if that cannot be read.
    pub(crate) fn load(&self) -> Vec<Resource> {
        // Each as it is in the model; what a newer version cannot read is left out, and told anew by the operator.
        let kept: Vec<serde_json::Value> = self.read(CONFIGURATION).unwrap_or_default();
        kept.into_iter()
            .filter_map(|resource| serde_json::from_value(resource).ok())
            .collect()
    }

    /// The namespaces that it talked to.
    pub(crate) fn talks(&self) -> Vec<String> {
        self.read(TALKS).unwrap_or_default()
    }

    /// Who it was.
    pub(crate) fn identity(&self) -> Option<KeptIdentity> {
        self.read(IDENTITY)
    }

    /// Keeps who it is.
    pub(crate) fn save_identity(&self, identity: &KeptIdentity) -> io::Result<()> {
        self.write(IDENTITY, identity)
    }

    /// Keeps what is in use whenever that changes, until it is dropped.
    pub(crate) async fn keep(self: Arc<Self>, proxy: Arc<Proxy>, mut changes: watch::Receiver<()>) {
        while changes.changed().await.is_ok() {
            let (store, resources, talks) = (self.clone(), proxy.resources(), proxy.mesh().told_of());
            let save = move || {
                // First: of what is kept of a namespace that is not named here nothing would stay.
                store.write(TALKS, &talks)?;
                store.save(&resources)
            };
            let saved = tokio::task::spawn_blocking(save).await;
            if let Ok(Err(error)) = saved {
                tracing::warn!(%error, "the configuration cannot be kept: a restart while the operator is away would serve nothing");
            }
            tokio::time::sleep(PACE).await;
        }
    }

    pub(crate) fn save(&self, resources: &[Resource]) -> io::Result<()> {
        self.write(CONFIGURATION, resources)
    }

    fn read<T: DeserializeOwned>(&self, file: &str) -> Option<T> {
        let path = self.folder.join(file);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "what was kept cannot be read");
                return None;
            }
        };
        match serde_json::from_slice::<Kept<T>>(&text) {
            Ok(kept) if kept.of == self.of => Some(kept.kept),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "what was kept is damaged");
                None
            }
        }
    }

    /// Puts it in the place of what was there, whole or not at all.
    fn write<T: Serialize + ?Sized>(&self, file: &str, kept: &T) -> io::Result<()> {
        // Such a file is made so that only its owner may read it.
        let mut written = tempfile::NamedTempFile::new_in(&self.folder)?;
        let mut writer = io::BufWriter::new(written.as_file_mut());
        let kept = Kept {
            of: self.of.clone(),
            kept,
        };
        serde_json::to_writer(&mut writer, &kept)?;
        writer.flush()?;
        drop(writer);
        written.persist(self.folder.join(file))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, path::Path};

    use weft_model::{Certificate, TrustDomain};

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

    fn identity() -> KeptIdentity {
        KeptIdentity {
            chain_pem: "chain".to_owned(),
            key_pem: PrivateKeyPem::new("key"),
            not_after: 1,
            trust: MeshTrust {
                trust_domain: TrustDomain::parse("cluster.local").expect("a trust domain"),
                roots_pem: "roots".to_owned(),
                revoked: weft_model::Revocations::default(),
            },
        }
    }

    fn store(folder: &Path, gateway: &str) -> Store {
        Store::new(folder.to_owned(), DataPlane::of_gateway(gateway.into(), "edge-1"))
    }

    #[test]
    fn what_is_kept_is_read_again_by_the_same_data_plane_and_nobody_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let own = store(folder.path(), "n/edge");
        assert_eq!((own.load(), own.identity()), (vec![], None));
        own.save(&resources()).expect("saved");
        own.save(&resources()).expect("saved in the place of the first");
        own.save_identity(&identity()).expect("saved");
        assert_eq!((own.load(), own.identity()), (resources(), Some(identity())));
        let other = store(folder.path(), "n/other");
        assert_eq!((other.load(), other.identity()), (vec![], None));
        let files: Vec<_> = fs::read_dir(folder.path()).expect("a folder").flatten().collect();
        assert_eq!(files.len(), 2);
        own.write(TALKS, &["shop"]).expect("saved");
        assert_eq!((own.talks(), other.talks()), (vec!["shop".to_owned()], vec![]));
        for file in files {
            let mode = file.metadata().expect("a file").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn what_is_damaged_is_nothing_and_what_is_unknown_is_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store(folder.path(), "n/edge");
        let file = folder.path().join(CONFIGURATION);
        fs::write(&file, "{").expect("written");
        assert_eq!(store.load(), []);
        let newer = serde_json::json!({"of": store.of, "kept": [{"kind": "later"}, resources()[1]]});
        fs::write(&file, newer.to_string()).expect("written");
        assert_eq!(store.load(), resources()[1..]);
    }
}
