//! Pipelines from `shaders/`: WGSL text with constants in front, `#if NAME values` blocks resolved, because types and
//! bindings change with a weight's format, which pipeline constants can't express, and `#repeat` blocks written out, because
//! GPU compilers do not unroll the loops that they are given, which are guarded against running for ever.

use std::collections::HashMap;

use super::device::{AdapterInfo, Device};
use crate::error::Result;
use crate::quant::Format;

const CALL: &str = include_str!("../../shaders/call.wgsl");
const OPERANDS: &str = include_str!("../../shaders/operands.wgsl");
const PLANES: &str = include_str!("../../shaders/planes.wgsl");
const REDUCE: &str = include_str!("../../shaders/reduce.wgsl");
const STORE: &str = include_str!("../../shaders/store.wgsl");

/// A kernel's file and the parts it builds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kernel {
    Repack,
    Embed,
    Matmul,
    MatmulSplit,
    MatmulPacked,
    Matvec,
    Attention,
    HeadRows,
    Sample,
}

impl Kernel {
    fn parts(self) -> (&'static str, Vec<&'static str>) {
        match self {
            Kernel::Repack => ("repack", vec![include_str!("../../shaders/repack.wgsl")]),
            Kernel::Embed => ("embed", vec![CALL, PLANES, include_str!("../../shaders/embed.wgsl")]),
            Kernel::Matmul => {
                ("matmul", vec![CALL, OPERANDS, PLANES, STORE, include_str!("../../shaders/matmul.wgsl")])
            }
            Kernel::MatmulSplit => {
                ("matmul_split", vec![CALL, OPERANDS, PLANES, STORE, include_str!("../../shaders/matmul_split.wgsl")])
            }
            Kernel::MatmulPacked => {
                ("matmul_packed", vec![CALL, OPERANDS, PLANES, STORE, include_str!("../../shaders/matmul_packed.wgsl")])
            }
            Kernel::Matvec => ("matvec", vec![CALL, PLANES, STORE, include_str!("../../shaders/matvec.wgsl")]),
            Kernel::Attention => ("attention", vec![CALL, include_str!("../../shaders/attention.wgsl")]),
            Kernel::HeadRows => ("head_rows", vec![CALL, PLANES, REDUCE, include_str!("../../shaders/head_rows.wgsl")]),
            Kernel::Sample => ("sample", vec![CALL, include_str!("../../shaders/sample.wgsl")]),
        }
    }
}

/// A constant of one pipeline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Constant {
    U32(u32),
    F32(f32),
}

/// How many tokens a product runs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokens {
    One,
    Few,
    /// [`MANY`] or more.
    Many,
}

/// From so many tokens on packed dots are the faster ones. (Measured on an H200: with 128 they are slower by a seventh, with 256
/// faster by a sixth.)
pub const MANY: u32 = 192;

/// How a product is cut into workgroups.
pub struct Cut {
    pub kernel: Kernel,
    pub constants: Vec<(&'static str, u32)>,
    /// Rows of the matrix that a workgroup takes.
    pub rows: usize,
}

/// For a matrix of rows of `cols`, a multiple of 32. On a `wide` GPU few tokens leave most threads without work, and what a
/// thread does one step after the other is what a product takes: there the columns are split over as many threads as still
/// have some. (Measured on an H200: more steps written out than here are slower.) Many tokens are enough work as they are.
pub fn cut(tokens: Tokens, info: &AdapterInfo, format: Format, norm: bool, cols: usize) -> Cut {
    let quads = cols as u32 / 4;
    let levels = !matches!(format, Format::F16 | Format::F32);
    let (kernel, constants, rows) = match (tokens, info.wide) {
        (Tokens::One, false) => (Kernel::Matvec, vec![("LANES", 8), ("ROWS_AT_ONCE", 8), ("RUN", 8), ("UNROLL", 1)], 8),
        (Tokens::One, true) => {
            let lanes = [48, 32, 16].into_iter().find(|lanes| quads.is_multiple_of(*lanes)).unwrap_or(8);
            let rows = if lanes < 32 { 4 } else { 2 };
            let unroll = divisor(quads / lanes, 4);
            (
                Kernel::Matvec,
                vec![("LANES", lanes), ("ROWS_AT_ONCE", rows), ("RUN", 1), ("UNROLL", unroll)],
                rows as usize,
            )
        }
        (Tokens::Many, _) if info.packed && levels => (Kernel::MatmulPacked, Vec::new(), 32),
        (_, false) => (Kernel::Matmul, Vec::new(), 32),
        (_, true) => {
            // 32 with the norm's squares would take more workgroup memory than every GPU has.
            let most = if norm { 24 } else { 32 };
            let slices = [32, 24, 16, 8].into_iter().find(|n| *n <= most && quads.is_multiple_of(*n)).unwrap_or(8);
            (Kernel::MatmulSplit, vec![("SLICES", slices)], 8)
        }
    };
    Cut { kernel, constants, rows }
}

/// The largest divisor of `number` that is at most `most`.
fn divisor(number: u32, most: u32) -> u32 {
    (1..=most).rev().find(|n| number.is_multiple_of(*n)).unwrap_or(1)
}

/// How a format's planes are laid out; see `shaders/planes.wgsl`.
pub struct Planes {
    pub format: u32,
    /// u32 in the quants plane for each block of 32 elements.
    pub words: u32,
}

pub fn planes(format: Format) -> Planes {
    let (format, words) = match format {
        Format::Q4_0 | Format::Q4_1 => (0, 4),
        Format::Q5_0 => (1, 5),
        Format::Q8_0 => (2, 8),
        Format::F16 => (3, 16),
        Format::F32 => (4, 32),
    };
    Planes { format, words }
}

/// Pipelines made so far; equal ones are made once.
pub struct Kernels {
    device: Device,
    made: HashMap<String, wgpu::ComputePipeline>,
}

impl Kernels {
    pub fn new(device: &Device) -> Self {
        Kernels { device: device.clone(), made: HashMap::new() }
    }

