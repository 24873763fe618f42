//! Where a connection was going before it was turned to this process.

use std::{io, net::SocketAddr};

use rustix::io::Errno;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::Direction;

/// Why a connection goes nowhere.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum OriginalError {
    #[error("it was made to port {0} itself, which takes only what network rules turn to it")]
    Direct(u16),
    #[error("it was going to {0}, which is not reached from outside the pod")]
    Inside(SocketAddr),
    #[error("where it was going is not known: {0}")]
    Unknown(String),
}

/// Asks the kernel where a connection was going.
pub(super) fn destination(stream: &TcpStream, port: u16, direction: Direction) -> Result<SocketAddr, OriginalError> {
    let unknown = |error: io::Error| OriginalError::Unknown(error.to_string());
    let local = stream.local_addr().map_err(unknown)?;
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    let socket = SockRef::from(stream);
    let original = match local {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    match original {
        Ok(address) => {
            let address = address.as_socket();
            let address = address.ok_or_else(|| OriginalError::Unknown("it is no address of the Internet".into()))?;
            check(address, local, port, direction)
        }
        // Nothing has turned it, or there is nothing that turns: no rules in this network.
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::NOPROTOOPT)) => {
            Err(OriginalError::Direct(port))
        }
        Err(error) => Err(unknown(error)),
    }
}

/// Refuses what would lead back here, or to what listens inside the pod only: a neighbour on the network can send packets to
/// any address, also to 127.0.0.1.
fn check(
    original: SocketAddr,
    local: SocketAddr,
    port: u16,
    direction: Direction,
) -> Result<SocketAddr, OriginalError> {
    let ip = original.ip();
    if original.port() == port && (ip == local.ip() || ip.is_loopback()) {
        return Err(OriginalError::Direct(port));
    }
    let inside = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast();
    if direction == Direction::Inbound && inside {
        return Err(OriginalError::Inside(original));
    }
    Ok(original)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(original: &str, local: &str, direction: Direction) -> Result<SocketAddr, OriginalError> {
        let local: SocketAddr = local.parse().expect("an address");
        check(original.parse().expect("an address"), local, local.port(), direction)
    }

    #[test]
    fn what_leads_back_or_to_the_inside_is_refused() {
        for (original, local, direction) in [
            ("10.0.0.2:15006", "10.0.0.2:15006", Direction::Inbound),
            ("127.0.0.1:15001", "127.0.0.1:15001", Direction::Outbound),
            ("[::1]:15001", "[::1]:15001", Direction::Outbound),
        ] {
            let error = checked(original, local, direction).expect_err(original);
            assert!(matches!(error, OriginalError::Direct(_)), "{original}: {error}");
        }
        for original in ["127.0.0.1:15021", "[::1]:8080", "0.0.0.0:80", "224.0.0.1:80"] {
            let local = if original.starts_with('[') {
                "[fd00::2]:15006"
            } else {
                "10.0.0.2:15006"
            };
            let error = checked(original, local, Direction::Inbound).expect_err(original);
            assert!(matches!(error, OriginalError::Inside(_)), "{original}: {error}");
        }
        for (original, local, direction) in [
            ("10.0.0.2:8080", "10.0.0.2:15006", Direction::Inbound),
            ("10.0.0.3:8080", "10.0.0.2:15006", Direction::Inbound),
            ("192.0.2.1:443", "127.0.0.1:15001", Direction::Outbound),
            ("[2001:db8::1]:15006", "[::1]:15001", Direction::Outbound),
        ] {
            assert_eq!(
                checked(original, local, direction),
                Ok(original.parse().expect("an address"))
            );
        }
    }
}
