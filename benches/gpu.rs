//! The GPU path on the adapter at hand with a whole model: `cargo bench --bench gpu`, the model's folder in GUARDIAN_MODEL.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pollster::block_on;
use slm_guardian::engine::{Engine, Probe, Sampling, Sequence};
use slm_guardian::gpu::{Device, DeviceOptions};
use slm_guardian::loader::{Target, load_file};

const BATCH: usize = 32;
const QUERY: usize = 29;

fn tokens(count: usize, seed: u32) -> Vec<u32> {
    (0..count as u32).map(|i| 1000 + (Sampling::uniform(seed, i, 3) * 40_000.0) as u32).collect()
}

fn last(count: usize) -> Probe {
    Probe { at: count - 1, ids: vec![2, 3] }
}

/// A screen's prefill by its length, many queries in one call against one by one, and tokens that are written.
fn whole(c: &mut Criterion) {
    let model = PathBuf::from(std::env::var("GUARDIAN_MODEL").unwrap_or_else(|_| "model".into()));
    let device = block_on(Device::new(DeviceOptions::default())).expect("a GPU");
    println!("{:?}", device.info());
    let (mut engine, _) = block_on(load_file(&model, Target::Gpu(device))).expect("a model");

    let files = std::fs::read_dir(&model).into_iter().flatten().flatten();
    let bytes = files.filter(|file| file.path().extension().is_some_and(|end| end == "bin" || end == "gguf"));
    report_decoding(&mut engine, bytes.filter_map(|file| Some(file.metadata().ok()?.len())).sum());

    let mut group = c.benchmark_group("gpu prefill");
    for count in [7, QUERY, 128, 512] {
        let query = tokens(count, 1);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                engine.rewind(0).unwrap();
                block_on(engine.probe(&query, &[last(count)])).unwrap()
            });
        });
    }
    group.finish();

    let mut group = c.benchmark_group(format!("gpu {BATCH} queries of {QUERY} tokens"));
    let queries: Vec<Sequence> =
        (0..BATCH as u32).map(|n| Sequence { tokens: tokens(QUERY, n), probes: vec![last(QUERY)] }).collect();
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("together", |b| {
        b.iter(|| {
            engine.rewind(0).unwrap();
            block_on(engine.probe_many(&queries)).unwrap()
        });
    });
    group.bench_function("one by one", |b| {
        b.iter(|| {
            for query in &queries {
                engine.rewind(0).unwrap();
                block_on(engine.probe(&query.tokens, &query.probes)).unwrap();
            }
        });
    });
    group.finish();

    let mut group = c.benchmark_group("gpu written tokens");
    const WRITTEN: usize = 32;
    let prompt = tokens(QUERY, 1);
    group.throughput(Throughput::Elements(WRITTEN as u64));
    group.bench_function(BenchmarkId::from_parameter(WRITTEN), |b| b.iter(|| write(&mut engine, &prompt, WRITTEN)));
    group.finish();
}

/// What a token takes once a reply is under way, against the size of the weights that it reads: all of them but a row or two.
fn report_decoding(engine: &mut Engine, bytes: u64) {
    const MORE: usize = 64;
    let prompt = tokens(QUERY, 1);
    let mut seconds = |count| {
        let mut times: Vec<f64> = (0..9)
            .map(|_| {
                let start = Instant::now();
                write(engine, &prompt, count);
                start.elapsed().as_secs_f64()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let token = (seconds(MORE + 2) - seconds(2)) / MORE as f64;
    let Engine::Gpu(model) = engine else { unreachable!("loaded onto a GPU") };
    let dispatches = model.dispatches_per_token();
    println!(
        "decoding: {:.3} ms a token, {:.0} tokens/s, {dispatches} dispatches of {:.1} us, {:.0} GB/s of weights",
        token * 1e3,
        1.0 / token,
        token * 1e6 / dispatches as f64,
        bytes as f64 / token / 1e9,
    );
}

/// The prompt's prefill is part of it, as in a reply.
fn write(engine: &mut Engine, prompt: &[u32], count: usize) -> u32 {
    engine.rewind(0).unwrap();
    let mut id = block_on(engine.next(prompt, Sampling::Greedy, 0..0)).unwrap();
    for _ in 1..count {
        id = block_on(engine.next(&[id], Sampling::Greedy, 0..0)).unwrap();
    }
    id
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = whole
}
criterion_main!(benches);
