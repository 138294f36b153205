//! Switches `src/exchange.rs` over to loom for this package alone: no RUSTFLAGS, so nothing else is built anew.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(loom)");
    println!("cargo:rustc-cfg=loom");
}
