//! Compiles the protocol of authorization servers without protoc: the messages for the proxy, and beside them a server
//! for its tests.

use std::{env, fs, path::Path};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = env::var("OUT_DIR")?;
    for (folder, server) in [("messages", false), ("server", true)] {
        let folder = Path::new(&out).join(folder);
        fs::create_dir_all(&folder)?;
        tonic_prost_build::configure()
            .build_transport(false)
            .build_client(false)
            .build_server(server)
            .bytes(".")
            .out_dir(folder)
            .compile_fds(protox::compile(["ext_authz.proto"], ["proto"])?)?;
    }
    Ok(())
}
