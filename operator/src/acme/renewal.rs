//! When a certificate is renewed: when the CA suggests it (RFC 9773), else after two thirds of its life.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use instant_acme::{CertificateIdentifier, RenewalInfo};
use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use weft_translate::acme::Renewal;
use x509_parser::extensions::GeneralName;

use super::{account::Open, store::Issued};

/// How soon, and how late, a CA may have itself asked again (RFC 9773, 4.3.3).
const ASK: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));
/// When it is asked again after it did not answer.
const ASK_AFTER_FAILURE: Duration = Duration::from_secs(6 * 3600);

/// What is known of a certificate that there is.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    names: BTreeSet<String>,
    begins: Timestamp,
    ends: Timestamp,
    /// Absent where it does not say who issued it.
    pub(crate) id: Option<CertificateIdentifier<'static>>,
}

impl Leaf {
    /// Reads the first certificate of a chain.
    ///
    /// # Errors
    /// It cannot be read, or the key is not its own, and what is wrong.
    pub(crate) fn read(issued: &Issued) -> Result<Self, String> {
        let chain = CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| format!("the chain is not PEM: {error}"))?;
        let leaf = chain.first().cloned().ok_or("the chain is empty")?;
        let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes());
        let key = key.map_err(|error| format!("the key is not PEM: {error}"))?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        rustls::sign::CertifiedKey::from_der(chain, key, &provider)
            .map_err(|error| format!("certificate and key cannot be used together: {error}"))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&leaf).map_err(|error| format!("it is not X.509: {error}"))?;
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let names = names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        let time = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_second(time.timestamp()).map_err(|error| format!("its validity is none: {error}"))
        };
        let validity = parsed.validity();
        Ok(Self {
            names: names.collect(),
            begins: time(validity.not_before)?,
            ends: time(validity.not_after)?,
            id: CertificateIdentifier::try_from(&leaf)
                .ok()
                .map(CertificateIdentifier::into_owned),
        })
    }

    /// Whether it is for all of these.
    pub(crate) fn covers<V>(&self, hosts: &BTreeMap<String, V>) -> bool {
        hosts.keys().all(|host| self.names.contains(host))
    }

    fn key(&self) -> String {
        self.id
            .as_ref()
            .map_or_else(|| self.begins.to_string(), ToString::to_string)
    }

    /// Two thirds of its life.
    fn by_age(&self) -> Timestamp {
        let life: Duration = self.ends.duration_since(self.begins).try_into().unwrap_or_default();
        self.begins + life * 2 / 3
    }

    /// When it is to be renewed, as far as that is known.
    pub(crate) fn known<'r>(&self, renewal: Option<&'r Renewal>) -> Option<&'r Renewal> {
        renewal.filter(|renewal| renewal.certificate == self.key())
    }

    /// Asks the CA when it is to be renewed.
    pub(crate) async fn ask(&self, account: Option<&Open>, known: Option<&Renewal>, now: Timestamp) -> Renewal {
        let answer = match (account, &self.id) {
            (Some(open), Some(id)) => open.account.renewal_info(id).await,
            _ => Err(instant_acme::Error::Str("there is nobody to ask")),
        };
        match answer {
            Ok((info, wait)) => self.by(&info, wait, known, now, random()),
            Err(error) => {
                if !matches!(error, instant_acme::Error::Unsupported(_)) {
                    tracing::debug!(%error, "the CA does not say when a certificate is to be renewed");
                }
                let known = self.known(known);
                Renewal {
                    certificate: self.key(),
                    at: known.map_or_else(|| self.by_age(), |known| known.at),
                    ask: now + ASK_AFTER_FAILURE,
                    window: known.and_then(|known| known.window),
                }
            }
        }
    }

    /// At a random time in the window that the CA suggests; the same for as long as that is the same.
    fn by(&self, info: &RenewalInfo, wait: Duration, known: Option<&Renewal>, now: Timestamp, random: f64) -> Renewal {
        let time = |time: time::OffsetDateTime| Timestamp::from_second(time.unix_timestamp()).ok();
        let window = &info.suggested_window;
        let window = time(window.start)
            .zip(time(window.end))
            .filter(|(start, end)| start < end);
        let known = self.known(known);
        let at = match (window, known) {
            // What is no window says nothing (RFC 9773, 4.2).
            (None, _) => self.by_age(),
            (Some(window), Some(known)) if known.window == Some(window) => known.at,
            (Some((start, end)), _) => {
                let long: Duration = end.duration_since(start).try_into().unwrap_or_default();
                start + long.mul_f64(random)
            }
        };
        if let Some(explanation) = &info.explanation_url
            && known.is_none_or(|known| known.window != window)
        {
            tracing::info!(%at, explanation, "the CA has a reason for when a certificate is to be renewed");
        }
        Renewal {
            certificate: self.key(),
            at,
            ask: now + wait.clamp(ASK.0, ASK.1),
            window,
        }
    }
}

