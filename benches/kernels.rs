//! Single kernels of the CPU path, each beside what this machine could do at best: `cargo bench --bench kernels`.
//! The throughput that criterion prints counts a multiplication and its addition as one element.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use slm_guardian::cpu::{Activations, Kernel, Matrix, matmul_with};
use slm_guardian::engine::Sampling;
use slm_guardian::quant::Format;

fn noise(count: usize, seed: u32) -> Vec<f32> {
    (0..count as u32).map(|i| Sampling::uniform(seed, i, 3) * 2.0 - 1.0).collect()
}

fn matrix(format: Format, dtype: GgmlDType, rows: usize, cols: usize) -> Matrix {
    let dense = Tensor::from_vec(noise(rows * cols, 1), (rows, cols), &Device::Cpu).unwrap();
    Matrix::new(format, rows, cols, QTensor::quantize(&dense, dtype).unwrap().data().unwrap().to_vec())
}

/// The model's shapes: gate and up, down, and the LM head.
fn matmul(c: &mut Criterion) {
    for (rows, cols, tokens) in
        [(1536, 576, 1), (1536, 576, 8), (1536, 576, 32), (1536, 576, 256), (576, 1536, 32), (49_152, 576, 1)]
    {
        let mut group = c.benchmark_group(format!("matmul {rows}x{cols}, {tokens} tokens"));
        group.throughput(Throughput::Elements((rows * cols * tokens) as u64));
        let x = Activations::new(noise(cols * tokens, 2), cols);
        let mut out = vec![0f32; rows * tokens];
        for (format, dtype) in
            [(Format::Q5_0, GgmlDType::Q5_0), (Format::Q4_0, GgmlDType::Q4_0), (Format::Q8_0, GgmlDType::Q8_0)]
        {
            let w = matrix(format, dtype, rows, cols);
            for kernel in Kernel::available() {
                if kernel == Kernel::Scalar && tokens > 8 {
                    continue;
                }
                group.bench_function(BenchmarkId::new(format!("{format:?}"), format!("{kernel:?}")), |b| {
                    b.iter(|| matmul_with(kernel, &w, &x, &mut out));
                });
            }
        }
    }
}

/// What a matmul can't exceed: how fast memory is read, and how many products the widest instructions give.
fn peak(c: &mut Criterion) {
    let mut group = c.benchmark_group("peak");
    let large = vec![1u64; 32 << 20];
    group.throughput(Throughput::Bytes(large.len() as u64 * 8));
    group.bench_function("memory read, one thread", |b| {
        b.iter(|| large.iter().fold(0u64, |sum, x| sum.wrapping_add(*x)))
    });
    // A matrix that stays in the first cache, against many tokens: all but unpacking is arithmetic.
    let (rows, cols, tokens) = (16, 576, 4096);
    group.throughput(Throughput::Elements((rows * cols * tokens) as u64));
    let (w, x) = (matrix(Format::Q5_0, GgmlDType::Q5_0, rows, cols), Activations::new(noise(cols * tokens, 2), cols));
    let mut out = vec![0f32; rows * tokens];
    for kernel in Kernel::available() {
        group.bench_function(format!("products in cache, one thread, {kernel:?}"), |b| {
            b.iter(|| matmul_with(kernel, &w, &x, &mut out));
        });
    }
}

criterion_group! { name = benches; config = Criterion::default().sample_size(20).warm_up_time(std::time::Duration::from_millis(300)).measurement_time(std::time::Duration::from_secs(1)); targets = peak, matmul }
criterion_main!(benches);
