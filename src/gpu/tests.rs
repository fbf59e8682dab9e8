//! Every kernel against a scalar reference over odd sizes, with the adapter's optional features and without.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device as Candle, Tensor};

use super::device::{Device, DeviceOptions};
use super::forward::Call;
use super::kernels::{Constant, Cut, Kernel, Kernels, Tokens, cut, planes, source};
use super::weights::{Matrix, bind, repack};
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
    /// What products of more than one token are made for.
    tokens: Tokens,
}

/// Runs a test on the adapter as it is, on the same one without optional features, and as on a wide one, for few tokens and for
/// many in packed dots.
fn on_each(test: impl Fn(&mut Lab)) {
    for (options, tokens) in [
        (DeviceOptions { wide: Some(false), ..Default::default() }, Tokens::Few),
        (DeviceOptions { f16: false, subgroups: false, wide: Some(false), packed: Some(false) }, Tokens::Few),
        (DeviceOptions { wide: Some(true), ..Default::default() }, Tokens::Few),
        (DeviceOptions { wide: Some(true), packed: Some(true), ..Default::default() }, Tokens::Many),
    ] {
        let device = pollster::block_on(Device::new(options))
            .expect("these tests need a Vulkan driver; `./build.sh setup` installs a software one");
        assert!(device.info().packed || tokens == Tokens::Few);
        test(&mut Lab { kernels: Kernels::new(&device), device, tokens });
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
        self.kept_of(tokens, start, tokens)
    }

    fn kept_of(&self, tokens: usize, start: usize, kept: usize) -> wgpu::Buffer {
        let [tokens, start, kept] = [tokens, start, kept].map(|number| number as u32);
        self.call(Call { tokens, start, kept, shared: start, ..Default::default() })
    }

    /// Two sequences after `start` cached tokens, the first of `split` tokens; the last of every three tokens is kept.
    fn table(&self, tokens: usize, start: usize, split: usize) -> wgpu::Buffer {
        let of = |t: usize| {
            let (position, own) = if t < split { (start + t, start) } else { (start + t - split, start + split) };
            [0, position, own, 3 * t + 2]
        };
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
        pollster::block_on(self.device.read(&read, count, None)).unwrap()
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
        let matrix = pollster::block_on(Matrix::new(&self.device, "test", format, rows, cols)).unwrap();
        pollster::block_on(repack(&self.device, &mut self.kernels, &matrix, rows, (1, 0), &raw)).unwrap();
        Weights { format, cols, values, quants: matrix.quants, scales: matrix.scales }
    }

    /// A product by the kernel for many tokens, into what `out` and `more` hold.
    fn matmul(
        &mut self,
        weights: &Weights,
        (call, x, out): (&wgpu::Buffer, &[f32], &wgpu::Buffer),
        constants: &[(&str, usize)],
        more: &[(u32, &wgpu::Buffer)],
        tokens: usize,
    ) {
        let x = self.upload(x);
        let mut buffers = vec![(0, call), (3, &x), (4, out)];
        buffers.extend(more);
        let Cut { kernel, rows, .. } = self.cut(false, weights, constants);
        let groups = (weights.rows().div_ceil(rows), tokens.div_ceil(32));
        self.run(kernel, &self.product(false, weights, constants), &weights.buffers(&buffers), groups);
    }

    fn cut(&self, one: bool, weights: &Weights, constants: &[(&str, usize)]) -> Cut {
        let tokens = if one { Tokens::One } else { self.tokens };
        cut(tokens, self.device.info(), weights.format, constants.contains(&("NORM", 1)), weights.cols)
    }

    /// With shader-f16 the tiled kernel rounds weights to f16, packed dots activations to 16 bits of their block's largest:
    /// errors that add up as the root of their number.
    fn matmul_tolerance(&self, weights: &Weights) -> f32 {
        let of_288 = match self.cut(false, weights, &[]).kernel {
            Kernel::MatmulSplit => return 1e-4,
            Kernel::MatmulPacked => 15e-4,
            _ => 4e-3,
        };
        of_288 * (weights.cols as f32 / 288.0).sqrt().max(1.0)
    }

    fn product<'a>(&self, one: bool, weights: &Weights, more: &[(&'a str, usize)]) -> Vec<(&'a str, Constant)> {
        let cuts = self.cut(one, weights, more).constants.into_iter().map(|(name, value)| (name, Constant::U32(value)));
        weights.product(more).into_iter().chain(cuts).collect()
    }

    /// The same by the kernel for one.
    fn matvec(
        &mut self,
        weights: &Weights,
        (x, out): (&[f32], &wgpu::Buffer),
        constants: &[(&str, usize)],
        more: &[(u32, &wgpu::Buffer)],
    ) {
        let x = self.upload(x);
        let mut buffers = vec![(3, &x), (4, out)];
        buffers.extend(more);
        let Cut { kernel, rows, .. } = self.cut(true, weights, constants);
        let groups = (weights.rows().div_ceil(rows), 1);
        self.run(kernel, &self.product(true, weights, constants), &weights.buffers(&buffers), groups);
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

    fn rows(&self) -> usize {
        self.values.len() / self.cols
    }

    /// A product's constants: plain sums of all tokens, but for what `more` says.
    fn product<'a>(&self, more: &[(&'a str, usize)]) -> Vec<(&'a str, Constant)> {
        let mut all = vec![("ROWS", self.rows()), ("COLS", self.cols)];
        let usual = [("STORE", 0), ("NORM", 0), ("KEPT", 0)];
        all.extend(usual.into_iter().filter(|(name, _)| more.iter().all(|(other, _)| other != name)));
        all.extend(more);
        let mut all = self.constants(&all);
        all.push(("EPS", Constant::F32(EPS)));
        all
    }

    /// [tokens, rows], with f64 sums.
    fn times(&self, x: &[f32]) -> Vec<f32> {
        x.chunks(self.cols).flat_map(|x| (0..self.rows()).map(|row| dot(self.row(row), x))).collect()
    }
}

