//! Both engines against candle-transformers' quantized_llama, an implementation that is not ours, computing in f32 from
//! the same quantised weights (`CANDLE_DEQUANTIZE_ALL` in .cargo/config.toml).

mod common;

use std::io::Cursor;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;
use common::{CONTEXT, FORMATS, VOCAB, gpu, load, metadata, tensors, tiny, token_ids, write};
use slm_guardian::engine::{Engine, Probe, Sampling, Sequence};
use slm_guardian::gpu::DeviceOptions;
use slm_guardian::loader::Target;

fn reference(file: &[u8]) -> ModelWeights {
    assert_eq!(std::env::var("CANDLE_DEQUANTIZE_ALL").as_deref(), Ok("1"), "run through cargo: it sets this");
    let mut reader = Cursor::new(file);
    ModelWeights::from_gguf(Content::read(&mut reader).unwrap(), &mut reader, &Device::Cpu).unwrap()
}

fn reference_logits(model: &mut ModelWeights, tokens: &[u32], position: usize) -> Vec<f32> {
    let input = Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    model.forward(&input, position).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn all_logits(engine: &mut Engine, tokens: &[u32]) -> Vec<f32> {
    let probe = Probe { at: tokens.len() - 1, ids: (0..VOCAB as u32).collect() };
    pollster::block_on(engine.probe(tokens, &[probe])).unwrap().remove(0)
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |worst, d| if d > worst || d.is_nan() { d } else { worst })
}

/// Random weights give logits of a few units; the GPU's cache holds f16.
fn agree(targets: &dyn Fn() -> Target, tolerance: f32, what: &str) {
    for dtype in FORMATS {
        for tied in [true, false] {
            let file = tiny(dtype, tied);
            let (mut engine, _) = load(&file, targets()).unwrap();
            let mut model = reference(&file);
            for length in [1, 2, 3, 31, 32, 33, 257, 513] {
                let tokens = token_ids(length, length as u32);
                model.clear_kv_cache();
                let want = reference_logits(&mut model, &tokens, 0);
                engine.rewind(0).unwrap();
                let got = all_logits(&mut engine, &tokens);
                let difference = worst(&got, &want);
                assert!(difference < tolerance, "{what} {dtype:?} tied {tied} length {length}: {difference}");
            }
        }
    }
}

#[test]
fn the_cpu_agrees_with_candle_in_every_format_and_length() {
    agree(&|| Target::Cpu, 2e-3, "cpu");
}

#[test]
fn the_gpu_agrees_with_candle_in_every_format_and_length() {
    let device = gpu(DeviceOptions::default());
    agree(&|| Target::Gpu(device.clone()), 3e-2, "gpu");
}

#[test]
fn the_gpu_without_optional_features_agrees_too() {
    let device = gpu(DeviceOptions { f16: false, subgroups: false, wide: None, packed: Some(false) });
    assert!(!device.info().f16 && !device.info().subgroups);
    agree(&|| Target::Gpu(device.clone()), 3e-2, "plain gpu");
}

#[test]
fn the_gpu_agrees_with_the_cuts_of_a_wide_one_too() {
    let device = gpu(DeviceOptions { wide: Some(true), ..Default::default() });
    // From 192 tokens on in packed dots.
    assert!(device.info().packed);
    agree(&|| Target::Gpu(device.clone()), 3e-2, "wide gpu");
}

/// Tensors that would share a dispatch may come in formats of their own.
#[test]
fn layers_of_mixed_formats_agree_with_candle() {
    let device = gpu(DeviceOptions::default());
    let [f16, q4, q5, q8] = [1, 2, 4, 5].map(|n| tensors(FORMATS[n], true));
    let mut mixed = tensors(FORMATS[3], true);
    for (name, other) in [("attn_k", f16), ("attn_v", q8), ("ffn_up", q5), ("ffn_gate", q4)] {
        for ((tensor, value), (_, other)) in mixed.iter_mut().zip(other) {
            // The last layer keeps one format.
            if tensor.contains(name) && !tensor.contains("blk.2") {
                *value = other;
            }
        }
    }
    let file = write(&metadata(), &mixed);
    let mut model = reference(&file);
    for (target, tolerance) in [(Target::Cpu, 2e-3), (Target::Gpu(device), 3e-2)] {
        let (mut engine, _) = load(&file, target).unwrap();
        for length in [1, 5, 40] {
            let tokens = token_ids(length, 8);
            model.clear_kv_cache();
            let want = reference_logits(&mut model, &tokens, 0);
            engine.rewind(0).unwrap();
            let difference = worst(&all_logits(&mut engine, &tokens), &want);
            assert!(difference < tolerance, "{:?}, length {length}: {difference}", engine.backend());
        }
    }
}

