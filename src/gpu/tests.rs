//! Every kernel against a scalar reference over odd sizes, with the adapter's optional features and without.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device as Candle, Tensor};

use super::device::{Device, DeviceOptions};
use super::forward::Call;
use super::kernels::{Constant, Kernel, Kernels, planes};
use super::weights::{bind, repack};
use crate::engine::Sampling;
use crate::quant::Format;

const FORMATS: [GgmlDType; 6] =
    [GgmlDType::F32, GgmlDType::F16, GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q5_0, GgmlDType::Q8_0];

fn noise(count: usize, seed: u32) -> Vec<f32> {
    (0..count as u32).map(|i| Sampling::uniform(seed, i, 3) * 2.0 - 1.0).collect()
}

fn close(got: &[f32], want: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance * (1.0 + want.abs()), "{what}, element {index}: {got}, want {want}");
    }
}

/// A device with its kernels, to run one dispatch at a time.
struct Lab {
    device: Device,
    kernels: Kernels,
}

/// Runs a test on the adapter as it is, and on the same one without optional features.
fn on_both(test: impl Fn(&mut Lab)) {
    for options in [DeviceOptions::default(), DeviceOptions { f16: false, subgroups: false }] {
        let device = pollster::block_on(Device::new(options))
            .expect("these tests need a Vulkan driver; `./build.sh setup` installs a software one");
        test(&mut Lab { kernels: Kernels::new(&device), device });
    }
}

impl Lab {
    fn upload<T: bytemuck::NoUninit>(&self, values: &[T]) -> wgpu::Buffer {
        use wgpu::BufferUsages as Usage;
        let mut bytes = bytemuck::cast_slice::<T, u8>(values).to_vec();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let buffer = self.device.buffer("test", bytes.len() as u64, Usage::STORAGE | Usage::COPY_DST | Usage::COPY_SRC);
        self.device.queue.write_buffer(&buffer, 0, &bytes);
        buffer
    }

    fn call(&self, call: Call) -> wgpu::Buffer {
        let buffer = self.device.buffer(
            "call",
            size_of::<Call>() as u64,
            wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
        );
        self.device.queue.write_buffer(&buffer, 0, bytemuck::bytes_of(&call));
        buffer
    }

    fn tokens(&self, tokens: usize, start: usize) -> wgpu::Buffer {
        self.call(Call { tokens: tokens as u32, start: start as u32, shared: start as u32, ..Default::default() })
    }

    /// Two sequences after `start` cached tokens, the first of `split` tokens.
    fn places(&self, tokens: usize, start: usize, split: usize) -> wgpu::Buffer {
        let of = |t: usize| if t < split { [start + t, start] } else { [start + t - split, start + split] };
        self.upload(&(0..tokens).flat_map(of).map(|number| number as u32).collect::<Vec<u32>>())
    }

    fn run(
        &mut self,
        kernel: Kernel,
        constants: &[(&str, Constant)],
        buffers: &[(u32, &wgpu::Buffer)],
        groups: (usize, usize),
    ) {
        let pipeline = pollster::block_on(self.kernels.get(kernel, constants)).unwrap();
        let group = bind(&self.device, &pipeline, buffers);
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(groups.0 as u32, groups.1 as u32, 1);
        }
        self.device.queue.submit([encoder.finish()]);
    }

    fn words(&self, buffer: &wgpu::Buffer, count: usize) -> Vec<u32> {
        use wgpu::BufferUsages as Usage;
        let read = self.device.buffer("read", count as u64 * 4, Usage::MAP_READ | Usage::COPY_DST);
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &read, 0, count as u64 * 4);
        self.device.queue.submit([encoder.finish()]);
        pollster::block_on(self.device.read(&read, count)).unwrap()
    }

    fn floats(&self, buffer: &wgpu::Buffer, count: usize) -> Vec<f32> {
        self.words(buffer, count).into_iter().map(f32::from_bits).collect()
    }

    /// A random matrix in planes, and its values as candle decodes them.
    fn weights(&mut self, dtype: GgmlDType, rows: usize, cols: usize) -> Weights {
        let dense = Tensor::from_vec(noise(rows * cols, rows as u32), (rows, cols), &Candle::Cpu).unwrap();
        let quantised = QTensor::quantize(&dense, dtype).unwrap();
        let values = quantised.dequantize(&Candle::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let raw = self.upload(&quantised.data().unwrap());
        let format = Format::from_ggml(dtype).unwrap();
        let matrix = pollster::block_on(repack(&self.device, &mut self.kernels, "test", format, rows, cols, &raw));
        let matrix = matrix.unwrap();
        Weights { format, cols, values, quants: matrix.quants, scales: matrix.scales }
    }
}

