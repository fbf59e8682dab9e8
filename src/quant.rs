//! The tensor formats of a GGUF file that this engine runs: block sizes, and decoding to f32.
//!
//! Layouts are those of ggml's `ggml-quants.h`; a block holds 32 consecutive elements of one row.

use candle_core::quantized::GgmlDType;

use crate::error::{Error, Result};

/// Elements in a quantised block.
pub const BLOCK: usize = 32;

/// How a tensor's elements are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    F32,
    F16,
    /// f16 scale d, 16 bytes of nibbles: byte j holds element j (low) and j + 16 (high); x = d (q - 8).
    Q4_0,
    /// f16 scale d, f16 minimum m, 16 bytes of nibbles; x = d q + m.
    Q4_1,
    /// f16 scale d, 32 high bits, 16 bytes of nibbles; x = d (q - 16).
    Q5_0,
    /// f16 scale d, 32 signed bytes; x = d q.
    Q8_0,
}

impl Format {
    /// The format of candle's dtype, or `None` where this engine has no kernel for it.
    pub fn from_ggml(dtype: GgmlDType) -> Option<Self> {
        Some(match dtype {
            GgmlDType::F32 => Format::F32,
            GgmlDType::F16 => Format::F16,
            GgmlDType::Q4_0 => Format::Q4_0,
            GgmlDType::Q4_1 => Format::Q4_1,
            GgmlDType::Q5_0 => Format::Q5_0,
            GgmlDType::Q8_0 => Format::Q8_0,
            _ => return None,
        })
    }

    /// Elements per block: 1 for the float formats.
    pub const fn block_len(self) -> usize {
        match self {
            Format::F32 | Format::F16 => 1,
            _ => BLOCK,
        }
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 => 2,
            Format::Q4_0 => 18,
            Format::Q4_1 => 20,
            Format::Q5_0 => 22,
            Format::Q8_0 => 34,
        }
    }

    /// Bytes of one row of `cols` elements; `None` if the row does not end on a block's end.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        cols.is_multiple_of(self.block_len()).then(|| cols / self.block_len() * self.block_bytes())
    }

    /// Decodes whole blocks to f32. `out` holds as many elements as `bytes` encode.
    // Inlined, so that a kernel's own instruction set serves here too.
    #[inline(always)]
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        debug_assert_eq!(bytes.len() / self.block_bytes() * self.block_len(), out.len());
        let f16 = |at: &[u8]| half::f16::from_le_bytes([at[0], at[1]]).to_f32();
        match self {
            Format::F32 => {
                for (x, raw) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *x = f32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
                }
            }
            Format::F16 => {
                for (x, raw) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *x = f16(raw);
                }
            }
            Format::Q4_0 => {
                for (x, block) in out.chunks_exact_mut(BLOCK).zip(bytes.chunks_exact(18)) {
                    let d = f16(block);
                    let (low, high) = x.split_at_mut(16);
                    for j in 0..16 {
                        low[j] = d * ((block[2 + j] & 15) as i32 - 8) as f32;
                        high[j] = d * ((block[2 + j] >> 4) as i32 - 8) as f32;
                    }
                }
            }
            Format::Q4_1 => {
                for (x, block) in out.chunks_exact_mut(BLOCK).zip(bytes.chunks_exact(20)) {
                    let (d, m) = (f16(block), f16(&block[2..]));
                    let (low, high) = x.split_at_mut(16);
                    for j in 0..16 {
                        low[j] = d * (block[4 + j] & 15) as f32 + m;
                        high[j] = d * (block[4 + j] >> 4) as f32 + m;
                    }
                }
            }
            Format::Q5_0 => {
                for (x, block) in out.chunks_exact_mut(BLOCK).zip(bytes.chunks_exact(22)) {
                    let d = f16(block);
                    let bits = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
                    let (low, high) = x.split_at_mut(16);
                    for j in 0..16 {
                        let q = block[6 + j] as u32;
                        low[j] = d * (((q & 15) | (bits >> j & 1) << 4) as i32 - 16) as f32;
                        high[j] = d * (((q >> 4) | (bits >> (j + 16) & 1) << 4) as i32 - 16) as f32;
                    }
                }
            }
            Format::Q8_0 => {
                for (x, block) in out.chunks_exact_mut(BLOCK).zip(bytes.chunks_exact(34)) {
                    let d = f16(block);
                    for j in 0..BLOCK {
                        x[j] = d * (block[2 + j] as i8) as f32;
                    }
                }
            }
        }
    }
}

impl std::str::FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name.to_ascii_lowercase().as_str() {
            "f32" => Format::F32,
            "f16" => Format::F16,
            "q4_0" => Format::Q4_0,
            "q4_1" => Format::Q4_1,
            "q5_0" => Format::Q5_0,
            "q8_0" => Format::Q8_0,
            _ => {
                return Err(Error::Argument {
                    problem: format!("no format is named {name:?}; f32, f16, q4_0, q4_1, q5_0, q8_0 are"),
                });
            }
        })
    }
}
