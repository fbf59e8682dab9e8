//! The Llama forward pass, in the order the data flows.

use std::ops::Range;

use super::kernels::{Attention, add, dot, rms_norm, rope, rope_angles, swiglu};
use super::matmul::{Activations, matmul};
use super::matrix::Matrix;
use super::threads::each_chunk;
use crate::config::Config;
use crate::engine::{PASS, Probe, Sampling, Sequence};
use crate::error::Result;

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
        let mut logits = vec![Vec::new(); probes.len()];
        for (index, chunk) in tokens.chunks(PASS).enumerate() {
            let within = |probe: &Probe| probe.at.checked_sub(index * PASS).filter(|&at| at < chunk.len());
            let wanted: Vec<usize> = probes.iter().filter_map(within).collect();
            let states = self.forward(chunk, &[chunk.len()], &wanted);
            let found = probes.iter().zip(&mut logits).filter(|(probe, _)| within(probe).is_some());
            for ((probe, logits), state) in found.zip(states.chunks_exact(self.config.hidden)) {
                *logits = self.head_rows(state, &probe.ids);
            }
        }
        Ok(logits)
    }

    /// Runs `sequences` in one pass, each as if it alone followed the cached tokens, and leaves the cache as it was.
    pub fn probe_many(&mut self, sequences: &[Sequence]) -> Result<Vec<Vec<Vec<f32>>>> {
        let position = self.position;
        let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.tokens.len()).collect();
        let tokens: Vec<u32> = sequences.iter().flat_map(|sequence| &sequence.tokens).copied().collect();
        let starts = lengths.iter().scan(0, |end, &length| Some(std::mem::replace(end, *end + length)));
        let wanted: Vec<usize> = sequences
            .iter()
            .zip(starts)
            .flat_map(|(sequence, start)| sequence.probes.iter().map(move |probe| start + probe.at))
            .collect();
        let states = self.forward(&tokens, &lengths, &wanted);
        let mut states = states.chunks_exact(self.config.hidden);
        let logits = sequences
            .iter()
            .map(|sequence| {
                sequence
                    .probes
                    .iter()
                    .zip(&mut states)
                    .map(|(probe, state)| self.head_rows(state, &probe.ids))
                    .collect()
            })
            .collect();
        self.rewind(position);
        Ok(logits)
    }

    /// Appends `tokens` and picks the one after them, none of `skip`.
    pub fn next(&mut self, tokens: &[u32], sampling: Sampling, skip: Range<u32>) -> Result<u32> {
        let mut last = Vec::new();
        let chunks = tokens.len().div_ceil(PASS);
        for (index, chunk) in tokens.chunks(PASS).enumerate() {
            let wanted = [chunk.len() - 1];
            last = self.forward(chunk, &[chunk.len()], if index + 1 == chunks { &wanted } else { &[] });
        }
        let mut logits = vec![0f32; self.config.vocab];
        matmul(self.head(), &Activations::new(self.normed(&last), self.config.hidden), &mut logits);
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

    /// Runs one chunk through all layers, appending to the cache. It holds sequences of `lengths` tokens one after the
    /// other; each sees the tokens cached before and its own, and continues the positions of the former. Returns the
    /// residual states `[wanted, hidden]` of the tokens at the ascending indices `wanted`.
    fn forward(&mut self, tokens: &[u32], lengths: &[usize], wanted: &[usize]) -> Vec<f32> {
        let Config { hidden, ffn, head_dim, heads, kv_heads, norm_eps, rope_base, .. } = self.config;
        let (count, kv_dim, shared) = (tokens.len(), self.config.kv_dim(), self.position);
        debug_assert_eq!(lengths.iter().sum::<usize>(), count);

        let mut x = vec![0f32; count * hidden];
        for (&id, x) in tokens.iter().zip(x.chunks_exact_mut(hidden)) {
            self.embedding.decode_row(id as usize, x);
        }
        // Of each token: the index at which its sequence starts.
        let starts: Vec<usize> = lengths
            .iter()
            .scan(0, |end, &length| Some((std::mem::replace(end, *end + length), length)))
            .flat_map(|(start, length)| std::iter::repeat_n(start, length))
            .collect();
        let angles: Vec<_> =
            starts.iter().enumerate().map(|(t, start)| rope_angles(head_dim, shared + t - start, rope_base)).collect();
        let mut input = Activations::default();
        let (mut k, mut v) = (vec![0f32; count * kv_dim], vec![0f32; count * kv_dim]);
        // What attention and the feed-forward run for: in the last layer only for what is wanted.
        let mut active: Vec<usize> = (0..count).collect();

        for (index, (layer, cache)) in self.layers.iter().zip(&mut self.cache).enumerate() {
            // Attention: normed [count, hidden] -> q [active, hidden], k and v [count, kv_dim].
            input.floats.resize(count * hidden, 0.0);
            rms_norm(&x, &layer.attn_norm, norm_eps, &mut input.floats);
            input.quantise(hidden);
            matmul(&layer.k, &input, &mut k);
            matmul(&layer.v, &input, &mut v);
            for (k, angles) in k.chunks_exact_mut(kv_dim).zip(&angles) {
                rope(k, angles);
            }
            cache.keys.extend_from_slice(&k);
            cache.values.extend_from_slice(&v);
            if index + 1 == self.layers.len() && wanted != active {
                active = wanted.to_vec();
                input.floats = rows(&input.floats, hidden, wanted);
                input.quantise(hidden);
                x = rows(&x, hidden, wanted);
                if wanted.is_empty() {
                    break;
                }
            }
            let mut q = vec![0f32; active.len() * hidden];
            matmul(&layer.q, &input, &mut q);
            for (q, &t) in q.chunks_exact_mut(hidden).zip(&active) {
                rope(q, &angles[t]);
            }
            each_chunk(&mut input.floats, head_dim, Vec::new, |scores, index, out| {
                let (row, head) = (index / heads, index % heads);
                let t = active[row];
                let kv_offset = head / (heads / kv_heads) * head_dim;
                let visible = [0..shared, shared + starts[t]..shared + t + 1];
                let attention = Attention { keys: &cache.keys, values: &cache.values, kv_dim, kv_offset, visible };
                attention.attend(&q[index * head_dim..][..head_dim], scores, out);
            });
            input.quantise(hidden);
            let mut y = q;
            matmul(&layer.o, &input, &mut y);
            add(&mut x, &y);

            // Feed-forward: gate and up [active, ffn], down back to [active, hidden].
            rms_norm(&x, &layer.ffn_norm, norm_eps, &mut input.floats);
            input.quantise(hidden);
            let (mut gate, mut up) = (vec![0f32; active.len() * ffn], vec![0f32; active.len() * ffn]);
            matmul(&layer.gate, &input, &mut gate);
            matmul(&layer.up, &input, &mut up);
            swiglu(&mut gate, &up);
            matmul(&layer.down, &Activations::new(gate, ffn), &mut y);
            add(&mut x, &y);
        }
        self.position += count;
        x
    }
}

/// The rows of `x` (`[.., width]`) at `indices`.
fn rows(x: &[f32], width: usize, indices: &[usize]) -> Vec<f32> {
    indices.iter().flat_map(|&row| &x[row * width..(row + 1) * width]).copied().collect()
}
