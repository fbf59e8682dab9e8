//! Matrix products: activations `[tokens, cols]` against weights `[rows, cols]`. Quantised weights meet activations
//! rounded to 16 bits, block by block; float weights meet the activations as they are.

use super::floats;
use super::isa::{Isa, Scalar};
use super::matrix::{Matrix, PANEL, f16_to_f32, levels_at, zero};
use super::threads::each_index;
use crate::quant::{BLOCK, Format};

/// Tokens that share one load of the weights: as many as keep their sums in registers.
const TILE: usize = 4;

/// The largest level: two bytes, both signed, hold it.
const MOST: f32 = 127.0 * 256.0 + 127.0;

/// What a matmul reads: activations as they are, and rounded to 16 bits with one scale for every 32:
/// with 8 the scores would differ from those of other engines, by up to 0.06.
#[derive(Default)]
pub struct Activations {
    pub floats: Vec<f32>,
    /// -32639 to 32639, in tiles of 4 tokens: `[cols / 4, 4, 4]` by column, token and column again; the last tile may have
    /// fewer tokens.
    levels: Vec<i16>,
    /// Scale, and sum of the levels, in the same tiles: `[cols / 32, 4]`.
    blocks: Vec<(f32, i32)>,
    /// The levels' high and low bytes, for the relaxed kernel: in the same tiles, `[cols / 32, 2, 8, 4, 4]`.
    #[cfg(target_arch = "wasm32")]
    bytes: Vec<i8>,
}

impl Activations {
    pub fn new(floats: Vec<f32>, cols: usize) -> Self {
        let mut this = Activations { floats, ..Default::default() };
        this.quantise(cols);
        this
    }

    /// Rounds `floats`, `[tokens, cols]`. Columns that fill no whole blocks meet float weights alone.
    pub fn quantise(&mut self, cols: usize) {
        if !cols.is_multiple_of(BLOCK) {
            return;
        }
        self.levels.resize(self.floats.len(), 0);
        self.blocks.resize(self.floats.len() / BLOCK, (0.0, 0));
        #[cfg(target_arch = "wasm32")]
        {
            let many = self.floats.len() > TILE * cols && super::relaxed::multiply().is_some();
            self.bytes.resize(if many { 2 * self.floats.len() } else { 0 }, 0);
        }
        for start in (0..self.floats.len()).step_by(TILE * cols) {
            let x = &self.floats[start..self.floats.len().min(start + TILE * cols)];
            let (tokens, count) = (x.len() / cols, x.len());
            let (levels, _) = self.levels[start..][..count].as_chunks_mut::<4>();
            let blocks = &mut self.blocks[start / BLOCK..][..count / BLOCK];
            for (token, x) in x.chunks_exact(cols).enumerate() {
                for (block, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
                    let mut rounded = [0i16; BLOCK];
                    blocks[block * tokens + token] = quantise_block(x, &mut rounded);
                    let steps = block * BLOCK / 4 * tokens + token;
                    scatter(&rounded, &mut levels[steps..], tokens);
                    #[cfg(target_arch = "wasm32")]
                    if !self.bytes.is_empty() {
                        let (bytes, _) = self.bytes[2 * start..][..2 * count].as_chunks_mut::<4>();
                        let (high, low) =
                            bytes[2 * block * BLOCK / 4 * tokens + token..].split_at_mut(BLOCK / 4 * tokens);
                        scatter(&rounded.map(|level| (level.wrapping_add(128) >> 8) as i8), high, tokens);
                        scatter(&rounded.map(|level| level as i8), low, tokens);
                    }
                }
            }
        }
    }
}

/// Writes a block's fours into a tile: every `tokens`-th place.
#[inline(always)]
fn scatter<T: Copy>(block: &[T; BLOCK], to: &mut [[T; 4]], tokens: usize) {
    for (four, to) in block.as_chunks::<4>().0.iter().zip(to.iter_mut().step_by(tokens)) {
        *to = *four;
    }
}

