//! `cargo run -p xtask -- WASM OUT_DIR`: generates the JavaScript bindings of the compiled crate, with the
//! generator's version pinned by Cargo.lock so that it never mismatches the crate's wasm-bindgen.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [wasm, out_dir] = args.as_slice() else {
        eprintln!("usage: xtask WASM OUT_DIR");
        return ExitCode::from(2);
    };
    let result = wasm_bindgen_cli_support::Bindgen::new().input_path(wasm).web(true).and_then(|bindgen| {
        bindgen.typescript(true).omit_default_module_path(false).out_name("slm_guardian").generate(out_dir)
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: cannot generate bindings for {wasm}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
