// out[t, r] = sum over k of x[t, k] w[r, k], for prefill: x [tokens, COLS], w [ROWS, COLS] in planes, out [tokens, ROWS].
// Tiles of 32 rows by 32 tokens, 64 threads of 4 x 4; each step decodes one block (32 columns) of 32 rows into
// workgroup memory, once for 32 tokens. ADD 1: adds to out (the residual connection).
@group(0) @binding(0) var<uniform> call: Call;
@group(0) @binding(1) var<storage, read> quants: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

// [column quad, row or token]: neighbouring threads read neighbouring places.
var<workgroup> w_tile: array<vec4<Tile>, 256>;
var<workgroup> x_tile: array<vec4<f32>, 256>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first_row = group.x * 32u;
    let first_token = group.y * 32u;
    let r0 = (lane % 8u) * 4u;
    let t0 = (lane / 8u) * 4u;
    var sums: array<vec4<f32>, 4>;
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
            if (token < call.tokens) {
                v = x[token * (COLS / 4u) + block * 8u + quad];
            }
            w_tile[i] = vec4<Tile>(w);
            x_tile[i] = v;
        }
        workgroupBarrier();
        // A short chunk leaves part of the threads without tokens.
        if (first_token + t0 < call.tokens) {
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
    for (var t = 0u; t < 4u; t++) {
        let token = first_token + t0 + t;
        if (token >= call.tokens) {
            break;
        }
        for (var r = 0u; r < 4u; r++) {
            let row = first_row + r0 + r;
            if (row < ROWS) {
#if ADD 1
                out[token * ROWS + row] += sums[t][r];
#endif
#if ADD 0
                out[token * ROWS + row] = sums[t][r];
#endif
            }
        }
    }
}
