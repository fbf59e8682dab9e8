// Rotates the interleaved pairs (2i, 2i + 1) of q in place and of k into the KV cache, and writes v to the cache.
// q [tokens, HEADS, HEAD_DIM], k and v [tokens, KV_DIM] f32; angles [positions, HEAD_DIM / 2] (cos, sin); keys and
// values [places, KV_DIM / 2] packed f16 pairs; places [tokens] (position, first place that is its sequence's own). One thread a pair of q, or the same pair of k and of v.
@group(0) @binding(0) var<uniform> call: Call;
@group(0) @binding(1) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> q: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> k: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> v: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> keys: array<u32>;
@group(0) @binding(6) var<storage, read_write> values: array<u32>;
@group(0) @binding(7) var<storage, read> places: array<vec2<u32>>;

fn rotate(pair: vec2<f32>, angle: vec2<f32>) -> vec2<f32> {
    return vec2<f32>(pair.x * angle.x - pair.y * angle.y, pair.x * angle.y + pair.y * angle.x);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = group.y;
    let pair = group.x * 64u + lane;
    let position = places[t].x;
    let place = call.start + t;
    let q_pairs = HEADS * HEAD_DIM / 2u;
    let kv_pairs = KV_DIM / 2u;
    if (pair < q_pairs) {
        let at = t * q_pairs + pair;
        q[at] = rotate(q[at], angles[position * (HEAD_DIM / 2u) + pair % (HEAD_DIM / 2u)]);
    } else if (pair < q_pairs + kv_pairs) {
        let i = pair - q_pairs;
        let rotated = rotate(k[t * kv_pairs + i], angles[position * (HEAD_DIM / 2u) + i % (HEAD_DIM / 2u)]);
        keys[place * kv_pairs + i] = pack2x16float(rotated);
        values[place * kv_pairs + i] = pack2x16float(v[t * kv_pairs + i]);
    }
}