struct Weights {
    format: Format,
    cols: usize,
    values: Vec<f32>,
    quants: wgpu::Buffer,
    scales: wgpu::Buffer,
}

impl Weights {
    fn constants<'a>(&self, more: &[(&'a str, usize)]) -> Vec<(&'a str, Constant)> {
        let layout = planes(self.format);
        let mut all = vec![("FORMAT", Constant::U32(layout.format)), ("WORDS", Constant::U32(layout.words))];
        all.extend(more.iter().map(|&(name, value)| (name, Constant::U32(value as u32))));
        all
    }

    fn buffers<'a>(&'a self, more: &[(u32, &'a wgpu::Buffer)]) -> Vec<(u32, &'a wgpu::Buffer)> {
        let mut all = more.to_vec();
        all.push((1, &self.quants));
        if !matches!(self.format, Format::F16 | Format::F32) {
            all.push((2, &self.scales));
        }
        all
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.cols..][..self.cols]
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
}

#[test]
fn repack_and_embed_give_the_rows_that_candle_decodes() {
    on_both(|lab| {
        for dtype in FORMATS {
            for (rows, cols) in [(1, 32), (7, 96), (65, 576)] {
                let weights = lab.weights(dtype, rows, cols);
                let ids: Vec<u32> = [0, rows - 1, rows / 2].map(|id| id as u32).to_vec();
                let x = lab.upload(&vec![0f32; ids.len() * cols]);
                let buffers = [(3, &lab.upload(&ids)), (4, &x)];
                let constants = weights.constants(&[("HIDDEN", cols)]);
                lab.run(Kernel::Embed, &constants, &weights.buffers(&buffers), ((cols / 4).div_ceil(64), ids.len()));
                let want: Vec<f32> = ids.iter().flat_map(|&id| weights.row(id as usize)).copied().collect();
                close(&lab.floats(&x, ids.len() * cols), &want, 1e-6, &format!("{dtype:?} [{rows}, {cols}]"));
            }
        }
    });
}

#[test]
fn matmul_and_matvec_give_the_scalar_products() {
    on_both(|lab| {
        for dtype in FORMATS {
            for (rows, cols) in [(1, 32), (31, 64), (33, 96), (100, 288)] {
                let weights = lab.weights(dtype, rows, cols);
                for tokens in [1, 2, 31, 32, 33, 65] {
                    for add in [0, 1] {
                        let what = format!("{dtype:?} [{rows}, {cols}], {tokens} tokens, add {add}");
                        let x = noise(tokens * cols, 77);
                        let before = noise(tokens * rows, 78);
                        let mut want = Vec::new();
                        for t in 0..tokens {
                            for r in 0..rows {
                                let product = dot(weights.row(r), &x[t * cols..][..cols]);
                                want.push(product + add as f32 * before[t * rows + r]);
                            }
                        }
                        let constants = weights.constants(&[("ROWS", rows), ("COLS", cols), ("ADD", add)]);
                        let (call, x) = (lab.tokens(tokens, 0), lab.upload(&x));
                        let out = lab.upload(&before);
                        let buffers = [(0, &call), (3, &x), (4, &out)];
                        let groups = (rows.div_ceil(32), tokens.div_ceil(32));
                        lab.run(Kernel::Matmul, &constants, &weights.buffers(&buffers), groups);
                        // With shader-f16 a weight is rounded to f16 in the tile.
                        close(&lab.floats(&out, want.len()), &want, 4e-3, &format!("matmul {what}"));
                        if tokens == 1 {
                            let out = lab.upload(&before);
                            let buffers = [(3, &x), (4, &out)];
                            lab.run(Kernel::Matvec, &constants, &weights.buffers(&buffers), (rows.div_ceil(8), 1));
                            close(&lab.floats(&out, want.len()), &want, 1e-4, &format!("matvec {what}"));
                        }
                    }
                }
            }
        }
    });
}

