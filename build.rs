//! Compiles the relaxed SIMD kernel, a WebAssembly module of its own (`src/cpu/relaxed.rs` says why), for that target alone.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const KERNEL: &str = "src/cpu/relaxed/kernel.rs";

fn main() {
    println!("cargo:rerun-if-changed=src/cpu/relaxed");
    println!("cargo:rerun-if-env-changed=RUSTC");
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() != Ok("wasm32") {
        return;
    }
    // The kernel's function is added to the crate's table.
    println!("cargo:rustc-cdylib-link-arg=--growable-table");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("relaxed.wasm");
    let status = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"))
        .args(["--edition", "2024", "--crate-type", "cdylib", "--target", "wasm32-unknown-unknown", KERNEL, "-o"])
        .arg(&out)
        .args(["-Copt-level=3", "-Cpanic=abort", "-Cstrip=symbols", "-Ctarget-feature=+simd128,+relaxed-simd"])
        // Memory is the crate's, so none of it is this module's: no stack, and no data, which would need some.
        .args(["-Clink-arg=--import-memory", "-Clink-arg=-zstack-size=0"])
        .status()
        .expect("rustc runs");
    assert!(status.success(), "rustc could not compile {KERNEL}");
}
