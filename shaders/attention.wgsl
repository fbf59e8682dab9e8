// Causal grouped-query attention with an online softmax: out [tokens, HEADS, HEAD_DIM] f32 from q of that shape (rotated)
// and the cache [places, (k, v), KV_DIM] of f16 pairs. A token sees the places that all share, then its sequence's own up
// to itself; table [tokens] is (id, position, first place of its own, t-th kept token). KEPT 1: the kept tokens alone, out
// [kept, HEADS, HEAD_DIM]. One workgroup of 64 a token and head; it walks what is visible 64 at a time: a thread scores one
// position, then GROUPS of PAIRS threads gather a share of the positions each, a thread one pair of the output.
@group(0) @binding(0) var<uniform> call: Call;
@group(0) @binding(1) var<storage, read> q: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> cache: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read> table: array<vec4<u32>>;

// PAIRS is HEAD_DIM / 2.
const GROUPS = max(64u / PAIRS, 1u);
var<workgroup> query: array<vec2<f32>, PAIRS>;
// Not vectors: threads that write components of one vector overwrite each other's on Metal and Direct3D.
var<workgroup> scores: array<f32, 64>;
var<workgroup> shares: array<f32, 64>;
var<workgroup> parts: array<vec2<f32>, 64>;

// Where the i-th visible key and value are.
fn visible_place(i: u32, own: u32) -> u32 {
    return select(own + i - call.shared_places, i, i < call.shared_places);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
#if KEPT 0
    let t = group.x;
#endif
#if KEPT 1
    let t = table[group.x].w;
#endif
    let head = group.y;
    let row = (group.x * HEADS + head) * PAIRS;
    let offset = head / (HEADS * HEAD_DIM / KV_DIM) * PAIRS;
    let own = table[t].z;
    let visible = call.shared_places + call.start + t + 1u - own;
    for (var i = lane; i < PAIRS; i += 64u) {
        query[i] = q[(t * HEADS + head) * PAIRS + i] * inverseSqrt(f32(HEAD_DIM));
    }
    // Pairs lane % PAIRS, or lane and lane + 64, of the output; HEAD_DIM is at most 256.
    var sums: array<vec2<f32>, 2>;
    let pair = lane % PAIRS;
    var highest = -1e30;
    var weight = 0.0;
    for (var first = 0u; first < visible; first += 64u) {
        workgroupBarrier();
        var score = -1e30;
        if (first + lane < visible) {
            score = 0.0;
            let at = visible_place(first + lane, own) * KV_DIM + offset;
#repeat i PAIRS
            score += dot(query[{i}], unpack2x16float(cache[at + {i}]));
#end
        }
        scores[lane] = score;
        workgroupBarrier();
        var top = vec4<f32>(highest);
#repeat i 16
        top = max(top, vec4<f32>(scores[4u * {i}], scores[4u * {i} + 1u], scores[4u * {i} + 2u], scores[4u * {i} + 3u]));
#end
        let now = max(max(top.x, top.y), max(top.z, top.w));
        // Of what is not visible, exp(-1e30 - now) = 0.
        shares[lane] = exp(score - now);
        workgroupBarrier();
        let keep = exp(highest - now);
        highest = now;
        weight *= keep;
        sums[0] *= keep;
        sums[1] *= keep;
#repeat i 16
        weight += shares[4u * {i}] + shares[4u * {i} + 1u] + shares[4u * {i} + 2u] + shares[4u * {i} + 3u];
#end
        // Eight positions at a time, so that their loads are under way together.
        let quads = (min(64u, visible - first) + 3u) / 4u;
        if (lane < GROUPS * PAIRS) {
            for (var i = lane / PAIRS * 2u; i < quads; i += GROUPS * 2u) {
#repeat h 2
#repeat j 4
                {
                    let share = shares[4u * (i + {h}) + {j}];
                    let seen = min(first + 4u * (i + {h}) + {j}, visible - 1u);
                    let at = visible_place(seen, own) * KV_DIM + KV_DIM / 2u + offset;
                    sums[0] += share * unpack2x16float(cache[at + pair]);
                    if (lane + 64u < PAIRS) {
                        sums[1] += share * unpack2x16float(cache[at + lane + 64u]);
                    }
                }
#end
#end
            }
        }
    }
    parts[lane] = sums[0];
    workgroupBarrier();
    if (lane < PAIRS) {
        var total = parts[lane];
        for (var i = 1u; i < GROUPS; i++) {
            total += parts[lane + i * PAIRS];
        }
        out[row + lane] = total / weight;
    }
    if (lane + 64u < PAIRS) {
        out[row + lane + 64u] = sums[1] / weight;
    }
}