fn rms_norm(x: &[f32], gain: &[f32], eps: f32) -> Vec<f32> {
    let scale = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
    x.iter().zip(gain).map(|(x, gain)| x * scale * gain).collect()
}

#[test]
fn rms_norm_gives_the_scalar_norm() {
    on_both(|lab| {
        for (tokens, width) in [(1, 32), (3, 96), (33, 65), (5, 576)] {
            for last in [false, true] {
                let (x, gain) = (noise(tokens * width, 5), noise(width, 6));
                let rows: Vec<_> = x.chunks(width).skip(if last { tokens - 1 } else { 0 }).collect();
                let want: Vec<f32> = rows.iter().flat_map(|row| rms_norm(row, &gain, 1e-5)).collect();
                let (call, x, gain) = (lab.tokens(tokens, 0), lab.upload(&x), lab.upload(&gain));
                let out = lab.upload(&vec![0f32; tokens * width]);
                let constants = [
                    ("WIDTH", Constant::U32(width as u32)),
                    ("LAST", Constant::U32(u32::from(last))),
                    ("EPS", Constant::F32(1e-5)),
                ];
                let mut buffers = vec![(1, &x), (2, &gain), (3, &out)];
                buffers.extend(last.then_some((0, &call)));
                lab.run(Kernel::RmsNorm, &constants, &buffers, (rows.len(), 1));
                close(
                    &lab.floats(&out, want.len()),
                    &want,
                    1e-4,
                    &format!("[{tokens}, {width}], the last row alone: {last}"),
                );
            }
        }
    });
}

#[test]
fn swiglu_gives_the_scalar_gate() {
    on_both(|lab| {
        for (tokens, ffn) in [(1, 1), (3, 33), (2, 160), (1, 1536)] {
            let (mut gate, up) = (noise(tokens * ffn, 7), noise(tokens * ffn, 8));
            gate.iter_mut().for_each(|x| *x *= 30.0);
            let want: Vec<f32> = gate.iter().zip(&up).map(|(g, up)| g / (1.0 + (-g).exp()) * up).collect();
            let (gate, up) = (lab.upload(&gate), lab.upload(&up));
            let constants = [("FFN", Constant::U32(ffn as u32))];
            lab.run(Kernel::Swiglu, &constants, &[(1, &gate), (2, &up)], (ffn.div_ceil(64), tokens));
            close(&lab.floats(&gate, want.len()), &want, 1e-4, &format!("[{tokens}, {ffn}]"));
        }
    });
}

/// (query heads, key heads, width of a head)
const SHAPES: [(usize, usize, usize); 4] = [(1, 1, 2), (3, 1, 16), (9, 3, 64), (2, 2, 160)];

