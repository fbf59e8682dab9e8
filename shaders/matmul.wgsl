// sum over k of x[t, k] w[r, k], for prefill: x [tokens, COLS], w [ROWS, COLS] in planes; store.wgsl says where it goes.
// Tiles of 32 rows by 32 tokens, 64 threads of 4 x 4; each step decodes one block (32 columns) of 32 rows into
// workgroup memory, once for 32 tokens. NORM 1: of RMSNorm(x) with `gain`; a row's scale is applied at the end, from the
// squares that pass by. KEPT 1: x has the kept tokens alone.
#if NORM 1
var<workgroup> squares: array<f32, 64>;
#endif

// [column quad, row or token]: neighbouring threads read neighbouring places.
var<workgroup> w_tile: array<vec4<Tile>, 256>;
var<workgroup> x_tile: array<vec4<f32>, 256>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tokens = token_count();
    let first_row = group.x * 32u;
    let first_token = group.y * 32u;
    let r0 = (lane % 8u) * 4u;
    let t0 = (lane / 8u) * 4u;
    var sums: array<vec4<f32>, 4>;
    var square = 0.0;
    for (var block = 0u; block < COLS / 32u; block++) {
        for (var i = lane; i < 256u; i += 64u) {
            let quad = i / 32u;
            let row = first_row + i % 32u;
            let token = first_token + i % 32u;
            var w = vec4<f32>(0.0);
            if (row < ROWS) {
                w = decode4(row * (COLS / 32u) + block, quad);
            }
            var v = vec4<f32>(0.0);
            if (token < tokens) {
                v = x[token * (COLS / 4u) + block * 8u + quad];
            }
#if NORM 1
            // A thread meets one token alone, in every other quad.
            square += dot(v, v);
            v *= gain[block * 8u + quad];
#endif
            w_tile[i] = vec4<Tile>(w);
            x_tile[i] = v;
        }
        workgroupBarrier();
        // A short chunk leaves part of the threads without tokens.
        if (first_token + t0 < tokens) {
            for (var quad = 0u; quad < 8u; quad++) {
                let w0 = vec4<f32>(w_tile[quad * 32u + r0]);
                let w1 = vec4<f32>(w_tile[quad * 32u + r0 + 1u]);
                let w2 = vec4<f32>(w_tile[quad * 32u + r0 + 2u]);
                let w3 = vec4<f32>(w_tile[quad * 32u + r0 + 3u]);
                for (var t = 0u; t < 4u; t++) {
                    let v = x_tile[quad * 32u + t0 + t];
                    sums[t] += vec4<f32>(dot(w0, v), dot(w1, v), dot(w2, v), dot(w3, v));
                }
            }
        }
        workgroupBarrier();
    }
#if NORM 1
    squares[lane] = square;
    workgroupBarrier();
#endif
    for (var t = 0u; t < 4u; t++) {
        let token = first_token + t0 + t;
        if (token >= tokens) {
            break;
        }
#if NORM 1
        sums[t] *= inverseSqrt((squares[t0 + t] + squares[t0 + t + 32u]) / f32(COLS) + EPS);
#endif
        for (var r = 0u; r < 4u; r += 2u) {
            if (first_row + r0 + r < ROWS) {
                store(token, first_row + r0 + r, vec2<f32>(sums[t][r], sums[t][r + 1u]));
            }
        }
    }
}
