// Row look-up in the quantised embedding: x [tokens, HIDDEN] f32; table [tokens] has the id first. One thread four elements.
@group(0) @binding(1) var<storage, read> quants: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> table: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> x: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group.x * 64u + lane;
    let t = group.y;
    if (i >= HIDDEN / 4u) {
        return;
    }
    x[t * (HIDDEN / 4u) + i] = decode4(table[t].x * (HIDDEN / 32u) + i / 8u, i % 8u);
}
