//! The forward pass as a static list of dispatches, in the order the data flows.

use std::collections::HashMap;
use std::ops::Range;

use super::device::Device;
use super::kernels::{Constant, Cut, Kernel, Kernels, MANY, Tokens, cut, planes};
use super::weights::{GATE_UP, Matrix, QKV, bind};
use crate::config::Config;
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
    pub kept: u32,
    pub random: u32,
    pub temperature: f32,
    pub floor: f32,
    pub seed: u32,
    pub position: u32,
    pub skip_from: u32,
    pub skip_to: u32,
    pub shared: u32,
}

/// What a call says of a token; `table` in the shaders.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct TokenEntry {
    id: u32,
    position: u32,
    /// The first place in the cache that is its own sequence's.
    own: u32,
    /// The index of the nth kept token, n being this entry's index.
    kept: u32,
}

/// How many workgroups a dispatch takes.
#[derive(Clone, Copy)]
enum Grid {
    Fixed(u32, u32),
    /// (x, tokens)
    PerToken(u32),
    /// (x, tokens / 32)
    Tiles(u32),
    /// (x, kept tokens / 32)
    KeptTiles(u32),
    /// (tokens, y)
    TokensBy(u32),
    /// (kept tokens, y)
    KeptBy(u32),
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
    /// With the row of q, k and v stacked that its first row is: the stack, or the three by themselves where their formats
    /// differ.
    qkv: Vec<(usize, Matrix)>,
    o: Matrix,
    ffn_norm: wgpu::Buffer,
    /// Gate and up in alternating rows, or the two by themselves.
    gate_up: Vec<Matrix>,
    down: Matrix,
}

/// Where a product goes; the numbers of `STORE` in `shaders/store.wgsl`.
#[derive(Clone, Copy)]
enum Store<'a> {
    Plain,
    Add,
    /// To the kept tokens' rows, added to those of this residual stream.
    AddKept(&'a wgpu::Buffer),
    /// q, and keys and values in the cache; the first row among the three stacked.
    Qkv(usize, &'a Cache),
    GateUp,
    /// Onto the gate that is there.
    Gated,
}

impl Store<'_> {
    fn number(self) -> u32 {
        match self {
            Store::Plain => 0,
            Store::Add => 1,
            Store::AddKept(_) => 2,
            Store::Qkv(..) => 3,
            Store::GateUp => 4,
            Store::Gated => 5,
        }
    }
}

/// Which rows of activations a product runs over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    All,
    /// The same where they are [`MANY`].
    Many,
    /// The kept tokens', side by side.
    Kept,
    /// A single one.
    One,
}

impl Rows {
    fn tokens(self) -> Tokens {
        match self {
            Rows::One => Tokens::One,
            Rows::Many => Tokens::Many,
            Rows::All | Rows::Kept => Tokens::Few,
        }
    }
}

/// Activations of one chunk, and what a call writes and reads.
struct Buffers {
    call: wgpu::Buffer,
    /// The call of a pass over the token just picked, as the GPU writes it.
    next: wgpu::Buffer,
    /// A [`TokenEntry`] for each token.
    table: wgpu::Buffer,
    x: wgpu::Buffer,
    /// The residual stream of the kept tokens, in the last layer.
    x_kept: wgpu::Buffer,
    q: wgpu::Buffer,
    attended: wgpu::Buffer,
    gate: wgpu::Buffer,
    probes: wgpu::Buffer,
    logits: wgpu::Buffer,
    picked: wgpu::Buffer,
    read: wgpu::Buffer,
    /// The ids that two passes picked: one is read while the other is being written.
    ring: [wgpu::Buffer; 2],
}

/// Keys (rotated) and values of one layer, packed f16 pairs, `[capacity, (k, v), kv_dim / 2]`.
struct Cache {
    pairs: wgpu::Buffer,
}

/// The dispatches of the ways a chunk runs.
#[derive(Default)]
struct Plan {
    /// Many tokens, up to the last layer's keys and values: matrices in tiles.
    prefill: Vec<Dispatch>,
    /// The same for [`MANY`] and more; empty where that makes no difference.
    many: Vec<Dispatch>,
    /// One token: matrices row by row.
    decode: Vec<Dispatch>,
    /// The rest of the last layer, for the kept tokens.
    tail: Vec<Dispatch>,
    /// The same for one kept token.
    tail_one: Vec<Dispatch>,
    /// Rows of the LM head at the probed tokens.
    probe: Vec<Dispatch>,
    /// The whole LM head after the one kept token, and the pick.
    pick: Vec<Dispatch>,
}

