//! The forward pass on the GPU: wgpu with the WGSL in `shaders/`, natively (Vulkan, Metal, DX12) and in the browser
//! (WebGPU). The graph is known in advance: pipelines, bind groups and the list of dispatches are made once; a call
//! writes 48 bytes and 16 more for each token.

mod device;
mod forward;
mod kernels;
#[cfg(test)]
mod tests;
mod weights;

pub use device::{AdapterInfo, Device, DeviceOptions};
pub use forward::Model;
pub use weights::WeightLoader;
