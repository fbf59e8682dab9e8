//! Vector instruction sets for the quantised matmul. A weight vector holds 4 consecutive levels (unsigned bytes) of each
//! of `LANES` rows; it meets 4 activation levels (16 bits) of one token, and the accumulator gains each row's sum of four
//! products. Integer sums are exact, so every set gives the same ones.
//!
//! No method takes or makes a closure: that would be a function without its caller's instruction set.

/// # Safety
/// Every method may use instructions that not every machine of the target has; the caller has checked. Pointers are
/// read or written for as many bytes as the method says.
pub trait Isa {
    /// Weight rows in one vector.
    const LANES: usize;
    /// Whether a block's eight steps are written out. In WebAssembly the compiler would then sum token by token, with the
    /// weights of all steps in registers, which are too few.
    const UNROLLED: bool = true;
    /// `4 * LANES` bytes.
    type Bytes: Copy;
    /// The same, as `dot` takes them.
    type Weights: Copy;
    type Sums: Copy;
    type Floats: Copy;

    /// Every row's sum starts here.
    unsafe fn start(at: i32) -> Self::Sums;
    unsafe fn bytes(from: *const u8) -> Self::Bytes;
    unsafe fn store_bytes(value: Self::Bytes, to: *mut u8);
    unsafe fn low_nibbles(packed: Self::Bytes) -> Self::Bytes;
    unsafe fn high_nibbles(packed: Self::Bytes) -> Self::Bytes;
    /// `levels`, plus 16 where bit `bit` of `bits` is set. A constant shift, once the caller's loop is unrolled.
    unsafe fn fifth_bit(levels: Self::Bytes, bits: Self::Bytes, bit: u32) -> Self::Bytes;
    unsafe fn weights(levels: Self::Bytes) -> Self::Weights;
    /// Adds the products with the 4 levels at `x`.
    unsafe fn dot(sums: Self::Sums, w: Self::Weights, x: *const i16) -> Self::Sums;
    unsafe fn floats(sums: Self::Sums) -> Self::Floats;
    unsafe fn splat(value: f32) -> Self::Floats;
    /// Reads `LANES` elements.
    unsafe fn load(from: *const f32) -> Self::Floats;
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`.
    unsafe fn mul_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// Writes `LANES` elements.
    unsafe fn store(value: Self::Floats, to: *mut f32);
}

/// Plain arithmetic: the reference of the others, and what serves where none of them runs.
pub struct Scalar;

impl Isa for Scalar {
    const LANES: usize = 4;
    type Bytes = [u8; 16];
    type Weights = [u8; 16];
    type Sums = [i32; 4];
    type Floats = [f32; 4];

    #[inline(always)]
    unsafe fn start(at: i32) -> [i32; 4] {
        [at; 4]
    }
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> [u8; 16] {
        unsafe { from.cast::<[u8; 16]>().read() }
    }
    #[inline(always)]
    unsafe fn store_bytes(value: [u8; 16], to: *mut u8) {
        unsafe { to.cast::<[u8; 16]>().write(value) }
    }
    #[inline(always)]
    unsafe fn low_nibbles(packed: [u8; 16]) -> [u8; 16] {
        packed.map(|byte| byte & 15)
    }
    #[inline(always)]
    unsafe fn high_nibbles(packed: [u8; 16]) -> [u8; 16] {
        packed.map(|byte| byte >> 4)
    }
    #[inline(always)]
    unsafe fn fifth_bit(levels: [u8; 16], bits: [u8; 16], bit: u32) -> [u8; 16] {
        std::array::from_fn(|i| levels[i] | (bits[i] >> bit & 1) << 4)
    }
    #[inline(always)]
    unsafe fn weights(levels: [u8; 16]) -> [u8; 16] {
        levels
    }
    #[inline(always)]
    unsafe fn dot(sums: [i32; 4], w: [u8; 16], x: *const i16) -> [i32; 4] {
        let x = unsafe { x.cast::<[i16; 4]>().read() };
        std::array::from_fn(|row| sums[row] + (0..4).map(|k| w[4 * row + k] as i32 * x[k] as i32).sum::<i32>())
    }
    #[inline(always)]
    unsafe fn floats(sums: [i32; 4]) -> [f32; 4] {
        sums.map(|sum| sum as f32)
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> [f32; 4] {
        [value; 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 4] {
        unsafe { from.cast::<[f32; 4]>().read() }
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|lane| a[lane] * b[lane])
    }
    #[inline(always)]
    unsafe fn mul_add(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
    }
    #[inline(always)]
    unsafe fn store(value: [f32; 4], to: *mut f32) {
        unsafe { to.cast::<[f32; 4]>().write(value) }
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Isa;
    use std::arch::x86_64::*;

    pub struct Avx2;

    impl Isa for Avx2 {
        const LANES: usize = 8;
        type Bytes = __m256i;
        /// Rows 0, 1, 4 and 5, then 2, 3, 6 and 7: two lanes a row.
        type Weights = (__m256i, __m256i);
        type Sums = (__m256i, __m256i);
        type Floats = __m256;

        #[inline(always)]
        unsafe fn start(at: i32) -> (__m256i, __m256i) {
            let first = unsafe { _mm256_set1_epi64x(at as u32 as i64) };
            (first, first)
        }
        #[inline(always)]
        unsafe fn bytes(from: *const u8) -> __m256i {
            unsafe { _mm256_loadu_si256(from.cast()) }
        }
        #[inline(always)]
        unsafe fn store_bytes(value: __m256i, to: *mut u8) {
            unsafe { _mm256_storeu_si256(to.cast(), value) }
        }
        #[inline(always)]
        unsafe fn low_nibbles(packed: __m256i) -> __m256i {
            unsafe { _mm256_and_si256(packed, _mm256_set1_epi8(15)) }
        }
        #[inline(always)]
        unsafe fn high_nibbles(packed: __m256i) -> __m256i {
            unsafe { _mm256_and_si256(_mm256_srli_epi16(packed, 4), _mm256_set1_epi8(15)) }
        }
        #[inline(always)]
        unsafe fn fifth_bit(levels: __m256i, bits: __m256i, bit: u32) -> __m256i {
            unsafe {
                // Shifts of 16 bits: what crosses from byte to byte is masked away.
                let there = if bit < 4 {
                    _mm256_sll_epi16(bits, _mm_cvtsi32_si128(4 - bit as i32))
                } else {
                    _mm256_srl_epi16(bits, _mm_cvtsi32_si128(bit as i32 - 4))
                };
                _mm256_or_si256(levels, _mm256_and_si256(there, _mm256_set1_epi8(16)))
            }
        }
        #[inline(always)]
        unsafe fn weights(levels: __m256i) -> (__m256i, __m256i) {
            unsafe {
                let zero = _mm256_setzero_si256();
                (_mm256_unpacklo_epi8(levels, zero), _mm256_unpackhi_epi8(levels, zero))
            }
        }
        #[inline(always)]
        unsafe fn dot(sums: (__m256i, __m256i), w: (__m256i, __m256i), x: *const i16) -> (__m256i, __m256i) {
            unsafe {
                let x = _mm256_set1_epi64x(x.cast::<i64>().read_unaligned());
                (
                    _mm256_add_epi32(sums.0, _mm256_madd_epi16(w.0, x)),
                    _mm256_add_epi32(sums.1, _mm256_madd_epi16(w.1, x)),
                )
            }
        }
        #[inline(always)]
        unsafe fn floats(sums: (__m256i, __m256i)) -> __m256 {
            unsafe { _mm256_cvtepi32_ps(_mm256_hadd_epi32(sums.0, sums.1)) }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> __m256 {
            unsafe { _mm256_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn store(value: __m256, to: *mut f32) {
            unsafe { _mm256_storeu_ps(to, value) }
        }
    }

    /// With VNNI: products and their sum in one instruction.
    pub struct Avx512;

    impl Isa for Avx512 {
        const LANES: usize = 16;
        type Bytes = __m512i;
        type Weights = (__m512i, __m512i);
        type Sums = (__m512i, __m512i);
        type Floats = __m512;

        #[inline(always)]
        unsafe fn start(at: i32) -> (__m512i, __m512i) {
            let first = unsafe { _mm512_set1_epi64(at as u32 as i64) };
            (first, first)
        }
        #[inline(always)]
        unsafe fn bytes(from: *const u8) -> __m512i {
            unsafe { _mm512_loadu_si512(from.cast()) }
        }
        #[inline(always)]
        unsafe fn store_bytes(value: __m512i, to: *mut u8) {
            unsafe { _mm512_storeu_si512(to.cast(), value) }
        }
        #[inline(always)]
        unsafe fn low_nibbles(packed: __m512i) -> __m512i {
            unsafe { _mm512_and_si512(packed, _mm512_set1_epi8(15)) }
        }
        #[inline(always)]
        unsafe fn high_nibbles(packed: __m512i) -> __m512i {
            unsafe { _mm512_and_si512(_mm512_srli_epi16(packed, 4), _mm512_set1_epi8(15)) }
        }
        #[inline(always)]
        unsafe fn fifth_bit(levels: __m512i, bits: __m512i, bit: u32) -> __m512i {
            unsafe {
                // Shifts of 16 bits: what crosses from byte to byte is masked away.
                let there = if bit < 4 {
                    _mm512_sll_epi16(bits, _mm_cvtsi32_si128(4 - bit as i32))
                } else {
                    _mm512_srl_epi16(bits, _mm_cvtsi32_si128(bit as i32 - 4))
                };
                _mm512_or_si512(levels, _mm512_and_si512(there, _mm512_set1_epi8(16)))
            }
        }
        #[inline(always)]
        unsafe fn weights(levels: __m512i) -> (__m512i, __m512i) {
            unsafe {
                let zero = _mm512_setzero_si512();
                (_mm512_unpacklo_epi8(levels, zero), _mm512_unpackhi_epi8(levels, zero))
            }
        }
        #[inline(always)]
        unsafe fn dot(sums: (__m512i, __m512i), w: (__m512i, __m512i), x: *const i16) -> (__m512i, __m512i) {
            unsafe {
                let x = _mm512_set1_epi64(x.cast::<i64>().read_unaligned());
                (_mm512_dpwssd_epi32(sums.0, w.0, x), _mm512_dpwssd_epi32(sums.1, w.1, x))
            }
        }
        #[inline(always)]
        unsafe fn floats(sums: (__m512i, __m512i)) -> __m512 {
            unsafe {
                let (a, b) = (_mm512_castsi512_ps(sums.0), _mm512_castsi512_ps(sums.1));
                let even = _mm512_castps_si512(_mm512_shuffle_ps::<0x88>(a, b));
                let odd = _mm512_castps_si512(_mm512_shuffle_ps::<0xDD>(a, b));
                _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd))
            }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> __m512 {
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn store(value: __m512, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, value) }
        }
    }
}

#[cfg(target_arch = "wasm32")]
pub use wasm::Simd128;

#[cfg(target_arch = "wasm32")]
mod wasm {
    use super::Isa;
    use std::arch::wasm32::*;

    /// Bytes widened to 16 bits: two lanes a row, rows 0 and 1 in the first vector, 2 and 3 in the second.
    pub struct Simd128;

    impl Isa for Simd128 {
        const LANES: usize = 4;
        const UNROLLED: bool = false;
        type Bytes = v128;
        type Weights = (v128, v128);
        type Sums = (v128, v128);
        type Floats = v128;

        #[inline(always)]
        unsafe fn start(at: i32) -> (v128, v128) {
            (i32x4(at, 0, at, 0), i32x4(at, 0, at, 0))
        }
        #[inline(always)]
        unsafe fn weights(levels: v128) -> (v128, v128) {
            (u16x8_extend_low_u8x16(levels), u16x8_extend_high_u8x16(levels))
        }
        #[inline(always)]
        unsafe fn dot(sums: (v128, v128), w: (v128, v128), x: *const i16) -> (v128, v128) {
            let x = unsafe { v128_load64_splat(x.cast()) };
            (i32x4_add(sums.0, i32x4_dot_i16x8(w.0, x)), i32x4_add(sums.1, i32x4_dot_i16x8(w.1, x)))
        }
        #[inline(always)]
        unsafe fn floats(sums: (v128, v128)) -> v128 {
            let even = i32x4_shuffle::<0, 2, 4, 6>(sums.0, sums.1);
            let odd = i32x4_shuffle::<1, 3, 5, 7>(sums.0, sums.1);
            f32x4_convert_i32x4(i32x4_add(even, odd))
        }
        #[inline(always)]
        unsafe fn bytes(from: *const u8) -> v128 {
            unsafe { v128_load(from.cast()) }
        }
        #[inline(always)]
        unsafe fn store_bytes(value: v128, to: *mut u8) {
            unsafe { v128_store(to.cast(), value) }
        }
        #[inline(always)]
        unsafe fn low_nibbles(packed: v128) -> v128 {
            v128_and(packed, u8x16_splat(15))
        }
        #[inline(always)]
        unsafe fn high_nibbles(packed: v128) -> v128 {
            // Shifts of 16 bits, here and below: on x86 one of bytes is several instructions.
            v128_and(u16x8_shr(packed, 4), u8x16_splat(15))
        }
        #[inline(always)]
        unsafe fn fifth_bit(levels: v128, bits: v128, bit: u32) -> v128 {
            let there = if bit < 4 { u16x8_shl(bits, 4 - bit) } else { u16x8_shr(bits, bit - 4) };
            v128_or(levels, v128_and(there, u8x16_splat(16)))
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> v128 {
            f32x4_splat(value)
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> v128 {
            unsafe { v128_load(from.cast()) }
        }
        #[inline(always)]
        unsafe fn mul(a: v128, b: v128) -> v128 {
            f32x4_mul(a, b)
        }
        #[inline(always)]
        unsafe fn mul_add(a: v128, b: v128, c: v128) -> v128 {
            f32x4_add(f32x4_mul(a, b), c)
        }
        #[inline(always)]
        unsafe fn store(value: v128, to: *mut f32) {
            unsafe { v128_store(to.cast(), value) }
        }
    }
}
