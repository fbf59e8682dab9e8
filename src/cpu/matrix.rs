//! Weight matrices as the CPU holds them.
//!
//! Quantised rows stand in panels of 16, side by side, so that a vector reads 4 elements of each of its rows. A block of a
//! panel, 16 rows by 32 columns, takes as many bytes as in the file:
//!
//! - 16 scales (f16); for Q4_1, 16 minimums (f16)
//! - for Q5_0, 64 bytes `[row, j]`, of which bit s is the fifth bit of element 4s + j
//! - for Q4_0, Q4_1 and Q5_0, 4 times 64 bytes `[row, j]`; those of the c-th hold element 8c + j in the low nibble, and
//!   element 8c + 4 + j in the high one
//! - for Q8_0, 8 times 64 bytes `[row, j]`; those of the s-th are element 4s + j, plus 128
//!
//! Levels are unsigned throughout; [`zero`] is the one that stands for 0. Rows that fill no panel are padded.

use crate::quant::{BLOCK, Format};

/// Weight rows side by side: 16 lanes of the widest vectors.
pub const PANEL: usize = 16;

/// One weight matrix `[rows, cols]`.
pub struct Matrix {
    pub format: Format,
    pub rows: usize,
    pub cols: usize,
    /// Float formats: row-major, as in the file. Quantised ones: `[panels, cols / 32]` of the blocks above.
    pub bytes: Vec<u8>,
}

/// The level that stands for 0.
pub fn zero(format: Format) -> i32 {
    match format {
        Format::Q4_0 => 8,
        Format::Q5_0 => 16,
        Format::Q8_0 => 128,
        _ => 0,
    }
}

/// Where a block's nibbles (or bytes) begin: after its scales, minimums and fifth bits.
pub const fn levels_at(format: Format) -> usize {
    match format {
        Format::Q4_1 => 4 * PANEL,
        Format::Q5_0 => 6 * PANEL,
        _ => 2 * PANEL,
    }
}

impl Matrix {
    /// Bytes that a matrix takes whose rows are `bytes` long in all in the file.
    pub fn bytes(format: Format, rows: usize, bytes: usize) -> usize {
        if format.block_len() == BLOCK { bytes / rows * rows.next_multiple_of(PANEL) } else { bytes }
    }

    /// Takes the bytes of the file: `rows` rows of [`Format::row_bytes`].
    pub fn new(format: Format, rows: usize, cols: usize, mut bytes: Vec<u8>) -> Self {
        let row_bytes = bytes.len() / rows;
        if format.block_len() == BLOCK {
            bytes.resize(rows.next_multiple_of(PANEL) * row_bytes, 0);
            let mut panel = Vec::with_capacity(PANEL * row_bytes);
            for packed in bytes.chunks_exact_mut(PANEL * row_bytes) {
                panel.clear();
                panel.extend_from_slice(packed);
                pack(format, &panel, packed);
            }
        }
        Matrix { format, rows, cols, bytes }
    }

    /// Decodes one row to f32: `out` is `[cols]`.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        let format = self.format;
        if format.block_len() != BLOCK {
            let stride = self.bytes.len() / self.rows;
            return format.decode(&self.bytes[row * stride..(row + 1) * stride], out);
        }
        let block_bytes = PANEL * format.block_bytes();
        let (panel, lane) = (row / PANEL, row % PANEL);
        let panel = &self.bytes[panel * (self.cols / BLOCK) * block_bytes..];
        for (block, out) in panel.chunks_exact(block_bytes).zip(out.as_chunks_mut::<BLOCK>().0) {
            let number = |at: usize| half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
            let scale = number(2 * lane);
            let minimum = if format == Format::Q4_1 { number(2 * PANEL + 2 * lane) } else { 0.0 };
            for (k, out) in out.iter_mut().enumerate() {
                let at = 4 * lane + k % 4;
                let levels = &block[levels_at(format)..];
                let level = match format {
                    Format::Q8_0 => levels[k / 4 * 64 + at],
                    _ if k / 4 % 2 == 0 => levels[k / 8 * 64 + at] & 15,
                    _ => levels[k / 8 * 64 + at] >> 4,
                };
                let fifth = if format == Format::Q5_0 { (block[2 * PANEL + at] >> (k / 4) & 1) << 4 } else { 0 };
                *out = scale * ((level | fifth) as i32 - zero(format)) as f32 + minimum;
            }
        }
    }
}

