//! A WebAssembly module of its own, which `build.rs` compiles with relaxed SIMD and `relaxed.rs` loads where a browser
//! takes it. It works in the crate's memory, where it has neither data nor a stack: a function that needed some would trap.
#![no_std]

use core::arch::wasm32::*;

mod panel;
use panel::Panel;

const BLOCK: usize = 32;
const PANEL: usize = 16;
/// Tokens side by side in the activations' layout.
const TILE: usize = 4;

// The signature is the one that the crate calls.
const _: panel::Multiply = multiply;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    unreachable()
}

/// One lane of the product that everything here is made of, on vectors of equal bytes. With 127 and 255 it tells the
/// instruction that an engine takes for it.
#[unsafe(no_mangle)]
pub extern "C" fn product(a: i32, b: i32) -> i32 {
    let (a, b) = (i8x16_splat(a as i8), i8x16_splat(b as i8));
    i32x4_extract_lane::<0>(i32x4_relaxed_dot_i8x16_i7x16_add(a, b, i32x4_splat(0)))
}

/// See [`panel::Multiply`].
///
/// # Safety
/// As it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn multiply(
    panel: *const Panel,
    x: *const i8,
    sums: *const (f32, i32),
    tokens: usize,
    out: *mut f32,
    rows: usize,
) {
    let panel = unsafe { *panel };
    let mut token = 0;
    while token < tokens {
        // Eight sums at a time in each: fewer would wait for one another, more do not fit the registers.
        unsafe {
            let (x, sums, out) =
                (x.add(token * panel.blocks * BLOCK * 2), sums.add(token * panel.blocks), out.add(token * rows));
            match tokens - token {
                1 => both_bytes::<1, 4, 1>(panel, x, sums, out, rows),
                2 => both_bytes::<2, 2, 2>(panel, x, sums, out, rows),
                3 => {
                    both_bytes::<2, 2, 3>(panel, x, sums, out, rows);
                    both_bytes::<1, 4, 3>(panel, x.add(8), sums.add(2), out.add(2 * rows), rows);
                }
                _ => byte_by_byte(panel, x, sums, out, rows),
            }
        }
        token += TILE;
    }
}

/// Four tokens against eight rows at a time: the high bytes' sums, times 256, are where the low ones' begin.
#[inline(always)]
unsafe fn byte_by_byte(panel: Panel, mut x: *const i8, mut sums: *const (f32, i32), out: *mut f32, rows: usize) {
    let (all_x, all_sums) = (x, sums);
    for half in 0..2 {
        unsafe {
            let mut levels = panel.levels.add(32 * half);
            (x, sums) = (all_x, all_sums);
            let mut totals = [[f32x4_splat(0.0); TILE]; 2];
            for block in 0..panel.blocks {
                let mut products = [[i32x4_splat(0); TILE]; 2];
                for byte in 0..2 {
                    if byte == 1 {
                        for t in 0..TILE {
                            let offset = i32x4_splat(-panel.zero * (*sums.add(t)).1);
                            for products in &mut products {
                                products[t] = i32x4_add(i32x4_shl(products[t], 8), offset);
                            }
                        }
                        levels = levels.sub(BLOCK * PANEL);
                    }
                    for _ in 0..panel.steps {
                        let w = [v128_load(levels.cast()), v128_load(levels.add(16).cast())];
                        for t in 0..TILE {
                            let x = v128_load32_splat(x.add(4 * t).cast());
                            for (products, w) in products.iter_mut().zip(w) {
                                products[t] = i32x4_relaxed_dot_i8x16_i7x16_add(x, w, products[t]);
                            }
                        }
                        levels = levels.add(4 * PANEL);
                        x = x.add(4 * TILE);
                    }
                }
                let row = block * PANEL + 8 * half;
                for four in 0..2 {
                    for t in 0..TILE {
                        totals[four][t] =
                            scaled(panel, totals[four][t], products[four][t], row + 4 * four, *sums.add(t));
                    }
                }
                sums = sums.add(TILE);
            }
            for (four, totals) in totals.iter().enumerate() {
                for (t, &total) in totals.iter().enumerate() {
                    v128_store(out.add(t * rows + 8 * half + 4 * four).cast(), total);
                }
            }
        }
    }
}

/// `T` tokens, of `STRIDE` side by side, against `R` vectors of four rows at a time.
#[inline(always)]
unsafe fn both_bytes<const T: usize, const R: usize, const STRIDE: usize>(
    panel: Panel,
    x: *const i8,
    sums: *const (f32, i32),
    out: *mut f32,
    rows: usize,
) {
    for part in 0..4 / R {
        unsafe {
            let (mut levels, mut x, mut sums) = (panel.levels.add(16 * R * part), x, sums);
            let mut totals = [[f32x4_splat(0.0); T]; R];
            for block in 0..panel.blocks {
                let mut high = [[i32x4_splat(0); T]; R];
                let mut low = high;
                for t in 0..T {
                    let offset = i32x4_splat(-panel.zero * (*sums.add(t)).1);
                    for low in &mut low {
                        low[t] = offset;
                    }
                }
                for _ in 0..panel.steps {
                    for t in 0..T {
                        let h = v128_load32_splat(x.add(4 * t).cast());
                        let l = v128_load32_splat(x.add(BLOCK * STRIDE + 4 * t).cast());
                        for r in 0..R {
                            let w = v128_load(levels.add(16 * r).cast());
                            high[r][t] = i32x4_relaxed_dot_i8x16_i7x16_add(h, w, high[r][t]);
                            low[r][t] = i32x4_relaxed_dot_i8x16_i7x16_add(l, w, low[r][t]);
                        }
                    }
                    levels = levels.add(4 * PANEL);
                    x = x.add(4 * STRIDE);
                }
                x = x.add(BLOCK * STRIDE);
                for r in 0..R {
                    for t in 0..T {
                        let product = i32x4_add(i32x4_shl(high[r][t], 8), low[r][t]);
                        let row = block * PANEL + 4 * (R * part + r);
                        totals[r][t] = scaled(panel, totals[r][t], product, row, *sums.add(t));
                    }
                }
                sums = sums.add(STRIDE);
            }
            for (r, totals) in totals.iter().enumerate() {
                for (t, &total) in totals.iter().enumerate() {
                    v128_store(out.add(t * rows + 4 * (R * part + r)).cast(), total);
                }
            }
        }
    }
}

/// A block's products joined to the totals of four rows, in the order of the crate's own kernels.
#[inline(always)]
unsafe fn scaled(panel: Panel, total: v128, product: v128, row: usize, (scale, sum): (f32, i32)) -> v128 {
    unsafe {
        let scales = f32x4_mul(v128_load(panel.scales.add(row).cast()), f32x4_splat(scale));
        let mut total = f32x4_add(f32x4_mul(f32x4_convert_i32x4(product), scales), total);
        if !panel.minimums.is_null() {
            let minimums = v128_load(panel.minimums.add(row).cast());
            total = f32x4_add(f32x4_mul(minimums, f32x4_splat(scale * sum as f32)), total);
        }
        total
    }
}
