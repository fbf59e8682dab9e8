//! Small random models, written as GGUF by candle.
#![allow(dead_code)] // Each test file uses a part.

use std::io::Cursor;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use slm_guardian::engine::{Engine, Sampling};
use slm_guardian::gguf::Gguf;
use slm_guardian::gpu::DeviceOptions;
use slm_guardian::loader::{Loader, Target};

pub const FORMATS: [GgmlDType; 6] =
    [GgmlDType::F32, GgmlDType::F16, GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q5_0, GgmlDType::Q8_0];
pub const VOCAB: usize = 333;
pub const CONTEXT: usize = 2048;

pub fn noise(count: usize, seed: u32) -> Vec<f32> {
    (0..count as u32).map(|i| Sampling::uniform(seed, i, 11) * 2.0 - 1.0).collect()
}

pub fn token_ids(count: usize, seed: u32) -> Vec<u32> {
    (0..count as u32).map(|i| (Sampling::uniform(seed, i, 5) * VOCAB as f32) as u32).collect()
}

/// The metadata of the tiny model; a test may change it.
pub fn metadata() -> Vec<(String, Value)> {
    let number = |key: &str, value: u32| (format!("llama.{key}"), Value::U32(value));
    vec![
        ("general.architecture".into(), Value::String("llama".into())),
        number("embedding_length", 96),
        number("feed_forward_length", 160),
        number("block_count", 3),
        number("attention.head_count", 6),
        number("attention.head_count_kv", 2),
        number("rope.dimension_count", 16),
        number("context_length", CONTEXT as u32),
        ("llama.rope.freq_base".into(), Value::F32(100_000.0)),
        ("llama.attention.layer_norm_rms_epsilon".into(), Value::F32(1e-5)),
    ]
}

/// Tensors of the tiny model: norms in F32, matrices in `dtype`.
pub fn tensors(dtype: GgmlDType, tied: bool) -> Vec<(String, QTensor)> {
    let (hidden, ffn, kv) = (96, 160, 32);
    let mut shapes =
        vec![("token_embd.weight".to_owned(), VOCAB, hidden), ("output_norm.weight".to_owned(), 1, hidden)];
    if !tied {
        shapes.push(("output.weight".to_owned(), VOCAB, hidden));
    }
    for layer in 0..3 {
        for (name, rows, cols) in [
            ("attn_norm", 1, hidden),
            ("attn_q", hidden, hidden),
            ("attn_k", kv, hidden),
            ("attn_v", kv, hidden),
            ("attn_output", hidden, hidden),
            ("ffn_norm", 1, hidden),
            ("ffn_gate", ffn, hidden),
            ("ffn_up", ffn, hidden),
            ("ffn_down", hidden, ffn),
        ] {
            shapes.push((format!("blk.{layer}.{name}.weight"), rows, cols));
        }
    }
    shapes
        .into_iter()
        .enumerate()
        .map(|(seed, (name, rows, cols))| {
            let values: Vec<f32> = match rows {
                1 => noise(cols, seed as u32).iter().map(|x| 1.0 + x / 4.0).collect(),
                _ => noise(rows * cols, seed as u32).iter().map(|x| x * 0.25).collect(),
            };
            let (shape, dtype) = if rows == 1 { (vec![cols], GgmlDType::F32) } else { (vec![rows, cols], dtype) };
            let dense = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
            (name, QTensor::quantize(&dense, dtype).unwrap())
        })
        .collect()
}

pub fn write(metadata: &[(String, Value)], tensors: &[(String, QTensor)]) -> Vec<u8> {
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut file = Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
    file.into_inner()
}

pub fn tiny(dtype: GgmlDType, tied: bool) -> Vec<u8> {
    write(&metadata(), &tensors(dtype, tied))
}

pub fn gpu(options: DeviceOptions) -> slm_guardian::gpu::Device {
    pollster::block_on(slm_guardian::gpu::Device::new(options))
        .expect("these tests need a Vulkan driver; `./build.sh setup` installs a software one")
}

/// Loads in chunks of an odd size, so that tensors are cut everywhere.
pub fn load(file: &[u8], target: Target) -> slm_guardian::Result<(Engine, Gguf)> {
    pollster::block_on(async {
        let mut loader = Loader::new(target);
        for chunk in file.chunks(10_007) {
            loader.push(chunk)?;
            loader.settle().await?;
        }
        loader.finish().await
    })
}

pub const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/model");

/// The shipped model's header.
pub fn shipped_header() -> Gguf {
    let manifest = std::fs::read_to_string(format!("{MODEL}/manifest.json")).expect("model/manifest.json");
    let manifest: slm_guardian::loader::Manifest = serde_json::from_str(&manifest).unwrap();
    let shard = std::fs::read(format!("{MODEL}/{}", manifest.shards[0].file)).unwrap();
    Gguf::parse(&shard).unwrap().expect("the first shard holds the whole header")
}

/// The JSON lines of a file under tests/data.
pub fn fixture<T: serde::de::DeserializeOwned>(name: &str) -> Vec<T> {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect(&path);
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// One of the project's prompts.
#[derive(serde::Deserialize)]
pub struct Prompt {
    pub id: String,
    pub label: String,
    pub prompt: String,
}
