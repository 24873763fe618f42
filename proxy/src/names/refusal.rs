//! Addresses that a name must not lead to: whoever writes a route, or answers for a name in DNS, must not reach by the
//! data plane what trusts the machine it runs on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Services that clouds have for their machines, and that are not on the link. They give credentials away.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Why nothing is sent to an address; none if something is.
pub(super) fn of(address: IpAddr, loopback: bool) -> Option<&'static str> {
    let address = meant(address);
    let this_network = matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.is_broadcast());
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if address.is_loopback() && !loopback {
        Some("it is the data plane's own machine")
    } else if address.is_unspecified() || this_network {
        Some("it is no machine's address")
    } else if link_local {
        Some("it is on the link of the data plane's machine")
    } else if address.is_multicast() {
        Some("it is of many machines")
    } else if METADATA.contains(&address) {
        Some("it is where a cloud tells machines their credentials")
    } else {
        None
    }
}

/// The IPv4 address that an IPv6 address stands for, if it does.
fn meant(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    match v6.segments() {
        // Mapped, and by way of NAT64 (RFC 4291 section 2.5.5.2, RFC 6052).
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            Ipv4Addr::new(a, b, c, d).into()
        }
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_does_not_lead_to_the_machine_its_link_or_its_credentials() {
        let refused = |text: &str, loopback| of(text.parse().expect("an address"), loopback).is_some();
        for address in [
            "169.254.169.254",
            "fe80::1",
            "febf::1",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "100.100.100.200",
            "fd00:ec2::254",
            "fd20:ce::254",
        ] {
            assert!(refused(address, false) && refused(address, true), "{address}");
        }
        for address in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(refused(address, false) && !refused(address, true), "{address}");
        }
        for address in [
            "10.0.0.1",
            "192.0.2.1",
            "100.64.0.1",
            "2001:db8::1",
            "fd00::1",
            "64:ff9b::c000:201",
        ] {
            assert!(!refused(address, false), "{address}");
        }
    }
}
