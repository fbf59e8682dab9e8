// Picks the next token from logits [VOCAB]: the highest (the lowest id among equals), or by Gumbel-max sampling among those
// at least min_p times as likely as the highest; never an id in skip_from .. skip_to.
// picked = (id, bits of the highest logit). `table` and `next` become what the pass over the picked token needs, so that it
// can be submitted before the host knows the id. One workgroup of 256.
@group(0) @binding(0) var<uniform> call: Call;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read_write> picked: array<u32>;
@group(0) @binding(3) var<storage, read_write> table: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> next: Call;

var<workgroup> values: array<f32, 256>;
var<workgroup> ids: array<u32, 256>;

// The same hash as Sampling::uniform.
fn uniform_of(id: u32) -> f32 {
    var state = call.seed ^ (call.position * 0x9E3779B9u) ^ (id * 0x85EBCA6Bu);
    for (var i = 0u; i < 2u; i++) {
        state = state * 747796405u + 2891336453u;
        let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
        state = (word >> 22u) ^ word;
    }
    return (f32(state >> 9u) + 0.5) * (1.0 / 8388608.0);
}

fn may_pick(id: u32) -> bool {
    return id < call.skip_from || id >= call.skip_to;
}

// The workgroup's highest value and its id, at index 0.
fn highest(lane: u32, value: f32, id: u32) {
    values[lane] = value;
    ids[lane] = id;
    for (var step = 128u; step > 0u; step >>= 1u) {
        workgroupBarrier();
        if (lane < step) {
            let other = lane + step;
            if (values[other] > values[lane] || (values[other] == values[lane] && ids[other] < ids[lane])) {
                values[lane] = values[other];
                ids[lane] = ids[other];
            }
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    var best = -3e38;
    var id = 0xffffffffu;
    for (var first = lane; first < VOCAB; first += 4096u) {
#repeat u 16
        {
            // Past the end the last one is looked at again, which changes nothing. Without branches: sixteen of them in a row
            // take SwiftShader minutes to compile.
            let i = min(first + {u} * 256u, VOCAB - 1u);
            let logit = logits[i];
            let better = ((i < call.skip_from) | (i >= call.skip_to)) & (logit > best);
            best = select(best, logit, better);
            id = select(id, i, better);
        }
#end
    }
    highest(lane, best, id);
    let top = values[0];
    let floor = top + call.floor;
    let greedy = ids[0];
    workgroupBarrier();
    best = -3e38;
    id = greedy;
    if (call.random == 1u) {
        for (var i = lane; i < VOCAB; i += 256u) {
            if (may_pick(i) && logits[i] >= floor) {
                let score = logits[i] / call.temperature - log(-log(uniform_of(i)));
                if (score > best) {
                    best = score;
                    id = i;
                }
            }
        }
    }
    highest(lane, best, id);
    if (lane == 0u) {
        picked[0] = ids[0];
        picked[1] = bitcast<u32>(top);
        let place = call.start + call.tokens;
        table[0] = vec4<u32>(ids[0], call.position + 1u, place, 0u);
        next = call;
        next.tokens = 1u;
        next.kept = 1u;
        next.start = place;
        next.shared_places = place;
        next.position = call.position + 1u;
    }
}
