//! The forward pass as a static list of dispatches, in the order the data flows.

use std::collections::HashMap;
use std::ops::Range;

use super::device::Device;
use super::kernels::{Constant, Kernel, Kernels, planes};
use super::weights::{Matrix, bind};
use crate::config::{Config, LAYER_TENSORS};
use crate::engine::{PASS, Probe, Sampling, Sequence};
use crate::error::{Error, Result};
use crate::quant::Format;

/// Positions the KV cache holds at first; it doubles when they are used up.
const FIRST_CAPACITY: usize = 1024;
/// Logits that one call may read back.
const MAX_PROBES: usize = 4096;

/// What changes from call to call; `Call` in `shaders/call.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Call {
    pub tokens: u32,
    pub start: u32,
    pub probes: u32,
    pub random: u32,
    pub temperature: f32,
    pub floor: f32,
    pub seed: u32,
    pub position: u32,
    pub skip_from: u32,
    pub skip_to: u32,
    pub shared: u32,
}

/// How many workgroups a dispatch takes.
#[derive(Clone, Copy)]
enum Grid {
    Fixed(u32, u32),
    /// (x, tokens)
    PerToken(u32),
    /// (tokens, 1)
    Tokens,
    /// (x, tokens / 32)
    Tiles(u32),
    /// (tokens, y)
    TokensBy(u32),
    /// (probes, 1)
    Probes,
}

struct Dispatch {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    grid: Grid,
}

struct Layer {
    attn_norm: wgpu::Buffer,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    o: Matrix,
    ffn_norm: wgpu::Buffer,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

/// Activations of one chunk, and what a call writes and reads.
struct Buffers {
    call: wgpu::Buffer,
    ids: wgpu::Buffer,
    /// (position, first place in the cache of its own sequence) of each token.
    places: wgpu::Buffer,
    x: wgpu::Buffer,
    normed: wgpu::Buffer,
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    attended: wgpu::Buffer,
    gate: wgpu::Buffer,
    up: wgpu::Buffer,
    probes: wgpu::Buffer,
    logits: wgpu::Buffer,
    picked: wgpu::Buffer,
    read: wgpu::Buffer,
}

/// Keys (rotated) and values of one layer, packed f16 pairs, `[capacity, kv_dim / 2]`.
struct Cache {
    keys: wgpu::Buffer,
    values: wgpu::Buffer,
}

/// The dispatches of the ways a chunk runs.
#[derive(Default)]
struct Plan {
    /// Many tokens: matrices in tiles.
    prefill: Vec<Dispatch>,
    /// One token: matrices row by row.
    decode: Vec<Dispatch>,
    /// Rows of the LM head at the probed tokens.
    probe: Vec<Dispatch>,
    /// The whole LM head after the last token, and the pick.
    pick: Vec<Dispatch>,
}

/// A loaded model with its KV cache.
pub struct Model {
    device: Device,
    config: Config,
    kernels: Kernels,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: wgpu::Buffer,
    /// `None` where the LM head is the embedding.
    head: Option<Matrix>,
    buffers: Buffers,
    angles: wgpu::Buffer,
    cache: Vec<Cache>,
    capacity: usize,
    plan: Plan,
    position: usize,
}

impl Model {
    pub(super) async fn new(
        device: Device,
        config: Config,
        mut matrices: HashMap<String, Matrix>,
        mut vectors: HashMap<String, wgpu::Buffer>,
        kernels: Kernels,
    ) -> Result<Self> {
        let missing = |name: &str| Error::format(format!("tensor {name:?}"), "is missing");
        let mut layers = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            let name = |suffix: &str| format!("blk.{layer}.{suffix}.weight");
            let mut vector = |suffix: &str| vectors.remove(&name(suffix)).ok_or_else(|| missing(&name(suffix)));
            let mut matrix = |suffix: &str| matrices.remove(&name(suffix)).ok_or_else(|| missing(&name(suffix)));
            let [attn_norm, q, k, v, o, ffn_norm, gate, up, down] = LAYER_TENSORS;
            layers.push(Layer {
                attn_norm: vector(attn_norm)?,
                q: matrix(q)?,
                k: matrix(k)?,
                v: matrix(v)?,
                o: matrix(o)?,
                ffn_norm: vector(ffn_norm)?,
                gate: matrix(gate)?,
                up: matrix(up)?,
                down: matrix(down)?,
            });
        }
        let embedding = matrices.remove("token_embd.weight").ok_or_else(|| missing("token_embd.weight"))?;
        let norm = vectors.remove("output_norm.weight").ok_or_else(|| missing("output_norm.weight"))?;
        let head = match config.tied {
            true => None,
            false => Some(matrices.remove("output.weight").ok_or_else(|| missing("output.weight"))?),
        };
        let capacity = FIRST_CAPACITY.min(config.context);
        let buffers = device.scoped("activations", || Buffers::new(&device, &config)).await?;
        let (angles, cache) = device.scoped("KV cache", || allocate_cache(&device, &config, capacity)).await?;
        let mut model = Model {
            plan: Plan::default(),
            device,
            config,
            kernels,
            embedding,
            layers,
            norm,
            head,
            buffers,
            angles,
            cache,
            capacity,
            position: 0,
        };
        model.plan = model.build_plan().await?;
        Ok(model)
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn position(&self) -> usize {
        self.position
    }

