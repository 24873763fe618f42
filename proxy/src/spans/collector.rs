//! A connection to a collector: HTTP/2 in clear, or over TLS.

use std::{io, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use weft_channel::{CONNECT, Channel, KeepAlive, dial};
use weft_model::Collector;

/// Between lists of spans it is silent on both sides.
const KEEP_ALIVE: KeepAlive = KeepAlive {
    ping: Duration::from_secs(30),
    pong: Duration::from_secs(10),
};

pub(super) async fn connect(collector: &Collector) -> io::Result<Channel> {
    let channel = timeout(CONNECT, async {
        let stream = dial((collector.host(), collector.port())).await?;
        if !collector.is_secure() {
            return Ok(Channel::over(stream, KEEP_ALIVE).await);
        }
        let name = ServerName::try_from(collector.host().to_owned()).map_err(io::Error::other)?;
        let config = tokio::task::spawn_blocking(tls).await??;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        io::Result::Ok(Channel::over(stream, KEEP_ALIVE).await)
    });
    channel.await??.map_err(io::Error::other)
}

/// The system's roots are believed, or those of `SSL_CERT_FILE`.
fn tls() -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(io::Error::other(
            "this system has no roots to believe its certificate by: name a file of them in SSL_CERT_FILE",
        ));
    }
    Ok(weft_channel::tls(roots))
}
