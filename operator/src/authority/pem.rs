//! Certificates as text.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use time::OffsetDateTime;

use super::SKEW;

/// From when and until when a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    start: OffsetDateTime,
    pub(crate) end: OffsetDateTime,
}

impl Validity {
    /// When it was made, if it was made here: it holds from a little before.
    pub(crate) fn made(self) -> OffsetDateTime {
        self.start + SKEW
    }
}

/// Reads certificates; there is one at least.
pub(crate) fn read(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => Err("it holds no certificate".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("it is not PEM: {error}")),
    }
}

/// Writes certificates.
pub(crate) fn write<'c>(certificates: impl IntoIterator<Item = &'c CertificateDer<'static>>) -> String {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(certificate);
        for line in encoded.as_bytes().chunks(64) {
            text.extend(line.iter().map(|byte| char::from(*byte)));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

/// How long a certificate holds.
pub(crate) fn validity(certificate: &CertificateDer<'_>) -> Result<Validity, String> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|_| "a certificate is not X.509".to_owned())?;
    let validity = parsed.validity();
    Ok(Validity {
        start: validity.not_before.to_datetime(),
        end: validity.not_after.to_datetime(),
    })
}
