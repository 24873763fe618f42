//! The first bytes of TLS connections, as far as a server reads them without an answer. Whatever comes in, and in
//! whatever pieces, the same is read out of it: the name, the protocols, or why it is refused.

#![no_main]

use std::{
    io::Read,
    path::Path,
    sync::{Arc, OnceLock},
};

use libfuzzer_sys::fuzz_target;
use rustls::{ServerConfig, ServerConnection};
use weft_gateway::files::File;
use weft_proxy::config::Configuration;
use weft_translate::{CONTROLLER, Edit, Options, Translator};

/// A Gateway with a certificate, as a newcomer has it.
const MANIFESTS: &str = include_str!("../../examples/storefront/10-gateway.yaml");
/// Its port with TLS.
const PORT: u16 = 8443;

fn tls() -> Arc<ServerConfig> {
    static TLS: OnceLock<Arc<ServerConfig>> = OnceLock::new();
    let make = || {
        let file = File::parse(Path::new("gateway.yaml"), MANIFESTS);
        let edits = file.objects.into_iter().map(|located| Edit::Put(located.object));
        let mut translator = Translator::new(Options {
            controller_name: CONTROLLER.into(),
            standalone: true,
            mesh: false,
        });
        let changes = translator.apply(edits.collect()).changes;
        let snapshot = Configuration::new().apply(changes).snapshot;
        let port = snapshot.port(PORT).expect("the example listens on it");
        assert!(
            port.certificate(Some("shop.storefront.example")).is_some(),
            "the example has a certificate"
        );
        weft_proxy::fuzzing::tls(PORT, snapshot).expect("the provider is complete")
    };
    TLS.get_or_init(make).clone()
}

/// What was read.
#[derive(Debug, PartialEq)]
struct Hello {
    error: Option<rustls::Error>,
    name: Option<String>,
    protocol: Option<Vec<u8>>,
    version: Option<rustls::ProtocolVersion>,
    answers: bool,
}

/// Gives a server what comes in pieces of this length.
fn read(bytes: &[u8], length: usize) -> Hello {
    let mut connection = ServerConnection::new(tls()).expect("the configuration is valid");
    let mut error = None;
    'pieces: for mut piece in bytes.chunks(length) {
        while !piece.is_empty() && error.is_none() {
            // A full buffer is an end too: nobody reads on.
            if !matches!(connection.read_tls(&mut piece.by_ref()), Ok(1..)) {
                break 'pieces;
            }
            error = connection.process_new_packets().err();
        }
    }
    Hello {
        error,
        name: connection.server_name().map(str::to_owned),
        protocol: connection.alpn_protocol().map(<[u8]>::to_vec),
        version: connection.protocol_version(),
        answers: connection.wants_write(),
    }
}

fuzz_target!(|data: &[u8]| {
    let whole = read(data, data.len().max(1));
    for length in [1, 7] {
        assert_eq!(whole, read(data, length), "in pieces of {length}, it is read otherwise");
    }
    // A listener that passes TLS through must see the name that the server behind it will see, and lose no byte.
    let peeked = |length| {
        weft_proxy::fuzzing::client_hello(data, length).map(|(name, bytes)| {
            assert!(data.starts_with(&bytes), "what was read is not what came");
            name
        })
    };
    let whole_peeked = peeked(data.len().max(1));
    for length in [1, 7] {
        assert_eq!(
            whole_peeked,
            peeked(length),
            "in pieces of {length}, it is peeked at otherwise"
        );
    }
    if let (Ok(name), None) = (whole_peeked, &whole.error) {
        assert_eq!(
            name,
            whole.name.map(|name| name.to_ascii_lowercase()),
            "two names are read"
        );
    }
});
