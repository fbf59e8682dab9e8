//! Weights on the GPU: a tensor's bytes go from the chunk they arrive in to a staging buffer, and from there, repacked by
//! a compute shader, into aligned planes. No copy of a tensor is held on the host.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::device::Device;
use super::forward::Model;
use super::kernels::{Constant, Kernel, Kernels, planes};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorEntry};
use crate::quant::{BLOCK, Format};

/// The stacks' names, and what they are made of.
pub(super) const QKV: &str = "attn_qkv";
pub(super) const GATE_UP: &str = "ffn_gate_up";
const STACKS: [(&str, &[&str]); 2] = [(QKV, &["attn_q", "attn_k", "attn_v"]), (GATE_UP, &["ffn_gate", "ffn_up"])];

/// One matrix in planes. Clones share them.
#[derive(Clone)]
pub struct Matrix {
    pub format: Format,
    pub rows: usize,
    pub cols: usize,
    pub quants: wgpu::Buffer,
    pub scales: wgpu::Buffer,
}

/// Where a tensor's rows go: alone into a matrix of its own, or beside others of its format into one matrix, which one
/// dispatch multiplies.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Berth {
    /// The matrix's name.
    name: String,
    /// The matrix's rows.
    rows: usize,
    /// Row r becomes row `r * step + offset`.
    step: usize,
    offset: usize,
}

/// A tensor on its way in.
struct Arriving {
    index: usize,
    staging: wgpu::Buffer,
    /// Bytes already in the staging buffer, and the 0 to 3 that wait for a whole word.
    written: u64,
    carry: Vec<u8>,
}

/// Streams tensors to the device, in the file's order.
pub struct WeightLoader {
    device: Device,
    config: Config,
    entries: Vec<TensorEntry>,
    /// One of each entry.
    berths: Vec<Berth>,
    arriving: Option<Arriving>,
    staged: Vec<(usize, wgpu::Buffer)>,
    /// Entries that are in their place.
    arrived: Vec<bool>,
    vectors: HashMap<String, wgpu::Buffer>,
    matrices: HashMap<String, Matrix>,
    kernels: Kernels,
    /// Over the same buffers, from before they are filled.
    model: Option<Model>,
}

impl WeightLoader {
    /// Checks that every tensor fits the device, before anything is allocated.
    pub fn new(device: &Device, config: &Config, gguf: &Gguf) -> Result<Self> {
        let limit = device.max_buffer;
        for entry in &gguf.tensors {
            let problem = if entry.rows > 1 && !entry.cols.is_multiple_of(BLOCK) {
                format!("rows of {} elements are no multiple of {BLOCK}", entry.cols)
            } else if plane_bytes(entry).max(entry.bytes + 4) > limit {
                format!("{} bytes are over the device's limit of {limit}", entry.bytes)
            } else {
                continue;
            };
            return Err(Error::GpuUnavailable { problem: format!("tensor {:?}: {problem}", entry.name) });
        }
        if config.head_dim > 256 {
            return Err(Error::GpuUnavailable {
                problem: format!("heads of {} elements, 256 at most", config.head_dim),
            });
        }
        Ok(WeightLoader {
            device: device.clone(),
            config: config.clone(),
            entries: gguf.tensors.clone(),
            berths: gguf.tensors.iter().map(|entry| berth(entry, &gguf.tensors, limit)).collect(),
            arriving: None,
            staged: Vec::new(),
            arrived: vec![false; gguf.tensors.len()],
            vectors: HashMap::new(),
            matrices: HashMap::new(),
            kernels: Kernels::new(device),
            model: None,
        })
    }

