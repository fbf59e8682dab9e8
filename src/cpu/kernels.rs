//! Kernels over f32 activations and block-quantised weights. Matrices are row-major.

use crate::quant::Format;

/// Weight rows decoded together: large enough to pay the decoding off, small enough to stay in the L2 cache.
const PANEL: usize = 16;

/// One weight matrix `[rows, cols]` in its GGUF blocks.
pub struct Matrix {
    pub format: Format,
    pub rows: usize,
    pub cols: usize,
    pub bytes: Vec<u8>,
}

impl Matrix {
    fn row(&self, row: usize) -> &[u8] {
        let stride = self.bytes.len() / self.rows;
        &self.bytes[row * stride..(row + 1) * stride]
    }

    /// Decodes one row to f32: `out` is `[cols]`.
    #[inline(always)]
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        self.format.decode(self.row(row), out);
    }
}

/// `out[t, r] = sum over k of x[t, k] w[r, k]`: x is `[tokens, cols]`, out `[tokens, rows]`. Most of the time of a
/// forward pass is spent here.
pub fn matmul(w: &Matrix, x: &[f32], out: &mut [f32]) {
    let tokens = x.len() / w.cols;
    debug_assert_eq!((x.len(), out.len()), (tokens * w.cols, tokens * w.rows));
    let panel = panel_kernel();
    // Panel-major scratch, [panels, tokens, PANEL]: each panel writes a slice of its own.
    let mut scratch = vec![0f32; w.rows.div_ceil(PANEL) * PANEL * tokens];
    each_chunk(&mut scratch, PANEL * tokens, |index, out| {
        let first = index * PANEL;
        panel(w, first..(first + PANEL).min(w.rows), x, out);
    });
    for (index, block) in scratch.chunks_exact(PANEL * tokens).enumerate() {
        let first = index * PANEL;
        let rows = PANEL.min(w.rows - first);
        for (t, values) in block.chunks_exact(PANEL).enumerate() {
            out[t * w.rows + first..][..rows].copy_from_slice(&values[..rows]);
        }
    }
}

/// Calls `work(index, chunk)` for every chunk of `size` elements, on all cores where there are threads.
pub fn each_chunk(data: &mut [f32], size: usize, work: impl Fn(usize, &mut [f32]) + Sync + Send) {
    #[cfg(not(target_arch = "wasm32"))]
    {
        use rayon::prelude::*;
        data.par_chunks_mut(size).enumerate().for_each(|(index, chunk)| work(index, chunk));
    }
    #[cfg(target_arch = "wasm32")]
    data.chunks_mut(size).enumerate().for_each(|(index, chunk)| work(index, chunk));
}

/// Rows of `w` against all of `x`, into `[tokens, PANEL]`.
type PanelKernel = fn(&Matrix, std::ops::Range<usize>, &[f32], &mut [f32]);