/// Token by token, from a rewound cache, over the cache's growth: the same logits as one prefill.
#[test]
fn stepping_rewinding_and_growing_give_the_logits_of_one_prefill() {
    let file = tiny(FORMATS[5], true);
    let device = gpu(DeviceOptions::default());
    for target in [Target::Cpu, Target::Gpu(device)] {
        let (mut engine, _) = load(&file, target).unwrap();
        let tokens = token_ids(1100, 3);
        let whole = all_logits(&mut engine, &tokens);
        engine.rewind(1000).unwrap();
        all_logits(&mut engine, &token_ids(30, 9));
        engine.rewind(1000).unwrap();
        for &token in &tokens[1000..1099] {
            all_logits(&mut engine, &[token]);
        }
        let stepped = all_logits(&mut engine, &tokens[1099..]);
        assert_eq!(engine.position(), 1100);
        assert!(worst(&whole, &stepped) < 1e-2, "{:?}: {}", engine.backend(), worst(&whole, &stepped));
    }
}

/// Sequences of a batch see what is cached and themselves, and nothing of each other.
#[test]
fn sequences_that_share_a_pass_get_the_logits_they_get_alone() {
    let file = tiny(FORMATS[4], true);
    let device = gpu(DeviceOptions::default());
    // The GPU's tiles of weights may be f16, which a token by itself does not go through.
    for (target, tolerance) in [(Target::Cpu, 1e-4), (Target::Gpu(device), 1e-2)] {
        let (mut engine, _) = load(&file, target).unwrap();
        for cached in [0, 1, 67] {
            let ids: Vec<u32> = vec![0, 5, 9, 332];
            let sequences: Vec<Sequence> = [1, 7, 32, 33, 2, 90, 1, 150, 300]
                .iter()
                .enumerate()
                .map(|(index, &length)| {
                    let probes = vec![
                        Probe { at: length / 2, ids: ids.clone() },
                        Probe { at: length - 1, ids: ids[1..].to_vec() },
                    ];
                    Sequence { tokens: token_ids(length, index as u32 + 20), probes }
                })
                .collect();
            engine.rewind(0).unwrap();
            if cached > 0 {
                all_logits(&mut engine, &token_ids(cached, 4));
            }
            let together = pollster::block_on(engine.probe_many(&sequences)).unwrap();
            assert_eq!(engine.position(), cached);
            for (sequence, together) in sequences.iter().zip(together) {
                let alone = pollster::block_on(engine.probe(&sequence.tokens, &sequence.probes)).unwrap();
                engine.rewind(cached).unwrap();
                assert_eq!(together.len(), 2);
                for (together, alone) in together.iter().zip(&alone) {
                    let difference = worst(together, alone);
                    assert!(
                        difference < tolerance,
                        "{:?}, {cached} cached, length {}: {difference}",
                        engine.backend(),
                        sequence.tokens.len()
                    );
                }
            }
        }
    }
}