/// (scale, sum of the levels). What is not finite makes the scale NaN, so that it is not lost.
#[inline(always)]
fn quantise_block(x: &[f32; BLOCK], levels: &mut [i16; BLOCK]) -> (f32, i32) {
    // SAFETY: SSE2 and simd128 are the targets' baselines; 32 elements are read, and as many written.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::*;
        let load = |at: usize| _mm_loadu_ps(x.as_ptr().add(at));
        let (mut largest, mut not_finite) = (_mm_setzero_ps(), _mm_setzero_ps());
        for at in (0..BLOCK).step_by(4) {
            // The sign bit off.
            largest = _mm_max_ps(largest, _mm_andnot_ps(_mm_set1_ps(-0.0), load(at)));
            not_finite = _mm_add_ps(not_finite, _mm_mul_ps(load(at), _mm_setzero_ps()));
        }
        let (largest, not_finite): ([f32; 4], [f32; 4]) =
            (std::mem::transmute::<__m128, [f32; 4]>(largest), std::mem::transmute::<__m128, [f32; 4]>(not_finite));
        let (scale, inverse) = scale(largest, not_finite);
        let inverse = _mm_set1_ps(inverse);
        let mut sums = _mm_setzero_si128();
        for at in (0..BLOCK).step_by(16) {
            let round = |at: usize| _mm_cvtps_epi32(_mm_mul_ps(load(at), inverse));
            let low = _mm_packs_epi32(round(at), round(at + 4));
            let high = _mm_packs_epi32(round(at + 8), round(at + 12));
            let ones = _mm_set1_epi16(1);
            sums = _mm_add_epi32(sums, _mm_add_epi32(_mm_madd_epi16(low, ones), _mm_madd_epi16(high, ones)));
            _mm_storeu_si128(levels.as_mut_ptr().add(at).cast(), low);
            _mm_storeu_si128(levels.as_mut_ptr().add(at + 8).cast(), high);
        }
        let sums: [i32; 4] = std::mem::transmute(sums);
        (scale, sums.iter().sum())
    }
    #[cfg(target_arch = "wasm32")]
    unsafe {
        use std::arch::wasm32::*;
        let load = |at: usize| v128_load(x.as_ptr().add(at).cast());
        let (mut largest, mut not_finite) = (f32x4_splat(0.0), f32x4_splat(0.0));
        for at in (0..BLOCK).step_by(4) {
            largest = f32x4_pmax(largest, f32x4_abs(load(at)));
            not_finite = f32x4_add(not_finite, f32x4_mul(load(at), f32x4_splat(0.0)));
        }
        let (largest, not_finite): ([f32; 4], [f32; 4]) =
            (std::mem::transmute::<v128, [f32; 4]>(largest), std::mem::transmute::<v128, [f32; 4]>(not_finite));
        let (scale, inverse) = scale(largest, not_finite);
        let inverse = f32x4_splat(inverse);
        let mut sums = i32x4_splat(0);
        for at in (0..BLOCK).step_by(16) {
            // Adding 1.5 * 2^23 rounds to the nearest integer, which ends up in the lowest bits; a conversion is several
            // instructions on x86.
            let shift = f32x4_splat(12_582_912.0);
            let round = |at: usize| i32x4_sub(f32x4_add(f32x4_mul(load(at), inverse), shift), shift);
            let low = i16x8_narrow_i32x4(round(at), round(at + 4));
            let high = i16x8_narrow_i32x4(round(at + 8), round(at + 12));
            let ones = i16x8_splat(1);
            sums = i32x4_add(sums, i32x4_add(i32x4_dot_i16x8(low, ones), i32x4_dot_i16x8(high, ones)));
            v128_store(levels.as_mut_ptr().add(at).cast(), low);
            v128_store(levels.as_mut_ptr().add(at + 8).cast(), high);
        }
        let sums: [i32; 4] = std::mem::transmute(sums);
        (scale, sums.iter().sum())
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "wasm32")))]
    {
        let (mut largest, mut not_finite) = ([0f32; 4], [0f32; 4]);
        for x in x.as_chunks::<4>().0 {
            for lane in 0..4 {
                largest[lane] = largest[lane].max(x[lane].abs());
                not_finite[lane] += x[lane] * 0.0;
            }
        }
        let (scale, inverse) = scale(largest, not_finite);
        for (level, x) in levels.iter_mut().zip(x) {
            *level = (x * inverse).round_ties_even() as i16;
        }
        (scale, levels.iter().map(|&level| level as i32).sum())
    }
}

