//! The certificate of an operator, made for a test.
#![allow(unreachable_pub, reason = "tests of several crates have it")]

use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;

/// TLS as an operator of that name serves it, and as PEM the root by which it is believed.
pub fn certificate(name: &str) -> (Arc<ServerConfig>, String) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let mut tls = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a configuration");
    tls.alpn_protocols = vec![b"h2".to_vec()];
    (Arc::new(tls), made.cert.pem())
}
