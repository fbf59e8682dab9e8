//! Weights on the CPU: each tensor's bytes, collected as they arrive, and rearranged once all are there.

use super::forward::{Layer, Model};
use super::matrix::Matrix;
use crate::config::{Config, LAYER_TENSORS};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorEntry};
use crate::quant::Format;

/// Collects tensor bytes; the file is held once, never twice.
pub struct WeightLoader {
    config: Config,
    tensors: Vec<Tensor>,
}

/// A tensor on its way.
struct Tensor {
    entry: TensorEntry,
    /// What has arrived of its bytes.
    bytes: Vec<u8>,
    /// All of it.
    matrix: Option<Matrix>,
}

impl WeightLoader {
    pub fn new(config: &Config, gguf: &Gguf) -> Result<Self> {
        let mut tensors = Vec::with_capacity(gguf.tensors.len());
        for entry in &gguf.tensors {
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(Matrix::bytes(entry.format, entry.rows, entry.bytes as usize)).map_err(|_| {
                Error::unsupported(format!("tensor {:?}", entry.name), format!("no memory for {} bytes", entry.bytes))
            })?;
            tensors.push(Tensor { entry: entry.clone(), bytes, matrix: None });
        }
        Ok(WeightLoader { config: config.clone(), tensors })
    }

    /// Appends `bytes` to tensor `tensor` (index into [`Gguf::tensors`]); `offset` says where in it they begin.
    pub fn write(&mut self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let Tensor { entry, bytes: all, matrix } = &mut self.tensors[tensor];
        if all.len() as u64 != offset || (all.len() + bytes.len()) as u64 > entry.bytes {
            return Err(Error::internal(format!("bytes of tensor {:?} out of order", entry.name)));
        }
        all.extend_from_slice(bytes);
        if all.len() as u64 == entry.bytes {
            *matrix = Some(Matrix::new(entry.format, entry.rows, entry.cols, std::mem::take(all)));
        }
        Ok(())
    }

    /// The model, once every tensor is complete.
    pub fn finish(self) -> Result<Model> {
        let Self { config, tensors } = self;
        let mut by_name = std::collections::HashMap::new();
        for Tensor { entry, bytes, matrix } in tensors {
            let matrix = matrix.ok_or_else(|| {
                let problem = format!("the file ends after {} of its {} bytes", bytes.len(), entry.bytes);
                Error::format(format!("tensor {:?}", entry.name), problem)
            })?;
            by_name.insert(entry.name, matrix);
        }
        let mut take =
            |name: &str| by_name.remove(name).ok_or_else(|| Error::format(format!("tensor {name:?}"), "is missing"));
        let mut layers = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            let mut matrices = Vec::with_capacity(LAYER_TENSORS.len());
            for suffix in LAYER_TENSORS {
                matrices.push(take(&format!("blk.{layer}.{suffix}.weight"))?);
            }
            let [attn_norm, q, k, v, o, ffn_norm, gate, up, down] =
                matrices.try_into().map_err(|_| Error::internal("a layer's tensors"))?;
            layers.push(Layer { attn_norm: gain(&attn_norm), q, k, v, o, ffn_norm: gain(&ffn_norm), gate, up, down });
        }
        let embedding = take("token_embd.weight")?;
        let norm = gain(&take("output_norm.weight")?);
        let head = if config.tied { None } else { Some(take("output.weight")?) };
        Ok(Model::new(config, embedding, layers, norm, head))
    }
}

/// A norm's gain, `[width]`, as f32.
fn gain(vector: &Matrix) -> Vec<f32> {
    debug_assert_eq!(vector.format, Format::F32);
    let mut out = vec![0f32; vector.cols];
    vector.decode_row(0, &mut out);
    out
}
