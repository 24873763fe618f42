//! Why certificate or trust cannot be put in use.

/// Why something cannot be put in use.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// The certificate cannot be read, or is not one for a workload.
    #[error("the certificate of this workload cannot be used: {0}")]
    Certificate(String),
    /// The roots cannot be read.
    #[error("the roots of the mesh cannot be used: {0}")]
    Roots(String),
    /// No TLS can be spoken with these.
    #[error("no TLS can be spoken with them: {0}")]
    Tls(#[from] rustls::Error),
}
