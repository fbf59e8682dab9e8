//! The f32 side: vectors of f32, and the matmul of float weights.

use super::matrix::{Matrix, PANEL};
use super::threads::each_chunk;

/// `out[t, r] = sum over k of x[t, k] w[r, k]`: x is `[tokens, cols]`, out `[tokens, rows]`.
pub fn matmul(w: &Matrix, x: &[f32], out: &mut [f32]) {
    let tokens = x.len() / w.cols;
    debug_assert_eq!((x.len(), out.len()), (tokens * w.cols, tokens * w.rows));
    let panel = panel_kernel();
    // Panel-major scratch, [panels, tokens, PANEL]: each panel writes a slice of its own.
    let mut scratch = vec![0f32; w.rows.div_ceil(PANEL) * PANEL * tokens];
    each_chunk(
        &mut scratch,
        PANEL * tokens,
        || (),
        |(), index, out| {
            let first = index * PANEL;
            panel(w, first..(first + PANEL).min(w.rows), x, out);
        },
    );
    for (index, block) in scratch.chunks_exact(PANEL * tokens).enumerate() {
        let first = index * PANEL;
        let rows = PANEL.min(w.rows - first);
        for (t, values) in block.chunks_exact(PANEL).enumerate() {
            out[t * w.rows + first..][..rows].copy_from_slice(&values[..rows]);
        }
    }
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
pub trait Lanes: Copy {
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
pub type Portable = [f32; 4];
#[cfg(target_arch = "wasm32")]
pub type Portable = std::arch::wasm32::v128;

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
pub unsafe fn dot_tile<L: Lanes, const R: usize, const T: usize>(w: [&[f32]; R], x: [&[f32]; T]) -> [[f32; T]; R] {
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
