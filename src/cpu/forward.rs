//! The Llama forward pass, in the order the data flows.

use std::ops::Range;

use super::kernels::{Matrix, add, attend, dot, each_chunk, matmul, rms_norm, rope, rope_angles, swiglu};
use crate::config::Config;
use crate::engine::{Probe, Sampling};
use crate::error::Result;

/// Tokens that go through the layers together; bounds the activations' memory.
const CHUNK: usize = 256;

pub struct Layer {
    pub attn_norm: Vec<f32>,
    pub q: Matrix,
    pub k: Matrix,
    pub v: Matrix,
    pub o: Matrix,
    pub ffn_norm: Vec<f32>,
    pub gate: Matrix,
    pub up: Matrix,
    pub down: Matrix,
}

/// Keys (rotated) and values of one layer, `[position, kv_dim]`.
#[derive(Default)]
struct Cache {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// A loaded model with its KV cache.
pub struct Model {
    config: Config,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// `None` where the LM head is the embedding.
    head: Option<Matrix>,
    cache: Vec<Cache>,
    position: usize,
}

impl Model {
    pub(super) fn new(
        config: Config,
        embedding: Matrix,
        layers: Vec<Layer>,
        norm: Vec<f32>,
        head: Option<Matrix>,
    ) -> Self {
        let cache = layers.iter().map(|_| Cache::default()).collect();
        Model { config, embedding, layers, norm, head, cache, position: 0 }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn position(&self) -> usize {
        self.position
    }

    pub fn rewind(&mut self, position: usize) {
        let length = position * self.config.kv_dim();
        for cache in &mut self.cache {
            cache.keys.truncate(length);
            cache.values.truncate(length);
        }
        self.position = position;
    }

    /// Appends `tokens`; for each probe, the logits of its rows.
    pub fn probe(&mut self, tokens: &[u32], probes: &[Probe]) -> Result<Vec<Vec<f32>>> {
        let hidden = self.config.hidden;
        let mut logits = vec![Vec::new(); probes.len()];
        for (index, chunk) in tokens.chunks(CHUNK).enumerate() {
            let states = self.forward(chunk);
            for (probe, logits) in probes.iter().zip(&mut logits) {
                if let Some(at) = probe.at.checked_sub(index * CHUNK).filter(|&at| at < chunk.len()) {
                    *logits = self.head_rows(&states[at * hidden..(at + 1) * hidden], &probe.ids);
                }
            }
        }
        Ok(logits)
    }

    /// Appends `tokens` and picks the one after them, none of `skip`.
    pub fn next(&mut self, tokens: &[u32], sampling: Sampling, skip: Range<u32>) -> Result<u32> {
        let mut last = Vec::new();
        for chunk in tokens.chunks(CHUNK) {
            let states = self.forward(chunk);
            last = states[(chunk.len() - 1) * self.config.hidden..].to_vec();
        }
        let mut logits = vec![0f32; self.config.vocab];
        matmul(self.head(), &self.normed(&last), &mut logits);
        sampling.pick(&mut logits, (self.position - 1) as u32, skip)
    }

    fn head(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    fn normed(&self, state: &[f32]) -> Vec<f32> {
        let mut out = vec![0f32; state.len()];
        rms_norm(state, &self.norm, self.config.norm_eps, &mut out);
        out
    }

    /// Logits of a few vocabulary rows for one residual state `[hidden]`.
    fn head_rows(&self, state: &[f32], ids: &[u32]) -> Vec<f32> {
        let state = self.normed(state);
        let mut row = vec![0f32; self.config.hidden];
        ids.iter()
            .map(|&id| {
                self.head().decode_row(id as usize, &mut row);
                dot(&state, &row)
            })
            .collect()
    }

    /// Runs one chunk through all layers, appending to the cache: the residual states `[tokens, hidden]`.
    fn forward(&mut self, tokens: &[u32]) -> Vec<f32> {
        let Config { hidden, ffn, head_dim, heads, kv_heads, norm_eps, rope_base, .. } = self.config;
        let (count, kv_dim, start) = (tokens.len(), self.config.kv_dim(), self.position);

        let mut x = vec![0f32; count * hidden];
        for (&id, x) in tokens.iter().zip(x.chunks_exact_mut(hidden)) {
            self.embedding.decode_row(id as usize, x);
        }
        let angles: Vec<_> =
            (start..start + count).map(|position| rope_angles(head_dim, position, rope_base)).collect();
        let mut normed = vec![0f32; count * hidden];
        let mut attended = vec![0f32; count * hidden];
        let (mut q, mut y) = (vec![0f32; count * hidden], vec![0f32; count * hidden]);
        let (mut k, mut v) = (vec![0f32; count * kv_dim], vec![0f32; count * kv_dim]);
        let (mut gate, mut up) = (vec![0f32; count * ffn], vec![0f32; count * ffn]);

        for (layer, cache) in self.layers.iter().zip(&mut self.cache) {
            // Attention: normed [count, hidden] -> q [count, hidden], k and v [count, kv_dim].
            rms_norm(&x, &layer.attn_norm, norm_eps, &mut normed);
            matmul(&layer.q, &normed, &mut q);
            matmul(&layer.k, &normed, &mut k);
            matmul(&layer.v, &normed, &mut v);
            for (t, angles) in angles.iter().enumerate() {
                rope(&mut q[t * hidden..(t + 1) * hidden], angles);
                rope(&mut k[t * kv_dim..(t + 1) * kv_dim], angles);
            }
            cache.keys.extend_from_slice(&k);
            cache.values.extend_from_slice(&v);
            each_chunk(&mut attended, head_dim, |index, out| {
                let (t, head) = (index / heads, index % heads);
                let kv_offset = head / (heads / kv_heads) * head_dim;
                attend(
                    &q[index * head_dim..][..head_dim],
                    &cache.keys,
                    &cache.values,
                    kv_dim,
                    kv_offset,
                    start + t + 1,
                    out,
                );
            });
            matmul(&layer.o, &attended, &mut y);
            add(&mut x, &y);

            // Feed-forward: gate and up [count, ffn], down back to [count, hidden].
            rms_norm(&x, &layer.ffn_norm, norm_eps, &mut normed);
            matmul(&layer.gate, &normed, &mut gate);
            matmul(&layer.up, &normed, &mut up);
            swiglu(&mut gate, &up);
            matmul(&layer.down, &gate, &mut y);
            add(&mut x, &y);
        }
        self.position += count;
        x
    }
}