/// A block's scale and its inverse, of its largest size and a sum that is NaN where an element is not finite.
#[inline(always)]
fn scale(largest: [f32; 4], not_finite: [f32; 4]) -> (f32, f32) {
    let largest = largest.into_iter().fold(0f32, f32::max);
    let scale = largest / MOST;
    let inverse = if scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
    (scale + not_finite.into_iter().sum::<f32>(), inverse)
}

/// A variant of the quantised matmul.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// The reference.
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "wasm32")]
    Simd128,
    /// Relaxed SIMD, where more than four tokens meet weights of at most 7 bits; else as `Simd128`.
    #[cfg(target_arch = "wasm32")]
    Relaxed,
}

impl Kernel {
    /// The variants that this machine runs, the fastest first.
    pub fn available() -> Vec<Kernel> {
        let mut kernels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
            {
                kernels.push(Kernel::Avx512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                kernels.push(Kernel::Avx2);
            }
        }
        #[cfg(target_arch = "wasm32")]
        {
            if super::relaxed::multiply().is_some() {
                kernels.push(Kernel::Relaxed);
            }
            kernels.push(Kernel::Simd128);
        }
        kernels.push(Kernel::Scalar);
        kernels
    }

    /// The one that a forward pass uses here.
    pub fn best() -> Kernel {
        use std::sync::OnceLock;
        static BEST: OnceLock<Kernel> = OnceLock::new();
        *BEST.get_or_init(|| Kernel::available()[0])
    }

    /// The instructions that it takes.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => "avx512-vnni",
            #[cfg(target_arch = "wasm32")]
            Kernel::Simd128 => "simd128",
            #[cfg(target_arch = "wasm32")]
            Kernel::Relaxed => "relaxed-simd",
        }
    }
}

/// `out[t, r] = sum over k of x[t, k] w[r, k]`, with the fastest kernel: x is `[tokens, cols]`, out `[tokens, rows]`.
/// Most of the time of a forward pass is spent here.
pub fn matmul(w: &Matrix, x: &Activations, out: &mut [f32]) {
    // SAFETY: it is available.
    unsafe { product(Kernel::best(), w, x, out) }
}

/// The same with one kernel, which must be available.
pub fn matmul_with(kernel: Kernel, w: &Matrix, x: &Activations, out: &mut [f32]) {
    assert!(Kernel::available().contains(&kernel), "{kernel:?} takes instructions that this machine lacks");
    // SAFETY: it was just looked for.
    unsafe { product(kernel, w, x, out) }
}

