// One tensor's GGUF bytes into aligned planes (see planes.wgsl). One thread a block of 32 elements.
// SOURCE: bytes of a GGUF block of 32 elements. Row r of BLOCKS_PER_ROW blocks becomes row r STEP + OFFSET of a matrix that
// several tensors share. Q4_0 and Q5_0 get m = -8 d and -16 d, exact in f16.
@group(0) @binding(0) var<storage, read> raw: array<u32>;
@group(0) @binding(1) var<storage, read_write> quants: array<u32>;
@group(0) @binding(2) var<storage, read_write> scales: array<u32>;

fn byte2(at: u32) -> u32 {
    return (raw[at / 4u] >> ((at & 2u) * 8u)) & 0xffffu;
}

// A word at an even byte offset.
fn word(at: u32) -> u32 {
    return byte2(at) | (byte2(at + 2u) << 16u);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let block = (group.y * groups.x + group.x) * 64u + lane;
    if (block >= BLOCKS) {
        return;
    }
    let at = block * SOURCE;
    let to = (block / BLOCKS_PER_ROW * STEP + OFFSET) * BLOCKS_PER_ROW + block % BLOCKS_PER_ROW;
    var skip = 0u;
#if KIND 0 1 2 3
    let d = byte2(at);
    skip = 2u;
#endif
#if KIND 0
    scales[to] = pack2x16float(vec2<f32>(unpack2x16float(d).x, -8.0 * unpack2x16float(d).x));
#endif
#if KIND 1
    scales[to] = d | (byte2(at + 2u) << 16u);
    skip = 4u;
#endif
#if KIND 2
    scales[to] = pack2x16float(vec2<f32>(unpack2x16float(d).x, -16.0 * unpack2x16float(d).x));
    quants[to * WORDS + 4u] = word(at + 2u);
    skip = 6u;
#endif
#if KIND 3
    scales[to] = d;
#endif
#if KIND 4 5
    scales[to] = 0u;
#endif
    for (var i = 0u; i < PLAIN; i++) {
        quants[to * WORDS + i] = word(at + skip + 4u * i);
    }
}
