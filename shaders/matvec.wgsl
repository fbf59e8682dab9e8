// out[r] = sum over k of x[k] w[r, k], for one token: x [COLS], w [ROWS, COLS] in planes, out [ROWS].
// A workgroup of 64 takes 8 rows, 8 threads a row, a block of 32 columns a thread and step. ADD 1: adds to out.
@group(0) @binding(1) var<storage, read> quants: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

var<workgroup> partial: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let row = (group.y * groups.x + group.x) * 8u + lane / 8u;
    var sum = 0.0;
    if (row < ROWS) {
        for (var block = lane % 8u; block < COLS / 32u; block += 8u) {
            for (var quad = 0u; quad < 8u; quad++) {
                sum += dot(decode4(row * (COLS / 32u) + block, quad), x[block * 8u + quad]);
            }
        }
    }
    partial[lane] = sum;
    workgroupBarrier();
    if (lane % 8u == 0u && row < ROWS) {
        var total = 0.0;
        for (var i = 0u; i < 8u; i++) {
            total += partial[lane + i];
        }
#if ADD 1
        out[row] += total;
#endif
#if ADD 0
        out[row] = total;
#endif
    }
}