/// # Safety
/// The kernel must be available.
unsafe fn product(kernel: Kernel, w: &Matrix, x: &Activations, out: &mut [f32]) {
    if matches!(w.format, Format::F32 | Format::F16) {
        return floats::matmul(w, &x.floats, out);
    }
    let tokens = x.levels.len() / w.cols;
    assert_eq!((x.levels.len(), out.len()), (tokens * w.cols, tokens * w.rows), "shapes of a matmul");
    let out = Columns { start: out.as_mut_ptr(), rows: w.rows, tokens };
    each_index(
        w.rows.div_ceil(PANEL),
        || Panel::new(kernel, w.cols),
        |panel, index| {
            // SAFETY: the kernel is available; each index writes columns of its own.
            unsafe {
                match kernel {
                    Kernel::Scalar => run::<Scalar>(w, x, panel, index, out),
                    #[cfg(target_arch = "x86_64")]
                    Kernel::Avx2 => run_avx2(w, x, panel, index, out),
                    #[cfg(target_arch = "x86_64")]
                    Kernel::Avx512 => run_avx512(w, x, panel, index, out),
                    #[cfg(target_arch = "wasm32")]
                    Kernel::Simd128 | Kernel::Relaxed => run::<super::isa::Simd128>(w, x, panel, index, out),
                }
            }
        },
    );
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2(w: &Matrix, x: &Activations, panel: &mut Panel, index: usize, out: Columns) {
    // SAFETY: this function runs where its features are.
    unsafe { run::<super::isa::Avx2>(w, x, panel, index, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
unsafe fn run_avx512(w: &Matrix, x: &Activations, panel: &mut Panel, index: usize, out: Columns) {
    // SAFETY: this function runs where its features are.
    unsafe { run::<super::isa::Avx512>(w, x, panel, index, out) }
}

/// The output of a matmul, `[tokens, rows]`, written by columns.
#[derive(Clone, Copy)]
struct Columns {
    start: *mut f32,
    rows: usize,
    tokens: usize,
}

// SAFETY: threads write different columns, and no one reads before all have ended.
unsafe impl Send for Columns {}
unsafe impl Sync for Columns {}

/// Scratch of one panel.
struct Panel {
    /// `[cols / 4, PANEL, 4]`.
    levels: Vec<u8>,
    /// `[cols / 32, PANEL]`.
    scales: Vec<f32>,
    /// `[cols / 32, PANEL]`, of Q4_1 alone.
    minimums: Vec<f32>,
    /// What multiplies a whole panel with many tokens instead of this module.
    #[cfg(target_arch = "wasm32")]
    relaxed: Option<super::relaxed::Multiply>,
}

impl Panel {
    #[cfg_attr(not(target_arch = "wasm32"), allow(unused_variables))]
    fn new(kernel: Kernel, cols: usize) -> Self {
        let blocks = cols / BLOCK;
        Panel {
            levels: vec![0; cols * PANEL],
            scales: vec![0.0; blocks * PANEL],
            minimums: vec![0.0; blocks * PANEL],
            #[cfg(target_arch = "wasm32")]
            relaxed: super::relaxed::multiply().filter(|_| kernel == Kernel::Relaxed),
        }
    }
}

/// A block format at compile time.
trait Packed {
    const FORMAT: Format;
    const BYTES: usize = PANEL * Self::FORMAT.block_bytes();
    const MINIMUM: bool = matches!(Self::FORMAT, Format::Q4_1);
}

struct Q4_0;
struct Q4_1;
struct Q5_0;
struct Q8_0;
impl Packed for Q4_0 {
    const FORMAT: Format = Format::Q4_0;
}
impl Packed for Q4_1 {
    const FORMAT: Format = Format::Q4_1;
}
impl Packed for Q5_0 {
    const FORMAT: Format = Format::Q5_0;
}
impl Packed for Q8_0 {
    const FORMAT: Format = Format::Q8_0;
}

/// Levels `4 * step..4 * step + 4` of the rows from `lane` on, out of a packed block.
///
/// # Safety
/// The machine must have what `I` uses; `block` holds `F::BYTES`.
#[inline(always)]
unsafe fn unpack<I: Isa, F: Packed>(block: *const u8, lane: usize, step: usize) -> I::Bytes {
    unsafe {
        let from = block.add(4 * lane);
        if let Format::Q8_0 = F::FORMAT {
            return I::bytes(from.add(levels_at(F::FORMAT) + 4 * PANEL * step));
        }
        let pair = I::bytes(from.add(levels_at(F::FORMAT) + 4 * PANEL * (step / 2)));
        let nibbles = if step.is_multiple_of(2) { I::low_nibbles(pair) } else { I::high_nibbles(pair) };
        match F::FORMAT {
            Format::Q5_0 => I::fifth_bit(nibbles, I::bytes(from.add(2 * PANEL)), step as u32),
            _ => nibbles,
        }
    }
}

/// Multiplies panel `index` with every token.
///
/// # Safety
/// The machine must have what `I` uses; no one else touches the panel's columns of `out`.
#[inline(always)]
unsafe fn run<I: Isa>(w: &Matrix, x: &Activations, panel: &mut Panel, index: usize, out: Columns) {
    unsafe {
        match w.format {
            Format::Q4_0 => multiply::<I, Q4_0>(w, x, panel, index, out),
            Format::Q4_1 => multiply::<I, Q4_1>(w, x, panel, index, out),
            Format::Q5_0 => multiply::<I, Q5_0>(w, x, panel, index, out),
            _ => multiply::<I, Q8_0>(w, x, panel, index, out),
        }
    }
}

/// One panel against all tokens, in tiles. For more than one tile the levels are unpacked once.
#[inline(always)]
unsafe fn multiply<I: Isa, F: Packed>(w: &Matrix, x: &Activations, panel: &mut Panel, index: usize, out: Columns) {
    let blocks = w.cols / BLOCK;
    let packed = &w.bytes[index * blocks * F::BYTES..(index + 1) * blocks * F::BYTES];
    assert!(x.levels.len() == out.tokens * w.cols && x.blocks.len() == out.tokens * blocks && w.rows == out.rows);
    assert!(panel.levels.len() == w.cols * PANEL && panel.scales.len() == blocks * PANEL);
    for (block, to) in packed.chunks_exact(F::BYTES).zip(panel.scales.as_chunks_mut::<PANEL>().0) {
        for (to, from) in to.iter_mut().zip(block.as_chunks::<2>().0) {
            *to = f16_to_f32(u16::from_le_bytes(*from));
        }
    }
    if F::MINIMUM {
        for (block, to) in packed.chunks_exact(F::BYTES).zip(panel.minimums.as_chunks_mut::<PANEL>().0) {
            for (to, from) in to.iter_mut().zip(block[2 * PANEL..].as_chunks::<2>().0) {
                *to = f16_to_f32(u16::from_le_bytes(*from));
            }
        }
    }
    // SAFETY: the lengths were asserted above; every offset below them, in `unpack` and `tile` too, lies within
    // `[tokens, cols]`, `[tokens, blocks]`, `[blocks, PANEL]` or a block's `F::BYTES`.
    unsafe {
        if out.tokens <= TILE {
            return tiles::<I, F, true>(packed, x, panel, index, out);
        }
        for block in 0..blocks {
            for lane in (0..PANEL).step_by(I::LANES) {
                for step in 0..BLOCK / 4 {
                    let levels = unpack::<I, F>(packed.as_ptr().add(block * F::BYTES), lane, step);
                    let to = panel.levels.as_mut_ptr().add((block * BLOCK + 4 * step) * PANEL + 4 * lane);
                    I::store_bytes(levels, to);
                }
            }
        }
        #[cfg(target_arch = "wasm32")]
        if let Some(multiply) = panel.relaxed
            && F::FORMAT != Format::Q8_0
            && (index + 1) * PANEL <= out.rows
        {
            assert!(x.bytes.len() == 2 * x.levels.len());
            let panel = super::relaxed::Panel {
                levels: panel.levels.as_ptr(),
                scales: panel.scales.as_ptr(),
                minimums: if F::MINIMUM { panel.minimums.as_ptr() } else { std::ptr::null() },
                zero: zero(F::FORMAT),
                blocks,
                steps: BLOCK / 4,
            };
            let to = out.start.add(index * PANEL);
            return multiply(&panel, x.bytes.as_ptr(), x.blocks.as_ptr(), out.tokens, to, out.rows);
        }
        tiles::<I, F, false>(packed, x, panel, index, out);
    }
}

#[inline(always)]
unsafe fn tiles<I: Isa, F: Packed, const FUSED: bool>(
    packed: &[u8],
    x: &Activations,
    panel: &Panel,
    index: usize,
    out: Columns,
) {
    for token in (0..out.tokens).step_by(TILE) {
        unsafe {
            match out.tokens - token {
                1 => tile::<I, F, FUSED, 1>(packed, x, panel, index, token, out),
                2 => tile::<I, F, FUSED, 2>(packed, x, panel, index, token, out),
                3 => tile::<I, F, FUSED, 3>(packed, x, panel, index, token, out),
                _ => tile::<I, F, FUSED, TILE>(packed, x, panel, index, token, out),
            }
        }
    }
}

/// The `T` tokens of the tile that begins with `token` against the panel's rows. `FUSED` unpacks the levels in registers;
/// else the panel has them.
///
/// # Safety
/// As for `run`, with the lengths that `multiply` asserts.
#[inline(always)]
unsafe fn tile<I: Isa, F: Packed, const FUSED: bool, const T: usize>(
    packed: &[u8],
    x: &Activations,
    panel: &Panel,
    index: usize,
    token: usize,
    out: Columns,
) {
    let blocks = packed.len() / F::BYTES;
    for lane in (0..PANEL).step_by(I::LANES) {
        let row = index * PANEL + lane;
        if row >= out.rows {
            return;
        }
        unsafe {
            let mut levels = x.levels.as_ptr().add(token * blocks * BLOCK);
            let mut numbers = x.blocks.as_ptr().add(token * blocks);
            let mut block = packed.as_ptr();
            let mut unpacked = panel.levels.as_ptr().add(4 * lane);
            let mut scales = panel.scales.as_ptr().add(lane);
            let mut minimums = panel.minimums.as_ptr().add(lane);
            let mut totals = [I::splat(0.0); T];
            for _ in 0..blocks {
                let mut sums = [I::start(0); T];
                for (t, sum) in sums.iter_mut().enumerate() {
                    *sum = I::start(-zero(F::FORMAT) * (*numbers.add(t)).1);
                }
                // Written out, so that every offset is a constant that the load takes with it.
                macro_rules! steps {
                    ($($step:literal)*) => {$(
                        let w = I::weights(if FUSED {
                            unpack::<I, F>(block, lane, $step)
                        } else {
                            I::bytes(unpacked.add(4 * $step * PANEL))
                        });
                        for t in 0..T {
                            let x = levels.add(4 * ($step * T + t));
                            sums[t] = I::dot(sums[t], w, x);
                        }
                    )*};
                }
                if FUSED || I::UNROLLED {
                    steps!(0 1 2 3 4 5 6 7);
                    levels = levels.add(BLOCK * T);
                    unpacked = unpacked.add(BLOCK * PANEL);
                } else {
                    for _ in 0..BLOCK / 4 {
                        steps!(0);
                        levels = levels.add(4 * T);
                        unpacked = unpacked.add(4 * PANEL);
                    }
                }
                let scale = I::load(scales);
                for t in 0..T {
                    let (x, sum) = *numbers.add(t);
                    totals[t] = I::mul_add(I::floats(sums[t]), I::mul(scale, I::splat(x)), totals[t]);
                    if F::MINIMUM {
                        totals[t] = I::mul_add(I::load(minimums), I::splat(x * sum as f32), totals[t]);
                    }
                }
                numbers = numbers.add(T);
                block = block.add(F::BYTES);
                scales = scales.add(PANEL);
                minimums = minimums.add(PANEL);
            }
            for (t, &total) in totals.iter().enumerate() {
                let to = out.start.add((token + t) * out.rows + row);
                if row + I::LANES <= out.rows {
                    I::store(total, to);
                } else {
                    let mut all = [0f32; PANEL];
                    I::store(total, all.as_mut_ptr());
                    std::ptr::copy_nonoverlapping(all.as_ptr(), to, out.rows - row);
                }
            }
        }
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

    fn product(x: &[f32], w: &[f32], cols: usize) -> Vec<f32> {
        let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| (x * w) as f64).sum::<f64>() as f32;
        x.chunks(cols).flat_map(|x| w.chunks(cols).map(move |w| dot(x, w))).collect()
    }

    /// The activations that the levels stand for, `[tokens, cols]`.
    fn unrounded(x: &Activations, cols: usize) -> Vec<f32> {
        let at = |token: usize, k: usize| {
            let (tile, all) = (token / TILE * TILE, x.floats.len() / cols);
            let tokens = TILE.min(all - tile);
            let level = x.levels[tile * cols + (k / 4 * tokens + token - tile) * 4 + k % 4];
            level as f32 * x.blocks[tile * cols / BLOCK + k / BLOCK * tokens + token - tile].0
        };
        (0..x.floats.len()).map(|i| at(i / cols, i % cols)).collect()
    }

    /// candle's quantiser and its decoder are the independent reference of both `decode` and `matmul`; activations
    /// are held against what their own rounding to 8 bits makes of them.
    #[test]
    fn every_kernel_agrees_with_candle_in_every_format_and_odd_size() {
        for (format, dtype) in FORMATS {
            for (rows, cols, tokens) in [(1, 32, 1), (3, 64, 2), (17, 96, 3), (33, 576, 5), (16, 1536, 9), (65, 32, 33)]
            {
                let dense = Tensor::from_vec(noise(rows * cols, 1), (rows, cols), &Device::Cpu).unwrap();
                let quantised = QTensor::quantize(&dense, dtype).unwrap();
                let w = Matrix::new(format, rows, cols, quantised.data().unwrap().to_vec());
                let decoded: Vec<f32> =
                    quantised.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                let x = Activations::new(noise(tokens * cols, 2), cols);
                let rounded = unrounded(&x, cols);
                for (rounded, x) in rounded.iter().zip(&x.floats) {
                    assert!((rounded - x).abs() <= 0.5 / MOST + 1e-7, "{x} rounded to {rounded}");
                }
                let read = if matches!(format, Format::F32 | Format::F16) { &x.floats } else { &rounded };
                let want = product(read, &decoded, cols);
                for kernel in Kernel::available() {
                    let mut got = vec![f32::NAN; tokens * rows];
                    matmul_with(kernel, &w, &x, &mut got);
                    for (got, want) in got.iter().zip(&want) {
                        assert!(
                            (got - want).abs() < 1e-4,
                            "{kernel:?} {format:?} [{rows}, {cols}] x {tokens}: {got} against {want}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_largest_levels_do_not_saturate() {
        for (format, dtype) in FORMATS {
            let dense = Tensor::from_vec(vec![-1f32; 16 * 64], (16, 64), &Device::Cpu).unwrap();
            let bytes = QTensor::quantize(&dense, dtype).unwrap().data().unwrap().to_vec();
            let w = Matrix::new(format, 16, 64, bytes);
            for sign in [1f32, -1.0] {
                let x = Activations::new(vec![sign; 64], 64);
                for kernel in Kernel::available() {
                    let mut got = vec![0f32; 16];
                    matmul_with(kernel, &w, &x, &mut got);
                    assert!(got.iter().all(|got| (got + 64.0 * sign).abs() < 0.1), "{kernel:?} {format:?}: {got:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let dense = Tensor::from_vec(noise(16 * 64, 1), (16, 64), &Device::Cpu).unwrap();
        let bytes = QTensor::quantize(&dense, GgmlDType::Q5_0).unwrap().data().unwrap().to_vec();
        let w = Matrix::new(Format::Q5_0, 16, 64, bytes);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = noise(64, 2);
            x[40] = bad;
            for kernel in Kernel::available() {
                let mut got = vec![0f32; 16];
                matmul_with(kernel, &w, &Activations::new(x.clone(), 64), &mut got);
                assert!(got.iter().all(|got| !got.is_finite()), "{kernel:?}, {bad}: {got:?}");
            }
        }
    }

    #[test]
    fn float_weights_agree_with_a_scalar_sum_on_lengths_off_the_lane_width() {
        for cols in [1, 2, 3, 5, 31, 33, 67] {
            let w = Matrix::new(Format::F32, 5, cols, bytemuck::cast_slice(&noise(5 * cols, 3)).to_vec());
            let x = Activations::new(noise(3 * cols, 4), cols);
            let mut got = vec![0f32; 15];
            matmul(&w, &x, &mut got);
            let dense: &[f32] = bytemuck::cast_slice(&w.bytes);
            for t in 0..3 {
                for r in 0..5 {
                    let want: f64 = (0..cols).map(|k| (x.floats[t * cols + k] * dense[r * cols + k]) as f64).sum();
                    assert!((got[t * 5 + r] as f64 - want).abs() < 1e-4, "cols {cols}");
                }
            }
        }
    }
}
