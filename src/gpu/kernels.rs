//! Pipelines from `shaders/`: WGSL text with constants in front and `#if NAME values` blocks resolved, because types
//! and bindings change with a weight's format, which pipeline constants can't express.

use std::collections::HashMap;

use super::device::Device;
use crate::error::Result;
use crate::quant::Format;

const CALL: &str = include_str!("../../shaders/call.wgsl");
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
            Kernel::Matmul => ("matmul", vec![CALL, PLANES, STORE, include_str!("../../shaders/matmul.wgsl")]),
            Kernel::MatmulSplit => {
                ("matmul_split", vec![CALL, PLANES, STORE, include_str!("../../shaders/matmul_split.wgsl")])
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

/// How a product is cut into workgroups.
pub struct Cut {
    pub kernel: Kernel,
    pub constants: Vec<(&'static str, u32)>,
    /// Rows of the matrix that a workgroup takes.
    pub rows: usize,
}

/// For a matrix of rows of `cols`. On a `wide` GPU few tokens leave most threads without work, and what a thread does one
/// step after the other is what a product takes: there the columns are split over as many threads as still have some.
pub fn cut(one: bool, wide: bool, cols: usize) -> Cut {
    let long = cols >= 1024;
    let (kernel, constants, rows) = match (one, wide) {
        (true, false) => (Kernel::Matvec, vec![("LANES", 8), ("RUN", 8)], 8),
        (true, true) => {
            let lanes = if long { 32 } else { 16 };
            (Kernel::Matvec, vec![("LANES", lanes), ("RUN", 1)], 64 / lanes as usize)
        }
        (false, false) => (Kernel::Matmul, Vec::new(), 32),
        (false, true) => (Kernel::MatmulSplit, vec![("SLICES", if long { 32 } else { 16 })], 8),
    };
    Cut { kernel, constants, rows }
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
fn source(kernel: Kernel, constants: &[(&str, Constant)], f16: bool, subgroups: bool) -> (&'static str, String) {
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
        // An `#if` block is kept where the constant has one of the values named; blocks do not nest.
        let mut keep = true;
        for line in part.lines() {
            if let Some(condition) = line.strip_prefix("#if ") {
                let mut words = condition.split(' ');
                let value = words.next().and_then(|name| values.get(name));
                keep = words.any(|word| word.parse().ok().as_ref() == value);
            } else if line == "#endif" {
                keep = true;
            } else if keep {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    (name, text)
}