/// 16 rows of the file's blocks to one panel, of the same size.
fn pack(format: Format, rows: &[u8], packed: &mut [u8]) {
    let (row_bytes, block_bytes) = (rows.len() / PANEL, format.block_bytes());
    for (index, packed) in packed.chunks_exact_mut(PANEL * block_bytes).enumerate() {
        let (numbers, levels) = packed.split_at_mut(levels_at(format));
        for lane in 0..PANEL {
            let block = &rows[lane * row_bytes + index * block_bytes..][..block_bytes];
            let (number, quants) = block.split_at(block_bytes - if format == Format::Q8_0 { 32 } else { 16 });
            numbers[2 * lane..2 * lane + 2].copy_from_slice(&number[..2]);
            match format {
                Format::Q4_1 => numbers[2 * (PANEL + lane)..][..2].copy_from_slice(&number[2..]),
                Format::Q5_0 => {
                    let bits = u32::from_le_bytes([number[2], number[3], number[4], number[5]]);
                    for j in 0..4 {
                        // Bits j, j + 4, ... j + 28, side by side.
                        let mut every_fourth = bits >> j & 0x1111_1111;
                        every_fourth = (every_fourth | every_fourth >> 3) & 0x0303_0303;
                        every_fourth = (every_fourth | every_fourth >> 6) & 0x000F_000F;
                        numbers[2 * PANEL + 4 * lane + j] = (every_fourth | every_fourth >> 12) as u8;
                    }
                }
                _ => {}
            }
            if format == Format::Q8_0 {
                for (step, four) in quants.as_chunks::<4>().0.iter().enumerate() {
                    levels[64 * step + 4 * lane..][..4].copy_from_slice(&four.map(|level| level ^ 0x80));
                }
                continue;
            }
            // The file's byte i holds elements i and i + 16.
            let words: [u32; 4] = bytemuck::pod_read_unaligned(quants);
            for (c, [even, odd]) in [[0, 1], [2, 3]].into_iter().enumerate() {
                let low = words[even] & 0x0F0F_0F0F | (words[odd] & 0x0F0F_0F0F) << 4;
                let high = words[even] >> 4 & 0x0F0F_0F0F | words[odd] & 0xF0F0_F0F0;
                levels[64 * c + 4 * lane..][..4].copy_from_slice(&low.to_ne_bytes());
                levels[64 * (c + 2) + 4 * lane..][..4].copy_from_slice(&high.to_ne_bytes());
            }
        }
    }
}

/// Without branches, unlike a library's: it runs for every 32 weights, in loops that become vectors.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let magnitude = ((bits & 0x7FFF) as u32) << 13;
    // 2^112 makes up for the difference of the exponents' biases, of subnormal numbers too.
    let finite = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let special = f32::from_bits(magnitude | 0x7F80_0000);
    let value = if bits & 0x7C00 == 0x7C00 { special } else { finite };
    f32::from_bits(value.to_bits() | ((bits & 0x8000) as u32) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Sampling;

    #[test]
    fn every_f16_is_converted_as_the_library_does() {
        for bits in 0..=u16::MAX {
            let (got, want) = (f16_to_f32(bits), half::f16::from_bits(bits).to_f32());
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{bits:#x}: {got} for {want}");
        }
    }

    #[test]
    fn packed_rows_decode_to_what_the_files_rows_do() {
        for format in [Format::F32, Format::F16, Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q8_0] {
            for (rows, cols) in [(1, 32), (16, 64), (33, 96)] {
                let row_bytes = format.row_bytes(cols).unwrap();
                let file: Vec<u8> =
                    (0..rows * row_bytes).map(|i| (Sampling::uniform(7, i as u32, 1) * 120.0) as u8).collect();
                let matrix = Matrix::new(format, rows, cols, file.clone());
                for (row, bytes) in file.chunks_exact(row_bytes).enumerate() {
                    let (mut got, mut want) = (vec![0f32; cols], vec![0f32; cols]);
                    matrix.decode_row(row, &mut got);
                    format.decode(bytes, &mut want);
                    assert_eq!(got, want, "{format:?} [{rows}, {cols}], row {row}");
                }
            }
        }
    }
}
