//! What fuzz targets need of the inside. Not part of the crate for anybody else.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{config::Snapshot, tls};

/// The TLS side of a port, as its connections have it.
///
/// # Errors
/// The configuration cannot be made.
pub fn tls(port: u16, snapshot: Arc<Snapshot>) -> Result<Arc<rustls::ServerConfig>, rustls::Error> {
    tls::server_config(port, tls::HTTP, Arc::new(ArcSwap::new(snapshot)), None)
}
