//! Compiles the protocols of authorization servers and of collectors of spans without protoc: the messages for the proxy, and
//! beside them a server of authorization for its tests.

use std::{env, fs, path::Path};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = env::var("OUT_DIR")?;
    for (folder, proto, client, server) in [
        ("messages", "ext_authz.proto", false, false),
        ("server", "ext_authz.proto", false, true),
        ("otlp", "otlp.proto", true, false),
    ] {
        let folder = Path::new(&out).join(folder);
        fs::create_dir_all(&folder)?;
        tonic_prost_build::configure()
            .build_transport(false)
            .build_client(client)
            .build_server(server)
            .bytes(".")
            .out_dir(folder)
            .compile_fds(protox::compile([proto], ["proto"])?)?;
    }
    Ok(())
}
