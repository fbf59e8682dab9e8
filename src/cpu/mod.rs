//! The forward pass on the CPU: SIMD through vectorisable Rust, natively (AVX2 and AVX-512 chosen at run time) and in
//! WebAssembly (simd128). Weights stay in their GGUF blocks; rows are decoded to f32 as they are needed, so that the
//! arithmetic is f32 and agrees with the GPU's.

mod forward;
mod kernels;
mod weights;

pub use forward::Model;
pub use weights::WeightLoader;
