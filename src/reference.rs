//! candle-transformers' quantized_llama behind the engines' face: an implementation that is not ours, to hold against
//! both. Native only, and slow: the tests and `guardian --backend reference` use it.
//!
//! With `CANDLE_DEQUANTIZE_ALL=1` candle computes in f32 as our engines do; without, it rounds activations to 8 bits.

use std::io::Cursor;
use std::ops::Range;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::{MAX_SEQ_LEN, ModelWeights};

use crate::config::Config;
use crate::engine::{Probe, Sampling};
use crate::error::{Error, Result};

/// A loaded model with its KV cache.
pub struct Model {
    weights: ModelWeights,
    config: Config,
    /// Tokens appended and not rewound.
    tokens: Vec<u32>,
    /// Of these, how many are in candle's cache; it can only be cleared whole.
    cached: usize,
}

impl Model {
    /// From a whole GGUF file.
    pub fn new(file: &[u8], mut config: Config) -> Result<Self> {
        let mut reader = Cursor::new(file);
        let content = Content::read(&mut reader).map_err(|error| Error::format("header", error.to_string()))?;
        let weights = ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).map_err(Error::internal)?;
        // candle makes RoPE's angles for that many positions.
        config.context = config.context.min(MAX_SEQ_LEN);
        Ok(Model { weights, config, tokens: Vec::new(), cached: 0 })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn position(&self) -> usize {
        self.tokens.len()
    }

    pub fn rewind(&mut self, position: usize) {
        self.tokens.truncate(position);
        if position < self.cached {
            self.cached = 0;
        }
    }

    /// Appends `tokens`; for each probe, the logits of its rows.
    pub fn probe(&mut self, tokens: &[u32], probes: &[Probe]) -> Result<Vec<Vec<f32>>> {
        let mut found = vec![Vec::new(); probes.len()];
        let mut ends: Vec<usize> = probes.iter().map(|probe| probe.at + 1).chain([tokens.len()]).collect();
        ends.sort_unstable();
        ends.dedup();
        let mut from = 0;
        for end in ends {
            let logits = self.forward(&tokens[from..end])?;
            for (probe, found) in probes.iter().zip(&mut found).filter(|(probe, _)| probe.at + 1 == end) {
                *found = probe.ids.iter().map(|&id| logits[id as usize]).collect();
            }
            from = end;
        }
        Ok(found)
    }

    /// Appends `tokens` and picks the one after them, none of `skip`.
    pub fn next(&mut self, tokens: &[u32], sampling: Sampling, skip: Range<u32>) -> Result<u32> {
        let mut logits = self.forward(tokens)?;
        sampling.pick(&mut logits, self.position() as u32 - 1, skip)
    }

    /// Appends `tokens`: the logits `[vocab]` after the last of them.
    fn forward(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.tokens.extend_from_slice(tokens);
        if self.cached == 0 {
            self.weights.clear_kv_cache();
        }
        let fresh = &self.tokens[self.cached..];
        let logits = Tensor::new(fresh, &Device::Cpu)
            .and_then(|input| self.weights.forward(&input.unsqueeze(0)?, self.cached))
            .and_then(|logits| logits.flatten_all()?.to_vec1())
            .map_err(Error::internal)?;
        self.cached = self.tokens.len();
        Ok(logits)
    }
}