    pub fn rewind(&mut self, position: usize) {
        self.position = position;
    }

    /// The device the model lives on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Appends `tokens`; for each probe, the logits of its rows.
    pub async fn probe(&mut self, tokens: &[u32], probes: &[Probe]) -> Result<Vec<Vec<f32>>> {
        self.reserve(tokens.len()).await?;
        let mut slot = 0;
        for (index, chunk) in tokens.chunks(PASS).enumerate() {
            let mut entries: Vec<[u32; 4]> = Vec::new();
            for probe in probes {
                let here = probe.at.checked_sub(index * PASS).filter(|&at| at < chunk.len());
                entries.extend(here.into_iter().flat_map(|at| probe.ids.iter().map(move |&id| [at as u32, id, 0, 0])));
            }
            slot = self.submit(chunk, &[chunk.len()], entries, slot)?;
        }
        self.logits(probes.iter(), slot).await
    }

    /// Runs `sequences` in one pass, each as if it alone followed the cached tokens, and leaves the cache as it was.
    pub async fn probe_many(&mut self, sequences: &[Sequence]) -> Result<Vec<Vec<Vec<f32>>>> {
        let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.tokens.len()).collect();
        let tokens: Vec<u32> = sequences.iter().flat_map(|sequence| &sequence.tokens).copied().collect();
        self.reserve(tokens.len()).await?;
        let position = self.position;
        let mut entries = Vec::new();
        let mut start = 0;
        for Sequence { tokens, probes } in sequences {
            for probe in probes {
                entries.extend(probe.ids.iter().map(|&id| [(start + probe.at) as u32, id, 0, 0]));
            }
            start += tokens.len();
        }
        let wanted = self.submit(&tokens, &lengths, entries, 0)?;
        let logits = self.logits(sequences.iter().flat_map(|sequence| &sequence.probes), wanted).await;
        self.rewind(position);
        let mut logits = logits?.into_iter();
        Ok(sequences.iter().map(|sequence| logits.by_ref().take(sequence.probes.len()).collect()).collect())
    }