fn shape_constants((heads, kv_heads, dim): (usize, usize, usize)) -> [(&'static str, Constant); 3] {
    [("HEADS", heads), ("HEAD_DIM", dim), ("KV_DIM", kv_heads * dim)].map(|(name, n)| (name, Constant::U32(n as u32)))
}

/// A value as the cache holds it.
fn as_f16(x: f32) -> f32 {
    half::f16::from_f32(x).to_f32()
}

fn unpack(words: &[u32]) -> Vec<f32> {
    words.iter().flat_map(|w| [*w as u16, (*w >> 16) as u16]).map(|bits| half::f16::from_bits(bits).to_f32()).collect()
}

#[test]
fn rope_kv_rotates_interleaved_pairs_and_fills_the_cache() {
    on_both(|lab| {
        for shape @ (heads, kv_heads, dim) in SHAPES {
            for (tokens, start, split) in [(1, 0, 1), (3, 0, 3), (33, 7, 33), (33, 7, 20)] {
                let what = format!("{shape:?}, {tokens} tokens from {start}");
                let (q, k) = (noise(tokens * heads * dim, 1), noise(tokens * kv_heads * dim, 2));
                let v = noise(tokens * kv_heads * dim, 3);
                let angle = |position: usize, i: usize| {
                    (position as f64 * 10_000f64.powf(-2.0 * i as f64 / dim as f64)).sin_cos()
                };
                let rotated = |x: &[f32], heads: usize| -> Vec<f32> {
                    let mut out = Vec::new();
                    for (at, pair) in x.chunks(2).enumerate() {
                        let (t, i) = (at / (heads * dim / 2), at % (dim / 2));
                        let position = start + if t < split { t } else { t - split };
                        let (sin, cos) = angle(position, i);
                        let (a, b) = (f64::from(pair[0]), f64::from(pair[1]));
                        out.extend([(a * cos - b * sin) as f32, (a * sin + b * cos) as f32]);
                    }
                    out
                };
                let (want_q, want_k) = (rotated(&q, heads), rotated(&k, kv_heads));
                let positions = start + tokens;
                let angles: Vec<[f32; 2]> = (0..positions * dim / 2)
                    .map(|at| angle(at / (dim / 2), at % (dim / 2)))
                    .map(|(sin, cos)| [cos as f32, sin as f32])
                    .collect();
                let angles: Vec<f32> = angles.into_flattened();
                let plane = positions * kv_heads * dim / 2;
                let (keys, values) = (lab.upload(&vec![0u32; plane]), lab.upload(&vec![0u32; plane]));
                let (call, q_out) = (lab.tokens(tokens, start), lab.upload(&q));
                let (angles, k, v_in) = (lab.upload(&angles), lab.upload(&k), lab.upload(&v));
                let places = lab.places(tokens, start, split);
                let buffers = [
                    (0, &call),
                    (1, &angles),
                    (2, &q_out),
                    (3, &k),
                    (4, &v_in),
                    (5, &keys),
                    (6, &values),
                    (7, &places),
                ];
                let groups = (((heads + kv_heads) * dim / 2).div_ceil(64), tokens);
                lab.run(Kernel::RopeKv, &shape_constants(shape), &buffers, groups);
                close(&lab.floats(&q_out, want_q.len()), &want_q, 1e-5, &format!("q, {what}"));
                let skip = start * kv_heads * dim;
                close(&unpack(&lab.words(&keys, plane))[skip..], &want_k, 1e-3, &format!("k, {what}"));
                close(&unpack(&lab.words(&values, plane))[skip..], &v, 1e-3, &format!("v, {what}"));
            }
        }
    });
}

#[test]
fn attention_gives_the_scalar_softmax() {
    on_both(|lab| {
        for shape @ (heads, kv_heads, dim) in SHAPES {
            for (tokens, start, split) in
                [(1, 0, 1), (2, 0, 2), (3, 31, 3), (33, 0, 33), (1, 64, 1), (5, 130, 5), (33, 70, 21), (90, 0, 67)]
            {
                let positions = start + tokens;
                let q: Vec<f32> = noise(tokens * heads * dim, 4).iter().map(|x| x * 4.0).collect();
                let cache = |seed| noise(positions * kv_heads * dim, seed).into_iter().map(as_f16).collect::<Vec<_>>();
                let (keys, values) = (cache(5), cache(6));
                let mut want = Vec::new();
                for t in 0..tokens {
                    for head in 0..heads {
                        let query = &q[(t * heads + head) * dim..][..dim];
                        let at = |position: usize| (position * kv_heads + head * kv_heads / heads) * dim;
                        let own = if t < split { start } else { start + split };
                        let visible: Vec<usize> = (0..start).chain(own..=start + t).collect();
                        let scores: Vec<f32> = visible
                            .iter()
                            .map(|&position| dot(query, &keys[at(position)..][..dim]) / (dim as f32).sqrt())
                            .collect();
                        let top = scores.iter().copied().fold(f32::MIN, f32::max);
                        let shares: Vec<f32> = scores.iter().map(|score| (score - top).exp()).collect();
                        let whole: f32 = shares.iter().sum();
                        want.extend((0..dim).map(|i| {
                            shares.iter().zip(&visible).map(|(share, &p)| share * values[at(p) + i]).sum::<f32>()
                                / whole
                        }));
                    }
                }
                let pack = |x: &[f32]| -> Vec<u32> {
                    let bits = |x: f32| u32::from(half::f16::from_f32(x).to_bits());
                    x.chunks(2).map(|pair| bits(pair[0]) | bits(pair[1]) << 16).collect()
                };
                let (call, q) = (lab.tokens(tokens, start), lab.upload(&q));
                let (keys, values) = (lab.upload(&pack(&keys)), lab.upload(&pack(&values)));
                let out = lab.upload(&vec![0f32; want.len()]);
                let places = lab.places(tokens, start, split);
                let buffers = [(0, &call), (1, &q), (2, &keys), (3, &values), (4, &out), (5, &places)];
                lab.run(Kernel::Attention, &shape_constants(shape), &buffers, (tokens, heads));
                close(&lab.floats(&out, want.len()), &want, 1e-4, &format!("{shape:?}, {tokens} tokens from {start}"));
            }
        }
    });
}

#[test]
fn head_rows_gives_the_logits_of_the_rows_asked_for() {
    on_both(|lab| {
        for dtype in FORMATS {
            for (vocab, hidden, tokens) in [(3, 32, 1), (37, 96, 5), (64, 576, 33)] {
                let weights = lab.weights(dtype, vocab, hidden);
                let (x, gain) = (noise(tokens * hidden, 9), noise(hidden, 10));
                let probes: Vec<[u32; 4]> =
                    (0..7).map(|p| [(p * 5 % tokens) as u32, (p * 11 % vocab) as u32, 6 - p as u32, 0]).collect();
                let mut want = vec![0.0; probes.len()];
                for [token, row, slot, _] in &probes {
                    let normed = rms_norm(&x[*token as usize * hidden..][..hidden], &gain, 1e-5);
                    want[*slot as usize] = dot(&normed, weights.row(*row as usize));
                }
                let call = lab.call(Call { probes: probes.len() as u32, ..Default::default() });
                let (x, gain, probes) = (lab.upload(&x), lab.upload(&gain), lab.upload(&probes));
                let logits = lab.upload(&vec![0f32; want.len()]);
                let mut constants = weights.constants(&[("HIDDEN", hidden)]);
                constants.push(("EPS", Constant::F32(1e-5)));
                let buffers = [(0, &call), (3, &x), (4, &gain), (5, &probes), (6, &logits)];
                lab.run(Kernel::HeadRows, &constants, &weights.buffers(&buffers), (want.len(), 1));
                close(&lab.floats(&logits, want.len()), &want, 1e-4, &format!("{dtype:?} [{vocab}, {hidden}]"));
            }
        }
    });
}

#[test]
fn sample_picks_what_the_scalar_code_picks() {
    on_both(|lab| {
        for vocab in [1, 2, 255, 256, 257, 3001] {
            for seed in 0..5 {
                let mut logits: Vec<f32> = noise(vocab, seed).iter().map(|x| x * 6.0).collect();
                // Two equal highest: the lower id wins.
                let top = logits.iter().copied().fold(f32::MIN, f32::max);
                logits[vocab - 1] = top;
                for sampling in [Sampling::Greedy, Sampling::Random { temperature: 0.7, min_p: 0.01, seed }] {
                    // Every third row may not pick its first four ids.
                    let skip = if vocab > 4 && seed % 3 == 1 { 0..4 } else { 0..0 };
                    let (skip_from, skip_to) = (skip.start, skip.end);
                    let mut call = Call { position: 40 + seed, skip_from, skip_to, ..Default::default() };
                    if let Sampling::Random { temperature, min_p, seed } = sampling {
                        (call.random, call.temperature, call.seed) = (1, temperature, seed);
                        call.floor = temperature * min_p.ln();
                    }
                    let want = sampling.pick(&mut logits.clone(), call.position, skip).unwrap();
                    let (call, row, picked) = (lab.call(call), lab.upload(&logits), lab.upload(&[0u32; 2]));
                    let constants = [("VOCAB", Constant::U32(vocab as u32))];
                    lab.run(Kernel::Sample, &constants, &[(0, &call), (1, &row), (2, &picked)], (1, 1));
                    let got = lab.words(&picked, 2);
                    assert_eq!(
                        (got[0], f32::from_bits(got[1])),
                        (want, top),
                        "{vocab} tokens, seed {seed}, {sampling:?}"
                    );
                }
            }
        }
    });
}