/// The widest variant that this machine runs.
fn panel_kernel() -> PanelKernel {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature was just detected.
            return |w, rows, x, out| unsafe { panel_avx512(w, rows, x, out) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features were just detected.
            return |w, rows, x, out| unsafe { panel_avx2(w, rows, x, out) };
        }
    }
    // SAFETY: `Portable` needs nothing that the target lacks.
    |w, rows, x, out| unsafe { panel::<Portable>(w, rows, x, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
fn panel_avx512(w: &Matrix, rows: std::ops::Range<usize>, x: &[f32], out: &mut [f32]) {
    // SAFETY: this function runs where its features are.
    unsafe { panel::<std::arch::x86_64::__m512>(w, rows, x, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn panel_avx2(w: &Matrix, rows: std::ops::Range<usize>, x: &[f32], out: &mut [f32]) {
    // SAFETY: this function runs where its features are.
    unsafe { panel::<std::arch::x86_64::__m256>(w, rows, x, out) }
}

/// A vector of f32: what the tiles below are written in, so that their sums stay in registers.
///
/// # Safety
/// Every method may use instructions that not every machine of the target has; the caller has checked.
trait Lanes: Copy {
    const COUNT: usize;
    unsafe fn zero() -> Self;
    /// Reads `COUNT` elements.
    unsafe fn load(from: *const f32) -> Self;
    /// `self + a * b`.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    unsafe fn sum(self) -> f32;
}

/// The lanes of a target's baseline, and the scalar reference of the others.
#[cfg(not(target_arch = "wasm32"))]
type Portable = [f32; 4];
#[cfg(target_arch = "wasm32")]
type Portable = std::arch::wasm32::v128;

impl Lanes for [f32; 4] {
    const COUNT: usize = 4;
    #[inline(always)]
    unsafe fn zero() -> Self {
        [0.0; 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { from.cast::<Self>().read() }
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        std::array::from_fn(|lane| self[lane] + a[lane] * b[lane])
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        self.iter().sum()
    }
}

#[cfg(target_arch = "x86_64")]
impl Lanes for std::arch::x86_64::__m512 {
    const COUNT: usize = 16;
    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { std::arch::x86_64::_mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { std::arch::x86_64::_mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        unsafe { std::arch::x86_64::_mm512_fmadd_ps(a, b, self) }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { std::arch::x86_64::_mm512_reduce_add_ps(self) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Lanes for std::arch::x86_64::__m256 {
    const COUNT: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { std::arch::x86_64::_mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { std::arch::x86_64::_mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        unsafe { std::arch::x86_64::_mm256_fmadd_ps(a, b, self) }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let mut lanes = [0f32; 8];
        unsafe { std::arch::x86_64::_mm256_storeu_ps(lanes.as_mut_ptr(), self) };
        lanes.iter().sum()
    }
}

#[cfg(target_arch = "wasm32")]
impl Lanes for std::arch::wasm32::v128 {
    const COUNT: usize = 4;
    #[inline(always)]
    unsafe fn zero() -> Self {
        std::arch::wasm32::f32x4_splat(0.0)
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { std::arch::wasm32::v128_load(from.cast()) }
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        std::arch::wasm32::f32x4_add(self, std::arch::wasm32::f32x4_mul(a, b))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        use std::arch::wasm32::f32x4_extract_lane as lane;
        lane::<0>(self) + lane::<1>(self) + lane::<2>(self) + lane::<3>(self)
    }
}

/// Decodes the panel's rows once, then runs register tiles of 4 rows by 4 tokens over them.
///
/// # Safety
/// The machine must have what `L` uses.
#[inline(always)]
unsafe fn panel<L: Lanes>(w: &Matrix, rows: std::ops::Range<usize>, x: &[f32], out: &mut [f32]) {
    let cols = w.cols;
    let mut decoded = vec![0f32; PANEL * cols];
    for (row, decoded) in rows.zip(decoded.chunks_exact_mut(cols)) {
        w.decode_row(row, decoded);
    }
    let row = |r: usize| &decoded[r * cols..(r + 1) * cols];
    let token = |t: usize| &x[t * cols..(t + 1) * cols];
    let tokens = x.len() / cols;
    let whole = tokens / 4 * 4;
    for r in (0..PANEL).step_by(4) {
        let rows = [row(r), row(r + 1), row(r + 2), row(r + 3)];
        for t in (0..whole).step_by(4) {
            let sums = unsafe { dot_tile::<L, 4, 4>(rows, [token(t), token(t + 1), token(t + 2), token(t + 3)]) };
            for (i, sums) in sums.into_iter().enumerate() {
                for (j, sum) in sums.into_iter().enumerate() {
                    out[(t + j) * PANEL + r + i] = sum;
                }
            }
        }
        for t in whole..tokens {
            let sums = unsafe { dot_tile::<L, 4, 1>(rows, [token(t)]) };
            for (i, [sum]) in sums.into_iter().enumerate() {
                out[t * PANEL + r + i] = sum;
            }
        }
    }
}

/// All dot products of `R` rows with `T` rows of the same length.
///
/// # Safety
/// The machine must have what `L` uses.
#[inline(always)]
unsafe fn dot_tile<L: Lanes, const R: usize, const T: usize>(w: [&[f32]; R], x: [&[f32]; T]) -> [[f32; T]; R] {
    let length = x[0].len();
    assert!(w.iter().chain(&x).all(|row| row.len() == length));
    let whole = length / L::COUNT * L::COUNT;
    let mut sums = [[unsafe { L::zero() }; T]; R];
    for k in (0..whole).step_by(L::COUNT) {
        // SAFETY: k + COUNT is at most `length`, the length of every row.
        unsafe {
            let x = x.map(|row| L::load(row.as_ptr().add(k)));
            for r in 0..R {
                let w = L::load(w[r].as_ptr().add(k));
                for t in 0..T {
                    sums[r][t] = sums[r][t].add_product(w, x[t]);
                }
            }
        }
    }
    let mut out = [[0f32; T]; R];
    for r in 0..R {
        for t in 0..T {
            let tail: f32 = (whole..length).map(|k| w[r][k] * x[t][k]).sum();
            out[r][t] = unsafe { sums[r][t].sum() } + tail;
        }
    }
    out
}

/// The dot product of two rows.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: `Portable` needs nothing that the target lacks.
    let [[sum]] = unsafe { dot_tile::<Portable, 1, 1>([a], [b]) };
    sum
}

/// `out[t] = x[t] / rms(x[t]) * gain`, over rows of `gain.len()` (Zhang and Sennrich 2019).
pub fn rms_norm(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
    let width = gain.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let scale = 1.0 / (dot(x, x) / width as f32 + eps).sqrt();
        for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
            *out = x * scale * gain;
        }
    }
}

/// Cosines and sines of `position * base^(-2i / head_dim)`, `[head_dim / 2]`.
pub fn rope_angles(head_dim: usize, position: usize, base: f32) -> Vec<(f32, f32)> {
    (0..head_dim / 2)
        .map(|i| {
            // In f64: at position 8,191 an f32 product is off by more than the last bits of an f16.
            let (sin, cos) = (position as f64 * (base as f64).powf(-2.0 * i as f64 / head_dim as f64)).sin_cos();
            (cos as f32, sin as f32)
        })
        .collect()
}

/// Rotates the interleaved pairs (2i, 2i + 1) of every head of `x` `[heads, head_dim]` by its angles.
pub fn rope(x: &mut [f32], angles: &[(f32, f32)]) {
    for head in x.chunks_exact_mut(2 * angles.len()) {
        for (pair, (cos, sin)) in head.chunks_exact_mut(2).zip(angles) {
            let (a, b) = (pair[0], pair[1]);
            pair[0] = a * cos - b * sin;
            pair[1] = a * sin + b * cos;
        }
    }
}

/// Causal grouped-query attention of one query head over the first `visible` cached positions, with an online softmax.
/// `q` is `[head_dim]`; keys and values are `[positions, kv_dim]`, the head's part starting at `kv_offset`.
pub fn attend(
    q: &[f32],
    keys: &[f32],
    values: &[f32],
    kv_dim: usize,
    kv_offset: usize,
    visible: usize,
    out: &mut [f32],
) {
    let scale = 1.0 / (q.len() as f32).sqrt();
    let (mut max, mut sum) = (f32::NEG_INFINITY, 0f32);
    out.fill(0.0);
    for position in 0..visible {
        let at = position * kv_dim + kv_offset;
        let score = dot(q, &keys[at..at + q.len()]) * scale;
        let new_max = max.max(score);
        let (keep, weight) = ((max - new_max).exp(), (score - new_max).exp());
        sum = sum * keep + weight;
        for (out, value) in out.iter_mut().zip(&values[at..at + q.len()]) {
            *out = *out * keep + weight * value;
        }
        max = new_max;
    }
    for out in out {
        *out /= sum;
    }
}

/// SwiGLU's gate: `gate = silu(gate) * up` (Shazeer 2020).
pub fn swiglu(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + (-*gate).exp()) * up;
    }
}

/// The residual connection: `x += y`.
pub fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};

    const FORMATS: [(Format, GgmlDType); 6] = [
        (Format::F32, GgmlDType::F32),
        (Format::F16, GgmlDType::F16),
        (Format::Q4_0, GgmlDType::Q4_0),
        (Format::Q4_1, GgmlDType::Q4_1),
        (Format::Q5_0, GgmlDType::Q5_0),
        (Format::Q8_0, GgmlDType::Q8_0),
    ];

    fn noise(count: usize, seed: u32) -> Vec<f32> {
        (0..count as u32).map(|i| crate::engine::Sampling::uniform(seed, i, 7) * 2.0 - 1.0).collect()
    }

    /// candle's quantiser and its decoder are the independent reference of both `decode` and `matmul`.
    #[test]
    fn matmul_agrees_with_candle_in_every_format_and_odd_size() {
        for (format, dtype) in FORMATS {
            for (rows, cols, tokens) in [(1, 32, 1), (3, 64, 2), (17, 96, 3), (33, 576, 5), (16, 1536, 1), (65, 32, 33)]
            {
                let dense = Tensor::from_vec(noise(rows * cols, 1), (rows, cols), &Device::Cpu).unwrap();
                let quantised = QTensor::quantize(&dense, dtype).unwrap();
                let w = Matrix { format, rows, cols, bytes: quantised.data().unwrap().to_vec() };
                let decoded = quantised.dequantize(&Device::Cpu).unwrap();
                let x = Tensor::from_vec(noise(tokens * cols, 2), (tokens, cols), &Device::Cpu).unwrap();
                let want: Vec<f32> = x.matmul(&decoded.t().unwrap()).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                let mut got = vec![0f32; tokens * rows];
                matmul(&w, &x.flatten_all().unwrap().to_vec1::<f32>().unwrap(), &mut got);
                for (got, want) in got.iter().zip(&want) {
                    assert!((got - want).abs() < 1e-3, "{format:?} [{rows}, {cols}] x {tokens}: {got} against {want}");
                }
            }
        }
    }

    #[test]
    fn every_panel_variant_agrees_with_a_scalar_sum_on_lengths_off_the_lane_width() {
        for cols in [1, 2, 3, 5, 31, 33, 67] {
            let w = Matrix {
                format: Format::F32,
                rows: 5,
                cols,
                bytes: bytemuck::cast_slice(&noise(5 * cols, 3)).to_vec(),
            };
            let x = noise(3 * cols, 4);
            let mut got = vec![0f32; 15];
            matmul(&w, &x, &mut got);
            let dense: &[f32] = bytemuck::cast_slice(&w.bytes);
            for t in 0..3 {
                for r in 0..5 {
                    let want: f64 = (0..cols).map(|k| (x[t * cols + k] * dense[r * cols + k]) as f64).sum();
                    assert!((got[t * 5 + r] as f64 - want).abs() < 1e-4, "cols {cols}");
                }
            }
        }
    }

    #[test]
    fn attention_agrees_with_a_two_pass_softmax() {
        let (head_dim, kv_dim, offset) = (6, 18, 6);
        for visible in [1, 2, 31, 65] {
            let (q, keys, values) = (noise(head_dim, 5), noise(visible * kv_dim, 6), noise(visible * kv_dim, 7));
            let mut got = vec![0f32; head_dim];
            attend(&q, &keys, &values, kv_dim, offset, visible, &mut got);
            let scores: Vec<f64> = (0..visible)
                .map(|p| {
                    let key = &keys[p * kv_dim + offset..][..head_dim];
                    (q.iter().zip(key).map(|(a, b)| (a * b) as f64).sum::<f64>() / (head_dim as f64).sqrt()).exp()
                })
                .collect();
            let total: f64 = scores.iter().sum();
            for (d, got) in got.iter().enumerate() {
                let want: f64 = (0..visible).map(|p| scores[p] / total * values[p * kv_dim + offset + d] as f64).sum();
                assert!((*got as f64 - want).abs() < 1e-5, "visible {visible}");
            }
        }
    }
}