    /// Submits one pass over sequences of `lengths` tokens, and writes the logits of its probe entries (token, row, slot)
    /// from `slot` on. Returns the slot after them.
    fn submit(&mut self, tokens: &[u32], lengths: &[usize], mut entries: Vec<[u32; 4]>, slot: usize) -> Result<usize> {
        let end = slot + entries.len();
        if end > MAX_PROBES {
            return Err(Error::internal(format!("{end} logits in one call, {MAX_PROBES} at most")));
        }
        for (entry, slot) in entries.iter_mut().zip(slot as u32..) {
            entry[2] = slot;
        }
        self.device.queue.write_buffer(&self.buffers.probes, 0, bytemuck::cast_slice(&entries));
        let call = self.start(tokens, lengths, entries.len());
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            run(&mut pass, self.layers_plan(tokens.len()), call);
            if !entries.is_empty() {
                run(&mut pass, &self.plan.probe, call);
            }
        }
        if end > 0 {
            encoder.copy_buffer_to_buffer(&self.buffers.logits, 0, &self.buffers.read, 0, end as u64 * 4);
        }
        self.device.queue.submit([encoder.finish()]);
        self.position += tokens.len();
        Ok(end)
    }

    /// Reads the `wanted` logits of the probes back.
    async fn logits(&self, probes: impl Iterator<Item = &Probe>, wanted: usize) -> Result<Vec<Vec<f32>>> {
        if wanted == 0 {
            return Ok(probes.map(|_| Vec::new()).collect());
        }
        let mut values = self.device.read(&self.buffers.read, wanted).await?.into_iter().map(f32::from_bits);
        Ok(probes.map(|probe| values.by_ref().take(probe.ids.len()).collect()).collect())
    }

    /// Appends `tokens` and picks the one after them, none of `skip`; only its id is read back.
    pub async fn next(&mut self, tokens: &[u32], sampling: Sampling, skip: Range<u32>) -> Result<u32> {
        self.reserve(tokens.len()).await?;
        for (index, chunk) in tokens.chunks(PASS).enumerate() {
            let mut call = self.start(chunk, &[chunk.len()], 0);
            let last = (index + 1) * PASS >= tokens.len();
            if last {
                call.position = (self.position + chunk.len() - 1) as u32;
                (call.skip_from, call.skip_to) = (skip.start, skip.end);
                if let Sampling::Random { temperature, min_p, seed } = sampling {
                    (call.random, call.temperature, call.seed) = (1, temperature, seed);
                    // min_p 0 keeps every token; its logarithm is no number a shader may hold.
                    call.floor = (temperature * min_p.ln()).max(-1e30);
                }
                self.device.queue.write_buffer(&self.buffers.call, 0, bytemuck::bytes_of(&call));
            }
            let mut encoder = self.device.device.create_command_encoder(&Default::default());
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                run(&mut pass, self.layers_plan(chunk.len()), call);
                if last {
                    run(&mut pass, &self.plan.pick, call);
                }
            }
            if last {
                encoder.copy_buffer_to_buffer(&self.buffers.picked, 0, &self.buffers.read, 0, 8);
            }
            self.device.queue.submit([encoder.finish()]);
            self.position += chunk.len();
        }
        let picked = self.device.read(&self.buffers.read, 2).await?;
        if !f32::from_bits(picked[1]).is_finite() || picked[0] as usize >= self.config.vocab {
            return Err(Error::internal("the logits hold no finite number"));
        }
        Ok(picked[0])
    }

    /// Writes what a chunk, sequences of `lengths` tokens, needs before it runs.
    fn start(&self, chunk: &[u32], lengths: &[usize], probes: usize) -> Call {
        let shared = self.position as u32;
        let call =
            Call { tokens: chunk.len() as u32, start: shared, probes: probes as u32, shared, ..Default::default() };
        let mut places: Vec<[u32; 2]> = Vec::with_capacity(chunk.len());
        for &length in lengths {
            let own = shared + places.len() as u32;
            places.extend((0..length as u32).map(|t| [shared + t, own]));
        }
        self.device.queue.write_buffer(&self.buffers.call, 0, bytemuck::bytes_of(&call));
        self.device.queue.write_buffer(&self.buffers.ids, 0, bytemuck::cast_slice(chunk));
        self.device.queue.write_buffer(&self.buffers.places, 0, bytemuck::cast_slice(&places));
        call
    }

    fn layers_plan(&self, tokens: usize) -> &[Dispatch] {
        if tokens == 1 { &self.plan.decode } else { &self.plan.prefill }
    }

    /// Makes room for `tokens` more positions, and checks that the device is still there.
    async fn reserve(&mut self, tokens: usize) -> Result<()> {
        self.device.check()?;
        let needed = self.position + tokens;
        if needed <= self.capacity {
            return Ok(());
        }
        let capacity = needed.max(2 * self.capacity).min(self.config.context);
        let (device, config) = (&self.device, &self.config);
        let (angles, cache) = device.scoped("KV cache", || allocate_cache(device, config, capacity)).await?;
        let kept = (self.position * config.kv_dim() / 2 * 4) as u64;
        let mut encoder = device.device.create_command_encoder(&Default::default());
        if kept > 0 {
            for (old, new) in self.cache.iter().zip(&cache) {
                encoder.copy_buffer_to_buffer(&old.keys, 0, &new.keys, 0, kept);
                encoder.copy_buffer_to_buffer(&old.values, 0, &new.values, 0, kept);
            }
        }
        device.queue.submit([encoder.finish()]);
        for old in std::mem::replace(&mut self.cache, cache) {
            old.keys.destroy();
            old.values.destroy();
        }
        std::mem::replace(&mut self.angles, angles).destroy();
        self.capacity = capacity;
        self.plan = self.build_plan().await?;
        Ok(())
    }

    /// Makes every bind group and lists the dispatches.
    async fn build_plan(&mut self) -> Result<Plan> {
        let Self { device, config, kernels, embedding, layers, norm, head, buffers: b, angles, cache, .. } = self;
        let mut plan = Planner { device, kernels };
        let head = head.as_ref().unwrap_or(embedding);
        let hidden = ("HIDDEN", config.hidden as u32);
        let shape =
            [("HEADS", config.heads as u32), ("HEAD_DIM", config.head_dim as u32), ("KV_DIM", config.kv_dim() as u32)];
        let eps = config.norm_eps;
        let group64 = |n: usize| (n as u32).div_ceil(64);

        let mut both = [Vec::new(), Vec::new()];
        for (one, list) in both.iter_mut().enumerate() {
            let one = one == 1;
            list.push(
                plan.weighted(
                    Kernel::Embed,
                    embedding,
                    &[hidden],
                    None,
                    &[(3, &b.ids), (4, &b.x)],
                    Grid::PerToken(group64(config.hidden / 4)),
                )
                .await?,
            );
            for (layer, cache) in layers.iter().zip(cache.iter()) {
                // Attention: normed [tokens, hidden] -> q [tokens, hidden], k and v [tokens, kv_dim].
                list.push(plan.norm(&layer.attn_norm, b, false, config.hidden, eps).await?);
                list.push(plan.matmul(&layer.q, &b.call, &b.normed, &b.q, false, one).await?);
                list.push(plan.matmul(&layer.k, &b.call, &b.normed, &b.k, false, one).await?);
                list.push(plan.matmul(&layer.v, &b.call, &b.normed, &b.v, false, one).await?);
                let rope = [
                    (0, &b.call),
                    (1, &*angles),
                    (2, &b.q),
                    (3, &b.k),
                    (4, &b.v),
                    (5, &cache.keys),
                    (6, &cache.values),
                    (7, &b.places),
                ];
                let pairs = group64((config.hidden + config.kv_dim()) / 2);
                list.push(plan.plain(Kernel::RopeKv, &shape, &rope, Grid::PerToken(pairs)).await?);
                let attention =
                    [(0, &b.call), (1, &b.q), (2, &cache.keys), (3, &cache.values), (4, &b.attended), (5, &b.places)];
                list.push(
                    plan.plain(Kernel::Attention, &shape, &attention, Grid::TokensBy(config.heads as u32)).await?,
                );
                list.push(plan.matmul(&layer.o, &b.call, &b.attended, &b.x, true, one).await?);

                // Feed-forward: gate and up [tokens, ffn], down back to x [tokens, hidden].
                list.push(plan.norm(&layer.ffn_norm, b, false, config.hidden, eps).await?);
                list.push(plan.matmul(&layer.gate, &b.call, &b.normed, &b.gate, false, one).await?);
                list.push(plan.matmul(&layer.up, &b.call, &b.normed, &b.up, false, one).await?);
                let swiglu = [(1, &b.gate), (2, &b.up)];
                list.push(
                    plan.plain(
                        Kernel::Swiglu,
                        &[("FFN", config.ffn as u32)],
                        &swiglu,
                        Grid::PerToken(group64(config.ffn)),
                    )
                    .await?,
                );
                list.push(plan.matmul(&layer.down, &b.call, &b.gate, &b.x, true, one).await?);
            }
        }
        let [prefill, decode] = both;
        let probe = plan
            .weighted(
                Kernel::HeadRows,
                head,
                &[hidden],
                Some(eps),
                &[(0, &b.call), (3, &b.x), (4, &*norm), (5, &b.probes), (6, &b.logits)],
                Grid::Probes,
            )
            .await?;
        let pick = vec![
            plan.norm(norm, b, true, config.hidden, eps).await?,
            plan.matmul(head, &b.call, &b.normed, &b.logits, false, true).await?,
            plan.plain(
                Kernel::Sample,
                &[("VOCAB", config.vocab as u32)],
                &[(0, &b.call), (1, &b.logits), (2, &b.picked)],
                Grid::Fixed(1, 1),
            )
            .await?,
        ];
        Ok(Plan { prefill, decode, probe: vec![probe], pick })
    }

    /// Frees what the model holds on the device; in the browser memory would wait for the garbage collector otherwise.
    pub fn destroy(&self) {
        self.device.destroy();
    }
}