    /// The next bytes of tensor `tensor`; `offset` says where in it they begin.
    pub fn write(&mut self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        self.device.check()?;
        let entry = &self.entries[tensor];
        let arriving = match &mut self.arriving {
            Some(arriving) if arriving.index == tensor => arriving,
            Some(arriving) => {
                let name = &self.entries[arriving.index].name;
                return Err(Error::internal(format!("tensor {name:?} was left incomplete")));
            }
            slot => slot.insert(Arriving {
                index: tensor,
                staging: match entry.rows {
                    // A norm's gain is F32 already.
                    1 => vector(&self.device, &mut self.vectors, entry).clone(),
                    _ => written_buffer(&self.device, "staging", entry.bytes),
                },
                written: 0,
                carry: Vec::new(),
            }),
        };
        if arriving.written + arriving.carry.len() as u64 != offset || offset + bytes.len() as u64 > entry.bytes {
            return Err(Error::internal(format!("bytes of tensor {:?} out of order", entry.name)));
        }
        // Writes are whole words; up to three bytes wait for the next chunk.
        let mut rest = bytes;
        if !arriving.carry.is_empty() {
            let taken = rest.len().min(4 - arriving.carry.len());
            arriving.carry.extend_from_slice(&rest[..taken]);
            rest = &rest[taken..];
            if arriving.carry.len() == 4 {
                self.device.queue.write_buffer(&arriving.staging, arriving.written, &arriving.carry);
                arriving.written += 4;
                arriving.carry.clear();
            }
        }
        let whole = rest.len() / 4 * 4;
        if whole > 0 {
            self.device.queue.write_buffer(&arriving.staging, arriving.written, &rest[..whole]);
            arriving.written += whole as u64;
        }
        arriving.carry.extend_from_slice(&rest[whole..]);
        if arriving.written + arriving.carry.len() as u64 == entry.bytes {
            if !arriving.carry.is_empty() {
                arriving.carry.resize(4, 0);
                self.device.queue.write_buffer(&arriving.staging, arriving.written, &arriving.carry);
            }
            if let Some(arriving) = self.arriving.take() {
                self.staged.push((arriving.index, arriving.staging));
            }
        }
        Ok(())
    }

    /// Repacks the tensors that have arrived; call it between chunks so that staging buffers do not pile up. The first call
    /// makes the model around buffers still empty: its pipelines compile while the rest is on its way.
    pub async fn repack(&mut self) -> Result<()> {
        if self.model.is_none() {
            self.model = Some(self.prepare().await?);
        }
        for (index, staging) in std::mem::take(&mut self.staged) {
            self.arrived[index] = true;
            let (entry, berth) = (&self.entries[index], &self.berths[index]);
            if let Some(matrix) = self.matrices.get(&berth.name) {
                repack(&self.device, &mut self.kernels, matrix, entry.rows, (berth.step, berth.offset), &staging)
                    .await?;
                staging.destroy();
            }
        }
        Ok(())
    }

    /// Allocates what has no buffer yet, and makes the model of it.
    async fn prepare(&mut self) -> Result<Model> {
        for (entry, berth) in self.entries.iter().zip(&self.berths) {
            if entry.rows == 1 {
                vector(&self.device, &mut self.vectors, entry);
            } else if let Entry::Vacant(slot) = self.matrices.entry(berth.name.clone()) {
                slot.insert(Matrix::new(&self.device, &berth.name, entry.format, berth.rows, entry.cols).await?);
            }
        }
        Model::new(self.device.clone(), self.config.clone(), self.matrices.clone(), self.vectors.clone()).await
    }

    /// The model, once every tensor is complete.
    pub async fn finish(mut self) -> Result<Model> {
        if let Some(arriving) = &self.arriving {
            let entry = &self.entries[arriving.index];
            return Err(Error::format(
                format!("tensor {:?}", entry.name),
                format!("the file ends after {} of its {} bytes", arriving.written, entry.bytes),
            ));
        }
        self.repack().await?;
        if let Some((entry, _)) = self.entries.iter().zip(&self.arrived).find(|(_, arrived)| !**arrived) {
            return Err(Error::format(format!("tensor {:?}", entry.name), "is missing"));
        }
        self.model.ok_or_else(|| Error::internal("no model was made"))
    }
}

/// A buffer that the host writes and shaders read.
fn written_buffer(device: &Device, label: &str, bytes: u64) -> wgpu::Buffer {
    device.buffer(label, bytes, wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST)
}

/// The buffer of a tensor that is used as it comes.
fn vector<'a>(
    device: &Device,
    vectors: &'a mut HashMap<String, wgpu::Buffer>,
    entry: &TensorEntry,
) -> &'a wgpu::Buffer {
    vectors.entry(entry.name.clone()).or_insert_with(|| written_buffer(device, &entry.name, entry.bytes))
}

