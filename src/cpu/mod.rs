//! The forward pass on the CPU: explicit SIMD natively (AVX2, and AVX-512 with VNNI, chosen at run time) and in
//! WebAssembly (simd128, and relaxed SIMD where it is exact and faster). Weights stay quantised, rearranged while they load;
//! 16 rows are unpacked once for all tokens of a pass, and meet activations rounded to 16 bits.

mod floats;
mod forward;
mod isa;
mod kernels;
mod matmul;
mod matrix;
#[cfg(target_arch = "wasm32")]
mod relaxed;
mod threads;
mod weights;

pub use forward::Model;
pub use matmul::{Activations, Kernel, matmul, matmul_with};
pub use matrix::Matrix;
pub use weights::WeightLoader;