/// Makes dispatches.
struct Planner<'a> {
    device: &'a Device,
    kernels: &'a mut Kernels,
}

impl Planner<'_> {
    async fn make(
        &mut self,
        kernel: Kernel,
        constants: &[(&str, Constant)],
        buffers: &[(u32, &wgpu::Buffer)],
        grid: Grid,
    ) -> Result<Dispatch> {
        let pipeline = self.kernels.get(kernel, constants).await?;
        let group = bind(self.device, &pipeline, buffers);
        Ok(Dispatch { pipeline, group, grid })
    }

    /// A kernel without weights.
    async fn plain(
        &mut self,
        kernel: Kernel,
        constants: &[(&str, u32)],
        buffers: &[(u32, &wgpu::Buffer)],
        grid: Grid,
    ) -> Result<Dispatch> {
        let constants: Vec<_> = constants.iter().map(|&(name, value)| (name, Constant::U32(value))).collect();
        self.make(kernel, &constants, buffers, grid).await
    }

    /// A kernel that reads a matrix in planes, at bindings 1 and 2.
    async fn weighted(
        &mut self,
        kernel: Kernel,
        matrix: &Matrix,
        constants: &[(&str, u32)],
        eps: Option<f32>,
        buffers: &[(u32, &wgpu::Buffer)],
        grid: Grid,
    ) -> Result<Dispatch> {
        let layout = planes(matrix.format);
        let mut all = vec![("FORMAT", Constant::U32(layout.format)), ("WORDS", Constant::U32(layout.words))];
        all.extend(constants.iter().map(|&(name, value)| (name, Constant::U32(value))));
        all.extend(eps.map(|eps| ("EPS", Constant::F32(eps))));
        let mut bound = buffers.to_vec();
        bound.push((1, &matrix.quants));
        // The float formats have no scales, and a binding that a shader does not use is not in its layout.
        if !matches!(matrix.format, Format::F16 | Format::F32) {
            bound.push((2, &matrix.scales));
        }
        self.make(kernel, &all, &bound, grid).await
    }

    async fn matmul(
        &mut self,
        matrix: &Matrix,
        call: &wgpu::Buffer,
        x: &wgpu::Buffer,
        out: &wgpu::Buffer,
        add: bool,
        one: bool,
    ) -> Result<Dispatch> {
        let rows = matrix.rows as u32;
        let constants = [("ROWS", rows), ("COLS", matrix.cols as u32), ("ADD", u32::from(add))];
        if one {
            let groups = rows.div_ceil(8);
            let grid = Grid::Fixed(groups.min(32_768), groups.div_ceil(32_768));
            // One token's kernel has no use for the call's numbers.
            return self.weighted(Kernel::Matvec, matrix, &constants, None, &[(3, x), (4, out)], grid).await;
        }
        let buffers = [(0, call), (3, x), (4, out)];
        self.weighted(Kernel::Matmul, matrix, &constants, None, &buffers, Grid::Tiles(rows.div_ceil(32))).await
    }

    async fn norm(&mut self, gain: &wgpu::Buffer, b: &Buffers, last: bool, width: usize, eps: f32) -> Result<Dispatch> {
        let constants = [
            ("WIDTH", Constant::U32(width as u32)),
            ("LAST", Constant::U32(u32::from(last))),
            ("EPS", Constant::F32(eps)),
        ];
        let mut buffers = vec![(1, &b.x), (2, gain), (3, &b.normed)];
        if last {
            buffers.push((0, &b.call));
        }
        self.make(Kernel::RmsNorm, &constants, &buffers, if last { Grid::Fixed(1, 1) } else { Grid::Tokens }).await
    }
}

