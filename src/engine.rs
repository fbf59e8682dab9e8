//! The face both engines share: append tokens to the KV cache, read the logits of a few vocabulary rows, pick the
//! next token, rewind. The guardian above does not know which engine it has.

use std::ops::Range;

use crate::config::Config;
use crate::error::{Error, Result};

/// Tokens that go through the layers together; bounds the activations' memory.
pub const PASS: usize = 256;

/// Which engine computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Cpu,
    Gpu,
    /// candle's implementation, native only.
    Reference,
}

/// Vocabulary rows whose logits are wanted after one of a call's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Index into the call's tokens: the logits are those after this token.
    pub at: usize,
    /// Vocabulary rows to read.
    pub ids: Vec<u32>,
}

/// Tokens that follow what is cached, and what is wanted of them: a part of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    pub tokens: Vec<u32>,
    pub probes: Vec<Probe>,
}

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampling {
    /// The most likely token; ties go to the lowest id.
    Greedy,
    /// Gumbel-max sampling from softmax(logits / temperature), restricted to tokens at least `min_p` times as likely
    /// as the most likely one (min-p, arXiv 2407.01082).
    Random { temperature: f32, min_p: f32, seed: u32 },
}

impl Sampling {
    /// The uniform number in (0, 1) of vocabulary row `id` at absolute position `position`: a 32-bit integer hash
    /// (the PCG output permutation), the same on the CPU and in `shaders/sample.wgsl`.
    pub fn uniform(seed: u32, position: u32, id: u32) -> f32 {
        let mut state = seed ^ position.wrapping_mul(0x9E37_79B9) ^ id.wrapping_mul(0x85EB_CA6B);
        for _ in 0..2 {
            state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
            state = (word >> 22) ^ word;
        }
        // 23 bits and a half step: never 0, never 1, exact in f32.
        ((state >> 9) as f32 + 0.5) * (1.0 / 8_388_608.0)
    }

    /// Picks from a whole row of logits (`[vocab]`), at absolute position `position`; never an id of `skip`, whose logits
    /// are overwritten.
    pub fn pick(&self, logits: &mut [f32], position: u32, skip: Range<u32>) -> Result<u32> {
        let (start, end) = (skip.start as usize, (skip.end as usize).min(logits.len()));
        if start < end {
            logits[start..end].fill(f32::NEG_INFINITY);
        }
        let logits = &*logits;
        let argmax = |score: &dyn Fn(usize) -> f32| {
            let mut best = (0usize, f32::NEG_INFINITY);
            for id in 0..logits.len() {
                let value = score(id);
                if value > best.1 {
                    best = (id, value);
                }
            }
            best
        };
        let (top, max) = argmax(&|id| logits[id]);
        if !max.is_finite() {
            return Err(Error::internal("the logits hold no finite number"));
        }
        match *self {
            Sampling::Greedy => Ok(top as u32),
            Sampling::Random { temperature, min_p, seed } => {
                let floor = max + temperature * min_p.ln();
                let (id, _) = argmax(&|id| {
                    if logits[id] < floor {
                        return f32::NEG_INFINITY;
                    }
                    let uniform = Self::uniform(seed, position, id as u32);
                    logits[id] / temperature - (-uniform.ln()).ln()
                });
                Ok(id as u32)
            }
        }
    }
}

/// A loaded model on one of the engines.
pub enum Engine {
    Cpu(Box<crate::cpu::Model>),
    Gpu(Box<crate::gpu::Model>),
    #[cfg(not(target_arch = "wasm32"))]
    Reference(Box<crate::reference::Model>),
}

impl Engine {
    pub fn backend(&self) -> Backend {
        match self {
            Engine::Cpu(_) => Backend::Cpu,
            Engine::Gpu(_) => Backend::Gpu,
            #[cfg(not(target_arch = "wasm32"))]
            Engine::Reference(_) => Backend::Reference,
        }
    }

