//! A safety guardian that lives in the browser: a small language model, run by hand-written WebGPU compute shaders
//! (or SIMD on the CPU), screens a prompt before it goes to any chatbot and writes a safeguard reply when it should
//! not go on. No server; nothing leaves the page.
//!
//! Modules, ground up; imports run downwards only:
//!
//! - [`error`]: one error type, one stable code per variant
//! - [`quant`]: block formats; [`gguf`]: header and tensor index; [`config`]: the model's shape; [`tokenizer`]
//! - [`cpu`] and [`gpu`]: the two forward passes, which do not know each other
//! - `reference`: candle's forward pass, natively, to hold the two against
//! - [`engine`]: one small face over them; [`loader`]: a stream of bytes into either
//! - [`guardian`]: normalising, windows, token sequences, verdicts and replies
//! - `wasm` and the command `guardian`: thin faces

pub mod config;
pub mod cpu;
pub mod engine;
pub mod error;
pub mod gguf;
pub mod gpu;
pub mod guardian;
pub mod loader;
pub mod quant;
#[cfg(not(target_arch = "wasm32"))]
pub mod reference;
pub mod tokenizer;
#[cfg(target_arch = "wasm32")]
pub mod wasm;

pub use error::{Error, Result};