fn run(pass: &mut wgpu::ComputePass, dispatches: &[Dispatch], call: Call) {
    for Dispatch { pipeline, group, grid } in dispatches {
        let (x, y) = match *grid {
            Grid::Fixed(x, y) => (x, y),
            Grid::PerToken(x) => (x, call.tokens),
            Grid::Tokens => (call.tokens, 1),
            Grid::Tiles(x) => (x, call.tokens.div_ceil(32)),
            Grid::TokensBy(y) => (call.tokens, y),
            Grid::Probes => (call.probes, 1),
        };
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, group, &[]);
        pass.dispatch_workgroups(x, y, 1);
    }
}

impl Buffers {
    fn new(device: &Device, config: &Config) -> Self {
        use wgpu::BufferUsages as Usage;
        let floats = |label, count: usize| device.buffer(label, count as u64 * 4, Usage::STORAGE);
        let rows = |label, width: usize| floats(label, PASS * width);
        Buffers {
            call: device.buffer("call", size_of::<Call>() as u64, Usage::UNIFORM | Usage::COPY_DST),
            ids: device.buffer("ids", PASS as u64 * 4, Usage::STORAGE | Usage::COPY_DST),
            places: device.buffer("places", PASS as u64 * 8, Usage::STORAGE | Usage::COPY_DST),
            x: rows("x", config.hidden),
            normed: rows("normed", config.hidden),
            q: rows("q", config.hidden),
            k: rows("k", config.kv_dim()),
            v: rows("v", config.kv_dim()),
            attended: rows("attended", config.hidden),
            gate: rows("gate", config.ffn),
            up: rows("up", config.ffn),
            probes: device.buffer("probes", MAX_PROBES as u64 * 16, Usage::STORAGE | Usage::COPY_DST),
            logits: device.buffer("logits", config.vocab.max(MAX_PROBES) as u64 * 4, Usage::STORAGE | Usage::COPY_SRC),
            picked: device.buffer("picked", 16, Usage::STORAGE | Usage::COPY_SRC),
            read: device.buffer("read", MAX_PROBES as u64 * 4, Usage::MAP_READ | Usage::COPY_DST),
        }
    }
}