/// A pass that picks a token, under way.
struct Flight {
    slot: usize,
    submission: wgpu::SubmissionIndex,
}

/// A pass that was submitted before its token was known to be wanted.
struct Ahead {
    flight: Flight,
    token: u32,
    position: usize,
    sampling: Sampling,
    skip: Range<u32>,
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
    /// The token picked last, and the position it would get.
    picked: Option<(u32, usize)>,
    ahead: Option<Ahead>,
}

impl Model {
    pub(super) async fn new(
        device: Device,
        config: Config,
        mut matrices: HashMap<String, Matrix>,
        mut vectors: HashMap<String, wgpu::Buffer>,
    ) -> Result<Self> {
        let kernels = Kernels::new(&device);
        let missing = |name: &str| Error::format(format!("tensor {name:?}"), "is missing");
        let mut layers = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            let name = |suffix: &str| format!("blk.{layer}.{suffix}.weight");
            let mut vector = |suffix: &str| vectors.remove(&name(suffix)).ok_or_else(|| missing(&name(suffix)));
            let mut matrix = |suffix: &str| matrices.remove(&name(suffix)).ok_or_else(|| missing(&name(suffix)));
            layers.push(Layer {
                attn_norm: vector("attn_norm")?,
                qkv: match matrix(QKV) {
                    Ok(stack) => vec![(0, stack)],
                    Err(_) => {
                        let (q, k, v) = (matrix("attn_q")?, matrix("attn_k")?, matrix("attn_v")?);
                        let (at_k, at_v) = (q.rows, q.rows + k.rows);
                        vec![(0, q), (at_k, k), (at_v, v)]
                    }
                },
                o: matrix("attn_output")?,
                ffn_norm: vector("ffn_norm")?,
                gate_up: match matrix(GATE_UP) {
                    Ok(stack) => vec![stack],
                    Err(_) => vec![matrix("ffn_gate")?, matrix("ffn_up")?],
                },
                down: matrix("ffn_down")?,
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
            picked: None,
            ahead: None,
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

    /// Dispatches of a decoded token, from its embedding to the pick of the next.
    pub fn dispatches_per_token(&self) -> usize {
        self.plan.decode.len() + self.plan.tail_one.len() + self.plan.pick.len()
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
        // The last layer's rest runs for the probed tokens alone, side by side.
        let mut kept: Vec<u32> = entries.iter().map(|entry| entry[0]).collect();
        kept.sort_unstable();
        kept.dedup();
        for entry in &mut entries {
            entry[0] = kept.partition_point(|&token| token < entry[0]) as u32;
        }
        self.device.queue.write_buffer(&self.buffers.probes, 0, bytemuck::cast_slice(&entries));
        let call = Call { probes: entries.len() as u32, ..self.start(tokens, lengths, &kept) };
        self.device.queue.write_buffer(&self.buffers.call, 0, bytemuck::bytes_of(&call));
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            self.run_layers(&mut pass, call);
            run(&mut pass, &self.plan.probe, call);
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
        let mut values = self.device.read(&self.buffers.read, wanted, None).await?.into_iter().map(f32::from_bits);
        Ok(probes.map(|probe| values.by_ref().take(probe.ids.len()).collect()).collect())
    }

    /// Appends `tokens` and picks the one after them, none of `skip`; only its id is read back. Where the caller has begun to
    /// follow what is picked, the pass over the next token is submitted before its id is read, so that the device does not
    /// wait; it is forgotten where the caller does something else after all.
    pub async fn next(&mut self, tokens: &[u32], sampling: Sampling, skip: Range<u32>) -> Result<u32> {
        self.device.check()?;
        let follows = tokens.len() == 1 && self.picked == Some((tokens[0], self.position));
        let flight = match self.ahead.take() {
            Some(Ahead { flight, token, position, sampling: same, skip: range })
                if (tokens, self.position) == (&[token], position) && (same, &range) == (sampling, &skip) =>
            {
                self.position += 1;
                flight
            }
            _ => self.submit_next(tokens, sampling, &skip).await?,
        };
        let mut after = None;
        if follows && self.position < self.config.context {
            self.reserve(1).await?;
            after = Some(self.submit_pick(Call { tokens: 1, kept: 1, ..Default::default() }, 1 - flight.slot, true));
        }
        let picked = self.device.read(&self.buffers.ring[flight.slot], 2, Some(flight.submission)).await?;
        if !f32::from_bits(picked[1]).is_finite() || picked[0] as usize >= self.config.vocab {
            return Err(Error::internal("the logits hold no finite number"));
        }
        self.picked = Some((picked[0], self.position));
        self.ahead = after.map(|flight| Ahead { flight, token: picked[0], position: self.position, sampling, skip });
        Ok(picked[0])
    }

    /// Submits passes over `tokens`; the last one picks.
    async fn submit_next(&mut self, tokens: &[u32], sampling: Sampling, skip: &Range<u32>) -> Result<Flight> {
        self.reserve(tokens.len()).await?;
        let (first, last) = tokens.split_at((tokens.len() - 1) / PASS * PASS);
        for chunk in first.chunks(PASS) {
            self.submit(chunk, &[chunk.len()], Vec::new(), 0)?;
        }
        let mut call = self.start(last, &[last.len()], &[last.len() as u32 - 1]);
        call.position = (self.position + last.len() - 1) as u32;
        (call.skip_from, call.skip_to) = (skip.start, skip.end);
        if let Sampling::Random { temperature, min_p, seed } = sampling {
            (call.random, call.temperature, call.seed) = (1, temperature, seed);
            // min_p 0 keeps every token; its logarithm is no number a shader may hold.
            call.floor = (temperature * min_p.ln()).max(-1e30);
        }
        self.device.queue.write_buffer(&self.buffers.call, 0, bytemuck::bytes_of(&call));
        let flight = self.submit_pick(call, 0, false);
        self.position += last.len();
        Ok(flight)
    }

    /// Submits a pass that picks a token into `slot` of the ring; `chained`: over the token that the one before it picked.
    fn submit_pick(&self, call: Call, slot: usize, chained: bool) -> Flight {
        let Buffers { call: current, next, picked, ring, .. } = &self.buffers;
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        if chained {
            encoder.copy_buffer_to_buffer(next, 0, current, 0, size_of::<Call>() as u64);
        }
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            self.run_layers(&mut pass, call);
            run(&mut pass, &self.plan.pick, call);
        }
        encoder.copy_buffer_to_buffer(picked, 0, &ring[slot], 0, 8);
        Flight { slot, submission: self.device.queue.submit([encoder.finish()]) }
    }

    /// Writes what the shaders read of a chunk's tokens, sequences of `lengths`, of which `kept` go through all of the last
    /// layer. Returns the call, which is still to be written.
    fn start(&mut self, chunk: &[u32], lengths: &[usize], kept: &[u32]) -> Call {
        // A pass that ran ahead has left its token where this one writes.
        self.ahead = None;
        let shared = self.position as u32;
        let mut table: Vec<TokenEntry> = Vec::with_capacity(chunk.len());
        for &length in lengths {
            let own = table.len();
            table.extend(chunk[own..own + length].iter().zip(0..).map(|(&id, t)| TokenEntry {
                id,
                position: shared + t,
                own: shared + own as u32,
                kept: 0,
            }));
        }
        for (entry, &token) in table.iter_mut().zip(kept) {
            entry.kept = token;
        }
        self.device.queue.write_buffer(&self.buffers.table, 0, bytemuck::cast_slice(&table));
        Call { tokens: chunk.len() as u32, start: shared, kept: kept.len() as u32, shared, ..Default::default() }
    }

    fn run_layers(&self, pass: &mut wgpu::ComputePass, call: Call) {
        let Plan { prefill, many, decode, .. } = &self.plan;
        let layers = match call.tokens {
            1 => decode,
            MANY.. if !many.is_empty() => many,
            _ => prefill,
        };
        run(pass, layers, call);
        run(pass, if call.kept == 1 { &self.plan.tail_one } else { &self.plan.tail }, call);
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
        let kept = (self.position * config.kv_dim() * 4) as u64;
        let mut encoder = device.device.create_command_encoder(&Default::default());
        if kept > 0 {
            for (old, new) in self.cache.iter().zip(&cache) {
                encoder.copy_buffer_to_buffer(&old.pairs, 0, &new.pairs, 0, kept);
            }
        }
        device.queue.submit([encoder.finish()]);
        for old in std::mem::replace(&mut self.cache, cache) {
            old.pairs.destroy();
        }
        std::mem::replace(&mut self.angles, angles).destroy();
        self.capacity = capacity;
        self.plan = self.build_plan().await?;
        Ok(())
    }

    /// Makes every bind group and lists the dispatches.
    async fn build_plan(&mut self) -> Result<Plan> {
        let Self { device, config, kernels, embedding, layers, norm, head, buffers, angles, cache, .. } = self;
        let mut plan = Planner { device, kernels, config, buffers, angles };
        let b = plan.buffers;
        let head = head.as_ref().unwrap_or(embedding);
        let rows = [("HIDDEN", config.hidden as u32)];
        let embed = [(3, &b.table), (4, &b.x)];
        let grid = Grid::PerToken((config.hidden as u32 / 4).div_ceil(64));

        let mut ways = [(Rows::All, Vec::new()), (Rows::Many, Vec::new()), (Rows::One, Vec::new())];
        for (way, list) in &mut ways {
            if *way == Rows::Many && !device.info().packed {
                continue;
            }
            list.push(plan.weighted(Kernel::Embed, embedding, &rows, None, &embed, grid).await?);
            for (index, (layer, cache)) in layers.iter().zip(cache.iter()).enumerate() {
                // x [tokens, hidden] -> q [tokens, hidden], keys and values in the cache.
                for (first, matrix) in &layer.qkv {
                    let store = Store::Qkv(*first, cache);
                    list.push(plan.product(matrix, &b.x, Some(&layer.attn_norm), store, &b.q, *way).await?);
                }
                if index + 1 < layers.len() {
                    list.push(plan.attention(cache, false).await?);
                    list.push(plan.product(&layer.o, &b.attended, None, Store::Add, &b.x, *way).await?);
                    plan.feed_forward(layer, &b.x, *way, list).await?;
                }
            }
        }
        let [(_, prefill), (_, many), (_, decode)] = ways;
        let mut tails = [(Rows::Kept, Vec::new()), (Rows::One, Vec::new())];
        if let (Some(layer), Some(cache)) = (layers.last(), cache.last()) {
            for (way, list) in &mut tails {
                list.push(plan.attention(cache, true).await?);
                let store = Store::AddKept(&b.x);
                list.push(plan.product(&layer.o, &b.attended, None, store, &b.x_kept, *way).await?);
                plan.feed_forward(layer, &b.x_kept, *way, list).await?;
            }
        }
        let [(_, tail), (_, tail_one)] = tails;

        let buffers = [(0, &b.call), (3, &b.x_kept), (4, &*norm), (5, &b.probes), (6, &b.logits)];
        let eps = Some(config.norm_eps);
        let probe = vec![plan.weighted(Kernel::HeadRows, head, &rows, eps, &buffers, Grid::Probes).await?];
        let sample = [(0, &b.call), (1, &b.logits), (2, &b.picked), (3, &b.table), (4, &b.next)];
        let pick = vec![
            plan.product(head, &b.x_kept, Some(norm), Store::Plain, &b.logits, Rows::One).await?,
            plan.plain(Kernel::Sample, &[("VOCAB", config.vocab as u32)], &sample, Grid::Fixed(1, 1)).await?,
        ];
        Ok(Plan { prefill, many, decode, tail, tail_one, probe, pick })
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
    config: &'a Config,
    buffers: &'a Buffers,
    angles: &'a wgpu::Buffer,
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

    /// `matrix` times the rows of `x`, or of their RMSNorm where there is a `gain`, to `out`.
    async fn product(
        &mut self,
        matrix: &Matrix,
        x: &wgpu::Buffer,
        gain: Option<&wgpu::Buffer>,
        store: Store<'_>,
        out: &wgpu::Buffer,
        rows: Rows,
    ) -> Result<Dispatch> {
        let (config, b) = (self.config, self.buffers);
        let mut constants = vec![
            ("ROWS", matrix.rows as u32),
            ("COLS", matrix.cols as u32),
            ("STORE", store.number()),
            ("NORM", u32::from(gain.is_some())),
        ];
        let mut buffers = vec![(3, x), (4, out)];
        buffers.extend(gain.map(|gain| (5, gain)));
        match store {
            Store::Qkv(first, cache) => {
                let (q_rows, kv_dim) = (config.heads * config.head_dim, config.kv_dim());
                let shape = [("FIRST", first), ("Q_ROWS", q_rows), ("KV_DIM", kv_dim), ("HEAD_DIM", config.head_dim)];
                constants.extend(shape.map(|(name, value)| (name, value as u32)));
                buffers.extend([(6, self.angles), (7, &cache.pairs), (8, &b.table)]);
            }
            Store::AddKept(residual) => buffers.extend([(6, residual), (8, &b.table)]),
            _ => {}
        }
        let eps = gain.map(|_| config.norm_eps);
        let Cut { kernel, constants: cuts, rows: tile } =
            cut(rows.tokens(), self.device.info(), matrix.format, gain.is_some(), matrix.cols);
        constants.extend(cuts);
        let tiles = matrix.rows.div_ceil(tile) as u32;
        if rows == Rows::One {
            // One token's kernel has no use for the call's numbers, but for its place in the cache.
            buffers.extend(matches!(store, Store::Qkv(..)).then_some((0, &b.call)));
            let grid = Grid::Fixed(tiles.min(32_768), tiles.div_ceil(32_768));
            return self.weighted(kernel, matrix, &constants, eps, &buffers, grid).await;
        }
        buffers.push((0, &b.call));
        constants.push(("KEPT", u32::from(rows == Rows::Kept)));
        let grid = if rows == Rows::Kept { Grid::KeptTiles(tiles) } else { Grid::Tiles(tiles) };
        self.weighted(kernel, matrix, &constants, eps, &buffers, grid).await
    }

    async fn attention(&mut self, cache: &Cache, kept: bool) -> Result<Dispatch> {
        let (config, b) = (self.config, self.buffers);
        let heads = config.heads as u32;
        let constants = [
            ("HEADS", heads),
            ("HEAD_DIM", config.head_dim as u32),
            ("PAIRS", config.head_dim as u32 / 2),
            ("KV_DIM", config.kv_dim() as u32),
            ("KEPT", u32::from(kept)),
        ];
        let buffers = [(0, &b.call), (1, &b.q), (2, &cache.pairs), (4, &b.attended), (5, &b.table)];
        let grid = if kept { Grid::KeptBy(heads) } else { Grid::TokensBy(heads) };
        self.plain(Kernel::Attention, &constants, &buffers, grid).await
    }

    /// x += down(silu(gate(norm(x))) * up(norm(x))), over rows of `x`.
    async fn feed_forward(
        &mut self,
        layer: &Layer,
        x: &wgpu::Buffer,
        rows: Rows,
        list: &mut Vec<Dispatch>,
    ) -> Result<()> {
        let gate = &self.buffers.gate;
        let stores: &[Store] = if layer.gate_up.len() == 1 { &[Store::GateUp] } else { &[Store::Plain, Store::Gated] };
        for (matrix, store) in layer.gate_up.iter().zip(stores) {
            list.push(self.product(matrix, x, Some(&layer.ffn_norm), *store, gate, rows).await?);
        }
        list.push(self.product(&layer.down, gate, None, Store::Add, x, rows).await?);
        Ok(())
    }
}

fn run(pass: &mut wgpu::ComputePass, dispatches: &[Dispatch], call: Call) {
    for Dispatch { pipeline, group, grid } in dispatches {
        let (x, y) = match *grid {
            Grid::Fixed(x, y) => (x, y),
            Grid::PerToken(x) => (x, call.tokens),
            Grid::Tiles(x) => (x, call.tokens.div_ceil(32)),
            Grid::KeptTiles(x) => (x, call.kept.div_ceil(32)),
            Grid::TokensBy(y) => (call.tokens, y),
            Grid::KeptBy(y) => (call.kept, y),
            Grid::Probes => (call.probes, 1),
        };
        if x * y == 0 {
            continue;
        }
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
            next: device.buffer("next", size_of::<Call>() as u64, Usage::STORAGE | Usage::COPY_SRC),
            table: device.buffer("table", (PASS * size_of::<TokenEntry>()) as u64, Usage::STORAGE | Usage::COPY_DST),
            x: rows("x", config.hidden),
            x_kept: rows("x of kept tokens", config.hidden),
            q: rows("q", config.hidden),
            attended: rows("attended", config.hidden),
            gate: rows("gate", config.ffn),
            probes: device.buffer("probes", MAX_PROBES as u64 * 16, Usage::STORAGE | Usage::COPY_DST),
            logits: device.buffer("logits", config.vocab.max(MAX_PROBES) as u64 * 4, Usage::STORAGE | Usage::COPY_SRC),
            picked: device.buffer("picked", 16, Usage::STORAGE | Usage::COPY_SRC),
            read: device.buffer("read", MAX_PROBES as u64 * 4, Usage::MAP_READ | Usage::COPY_DST),
            ring: [0, 1].map(|_| device.buffer("picked id", 8, Usage::MAP_READ | Usage::COPY_DST)),
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
    let bytes = (capacity * config.kv_dim() * 4) as u64;
    let pairs = || device.buffer("keys and values", bytes, Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST);
    let cache = (0..config.layers).map(|_| Cache { pairs: pairs() }).collect();
    (buffer, cache)
}
