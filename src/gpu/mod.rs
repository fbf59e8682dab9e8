//! placeholder until the GPU engine lands
pub struct Model;
impl Model {
    pub fn config(&self) -> &crate::config::Config { unreachable!() }
    pub fn position(&self) -> usize { unreachable!() }
    pub fn rewind(&mut self, _: usize) { unreachable!() }
    pub async fn probe(&mut self, _: &[u32], _: &[crate::engine::Probe]) -> crate::Result<Vec<Vec<f32>>> { unreachable!() }
    pub async fn next(&mut self, _: &[u32], _: crate::engine::Sampling) -> crate::Result<u32> { unreachable!() }
}
pub struct Device;
pub struct WeightLoader;
impl WeightLoader {
    pub fn new(_: &Device, _: &crate::config::Config, _: &crate::gguf::Gguf) -> crate::Result<Self> { unreachable!() }
    pub fn write(&mut self, _: usize, _: u64, _: &[u8]) -> crate::Result<()> { unreachable!() }
    pub async fn finish(self) -> crate::Result<Model> { unreachable!() }
}
