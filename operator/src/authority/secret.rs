//! The Secret that holds a CA.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client, api::PostParams, core::ObjectMeta};
use time::OffsetDateTime;

use super::{Authority, AuthorityError, Next, Root, Terms, pem};

/// The type of a Secret that the operator made.
const OURS: &str = "weft.dev/ca";

/// Keeps a CA in its Secret.
pub(crate) struct Store {
    api: Api<Secret>,
    terms: &'static Terms,
}

impl Store {
    pub(crate) fn new(client: Client, namespace: &str, terms: &'static Terms) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            terms,
        }
    }

    /// The CA as it is to be now. It is moved on by the replica that writes; one that is not there is made by any.
    pub(crate) async fn keep(&self, now: OffsetDateTime, writes: bool) -> Result<Authority, AuthorityError> {
        let (secret, authority) = self.get_or_make(now).await?;
        let Some(after) = authority.advance(now)?.filter(|_| writes) else {
            return Ok(authority);
        };
        let secret = Secret {
            data: Some(after.write()),
            ..secret
        };
        // It carries its version: of two that do this, one does it.
        let name = self.terms.secret;
        let replaced = self.api.replace(name, &PostParams::default(), &secret).await;
        replaced.map_err(|error| self.refused(error))?;
        tracing::info!(secret = name, "the roots of a CA have moved on");
        Ok(after)
    }

    /// Of several replicas that find none, one makes it and all use that.
    async fn get_or_make(&self, now: OffsetDateTime) -> Result<(Secret, Authority), AuthorityError> {
        let name = self.terms.secret;
        let found = self.api.get_opt(name).await.map_err(|error| self.refused(error))?;
        let secret = match found {
            Some(secret) => secret,
            None => {
                let made = Secret {
                    metadata: ObjectMeta {
                        name: Some(name.to_owned()),
                        labels: Some(BTreeMap::from([(
                            "app.kubernetes.io/part-of".to_owned(),
                            "weft".to_owned(),
                        )])),
                        ..ObjectMeta::default()
                    },
                    type_: Some(OURS.to_owned()),
                    data: Some(Authority::make(self.terms, now)?.write()),
                    ..Secret::default()
                };
                match self.api.create(&PostParams::default(), &made).await {
                    Ok(secret) => {
                        tracing::info!(secret = name, "a CA was made");
                        secret
                    }
                    Err(kube::Error::Api(status)) if status.code == 409 => {
                        self.api.get(name).await.map_err(|error| self.refused(error))?
                    }
                    Err(error) => return Err(self.refused(error)),
                }
            }
        };
        let authority = Authority::read(self.terms, &secret)?;
        Ok((secret, authority))
    }

    fn refused(&self, error: kube::Error) -> AuthorityError {
        AuthorityError::Api {
            secret: self.terms.secret,
            error,
        }
    }
}

impl Authority {
    fn read(terms: &'static Terms, secret: &Secret) -> Result<Self, AuthorityError> {
        let damaged = |why: String| AuthorityError::Damaged {
            secret: terms.secret,
            why,
        };
        let data = secret.data.as_ref();
        let text = |name: &str| match data.and_then(|data| data.get(name)) {
            Some(bytes) => String::from_utf8(bytes.0.clone())
                .map(Some)
                .map_err(|_| damaged(format!("{name} is not text"))),
            None => Ok(None),
        };
        let root = |name: &str| -> Result<_, AuthorityError> {
            match (text(&format!("{name}.crt"))?, text(&format!("{name}.key"))?) {
                (Some(certificates), Some(key)) => Root::read(terms, name, &certificates, &key).map(Some),
                _ => Ok(None),
            }
        };
        let since = |text: String| -> Option<OffsetDateTime> {
            let since: Timestamp = text.trim().parse().ok()?;
            OffsetDateTime::from_unix_timestamp(since.as_second()).ok()
        };
        let since = text("next.since")?.and_then(since);
        let old = match text("old.crt")? {
            Some(old) if !old.trim().is_empty() => pem::read(&old).map_err(|why| damaged(format!("old.crt: {why}")))?,
            _ => Vec::new(),
        };
        Ok(Self {
            terms,
            ours: secret.type_.as_deref() == Some(OURS),
            current: root("ca")?.ok_or_else(|| damaged("ca.crt or ca.key is missing".to_owned()))?,
            next: root("next")?.map(|root| Next { root, since }),
            old,
        })
    }

    fn write(&self) -> BTreeMap<String, ByteString> {
        let (certificates, key) = self.current.write();
        let mut data = vec![("ca.crt", certificates), ("ca.key", key)];
        if let Some(next) = &self.next {
            let (certificates, key) = next.root.write();
            data.extend([("next.crt", certificates), ("next.key", key)]);
            let since = next
                .since
                .and_then(|since| Timestamp::from_second(since.unix_timestamp()).ok());
            data.extend(since.map(|since| ("next.since", since.to_string())));
        }
        if !self.old.is_empty() {
            data.push(("old.crt", pem::write(&self.old)));
        }
        let bytes = |(name, text): (&str, String)| (name.to_owned(), ByteString(text.into_bytes()));
        data.into_iter().map(bytes).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::{days, tests::TERMS},
        *,
    };

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).expect("a time")
    }

    fn secret(type_: &str, data: BTreeMap<String, ByteString>) -> Secret {
        Secret {
            type_: Some(type_.to_owned()),
            data: Some(data),
            ..Secret::default()
        }
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let first = Authority::make(&TERMS, now()).expect("made");
        let next = |authority: &Authority, after: Duration| {
            let next = authority.advance(now() + after).expect("valid");
            next.expect("it moves on")
        };
        let both = next(&first, TERMS.renewal);
        let moved = next(&both, TERMS.renewal + TERMS.overlap);
        for authority in [first, both, moved] {
            let secret = secret(OURS, authority.write());
            assert!(Authority::read(&TERMS, &secret).expect("read") == authority);
        }
    }

    #[test]
    fn what_a_user_brings_is_theirs_and_what_cannot_sign_is_refused() {
        let why = |data: &BTreeMap<String, ByteString>| {
            let read = Authority::read(&TERMS, &secret("Opaque", data.clone()));
            read.err().map(|error| error.to_string()).unwrap_or_default()
        };
        let good = Authority::make(&TERMS, now()).expect("made").write();
        assert_eq!(why(&good), "");
        assert!(
            !Authority::read(&TERMS, &secret("Opaque", good.clone()))
                .expect("read")
                .ours
        );
        assert!(why(&BTreeMap::new()).contains("missing"));

        let mut other = good.clone();
        let another = Authority::make(&TERMS, now() - days(1)).expect("made").write();
        other.insert("ca.key".to_owned(), another["ca.key"].clone());
        assert!(
            why(&other).contains("not that of its first certificate"),
            "{}",
            why(&other)
        );

        let leaf = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).expect("made");
        let mut other = good;
        other.insert("ca.crt".to_owned(), ByteString(leaf.cert.pem().into_bytes()));
        other.insert(
            "ca.key".to_owned(),
            ByteString(leaf.signing_key.serialize_pem().into_bytes()),
        );
        assert!(why(&other).contains("not that of a CA"), "{}", why(&other));
    }
}