/// Where a tensor goes among `all`: q, k and v of a layer one after the other, gate and up in alternating rows, where their
/// formats agree and the whole is within `limit` bytes.
fn berth(entry: &TensorEntry, all: &[TensorEntry], limit: u64) -> Berth {
    let alone = Berth { name: entry.name.clone(), rows: entry.rows, step: 1, offset: 0 };
    for (together, parts) in STACKS {
        let Some((layer, nth)) = parts.iter().enumerate().find_map(|(nth, part)| {
            let layer = entry.name.strip_prefix("blk.")?.strip_suffix(".weight")?.strip_suffix(part)?;
            Some((layer, nth))
        }) else {
            continue;
        };
        let peers: Vec<&TensorEntry> = parts
            .iter()
            .filter_map(|part| all.iter().find(|peer| peer.name == format!("blk.{layer}{part}.weight")))
            .filter(|peer| peer.format == entry.format && peer.cols == entry.cols)
            .collect();
        let rows = peers.iter().map(|peer| peer.rows).sum();
        if peers.len() < parts.len() || peers.iter().map(|peer| plane_bytes(peer)).sum::<u64>() > limit {
            return alone;
        }
        let name = format!("blk.{layer}{together}.weight");
        return match together {
            GATE_UP => Berth { name, rows, step: parts.len(), offset: nth },
            _ => Berth { name, rows, step: 1, offset: peers[..nth].iter().map(|peer| peer.rows).sum() },
        };
    }
    alone
}

impl Matrix {
    pub(super) async fn new(device: &Device, name: &str, format: Format, rows: usize, cols: usize) -> Result<Self> {
        let blocks = (rows * cols / BLOCK) as u64;
        device
            .scoped(&format!("tensor {name:?}"), || {
                let usage = wgpu::BufferUsages::STORAGE;
                let quants = device.buffer(name, blocks * 4 * u64::from(planes(format).words), usage);
                let scales = device.buffer("scales", blocks * 4, usage);
                Matrix { format, rows, cols, quants, scales }
            })
            .await
    }
}

/// GGUF bytes of `rows` rows in the matrix's format into its planes, on the device: row r becomes row `r * step + offset`.
pub(super) async fn repack(
    device: &Device,
    kernels: &mut Kernels,
    matrix: &Matrix,
    rows: usize,
    (step, offset): (usize, usize),
    raw: &wgpu::Buffer,
) -> Result<()> {
    let Matrix { format, cols, quants, scales, .. } = matrix;
    let layout = planes(*format);
    let per_row = cols / BLOCK;
    let (kind, source) = match format {
        Format::Q4_0 => (0, 18),
        Format::Q4_1 => (1, 20),
        Format::Q5_0 => (2, 22),
        Format::Q8_0 => (3, 34),
        Format::F16 => (4, 64),
        Format::F32 => (5, 128),
    };
    let plain = if *format == Format::Q5_0 { layout.words - 1 } else { layout.words };
    let sizes = [("BLOCKS", rows * per_row), ("BLOCKS_PER_ROW", per_row), ("STEP", step), ("OFFSET", offset)];
    let constants: Vec<_> = [("KIND", kind), ("SOURCE", source), ("WORDS", layout.words), ("PLAIN", plain)]
        .into_iter()
        .chain(sizes.map(|(name, value)| (name, value as u32)))
        .map(|(name, value)| (name, Constant::U32(value)))
        .collect();
    let pipeline = kernels.get(Kernel::Repack, &constants).await?;
    device
        .scoped("repacking a tensor", || {
            let group = bind(device, &pipeline, &[(0, raw), (1, quants), (2, scales)]);
            let groups = ((rows * per_row) as u32).div_ceil(64);
            let mut encoder = device.device.create_command_encoder(&Default::default());
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                pass.set_pipeline(&pipeline);
                pass.set_bind_group(0, &group, &[]);
                pass.dispatch_workgroups(groups.min(32_768), groups.div_ceil(32_768), 1);
            }
            device.queue.submit([encoder.finish()]);
        })
        .await
}

/// Bytes of the larger plane.
fn plane_bytes(entry: &TensorEntry) -> u64 {
    (entry.rows * entry.cols / BLOCK) as u64 * 4 * planes(entry.format).words as u64
}

/// A bind group over whole buffers, in the layout that the pipeline's own bindings give.
pub fn bind(device: &Device, pipeline: &wgpu::ComputePipeline, buffers: &[(u32, &wgpu::Buffer)]) -> wgpu::BindGroup {
    let entries: Vec<wgpu::BindGroupEntry> = buffers
        .iter()
        .map(|&(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
        .collect();
    device.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &entries,
    })
}