/// From 0 to 1.
fn random() -> f64 {
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    (random >> 32) as f64 / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn leaf(names: &[&str]) -> Leaf {
        let key = rcgen::KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).expect("names");
        params.not_before = time::OffsetDateTime::from_unix_timestamp(1_767_225_600).expect("a time");
        params.not_after = params.not_before + time::Duration::days(90);
        params.use_authority_key_identifier_extension = true;
        let made = params.self_signed(&key).expect("a certificate");
        let issued = Issued {
            chain_pem: made.pem(),
            key_pem: key.serialize_pem(),
        };
        Leaf::read(&issued).expect("readable")
    }

    fn info(start: &str, end: &str) -> RenewalInfo {
        serde_json::from_value(serde_json::json!({"suggestedWindow": {"start": start, "end": end}})).expect("readable")
    }

    #[test]
    fn a_certificate_is_for_the_names_it_has_and_renewed_after_two_thirds_of_its_life() {
        let leaf = leaf(&["a.example", "b.example"]);
        let hosts = |hosts: &[&str]| {
            hosts
                .iter()
                .map(|host| ((*host).to_owned(), ()))
                .collect::<BTreeMap<_, _>>()
        };
        assert!(leaf.covers(&hosts(&["a.example"])) && leaf.covers(&hosts(&["b.example", "a.example"])));
        assert!(!leaf.covers(&hosts(&["a.example", "c.example"])));
        assert_eq!(leaf.by_age(), at("2026-03-02T00:00:00Z"));
        let other = rcgen::KeyPair::generate().expect("a key");
        let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).expect("a certificate");
        let wrong = Issued {
            chain_pem: made.cert.pem(),
            key_pem: other.serialize_pem(),
        };
        assert!(Leaf::read(&wrong).is_err());
    }

    #[test]
    fn the_time_is_drawn_once_from_a_window_and_anew_from_another() {
        let leaf = leaf(&["a.example"]);
        let (now, day) = (at("2026-01-02T00:00:00Z"), Duration::from_secs(24 * 3600));
        let window = info("2026-02-01T00:00:00Z", "2026-02-03T00:00:00Z");
        let first = leaf.by(&window, Duration::from_secs(21600), None, now, 0.5);
        assert_eq!(first.at, at("2026-02-02T00:00:00Z"));
        assert_eq!(first.ask, now + day / 4);
        assert_eq!(leaf.by(&window, day * 30, Some(&first), now, 0.1).at, first.at);
        assert_eq!(leaf.by(&window, day * 30, Some(&first), now, 0.1).ask, now + day);
        assert_eq!(
            leaf.by(&window, Duration::ZERO, Some(&first), now, 0.1).ask,
            now + ASK.0
        );
        // It was revoked, say: the window is over.
        let over = info("2026-01-01T00:00:00Z", "2026-01-01T12:00:00Z");
        assert!(leaf.by(&over, day, Some(&first), now, 0.9).at < now);
        let none = info("2026-02-01T00:00:00Z", "2026-01-01T00:00:00Z");
        assert_eq!(leaf.by(&none, day, None, now, 0.1).at, leaf.by_age());
        // What is known of another certificate says nothing of this one.
        let mut of_another = first.clone();
        of_another.certificate = "another".to_owned();
        assert!(leaf.known(Some(&of_another)).is_none() && leaf.known(Some(&first)).is_some());
    }

    #[tokio::test]
    async fn a_ca_that_is_away_changes_nothing() {
        let leaf = leaf(&["a.example"]);
        let now = at("2026-01-02T00:00:00Z");
        let window = info("2026-02-01T00:00:00Z", "2026-02-03T00:00:00Z");
        let first = leaf.by(&window, Duration::from_secs(21600), None, now, 0.5);
        let again = leaf.ask(None, Some(&first), now).await;
        assert_eq!((again.at, again.window), (first.at, first.window));
        assert_eq!(leaf.ask(None, None, now).await.at, leaf.by_age());
    }
}
