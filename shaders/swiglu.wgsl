// gate = silu(gate) * up, both [tokens, FFN] f32. One thread an element.
@group(0) @binding(1) var<storage, read_write> gate: array<f32>;
@group(0) @binding(2) var<storage, read> up: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group.x * 64u + lane;
    if (i < FFN) {
        let at = group.y * FFN + i;
        let g = gate[at];
        gate[at] = g / (1.0 + exp(-g)) * up[at];
    }
}
