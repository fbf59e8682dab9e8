//! Files that are cut, damaged, hostile or of another kind: a typed error that names the place, before anything large is
//! allocated, on both engines.

mod common;

use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use common::{gpu, load, metadata, tensors, tiny, write};
use slm_guardian::Error;
use slm_guardian::engine::Sampling;
use slm_guardian::gguf::Gguf;
use slm_guardian::gpu::DeviceOptions;
use slm_guardian::loader::{ShardCheck, Target};

fn refusal(file: &[u8]) -> Error {
    load(file, Target::Cpu).err().expect("the file must be refused")
}

#[track_caller]
fn refused(file: &[u8], code: &str, place: &str) {
    let error = refusal(file);
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(place), "{error} does not name {place}");
}

#[test]
fn a_file_cut_anywhere_names_where_it_ends() {
    let file = tiny(GgmlDType::Q8_0, true);
    let header = {
        let gguf = Gguf::parse(&file).unwrap().unwrap();
        gguf.tensors[0].offset as usize
    };
    for length in [0, 1, 7, 23, 24, 200, header / 2] {
        refused(&file[..length], "model-format", "header");
    }
    let device = gpu(DeviceOptions::default());
    for length in [header, header + 1, file.len() / 2, file.len() - 1] {
        for target in [Target::Cpu, Target::Gpu(device.clone())] {
            let error = load(&file[..length], target).err().expect("cut");
            assert_eq!(error.code(), "model-format", "{error}");
            assert!(error.to_string().contains("tensor \""), "{error}");
        }
    }
}

#[test]
fn another_kind_of_file_is_refused() {
    refused(b"PK\x03\x04 this is a zip archive, not a model", "model-format", "header");
    refused("<!doctype html><title>404</title>".repeat(40).as_bytes(), "model-format", "header");
    let mut version = tiny(GgmlDType::Q8_0, true);
    version[4] = 99;
    assert!(matches!(refusal(&version), Error::Format { .. } | Error::Unsupported { .. }));
}

#[test]
fn hostile_counts_and_lengths_are_refused_without_allocating() {
    let file = tiny(GgmlDType::Q8_0, true);
    // Bytes 8..16: tensors; 16..24: keys; 24..32: the length of the first key.
    for (at, place) in [(8, "tensors"), (16, "keys"), (24, "header")] {
        for value in [u64::MAX, u64::MAX / 2, 1 << 40] {
            let mut file = file.clone();
            file[at..at + 8].copy_from_slice(&value.to_le_bytes());
            let error = refusal(&file);
            assert_eq!(error.code(), "model-format", "{place} {value}: {error}");
        }
    }
}

#[test]
fn no_flipped_byte_of_the_header_crashes_the_loader() {
    let file = tiny(GgmlDType::Q8_0, false);
    let header = Gguf::parse(&file).unwrap().unwrap().tensors[0].offset as usize;
    let mut refusals = 0;
    for n in 0..1500u32 {
        let mut file = file.clone();
        for k in 0..1 + n % 3 {
            let at = (Sampling::uniform(n, k, 1) * header as f32) as usize;
            file[at] ^= 1 << (n % 8);
        }
        refusals += usize::from(load(&file, Target::Cpu).is_err());
    }
    assert!(refusals > 500, "{refusals} of 1500 were refused");
}

/// The tiny model with one key changed.
fn with_key(key: &str, value: Option<Value>) -> Vec<u8> {
    let mut all = metadata();
    all.retain(|(name, _)| name != key);
    all.extend(value.map(|value| (key.to_owned(), value)));
    write(&all, &tensors(GgmlDType::Q8_0, true))
}

#[test]
fn a_key_that_is_missing_or_wrong_is_named() {
    for key in ["general.architecture", "llama.embedding_length", "llama.block_count", "llama.context_length"] {
        refused(&with_key(key, None), "model-format", key);
        refused(&with_key(key, Some(Value::Bool(true))), "model-format", key);
    }
    let architecture = Value::String("mamba".into());
    refused(&with_key("general.architecture", Some(architecture)), "model-unsupported", "general.architecture");
    for (key, value) in [
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(f32::NAN)),
        ("llama.rope.freq_base", Value::F32(f32::INFINITY)),
        ("llama.context_length", Value::U32(0)),
        ("llama.block_count", Value::U64(u64::MAX)),
        ("llama.embedding_length", Value::I32(-96)),
    ] {
        refused(&with_key(key, Some(value)), "model-format", key);
    }
    for (key, value) in
        [("llama.attention.head_count", 5), ("llama.attention.head_count_kv", 4), ("llama.rope.dimension_count", 15)]
    {
        refused(&with_key(key, Some(Value::U32(value))), "model-format", "heads");
    }
}

/// The tiny model with one tensor replaced or left out.
fn with_tensor(name: &str, replacement: Option<QTensor>) -> Vec<u8> {
    let mut all = tensors(GgmlDType::Q8_0, true);
    all.retain(|(tensor, _)| tensor != name);
    all.extend(replacement.map(|tensor| (name.to_owned(), tensor)));
    write(&metadata(), &all)
}

fn zeros(shape: &[usize], dtype: GgmlDType) -> QTensor {
    QTensor::quantize(&Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap(), dtype).unwrap()
}

#[test]
fn a_tensor_that_is_missing_or_wrong_is_named() {
    for name in ["token_embd.weight", "output_norm.weight", "blk.1.ffn_down.weight", "blk.2.attn_norm.weight"] {
        refused(&with_tensor(name, None), "model-format", name);
    }
    let name = "blk.1.attn_q.weight";
    refused(&with_tensor(name, Some(zeros(&[96, 64], GgmlDType::Q8_0))), "model-format", name);
    refused(&with_tensor(name, Some(zeros(&[96, 96], GgmlDType::Q5_1))), "model-unsupported", name);
    refused(&with_tensor(name, Some(zeros(&[96, 256], GgmlDType::Q4K))), "model-unsupported", name);
    refused(&with_tensor(name, Some(zeros(&[2, 48, 96], GgmlDType::F32))), "model-unsupported", name);
    let norm = "blk.2.attn_norm.weight";
    refused(&with_tensor(norm, Some(zeros(&[96], GgmlDType::F16))), "model-unsupported", norm);
}

#[test]
fn a_shard_of_another_size_or_content_is_refused_by_name() {
    // SHA-256 of "abc", from FIPS 180-2.
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let check = |bytes: &[u8]| {
        let mut check = ShardCheck::new("part-1.bin".into(), 3, sha256);
        bytes.chunks(2).for_each(|chunk| check.update(chunk));
        check.finish()
    };
    assert_eq!(check(b"abc"), Ok(()));
    for bytes in [b"abd".as_slice(), b"ab", b"abcd", b""] {
        let error = check(bytes).unwrap_err();
        assert_eq!(error.code(), "integrity");
        assert!(error.to_string().contains("part-1.bin"), "{error}");
    }
}
