//! The model's shape and architecture, read from GGUF metadata (`llama.*` keys) and checked.

use crate::error::{Error, Result};
use crate::gguf::{Gguf, as_unsigned};

/// The matrices and the norm of every layer: suffix of the tensor's name (`blk.N.{suffix}.weight`).
pub const LAYER_TENSORS: [&str; 9] =
    ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"];

/// A Llama-architecture decoder. All sizes are element counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Rows of the embedding and of the LM head.
    pub vocab: usize,
    /// Width of the residual stream (`llama.embedding_length`).
    pub hidden: usize,
    /// Width of the feed-forward layer (`llama.feed_forward_length`).
    pub ffn: usize,
    /// Decoder layers (`llama.block_count`).
    pub layers: usize,
    /// Query heads (`llama.attention.head_count`).
    pub heads: usize,
    /// Key and value heads (`llama.attention.head_count_kv`); divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// The longest sequence (`llama.context_length`).
    pub context: usize,
    /// RoPE base (`llama.rope.freq_base`); pairs are interleaved, (2i, 2i + 1).
    pub rope_base: f32,
    /// RMSNorm epsilon (`llama.attention.layer_norm_rms_epsilon`).
    pub norm_eps: f32,
    /// Whether the LM head is the embedding (no `output.weight`).
    pub tied: bool,
}

impl Config {
    /// Reads the shape and checks that every tensor of it is in the file with the right dimensions.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let architecture = gguf.string("general.architecture")?;
        if architecture != "llama" {
            return Err(Error::unsupported(
                "key \"general.architecture\"",
                format!("{architecture:?}, want \"llama\""),
            ));
        }
        let size = |key: &str| -> Result<usize> {
            let key = format!("llama.{key}");
            match gguf.unsigned(&key)? {
                n @ 1..=0x100_0000 => Ok(n),
                n => Err(Error::format(format!("key {key:?}"), format!("{n} is no plausible size"))),
            }
        };
        let (heads, hidden) = (size("attention.head_count")?, size("embedding_length")?);
        let kv_heads = match gguf.metadata.contains_key("llama.attention.head_count_kv") {
            true => size("attention.head_count_kv")?,
            false => heads,
        };
        let head_dim = match gguf.metadata.get("llama.rope.dimension_count").and_then(as_unsigned) {
            Some(dim) => dim,
            None => hidden / heads,
        };
        let embedding = gguf
            .find("token_embd.weight")
            .ok_or_else(|| Error::format("tensor \"token_embd.weight\"", "is missing"))?;
        let config = Config {
            vocab: gguf.tensors[embedding].rows,
            hidden,
            ffn: size("feed_forward_length")?,
            layers: size("block_count")?,
            heads,
            kv_heads,
            head_dim,
            context: size("context_length")?,
            rope_base: match gguf.metadata.contains_key("llama.rope.freq_base") {
                true => gguf.float("llama.rope.freq_base")?,
                false => 10_000.0,
            },
            norm_eps: gguf.float("llama.attention.layer_norm_rms_epsilon")?,
            tied: gguf.find("output.weight").is_none(),
        };
        config.check(gguf)?;
        Ok(config)
    }

    fn check(&self, gguf: &Gguf) -> Result<()> {
        let shape = |problem: String| Err(Error::format("the model's shape", problem));
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) || self.head_dim * self.heads != self.hidden {
            return shape(format!("{} heads of {} do not make {}", self.heads, self.head_dim, self.hidden));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return shape(format!("{} query heads do not share {} key heads evenly", self.heads, self.kv_heads));
        }
        if self.layers > 1024 || self.context > 1 << 20 {
            return shape(format!("{} layers, a context of {}", self.layers, self.context));
        }
        if !(self.rope_base > 0.0 && self.norm_eps >= 0.0) {
            return shape(format!("RoPE base {}, norm epsilon {}", self.rope_base, self.norm_eps));
        }
        for (name, rows, cols) in self.tensors() {
            let index = gguf.find(&name).ok_or_else(|| Error::format(format!("tensor {name:?}"), "is missing"))?;
            let tensor = &gguf.tensors[index];
            if (tensor.rows, tensor.cols) != (rows, cols) {
                return Err(Error::format(
                    format!("tensor {name:?}"),
                    format!("is [{}, {}], want [{rows}, {cols}]", tensor.rows, tensor.cols),
                ));
            }
            if rows == 1 && tensor.format != crate::quant::Format::F32 {
                return Err(Error::unsupported(
                    format!("tensor {name:?}"),
                    format!("a norm in {:?}, want F32", tensor.format),
                ));
            }
        }
        Ok(())
    }

    /// Every tensor the forward pass reads: name, rows, cols.
    pub fn tensors(&self) -> Vec<(String, usize, usize)> {
        let mut tensors = vec![
            ("token_embd.weight".to_owned(), self.vocab, self.hidden),
            ("output_norm.weight".to_owned(), 1, self.hidden),
        ];
        if !self.tied {
            tensors.push(("output.weight".to_owned(), self.vocab, self.hidden));
        }
        let (hidden, kv, ffn) = (self.hidden, self.kv_dim(), self.ffn);
        let shapes = [
            (1, hidden),
            (hidden, hidden),
            (kv, hidden),
            (kv, hidden),
            (hidden, hidden),
            (1, hidden),
            (ffn, hidden),
            (ffn, hidden),
            (hidden, ffn),
        ];
        for layer in 0..self.layers {
            for (suffix, (rows, cols)) in LAYER_TENSORS.iter().zip(shapes) {
                tensors.push((format!("blk.{layer}.{suffix}.weight"), rows, cols));
            }
        }
        tensors
    }

    /// Rows of the key or the value projection: `kv_heads * head_dim`.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}
