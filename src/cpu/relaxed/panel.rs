//! What the crate and its relaxed SIMD module say to each other; compiled into both.

/// 16 unpacked weight rows.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Panel {
    /// 0 to 127, `[blocks, 8, 16, 4]`.
    pub levels: *const u8,
    /// `[blocks, 16]`.
    pub scales: *const f32,
    /// `[blocks, 16]`, or null.
    pub minimums: *const f32,
    /// The level that stands for 0.
    pub zero: i32,
    pub blocks: usize,
    /// 8, which the kernel's compiler must not know: it would write the loops over a block out, and then sum token by token with the
    /// weights of all steps in registers, which are too few.
    pub steps: usize,
}

/// The panel's rows against all tokens: `out[t, row]` gets the sum over the blocks of scale times level products.
///
/// - `x`: in tiles of 4 tokens (the last may have fewer) `[blocks, 2, 8, tokens, 4]`, high bytes before low ones, both
///   signed: an activation's level is `256 * high + low`
/// - `sums`: scale, and sum of the levels, in the same tiles `[blocks, tokens]`
/// - `out`: the panel's first row of the first token; `rows` apart from the next token's
///
/// All pointers must be good for as much as that.
pub type Multiply = unsafe extern "C" fn(
    panel: *const Panel,
    x: *const i8,
    sums: *const (f32, i32),
    tokens: usize,
    out: *mut f32,
    rows: usize,
);