/// RoPE's angles and every layer's cache for `capacity` positions.
fn allocate_cache(device: &Device, config: &Config, capacity: usize) -> (wgpu::Buffer, Vec<Cache>) {
    use wgpu::BufferUsages as Usage;
    let half = config.head_dim / 2;
    // In f64 on the host: sine and cosine of large angles are no better than f16 on many GPUs.
    let angles: Vec<[f32; 2]> = (0..capacity * half)
        .map(|at| {
            let (position, i) = (at / half, at % half);
            let exponent = -2.0 * i as f64 / config.head_dim as f64;
            let (sin, cos) = (position as f64 * (config.rope_base as f64).powf(exponent)).sin_cos();
            [cos as f32, sin as f32]
        })
        .collect();
    let bytes: &[u8] = bytemuck::cast_slice(&angles);
    let buffer = device.buffer("angles", bytes.len() as u64, Usage::STORAGE | Usage::COPY_DST);
    device.queue.write_buffer(&buffer, 0, bytes);
    let plane = |label| {
        let bytes = (capacity * config.kv_dim() / 2 * 4) as u64;
        device.buffer(label, bytes, Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST)
    };
    let cache = (0..config.layers).map(|_| Cache { keys: plane("keys"), values: plane("values") }).collect();
    (buffer, cache)
}