    pub async fn get(&mut self, kernel: Kernel, constants: &[(&str, Constant)]) -> Result<wgpu::ComputePipeline> {
        let info = self.device.info();
        let (name, source) = source(kernel, constants, info.f16, info.subgroups);
        if let Some(pipeline) = self.made.get(&source) {
            return Ok(pipeline.clone());
        }
        let device = &self.device.device;
        let pipeline = self
            .device
            .scoped(&format!("shader {name:?}"), || {
                let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                    label: Some(name),
                    source: wgpu::ShaderSource::Wgsl(source.as_str().into()),
                });
                device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                    label: Some(name),
                    layout: None,
                    module: &module,
                    entry_point: Some("main"),
                    compilation_options: Default::default(),
                    cache: None,
                })
            })
            .await?;
        self.made.insert(source, pipeline.clone());
        Ok(pipeline)
    }
}

/// The kernel's WGSL: directives, constants, then its parts with `#if` blocks resolved.
pub fn source(kernel: Kernel, constants: &[(&str, Constant)], f16: bool, subgroups: bool) -> (&'static str, String) {
    let (name, parts) = kernel.parts();
    let f16 = f16 && kernel == Kernel::Matmul;
    let mut text = String::new();
    if f16 {
        text.push_str("enable f16;\n");
    }
    if kernel == Kernel::Matmul {
        text.push_str(if f16 { "alias Tile = f16;\n" } else { "alias Tile = f32;\n" });
    }
    let mut values = HashMap::from([("SUBGROUPS", u32::from(subgroups))]);
    for &(name, constant) in constants {
        match constant {
            Constant::U32(value) => {
                text.push_str(&format!("const {name} = {value}u;\n"));
                values.insert(name, value);
            }
            Constant::F32(value) => text.push_str(&format!("const {name} = f32({value:e});\n")),
        }
    }
    for part in parts {
        // An `#if` block is kept where the constant has one of the values named; `#if` blocks do not nest.
        let mut keep = true;
        let mut lines = Vec::new();
        for line in part.lines() {
            if let Some(condition) = line.strip_prefix("#if ") {
                let mut words = condition.split(' ');
                let value = words.next().and_then(|name| values.get(name));
                keep = words.any(|word| word.parse().ok().as_ref() == value);
            } else if line == "#endif" {
                keep = true;
            } else if keep {
                lines.push(line.to_owned());
            }
        }
        repeat(&mut lines.into_iter(), &values, &mut text);
    }
    (name, text)
}

/// Writes `lines` to `text` up to the end or an `#end` of its own. `#repeat name count`, the count a number or a constant,
/// writes what follows up to its `#end` that many times, `{name}` being 0, 1, ... in it; such blocks nest.
fn repeat(lines: &mut dyn Iterator<Item = String>, values: &HashMap<&str, u32>, text: &mut String) {
    while let Some(line) = lines.next() {
        if line == "#end" {
            return;
        }
        let Some((name, count)) = line.strip_prefix("#repeat ").and_then(|rest| rest.split_once(' ')) else {
            text.push_str(&line);
            text.push('\n');
            continue;
        };
        let count = count.parse().ok().or_else(|| values.get(count).copied()).expect("a count in the shader's source");
        let mut block = String::new();
        repeat(lines, values, &mut block);
        for number in 0..count {
            text.push_str(&block.replace(&format!("{{{name}}}"), &format!("{number}u")));
        }
    }
}
