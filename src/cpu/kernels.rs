//! Everything between the matrix products, over f32. Matrices are row-major.

use std::ops::Range;

use super::floats::{Lanes, Portable, dot_tile};

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

/// Attention of one query head over the cached positions `visible`, two runs of them, an exact softmax. `q` is `[head_dim]`; keys and
/// values are `[positions, kv_dim]`, the head's part starting at `kv_offset`. `scores` is scratch.
pub struct Attention<'a> {
    pub keys: &'a [f32],
    pub values: &'a [f32],
    pub kv_dim: usize,
    pub kv_offset: usize,
    pub visible: [Range<usize>; 2],
}

impl Attention<'_> {
    pub fn attend(&self, q: &[f32], scores: &mut Vec<f32>, out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the features were just detected.
                return unsafe { self.attend_avx2(q, scores, out) };
            }
        }
        // SAFETY: `Portable` needs nothing that the target lacks.
        unsafe { self.attend_lanes::<Portable>(q, scores, out) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn attend_avx2(&self, q: &[f32], scores: &mut Vec<f32>, out: &mut [f32]) {
        // SAFETY: this function runs where its features are.
        unsafe { self.attend_lanes::<std::arch::x86_64::__m256>(q, scores, out) }
    }

    /// # Safety
    /// The machine must have what `L` uses.
    #[inline(always)]
    unsafe fn attend_lanes<L: Lanes>(&self, q: &[f32], scores: &mut Vec<f32>, out: &mut [f32]) {
        let Attention { kv_offset, visible, .. } = self;
        let scale = 1.0 / (q.len() as f32).sqrt();
        // The i-th visible position. Sums go by four of these, so that a result does not depend on where they lie.
        let shared = visible[0].len();
        let place = |i: usize| if i < shared { visible[0].start + i } else { visible[1].start + i - shared };
        let row = |i: usize| place(i) * self.kv_dim + kv_offset..place(i) * self.kv_dim + kv_offset + q.len();
        let count = shared + visible[1].len();
        scores.clear();
        for i in (0..count / 4 * 4).step_by(4) {
            let keys = [&self.keys[row(i)], &self.keys[row(i + 1)], &self.keys[row(i + 2)], &self.keys[row(i + 3)]];
            let sums = unsafe { dot_tile::<L, 4, 1>(keys, [q]) };
            scores.extend([sums[0][0] * scale, sums[1][0] * scale, sums[2][0] * scale, sums[3][0] * scale]);
        }
        for i in count / 4 * 4..count {
            scores.push(unsafe { dot_tile::<L, 1, 1>([&self.keys[row(i)]], [q]) }[0][0] * scale);
        }
        let max = scores.iter().fold(f32::NEG_INFINITY, |max, &score| if score > max { score } else { max });
        for score in scores.iter_mut() {
            *score = exp(*score - max);
        }
        let sum: f32 = scores.iter().sum();
        out.fill(0.0);
        let (quads, single) = scores.as_chunks::<4>();
        for (quad, weight) in quads.iter().enumerate() {
            let i = 4 * quad;
            let (a, b) = (&self.values[row(i)], &self.values[row(i + 1)]);
            let (c, d) = (&self.values[row(i + 2)], &self.values[row(i + 3)]);
            for (((out, a), b), (c, d)) in out.iter_mut().zip(a).zip(b).zip(c.iter().zip(d)) {
                *out += weight[0] * a + weight[1] * b + weight[2] * c + weight[3] * d;
            }
        }
        for (i, weight) in (count - single.len()..count).zip(single) {
            for (out, v) in out.iter_mut().zip(&self.values[row(i)]) {
                *out += weight * v;
            }
        }
        for out in out {
            *out /= sum;
        }
    }
}

/// e^x to within 2 units of the last place for x in -87..88, beyond which it stays at the end's value; NaN stays NaN.
/// Plain arithmetic, so that loops of it become vectors; the library's is a call for each element.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Comparisons in this direction keep NaN.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    // Adding 1.5 * 2^23 rounds to the nearest integer, which ends up in the lowest bits.
    let shifted = x * std::f32::consts::LOG2_E + 12_582_912.0;
    let n = shifted - 12_582_912.0;
    // ln 2 in two parts, of which the first has few bits: the product is exact.
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let series =
        1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0))))));
    series * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3F80_0000))
}

/// SwiGLU's gate: `gate = silu(gate) * up` (Shazeer 2020).
pub fn swiglu(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
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

    fn noise(count: usize, seed: u32) -> Vec<f32> {
        (0..count as u32).map(|i| crate::engine::Sampling::uniform(seed, i, 7) * 2.0 - 1.0).collect()
    }

    #[test]
    fn exp_agrees_with_the_library() {
        for i in -87_000..=88_000 {
            let x = i as f32 / 1000.0;
            assert!((exp(x) / x.exp() - 1.0).abs() < 3e-7, "{x}: {} for {}", exp(x), x.exp());
        }
        assert_eq!((exp(-1e9), exp(0.0)), (exp(-87.0), 1.0));
        assert!(exp(f32::NAN).is_nan() && exp(1e9).is_finite());
    }

    #[test]
    fn attention_agrees_with_a_two_pass_softmax() {
        let (head_dim, kv_dim, offset) = (6, 18, 6);
        for visible in [1, 2, 31, 65] {
            let (q, keys, values) = (noise(head_dim, 5), noise(visible * kv_dim, 6), noise(visible * kv_dim, 7));
            let visible_runs = [0..visible / 3, visible / 3..visible];
            let attention =
                Attention { keys: &keys, values: &values, kv_dim, kv_offset: offset, visible: visible_runs };
            let mut got = vec![0f32; head_dim];
            attention.attend(&q, &mut Vec::new(), &mut got);
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