#[test]
fn both_engines_pick_the_tokens_that_the_logits_give() {
    let file = tiny(FORMATS[3], true);
    let mut model = reference(&file);
    let device = gpu(DeviceOptions::default());
    for target in [Target::Cpu, Target::Gpu(device)] {
        let (mut engine, _) = load(&file, target).unwrap();
        let mut checked = 0;
        for seed in 0..12 {
            let tokens = token_ids(40 + seed as usize, seed);
            model.clear_kv_cache();
            let logits = reference_logits(&mut model, &tokens, 0);
            for sampling in [Sampling::Greedy, Sampling::Random { temperature: 0.9, min_p: 0.02, seed }] {
                let want = sampling.pick(&mut logits.clone(), tokens.len() as u32 - 1, 0..0).unwrap();
                engine.rewind(0).unwrap();
                let got = pollster::block_on(engine.next(&tokens, sampling, 0..0)).unwrap();
                checked += usize::from(got == want);
            }
        }
        // Two of 24 may turn on a near tie.
        assert!(checked >= 22, "{:?}: {checked} of 24 picks agree", engine.backend());
    }
}

/// The GPU runs ahead of who asks for one token after another; who does something else in between gets the same.
#[test]
fn tokens_in_a_row_are_those_that_are_picked_one_by_one() {
    let file = tiny(FORMATS[4], true);
    let device = gpu(DeviceOptions::default());
    let random = |seed| Sampling::Random { temperature: 0.9, min_p: 0.02, seed };
    for target in [Target::Cpu, Target::Gpu(device)] {
        let (mut engine, _) = load(&file, target).unwrap();
        let mut write = |disturb: bool| {
            engine.rewind(0).unwrap();
            let mut tokens = token_ids(30, 6);
            let mut written = Vec::new();
            for step in 0..60 {
                let sampling = if step < 20 { Sampling::Greedy } else { random(step / 30) };
                let skip = if step % 25 == 24 { 0..200 } else { 0..0 };
                let picked = pollster::block_on(engine.next(&tokens, sampling, skip.clone())).unwrap();
                assert!(!skip.contains(&picked));
                written.push(picked);
                tokens = vec![picked];
                if disturb {
                    let position = engine.position();
                    all_logits(&mut engine, &token_ids(1 + step as usize % 3, step));
                    engine.rewind(position).unwrap();
                }
                if step == 40 {
                    // Back to before the last ten, then along another way.
                    engine.rewind(engine.position() - 10).unwrap();
                    tokens = vec![7];
                }
            }
            written
        };
        let in_a_row = write(false);
        let one_by_one = write(true);
        assert_eq!(in_a_row, one_by_one, "{:?}", engine.backend());
        assert!(in_a_row.iter().collect::<std::collections::HashSet<_>>().len() > 10, "{in_a_row:?}");
    }
}

/// Each dispatch costs a few microseconds on a real GPU: five a layer, one for the embedding, two for the pick.
#[test]
fn a_decoded_token_takes_five_dispatches_a_layer() {
    let (engine, _) = load(&tiny(FORMATS[4], true), Target::Gpu(gpu(DeviceOptions::default()))).unwrap();
    let Engine::Gpu(model) = &engine else { panic!("not on the GPU") };
    assert_eq!((model.config().layers, model.dispatches_per_token()), (3, 3 * 5 + 3));
}

/// The last place of the context can be used, on the way there in passes that run ahead.
#[test]
fn tokens_are_picked_up_to_the_end_of_the_context() {
    let file = tiny(FORMATS[2], true);
    let device = gpu(DeviceOptions::default());
    for target in [Target::Cpu, Target::Gpu(device)] {
        let (mut engine, _) = load(&file, target).unwrap();
        let mut tokens = token_ids(CONTEXT - 5, 2);
        while engine.position() < CONTEXT {
            tokens = vec![pollster::block_on(engine.next(&tokens, Sampling::Greedy, 0..0)).unwrap()];
        }
        let error = pollster::block_on(engine.next(&tokens, Sampling::Greedy, 0..0)).unwrap_err();
        assert_eq!(error.code(), "context-overflow", "{error}");
    }
}

#[test]
fn a_lost_device_is_a_typed_error() {
    let device = gpu(DeviceOptions::default());
    let (mut engine, _) = load(&tiny(FORMATS[2], true), Target::Gpu(device.clone())).unwrap();
    all_logits(&mut engine, &[1, 2, 3]);
    device.destroy();
    let error = pollster::block_on(engine.next(&[4], Sampling::Greedy, 0..0)).unwrap_err();
    assert_eq!(error.code(), "device-lost", "{error}");
}
