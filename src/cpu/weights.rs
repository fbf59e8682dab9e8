//! Weights on the CPU: each tensor's GGUF bytes, collected as they arrive.

use super::forward::{Layer, Model};
use super::kernels::Matrix;
use crate::config::{Config, LAYER_TENSORS};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::quant::Format;

/// Collects tensor bytes; the file is held once, never twice.
pub struct WeightLoader {
    config: Config,
    names: Vec<String>,
    tensors: Vec<Matrix>,
}

impl WeightLoader {
    pub fn new(config: &Config, gguf: &Gguf) -> Result<Self> {
        let mut tensors = Vec::with_capacity(gguf.tensors.len());
        for entry in &gguf.tensors {
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(entry.bytes as usize).map_err(|_| {
                Error::unsupported(format!("tensor {:?}", entry.name), format!("no memory for {} bytes", entry.bytes))
            })?;
            tensors.push(Matrix { format: entry.format, rows: entry.rows, cols: entry.cols, bytes });
        }
        let names = gguf.tensors.iter().map(|entry| entry.name.clone()).collect();
        Ok(WeightLoader { config: config.clone(), names, tensors })
    }

    /// Appends `bytes` to tensor `tensor` (index into [`Gguf::tensors`]); `offset` says where in it they begin.
    pub fn write(&mut self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let matrix = &mut self.tensors[tensor];
        if matrix.bytes.len() as u64 != offset || matrix.bytes.len() + bytes.len() > matrix.bytes.capacity() {
            return Err(Error::internal(format!("bytes of tensor {:?} out of order", self.names[tensor])));
        }
        matrix.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The model, once every tensor is complete.
    pub fn finish(self) -> Result<Model> {
        let Self { config, names, tensors } = self;
        let mut by_name = std::collections::HashMap::new();
        for (name, matrix) in names.into_iter().zip(tensors) {
            let want = matrix.rows * matrix.format.row_bytes(matrix.cols).unwrap_or(0);
            if matrix.bytes.len() != want {
                return Err(Error::format(
                    format!("tensor {name:?}"),
                    format!("the file ends after {} of its {want} bytes", matrix.bytes.len()),
                ));
            }
            by_name.insert(name, matrix);
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
