// sum over k of x[k] w[r, k], for one token: x [COLS], w [ROWS, COLS] in planes; store.wgsl says where it goes.
// A workgroup of 64 takes 8 rows, 8 threads a row, a block of 32 columns a thread and step. NORM 1: of RMSNorm(x) with
// `gain`; the threads of a row meet all of x, so its squares cost no pass of their own.
#if STORE 3
@group(0) @binding(0) var<uniform> call: Call;
#endif
@group(0) @binding(1) var<storage, read> quants: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
#if NORM 1
@group(0) @binding(5) var<storage, read> gain: array<vec4<f32>>;
#endif

// (sum of products, sum of squares) of each thread.
var<workgroup> partial: array<vec2<f32>, 64>;

fn row_sum(first: u32) -> f32 {
    var total = vec2<f32>(0.0);
    for (var i = 0u; i < 8u; i++) {
        total += partial[first + i];
    }
#if NORM 1
    return total.x * inverseSqrt(total.y / f32(COLS) + EPS);
#endif
#if NORM 0
    return total.x;
#endif
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let row = (group.y * groups.x + group.x) * 8u + lane / 8u;
    var sum = vec2<f32>(0.0);
    if (row < ROWS) {
        for (var block = lane % 8u; block < COLS / 32u; block += 8u) {
            for (var quad = 0u; quad < 8u; quad++) {
                var v = x[block * 8u + quad];
#if NORM 1
                sum.y += dot(v, v);
                v *= gain[block * 8u + quad];
#endif
                sum.x += dot(decode4(row * (COLS / 32u) + block, quad), v);
            }
        }
    }
    partial[lane] = sum;
    workgroupBarrier();
    // One thread in sixteen stores two rows; past the last row the second sum is 0.
    if (lane % 16u == 0u && row < ROWS) {
        store(0u, row, vec2<f32>(row_sum(lane), row_sum(lane + 8u)));
    }
}
