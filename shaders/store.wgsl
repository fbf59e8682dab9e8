// What becomes of a product's rows `row` and `row + 1` (row even) for row `t` of the activations. STORE:
// 0 out [tokens, ROWS] = sums
// 1 out += sums: the residual connection
// 2 out [kept, ROWS] = residual [tokens, ROWS] at the kept tokens + sums
// 3 rows from FIRST on of q, k and v stacked: q and k rotated by their positions' angles; q to out [tokens, Q_ROWS], k and
//   v to the cache [places, (k, v), KV_DIM] as f16 pairs
// 4 gate and up in alternating rows: out [tokens, ROWS / 2] = silu(gate) * up
// 5 up alone: out [tokens, ROWS], which holds the gate, = silu(out) * sums
// `table` [tokens] is (id, position, first place that is its sequence's own, t-th kept token).
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
#if STORE 2
@group(0) @binding(6) var<storage, read> residual: array<f32>;
#endif
#if STORE 3
@group(0) @binding(6) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(7) var<storage, read_write> cache: array<u32>;
#endif
#if STORE 2 3
@group(0) @binding(8) var<storage, read> table: array<vec4<u32>>;
#endif

#if STORE 4 5
fn silu(x: f32) -> f32 {
    return x / (1.0 + exp(-x));
}
#endif

fn store(t: u32, row: u32, sums: vec2<f32>) {
#if STORE 3
    let at = FIRST + row;
    if (at < Q_ROWS + KV_DIM) {
        let angle = angles[table[t].y * (HEAD_DIM / 2u) + at % HEAD_DIM / 2u];
        let rotated = vec2<f32>(sums.x * angle.x - sums.y * angle.y, sums.x * angle.y + sums.y * angle.x);
        if (at < Q_ROWS) {
            out[t * Q_ROWS + at] = rotated.x;
            out[t * Q_ROWS + at + 1u] = rotated.y;
        } else {
            cache[(call.start + t) * KV_DIM + (at - Q_ROWS) / 2u] = pack2x16float(rotated);
        }
    } else {
        // v's pairs follow k's, half a row further on.
        cache[(call.start + t) * KV_DIM + (at - Q_ROWS) / 2u] = pack2x16float(sums);
    }
#endif
#if STORE 4
    out[(t * ROWS + row) / 2u] = silu(sums.x) * sums.y;
#endif
#if STORE 0 1 2 5
    for (var i = 0u; i < 2u && row + i < ROWS; i++) {
        let at = t * ROWS + row + i;
#endif
#if STORE 0
        out[at] = sums[i];
#endif
#if STORE 1
        out[at] += sums[i];
#endif
#if STORE 2
        out[at] = residual[table[t].w * ROWS + row + i] + sums[i];
#endif
#if STORE 5
        out[at] = silu(out[at]) * sums[i];
#endif
#if STORE 0 1 2 5
    }
#endif
}
