//! The many tokens' matmul in relaxed SIMD: products of bytes, an instruction for 16 of them, where `simd128` has one for 8
//! products of 16 bits. An activation's 16 bits are two bytes, so the sums are the same, exactly.
//!
//! The instructions stand in a module of their own (`relaxed/kernel.rs`), a few thousand bytes that are part of the
//! crate's: one that a browser does not know would make it refuse the whole. It gets the crate's memory, and its
//! function joins the crate's table.

use std::sync::OnceLock;

use js_sys::WebAssembly::{Instance, Module, Table, validate};
use js_sys::{Function, Object, Reflect, Uint8Array};
use wasm_bindgen::{JsCast, JsValue};

mod panel;
pub use panel::{Multiply, Panel};

use super::matrix::PANEL;
use crate::quant::BLOCK;

static MODULE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/relaxed.wasm"));

/// The kernel, where the engine takes it, computes it exactly, and is faster by it.
pub fn multiply() -> Option<Multiply> {
    static KERNEL: OnceLock<Option<Multiply>> = OnceLock::new();
    *KERNEL.get_or_init(|| load().ok().flatten())
}

fn load() -> Result<Option<Multiply>, JsValue> {
    let bytes = Uint8Array::from(MODULE);
    if !validate(&bytes)? {
        return Ok(None);
    }
    let (imports, env) = (Object::new(), Object::new());
    Reflect::set(&env, &"memory".into(), &wasm_bindgen::memory())?;
    Reflect::set(&imports, &"env".into(), &env)?;
    let exports = Instance::new(&Module::new(&bytes)?, &imports)?.exports();
    let export = |name: &str| Reflect::get(&exports, &name.into())?.dyn_into::<Function>();
    // 127 times 255, four times over. The instruction of x86 without VNNI saturates pairs at 16 bits: exact for what it is
    // given below, but three instructions where `simd128` needs two.
    let found = export("product")?.call2(&JsValue::NULL, &127.into(), &255.into())?.as_f64();
    if found != Some(4.0 * 127.0 * 255.0) && found != Some(-4.0 * 127.0) {
        return Ok(None);
    }
    let table: Table = wasm_bindgen::function_table().unchecked_into();
    let index = table.grow(1)?;
    table.set(index, &export("multiply")?)?;
    // SAFETY: in WebAssembly a function pointer is an index of the table, and that one has this signature.
    let multiply = unsafe { std::mem::transmute::<usize, Multiply>(index as usize) };
    Ok(is_exact(multiply).then_some(multiply))
}

/// Whether the largest and other levels give the sums that they should: an engine once had them wrong.
fn is_exact(multiply: Multiply) -> bool {
    const TOKENS: usize = 7;
    let level = |at: usize| ((at * 2_654_435_761) >> 7 & 31) as u8;
    let byte = |at: usize| match at % 5 {
        0 => 127,
        1 => -128,
        _ => ((at * 2_246_822_519) >> 9) as i8,
    };
    let levels: Vec<u8> = (0..BLOCK * PANEL).map(level).collect();
    let x: Vec<i8> = (0..2 * BLOCK * TOKENS).map(byte).collect();
    let (scales, sums, mut out) = (vec![1f32; PANEL], vec![(1f32, 3); TOKENS], vec![f32::NAN; TOKENS * PANEL]);
    let panel = Panel {
        levels: levels.as_ptr(),
        scales: scales.as_ptr(),
        minimums: std::ptr::null(),
        zero: 16,
        blocks: 1,
        steps: BLOCK / 4,
    };
    // SAFETY: the lengths are those that the kernel asks for.
    unsafe { multiply(&panel, x.as_ptr(), sums.as_ptr(), TOKENS, out.as_mut_ptr(), PANEL) };
    out.iter().enumerate().all(|(at, &got)| {
        let (token, row) = (at / PANEL, at % PANEL);
        let tile = token / 4 * 4;
        let tokens = (TOKENS - tile).min(4);
        let sum: i32 = (0..BLOCK)
            .map(|k| {
                let at = 2 * BLOCK * tile + (k / 4 * tokens + token - tile) * 4 + k % 4;
                let activation = 256 * x[at] as i32 + x[at + BLOCK * tokens] as i32;
                activation * levels[k / 4 * 4 * PANEL + 4 * row + k % 4] as i32
            })
            .sum();
        got == (sum - 16 * 3) as f32
    })
}
