//! How the program is linked.

use std::{env, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The dynamic linker reads all of them at each start, and half a megabyte of them stays resident; packed, they are a fiftieth of that.
    if loads_packed_relocations() {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Whether this is built for a glibc that knows them: 2.36 (DT_RELR) and later.
fn loads_packed_relocations() -> bool {
    let native = env::var("TARGET") == env::var("HOST");
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let version = said.ok().and_then(|said| {
        let (major, minor) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    });
    native && version >= Some((2, 36))
}
