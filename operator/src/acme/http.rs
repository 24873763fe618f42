//! How a CA is spoken to: HTTPS by the roots of the issuer, bounded in time and size.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use jiff::Timestamp;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use super::error::AcmeError;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most that one answer may have. A chain of certificates has some kilobytes.
const BYTES: usize = 1024 * 1024;

/// What a CA has last said about when to come again. Clones hear of the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patience(Arc<Mutex<Option<Duration>>>);

impl Patience {
    /// What it has said with its last refusal.
    pub(crate) fn asked_for(&self) -> Option<Duration> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear<B>(&self, response: &Response<B>) {
        let refused = matches!(
            response.status(),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        );
        let asked = refused.then(|| retry_after(response, Timestamp::now())).flatten();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = asked;
    }
}

/// `Retry-After` (RFC 9110, 10.2.3): seconds, or a date.
fn retry_after<B>(response: &Response<B>, now: Timestamp) -> Option<Duration> {
    let text = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(date.duration_since(now).try_into().unwrap_or(Duration::ZERO))
}

/// The client of one issuer.
pub(crate) struct Http {
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    patience: Patience,
}

impl Http {
    /// By these roots (PEM), or those of the system.
    ///
    /// # Errors
    /// There are none.
    pub(crate) fn new(roots_pem: Option<&str>, patience: Patience) -> Result<Self, AcmeError> {
        let mut roots = RootCertStore::empty();
        match roots_pem {
            Some(pem) => {
                roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem.as_bytes()).flatten());
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            let message = "there are no roots to trust the CA by: name some in spec.caCertificateRefs, or give the operator's \
                           image those of the system (SSL_CERT_FILE)";
            return Err(AcmeError::refused("NoRoots", message));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| AcmeError::refused("NoRoots", error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_only()
            .enable_http1()
            .build();
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            patience,
        })
    }
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (sending, patience) = (self.client.request(request), self.patience.clone());
        let whole = async move {
            let response = sending.await.map_err(|error| Error::Other(Box::new(error)))?;
            patience.hear(&response);
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, BYTES).collect().await.map_err(Error::Other)?;
            Ok(BytesResponse::from(Response::from_parts(
                parts,
                Full::new(body.to_bytes()),
            )))
        };
        Box::pin(async move {
            let answered = tokio::time::timeout(PATIENCE, whole).await;
            answered.unwrap_or_else(|_| Err(Error::Other("the CA does not answer in time".into())))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_when_to_come_again_and_the_next_answer_takes_that_back() {
        let patience = Patience::default();
        let answer = |status: u16, after: &str| {
            let response = Response::builder().status(status).header(header::RETRY_AFTER, after);
            response.body(()).expect("a response")
        };
        patience.hear(&answer(200, "3"));
        assert_eq!(patience.asked_for(), None);
        patience.hear(&answer(429, " 120 "));
        assert_eq!(patience.asked_for(), Some(Duration::from_secs(120)));
        patience.hear(&answer(503, "soon"));
        assert_eq!(patience.asked_for(), None);
        let now: Timestamp = "1999-12-31T23:59:00Z".parse().expect("a time");
        let dated = answer(429, "Fri, 31 Dec 1999 23:59:59 GMT");
        assert_eq!(retry_after(&dated, now), Some(Duration::from_secs(59)));
        assert_eq!(
            retry_after(&dated, now + Duration::from_secs(3600)),
            Some(Duration::ZERO)
        );
    }
}
