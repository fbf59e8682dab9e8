// sum over k of x[k] w[r, k], for one token: x [COLS], w [ROWS, COLS] in planes; store.wgsl says where it goes.
// A workgroup takes ROWS_AT_ONCE rows (an even number), LANES threads to a row, each RUN quads of columns at a time, UNROLL of
// such steps written out; LANES RUN UNROLL divides the quads of a row, or UNROLL is 1.
// NORM 1: of RMSNorm(x) with `gain`; the threads of a row meet all of x, so its squares cost no pass of their own.
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
var<workgroup> partial: array<vec2<f32>, LANES * ROWS_AT_ONCE>;

fn row_sum(first: u32) -> f32 {
    var total = vec2<f32>(0.0);
#repeat i LANES
    total += partial[first + {i}];
#end
#if NORM 1
    return total.x * inverseSqrt(total.y / f32(COLS) + EPS);
#endif
#if NORM 0
    return total.x;
#endif
}

@compute @workgroup_size(LANES * ROWS_AT_ONCE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let row = (group.y * groups.x + group.x) * ROWS_AT_ONCE + lane / LANES;
    var sum = vec2<f32>(0.0);
    if (row < ROWS) {
        for (var first = lane % LANES * RUN; first < COLS / 4u; first += LANES * RUN * UNROLL) {
#repeat u UNROLL
#repeat i RUN
            {
                let quad = first + {u} * LANES * RUN + {i};
                var v = x[quad];
#if NORM 1
                sum.y += dot(v, v);
                v *= gain[quad];
#endif
                sum.x += dot(decode4(row * (COLS / 32u) + quad / 8u, quad % 8u), v);
            }
#end
#end
        }
    }
    partial[lane] = sum;
    workgroupBarrier();
    // One thread in two rows' stores both; past the last row the second sum is 0.
    if (lane % (2u * LANES) == 0u && row < ROWS) {
        store(0u, row, vec2<f32>(row_sum(lane), row_sum(lane + LANES)));
    }
}
