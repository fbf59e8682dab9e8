// out = x / sqrt(mean(x^2) + EPS) * gain, over rows [tokens, WIDTH] f32. One workgroup of 64 a row.
// LAST 1: only the chunk's last row, to row 0.
@group(0) @binding(0) var<uniform> call: Call;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> gain: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32
#if SUBGROUPS 1
    , @builtin(subgroup_size) subgroup: u32
#endif
) {
#if SUBGROUPS 0
    let subgroup = 1u;
#endif
#if LAST 1
    let row = (call.tokens - 1u) * WIDTH;
#endif
#if LAST 0
    let row = group.x * WIDTH;
#endif
    var squares = 0.0;
    for (var i = lane; i < WIDTH; i += 64u) {
        let value = x[row + i];
        squares += value * value;
    }
    let scale = inverseSqrt(sum64(squares, lane, subgroup) / f32(WIDTH) + EPS);
    for (var i = lane; i < WIDTH; i += 64u) {
        out[group.x * WIDTH + i] = x[row + i] * scale * gain[i];
    }
}