const EPS: f32 = 1e-5;

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
}

#[test]
fn repack_and_embed_give_the_rows_that_candle_decodes() {
    on_each(|lab| {
        for dtype in FORMATS {
            for (rows, cols) in [(1, 32), (7, 96), (65, 576)] {
                let weights = lab.weights(dtype, rows, cols);
                let ids = [0, rows - 1, rows / 2].map(|id| id as u32);
                let table: Vec<u32> = ids.iter().flat_map(|&id| [id, 0, 0, 0]).collect();
                let x = lab.upload(&vec![0f32; ids.len() * cols]);
                let buffers = [(3, &lab.upload(&table)), (4, &x)];
                let constants = weights.constants(&[("HIDDEN", cols)]);
                lab.run(Kernel::Embed, &constants, &weights.buffers(&buffers), ((cols / 4).div_ceil(64), ids.len()));
                let want: Vec<f32> = ids.iter().flat_map(|&id| weights.row(id as usize)).copied().collect();
                close(&lab.floats(&x, ids.len() * cols), &want, 1e-6, &format!("{dtype:?} [{rows}, {cols}]"));
            }
        }
    });
}

#[test]
fn tensors_that_share_a_matrix_get_their_rows_in_it() {
    on_each(|lab| {
        for dtype in FORMATS {
            let (cols, format) = (96, Format::from_ggml(dtype).unwrap());
            let parts: Vec<QTensor> = (0..2)
                .map(|seed| {
                    let dense = Tensor::from_vec(noise(5 * cols, seed), (5, cols), &Candle::Cpu).unwrap();
                    QTensor::quantize(&dense, dtype).unwrap()
                })
                .collect();
            let values: Vec<Vec<f32>> = parts
                .iter()
                .map(|part| part.dequantize(&Candle::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap())
                .collect();
            for berths in [[(1, 0), (1, 5)], [(2, 0), (2, 1)]] {
                let matrix = pollster::block_on(Matrix::new(&lab.device, "test", format, 10, cols)).unwrap();
                let mut want = vec![0.0; 10 * cols];
                for ((part, values), (step, offset)) in parts.iter().zip(&values).zip(berths) {
                    let raw = lab.upload(&part.data().unwrap());
                    pollster::block_on(repack(&lab.device, &mut lab.kernels, &matrix, 5, (step, offset), &raw))
                        .unwrap();
                    for (row, values) in values.chunks(cols).enumerate() {
                        want[(row * step + offset) * cols..][..cols].copy_from_slice(values);
                    }
                }
                let Matrix { quants, scales, .. } = matrix;
                let weights = Weights { format, cols, values: want.clone(), quants, scales };
                let table: Vec<u32> = (0..10).flat_map(|id| [id, 0, 0, 0]).collect();
                let x = lab.upload(&vec![0f32; 10 * cols]);
                let buffers = [(3, &lab.upload(&table)), (4, &x)];
                let constants = weights.constants(&[("HIDDEN", cols)]);
                lab.run(Kernel::Embed, &constants, &weights.buffers(&buffers), ((cols / 4).div_ceil(64), 10));
                close(&lab.floats(&x, 10 * cols), &want, 1e-6, &format!("{dtype:?} {berths:?}"));
            }
        }
    });
}

const ROW_COUNTS: [(usize, usize); 5] = [(1, 32), (31, 64), (33, 96), (100, 288), (13, 1056)];

#[test]
fn matmul_and_matvec_give_the_scalar_products() {
    on_each(|lab| {
        for dtype in FORMATS {
            for (rows, cols) in ROW_COUNTS {
                let weights = lab.weights(dtype, rows, cols);
                for tokens in [1, 2, 31, 32, 33, 65] {
                    for store in [0, 1] {
                        let what = format!("{dtype:?} [{rows}, {cols}], {tokens} tokens, store {store}");
                        let x = noise(tokens * cols, 77);
                        let before = noise(tokens * rows, 78);
                        let mut want = weights.times(&x);
                        want.iter_mut().zip(&before).for_each(|(want, before)| *want += store as f32 * before);
                        let (call, out) = (lab.tokens(tokens, 0), lab.upload(&before));
                        lab.matmul(&weights, (&call, &x, &out), &[("STORE", store)], &[], tokens);
                        close(
                            &lab.floats(&out, want.len()),
                            &want,
                            lab.matmul_tolerance(&weights),
                            &format!("matmul {what}"),
                        );
                        if tokens == 1 {
                            let out = lab.upload(&before);
                            lab.matvec(&weights, (&x, &out), &[("STORE", store)], &[]);
                            close(&lab.floats(&out, want.len()), &want, 1e-4, &format!("matvec {what}"));
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn a_product_of_the_norm_gives_what_the_norm_by_itself_would() {
    on_each(|lab| {
        for dtype in [GgmlDType::F32, GgmlDType::Q5_0] {
            for (rows, cols) in ROW_COUNTS {
                let weights = lab.weights(dtype, rows, cols);
                let gain = noise(cols, 6);
                let gains = lab.upload(&gain);
                for tokens in [1, 2, 33, 65] {
                    let what = format!("{dtype:?} [{rows}, {cols}], {tokens} tokens");
                    let x: Vec<f32> = noise(tokens * cols, 77).iter().map(|x| x * 9.0).collect();
                    let normed: Vec<f32> = x.chunks(cols).flat_map(|x| rms_norm(x, &gain, EPS)).collect();
                    let want = weights.times(&normed);
                    let (call, out) = (lab.tokens(tokens, 0), lab.upload(&vec![0f32; want.len()]));
                    lab.matmul(&weights, (&call, &x, &out), &[("NORM", 1)], &[(5, &gains)], tokens);
                    close(
                        &lab.floats(&out, want.len()),
                        &want,
                        lab.matmul_tolerance(&weights),
                        &format!("matmul {what}"),
                    );
                    if tokens == 1 {
                        let out = lab.upload(&vec![0f32; want.len()]);
                        lab.matvec(&weights, (&x, &out), &[("NORM", 1)], &[(5, &gains)]);
                        close(&lab.floats(&out, want.len()), &want, 1e-4, &format!("matvec {what}"));
                    }
                }
            }
        }
    });
}

/// A broken activation has to show in what is read back, or the verdict would come from rounded nonsense.
#[test]
fn a_product_of_what_is_no_number_is_none() {
    on_each(|lab| {
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for dtype in [GgmlDType::Q5_0, GgmlDType::Q8_0] {
                let weights = lab.weights(dtype, 33, 96);
                let mut x = noise(33 * 96, 77);
                x[5 * 96 + 40] = broken;
                let want = weights.times(&x);
                let (call, out) = (lab.tokens(33, 0), lab.upload(&vec![0f32; want.len()]));
                lab.matmul(&weights, (&call, &x, &out), &[], &[], 33);
                for (t, got) in lab.floats(&out, want.len()).chunks(33).enumerate() {
                    let finite = got.iter().filter(|sum| sum.is_finite()).count();
                    assert_eq!(finite, if t == 5 { 0 } else { 33 }, "{broken} in token 5, {dtype:?}: token {t}");
                }
            }
        }
    });
}

#[test]
fn kept_tokens_get_their_own_rows_of_the_residual() {
    on_each(|lab| {
        for (rows, cols) in ROW_COUNTS {
            let weights = lab.weights(GgmlDType::Q8_0, rows, cols);
            for kept in [1, 2, 33] {
                let x = noise(kept * cols, 77);
                // Of three times as many tokens, every third is kept.
                let residual = noise(3 * kept * rows, 78);
                let of = |t: usize| &residual[(3 * t + 2) * rows..][..rows];
                let want: Vec<f32> =
                    weights.times(&x).iter().zip((0..kept).flat_map(of)).map(|(sum, x)| sum + x).collect();
                let (call, table) = (lab.kept_of(3 * kept, 0, kept), lab.table(3 * kept, 0, 3 * kept));
                let (residual, out) = (lab.upload(&residual), lab.upload(&vec![0f32; want.len()]));
                let more = [(6, &residual), (8, &table)];
                lab.matmul(&weights, (&call, &x, &out), &[("STORE", 2), ("KEPT", 1)], &more, kept);
                close(&lab.floats(&out, want.len()), &want, 4e-3, &format!("matmul [{rows}, {cols}], {kept} kept"));
                if kept == 1 {
                    let out = lab.upload(&vec![0f32; want.len()]);
                    lab.matvec(&weights, (&x, &out), &[("STORE", 2)], &more);
                    close(&lab.floats(&out, want.len()), &want, 1e-4, &format!("matvec [{rows}, {cols}]"));
                }
            }
        }
    });
}

#[test]
fn gate_and_up_give_the_scalar_gate_together_and_apart() {
    on_each(|lab| {
        for (ffn, cols) in [(1, 32), (16, 64), (33, 96), (80, 96)] {
            let both = lab.weights(GgmlDType::F32, 2 * ffn, cols);
            let up = lab.weights(GgmlDType::F32, ffn, cols);
            let silu = |g: f32| g / (1.0 + (-g).exp());
            for tokens in [1, 2, 33] {
                let x: Vec<f32> = noise(tokens * cols, 7);
                let together: Vec<f32> = both.times(&x).chunks(2).map(|pair| silu(pair[0]) * pair[1]).collect();
                let gate: Vec<f32> = noise(tokens * ffn, 8).iter().map(|x| x * 6.0).collect();
                let apart: Vec<f32> = up.times(&x).iter().zip(&gate).map(|(up, &gate)| silu(gate) * up).collect();
                let call = lab.tokens(tokens, 0);
                for (store, weights, before, want) in
                    [(4, &both, &vec![0.0; together.len()], &together), (5, &up, &gate, &apart)]
                {
                    let what = format!("[{tokens}, {ffn}], store {store}");
                    let out = lab.upload(before);
                    lab.matmul(weights, (&call, &x, &out), &[("STORE", store)], &[], tokens);
                    close(&lab.floats(&out, want.len()), want, 1e-2, &format!("matmul {what}"));
                    if tokens == 1 {
                        let out = lab.upload(before);
                        lab.matvec(weights, (&x, &out), &[("STORE", store)], &[]);
                        close(&lab.floats(&out, want.len()), want, 1e-3, &format!("matvec {what}"));
                    }
                }
            }
        }
    });
}

/// A store to one component of a vector may write the whole of it on Metal and Direct3D, over what other threads wrote to the
/// others: memory that a workgroup shares is written in whole vectors. No adapter at hand behaves like that, so the shaders
/// are read.
#[test]
fn no_shader_writes_components_of_shared_vectors() {
    use wgpu::naga;
    let info = |wide, packed| super::AdapterInfo {
        name: String::new(),
        api: String::new(),
        f16: true,
        subgroups: true,
        wide,
        packed,
    };
    let product = |tokens, info: &super::AdapterInfo, store: u32, norm: bool| {
        let Cut { kernel, constants, .. } = cut(tokens, info, Format::Q5_0, norm, 576);
        let mut all = vec![("ROWS", 960), ("COLS", 576), ("STORE", store), ("NORM", u32::from(norm)), ("KEPT", 0)];
        all.extend([("FORMAT", 1), ("WORDS", 5), ("FIRST", 0), ("Q_ROWS", 576), ("KV_DIM", 192), ("HEAD_DIM", 64)]);
        all.extend(constants);
        (kernel, all)
    };
    let mut shaders = vec![
        (Kernel::Repack, vec![("KIND", 2), ("SOURCE", 22), ("WORDS", 5), ("PLAIN", 4), ("BLOCKS", 18)]),
        (Kernel::Embed, vec![("FORMAT", 1), ("WORDS", 5), ("HIDDEN", 576)]),
        (Kernel::Attention, vec![("HEADS", 9), ("HEAD_DIM", 64), ("PAIRS", 32), ("KV_DIM", 192), ("KEPT", 0)]),
        (Kernel::HeadRows, vec![("FORMAT", 1), ("WORDS", 5), ("HIDDEN", 576)]),
        (Kernel::Sample, vec![("VOCAB", 49_152)]),
    ];
    shaders[0].1.extend([("BLOCKS_PER_ROW", 18), ("STEP", 1), ("OFFSET", 0)]);
    for (tokens, info) in [
        (Tokens::One, info(false, false)),
        (Tokens::One, info(true, true)),
        (Tokens::Few, info(false, false)),
        (Tokens::Few, info(true, true)),
        (Tokens::Many, info(true, true)),
    ] {
        for store in 0..6 {
            shaders.extend([false, true].map(|norm| product(tokens, &info, store, norm)));
        }
    }
    let mut stores = 0;
    for (kernel, constants) in shaders {
        let mut constants: Vec<_> = constants.into_iter().map(|(name, value)| (name, Constant::U32(value))).collect();
        constants.push(("EPS", Constant::F32(EPS)));
        let (name, text) = source(kernel, &constants, true, true);
        let module = naga::front::wgsl::parse_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut validator = naga::valid::Validator::new(Default::default(), naga::valid::Capabilities::all());
        let facts = validator.validate(&module).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let entry = facts.get_entry_point(0);
        for (function, facts) in [(&module.entry_points[0].function, entry)]
            .into_iter()
            .chain(module.functions.iter().map(|(at, f)| (f, &facts[at])))
        {
            stores += check_stores(&module, function, facts, &function.body, name);
        }
    }
    assert!(stores > 100, "{stores} stores seen");
}

/// Fails where `block` stores to a component of a vector that other threads may write; how many stores there are to memory.
fn check_stores(
    module: &wgpu::naga::Module,
    function: &wgpu::naga::Function,
    facts: &wgpu::naga::valid::FunctionInfo,
    block: &wgpu::naga::Block,
    name: &str,
) -> usize {
    use wgpu::naga::{AddressSpace, Expression, Statement, TypeInner};
    let mut stores = 0;
    for statement in block {
        let inner: Vec<&wgpu::naga::Block> = match statement {
            Statement::Block(block) => vec![block],
            Statement::If { accept, reject, .. } => vec![accept, reject],
            Statement::Loop { body, continuing, .. } => vec![body, continuing],
            Statement::Switch { cases, .. } => cases.iter().map(|case| &case.body).collect(),
            Statement::Store { pointer, .. } => {
                let shared =
                    |space: &AddressSpace| matches!(space, AddressSpace::WorkGroup | AddressSpace::Storage { .. });
                let space = facts[*pointer].ty.inner_with(&module.types).pointer_space();
                stores += usize::from(space.is_some_and(|space| shared(&space)));
                if let Expression::Access { base, .. } | Expression::AccessIndex { base, .. } =
                    function.expressions[*pointer]
                    && let TypeInner::Pointer { base, space } = facts[base].ty.inner_with(&module.types)
                {
                    let vector = matches!(module.types[*base].inner, TypeInner::Vector { .. });
                    assert!(!vector || !shared(space), "{name} writes a component of a shared vector");
                }
                vec![]
            }
            _ => vec![],
        };
        stores += inner.iter().map(|block| check_stores(module, function, facts, block, name)).sum::<usize>();
    }
    stores
}

fn rms_norm(x: &[f32], gain: &[f32], eps: f32) -> Vec<f32> {
    let scale = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
    x.iter().zip(gain).map(|(x, gain)| x * scale * gain).collect()
}

/// (query heads, key heads, width of a head)
const SHAPES: [(usize, usize, usize); 4] = [(1, 1, 2), (3, 1, 16), (9, 3, 64), (2, 2, 160)];

/// A value as the cache holds it.
fn as_f16(x: f32) -> f32 {
    half::f16::from_f32(x).to_f32()
}

fn unpack(words: &[u32]) -> Vec<f32> {
    words.iter().flat_map(|w| [*w as u16, (*w >> 16) as u16]).map(|bits| half::f16::from_bits(bits).to_f32()).collect()
}

#[test]
fn q_k_and_v_are_rotated_and_cached_together_and_apart() {
    on_each(|lab| {
        for shape @ (heads, kv_heads, dim) in SHAPES {
            let (cols, q_rows, kv_dim) = (64, heads * dim, kv_heads * dim);
            let rows = q_rows + 2 * kv_dim;
            let stack = lab.weights(GgmlDType::F32, rows, cols);
            for (tokens, start, split) in [(1, 0, 1), (1, 9, 1), (3, 0, 3), (33, 7, 33), (33, 7, 20)] {
                let what = format!("{shape:?}, {tokens} tokens from {start}");
                let x = noise(tokens * cols, 1);
                let angle = |position: usize, i: usize| {
                    (position as f64 * 10_000f64.powf(-2.0 * i as f64 / dim as f64)).sin_cos()
                };
                // q, k and v of each token, the first two rotated.
                let (mut want_q, mut want_cache) = (Vec::new(), Vec::new());
                for (t, sums) in stack.times(&x).chunks(rows).enumerate() {
                    let position = start + if t < split { t } else { t - split };
                    let rotated: Vec<f32> = sums[..q_rows + kv_dim]
                        .chunks(2)
                        .enumerate()
                        .flat_map(|(at, pair)| {
                            let (sin, cos) = angle(position, at % (dim / 2));
                            let (a, b) = (f64::from(pair[0]), f64::from(pair[1]));
                            [(a * cos - b * sin) as f32, (a * sin + b * cos) as f32]
                        })
                        .collect();
                    want_q.extend_from_slice(&rotated[..q_rows]);
                    want_cache.extend_from_slice(&rotated[q_rows..]);
                    want_cache.extend_from_slice(&sums[q_rows + kv_dim..]);
                }
                let positions = start + tokens;
                let angles: Vec<f32> = (0..positions * dim / 2)
                    .map(|at| angle(at / (dim / 2), at % (dim / 2)))
                    .flat_map(|(sin, cos)| [cos as f32, sin as f32])
                    .collect();
                let (call, table) = (lab.tokens(tokens, start), lab.table(tokens, start, split));
                let (angles, plane) = (lab.upload(&angles), positions * kv_dim);
                let check = |lab: &mut Lab, many: bool, parts: &[(&Weights, usize)]| {
                    let what = format!("{what}, {} parts, many {many}", parts.len());
                    let (q, cache) = (lab.upload(&vec![0f32; want_q.len()]), lab.upload(&vec![0u32; plane]));
                    let more = [(6, &angles), (7, &cache), (8, &table)];
                    for &(weights, first) in parts {
                        let constants =
                            [("STORE", 3), ("FIRST", first), ("Q_ROWS", q_rows), ("KV_DIM", kv_dim), ("HEAD_DIM", dim)];
                        if many {
                            lab.matmul(weights, (&call, &x, &q), &constants, &more, tokens);
                        } else {
                            let more: Vec<_> = more.iter().copied().chain([(0, &call)]).collect();
                            lab.matvec(weights, (&x, &q), &constants, &more);
                        }
                    }
                    close(&lab.floats(&q, want_q.len()), &want_q, 5e-3, &format!("q, {what}"));
                    let cached = unpack(&lab.words(&cache, plane));
                    close(&cached[start * 2 * kv_dim..], &want_cache, 5e-3, &format!("cache, {what}"));
                    assert!(cached[..start * 2 * kv_dim].iter().all(|&x| x == 0.0), "{what}: earlier places");
                };
                let whole = [(&stack, 0)];
                check(lab, true, &whole);
                if tokens == 1 {
                    check(lab, false, &whole);
                }
                let part = |lab: &Lab, first: usize, count: usize| {
                    let values = stack.values[first * cols..][..count * cols].to_vec();
                    let quants = lab.upload(&values);
                    // F32 planes are the values themselves; scales are not read.
                    let scales = lab.upload(&[0u32]);
                    Weights { format: Format::F32, cols, values, quants, scales }
                };
                let parts =
                    [(0, q_rows), (q_rows, kv_dim), (q_rows + kv_dim, kv_dim)].map(|(at, n)| (part(lab, at, n), at));
                let parts: Vec<_> = parts.iter().map(|(weights, first)| (weights, *first)).collect();
                check(lab, true, &parts);
            }
        }
    });
}

#[test]
fn attention_gives_the_scalar_softmax() {
    on_each(|lab| {
        for shape @ (heads, kv_heads, dim) in SHAPES {
            for (tokens, start, split) in
                [(1, 0, 1), (2, 0, 2), (3, 31, 3), (33, 0, 33), (1, 64, 1), (5, 130, 5), (33, 70, 21), (90, 0, 67)]
            {
                let positions = start + tokens;
                let q: Vec<f32> = noise(tokens * heads * dim, 4).iter().map(|x| x * 4.0).collect();
                let cache = |seed| noise(positions * kv_heads * dim, seed).into_iter().map(as_f16).collect::<Vec<_>>();
                let (keys, values) = (cache(5), cache(6));
                let mut want: Vec<Vec<f32>> = Vec::new();
                for t in 0..tokens {
                    let mut row = Vec::new();
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
                        row.extend((0..dim).map(|i| {
                            shares.iter().zip(&visible).map(|(share, &p)| share * values[at(p) + i]).sum::<f32>()
                                / whole
                        }));
                    }
                    want.push(row);
                }
                let pack = |x: &[f32]| -> Vec<u32> {
                    let bits = |x: f32| u32::from(half::f16::from_f32(x).to_bits());
                    x.chunks(2).map(|pair| bits(pair[0]) | bits(pair[1]) << 16).collect()
                };
                let width = kv_heads * dim;
                let rows: Vec<u32> = (0..positions)
                    .flat_map(|p| [&keys, &values].map(|x| pack(&x[p * width..][..width])))
                    .flatten()
                    .collect();
                let (q, cache, table) = (lab.upload(&q), lab.upload(&rows), lab.table(tokens, start, split));
                for kept in [0, 1] {
                    let chosen: Vec<f32> = match kept {
                        0 => want.concat(),
                        _ => want.iter().skip(2).step_by(3).flatten().copied().collect(),
                    };
                    let count = chosen.len() / (heads * dim);
                    if count == 0 {
                        continue;
                    }
                    let (call, out) = (lab.kept_of(tokens, start, count), lab.upload(&vec![0f32; chosen.len()]));
                    let buffers = [(0, &call), (1, &q), (2, &cache), (4, &out), (5, &table)];
                    let constants =
                        [("HEADS", heads), ("HEAD_DIM", dim), ("PAIRS", dim / 2), ("KV_DIM", width), ("KEPT", kept)]
                            .map(|(name, n)| (name, Constant::U32(n as u32)));
                    lab.run(Kernel::Attention, &constants, &buffers, (count, heads));
                    let what = format!("{shape:?}, {tokens} tokens from {start}, kept alone: {kept}");
                    close(&lab.floats(&out, chosen.len()), &chosen, 1e-4, &what);
                }
            }
        }
    });
}

#[test]
fn head_rows_gives_the_logits_of_the_rows_asked_for() {
    on_each(|lab| {
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
    on_each(|lab| {
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
                    let (position, start) = (40 + seed, 30 + seed);
                    let mut call = Call { tokens: 7, start, position, skip_from, skip_to, ..Default::default() };
                    if let Sampling::Random { temperature, min_p, seed } = sampling {
                        (call.random, call.temperature, call.seed) = (1, temperature, seed);
                        call.floor = temperature * min_p.ln();
                    }
                    let want = sampling.pick(&mut logits.clone(), call.position, skip).unwrap();
                    let after = Call {
                        tokens: 1,
                        kept: 1,
                        start: start + 7,
                        shared: start + 7,
                        position: position + 1,
                        ..call
                    };
                    let (call, row, picked) = (lab.call(call), lab.upload(&logits), lab.upload(&[0u32; 2]));
                    let (table, next) = (lab.upload(&[9u32; 4]), lab.upload(&[9u32; 12]));
                    let constants = [("VOCAB", Constant::U32(vocab as u32))];
                    let buffers = [(0, &call), (1, &row), (2, &picked), (3, &table), (4, &next)];
                    lab.run(Kernel::Sample, &constants, &buffers, (1, 1));
                    assert_eq!(lab.words(&table, 4), [want, position + 1, start + 7, 0]);
                    assert_eq!(lab.words(&next, 12), bytemuck::cast_slice::<Call, u32>(&[after]));
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
