//! How a CA is spoken to: HTTPS by the roots of the issuer, bounded in time and size.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use super::{error::AcmeError, patience::Patience};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most that one answer may have. A chain of certificates has some kilobytes.
const BYTES: usize = 1024 * 1024;

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