    pub fn config(&self) -> &Config {
        match self {
            Engine::Cpu(model) => model.config(),
            Engine::Gpu(model) => model.config(),
            #[cfg(not(target_arch = "wasm32"))]
            Engine::Reference(model) => model.config(),
        }
    }

    /// Tokens in the KV cache; the next token gets this position.
    pub fn position(&self) -> usize {
        match self {
            Engine::Cpu(model) => model.position(),
            Engine::Gpu(model) => model.position(),
            #[cfg(not(target_arch = "wasm32"))]
            Engine::Reference(model) => model.position(),
        }
    }

    /// Forgets every token from `position` on; a position beyond the cache is an error.
    pub fn rewind(&mut self, position: usize) -> Result<()> {
        if position > self.position() {
            return Err(Error::internal(format!(
                "rewind to {position}, but only {} tokens are cached",
                self.position()
            )));
        }
        match self {
            Engine::Cpu(model) => model.rewind(position),
            Engine::Gpu(model) => model.rewind(position),
            #[cfg(not(target_arch = "wasm32"))]
            Engine::Reference(model) => model.rewind(position),
        }
        Ok(())
    }

    /// Appends `tokens` and returns, for each probe, the logits of its rows.
    pub async fn probe(&mut self, tokens: &[u32], probes: &[Probe]) -> Result<Vec<Vec<f32>>> {
        self.check(tokens)?;
        match self {
            Engine::Cpu(model) => model.probe(tokens, probes),
            Engine::Gpu(model) => model.probe(tokens, probes).await,
            #[cfg(not(target_arch = "wasm32"))]
            Engine::Reference(model) => model.probe(tokens, probes),
        }
    }

    /// Runs every sequence as if it alone followed the cached tokens, many in one pass, and returns for each the logits
    /// of its probes. The cache is left as it was.
    pub async fn probe_many(&mut self, sequences: &[Sequence]) -> Result<Vec<Vec<Vec<f32>>>> {
        for sequence in sequences {
            self.check(&sequence.tokens)?;
        }
        let start = self.position();
        let mut logits = Vec::with_capacity(sequences.len());
        let mut rest = sequences;
        while !rest.is_empty() {
            // As many as one pass takes; one that is longer goes by itself.
            let mut tokens = 0;
            let fit = rest.iter().take_while(|sequence| {
                tokens += sequence.tokens.len();
                tokens <= PASS.min(self.config().context - start)
            });
            let (pass, others) = rest.split_at(fit.count().max(1));
            rest = others;
            match (&mut *self, pass) {
                (Engine::Cpu(model), pass) if pass.len() > 1 => logits.extend(model.probe_many(pass)?),
                (Engine::Gpu(model), pass) if pass.len() > 1 => logits.extend(model.probe_many(pass).await?),
                (_, pass) => {
                    for sequence in pass {
                        logits.push(self.probe(&sequence.tokens, &sequence.probes).await?);
                        self.rewind(start)?;
                    }
                }
            }
        }
        Ok(logits)
    }

    /// Appends `tokens` and returns the token that `sampling` picks after the last of them (not yet appended), none of
    /// `skip`.
    pub async fn next(&mut self, tokens: &[u32], sampling: Sampling, skip: Range<u32>) -> Result<u32> {
        self.check(tokens)?;
        match self {
            Engine::Cpu(model) => model.next(tokens, sampling, skip),
            Engine::Gpu(model) => model.next(tokens, sampling, skip).await,
            #[cfg(not(target_arch = "wasm32"))]
            Engine::Reference(model) => model.next(tokens, sampling, skip),
        }
    }

    /// Tokens are checked here once, so that the engines may index without asking.
    fn check(&self, tokens: &[u32]) -> Result<()> {
        let config = self.config();
        if tokens.is_empty() {
            return Err(Error::internal("a forward pass over no tokens"));
        }
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= config.vocab) {
            return Err(Error::internal(format!("token id {id} is outside the vocabulary of {}", config.vocab)));
        }
        let tokens = self.position() + tokens.len();
        if tokens > config.context {
            return Err(Error::ContextOverflow { tokens, context: config.context });
        }
        Ok(())
    }
}
