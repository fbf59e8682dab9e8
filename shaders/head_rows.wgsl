// Logits of a few vocabulary rows: for probe p = (token, row, slot), logits[slot] = RMSNorm(x[token]) . w[row].
// x [tokens, HIDDEN] f32 (the residual stream), w the LM head in planes. One workgroup of 64 a probe.
@group(0) @binding(0) var<uniform> call: Call;
@group(0) @binding(1) var<storage, read> quants: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> gain: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> probes: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read_write> logits: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32
#if SUBGROUPS 1
    , @builtin(subgroup_size) subgroup: u32
#endif
) {
#if SUBGROUPS 0
    let subgroup = 1u;
#endif
    let probe = probes[group.x];
    var squares = 0.0;
    var sum = 0.0;
    for (var i = lane; i < HIDDEN / 4u; i += 64u) {
        let value = x[probe.x * (HIDDEN / 4u) + i];
        squares += dot(value, value);
        sum += dot(value * gain[i], decode4(probe.y * (HIDDEN / 32u) + i / 8u, i % 8u));
    }
    let scale = inverseSqrt(sum64(squares, lane, subgroup) / f32(HIDDEN) + EPS);
    let total = sum64(sum, lane, subgroup);
    if (lane == 0u && group.x < call.probes) {
        logits[probe.z] = total * scale;
    }
}
