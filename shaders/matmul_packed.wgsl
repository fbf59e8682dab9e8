// What matmul.wgsl gives, in integers, for many tokens: the weights' levels are bytes as they are, and an activation's 16 bits
// two signed bytes, with one scale for 32 columns of a token, so that a product of 32 is 16 packed dots.
// Tiles of 32 rows by 32 tokens, 64 threads of 4 x 4; each step rounds one block (32 columns) of 32 tokens and takes the same
// block of the rows apart, into workgroup memory. NORM and KEPT as in matmul.wgsl; formats of levels alone. (On an H200 neither
// tiles of 64 rows nor two blocks a step nor loads a step ahead were faster.)
#if NORM 1
// As the tiles below.
var<workgroup> squares: array<vec4<f32>, 72>;
#endif

// [four rows or tokens, column quad]: a component holds four columns of a row or token. The ninth quad is padding, so
// that neighbouring threads, which read one quad of neighbouring rows, meet different banks.
var<workgroup> w_tile: array<vec4<u32>, 72>;
var<workgroup> x_low: array<vec4<u32>, 72>;
var<workgroup> x_high: array<vec4<u32>, 72>;
// The largest and the sum of each quad, a component a token.
var<workgroup> highest: array<vec4<f32>, 72>;
var<workgroup> totals: array<vec4<f32>, 72>;
// d and m of each row's block.
var<workgroup> w_scales: array<vec2<f32>, 32>;

// A quad of each of four rows, given by their blocks.
fn four_levels(rows: vec4<u32>, quad: u32) -> vec4<u32> {
    return vec4<u32>(levels4(rows.x, quad), levels4(rows.y, quad), levels4(rows.z, quad), levels4(rows.w, quad));
}

fn four_dots(w: vec4<u32>, levels: u32) -> vec4<i32> {
    return vec4<i32>(dot4I8Packed(w.x, levels), dot4I8Packed(w.y, levels), dot4I8Packed(w.z, levels), dot4I8Packed(w.w, levels));
}

fn sum(v: vec4<f32>) -> f32 {
    return dot(v, vec4<f32>(1.0));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tokens = token_count();
    let first_row = group.x * 32u;
    let first_token = group.y * 32u;
    // A thread multiplies four rows by four tokens, and loads one quad of the same tokens and of as many rows. Past the last
    // row or token the last one is read again, and not stored.
    let place = lane % 8u;
    let four = lane / 8u;
    let slot = four * 9u + place;
    let four_tokens = first_token + four * 4u;
    let of_tokens = min(vec4<u32>(four_tokens) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(tokens - 1u)) * (COLS / 4u) + place;
    let of_rows = min(vec4<u32>(first_row + four * 4u) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(ROWS - 1u)) * (COLS / 32u);
    let of_scale = min(first_row + lane % 32u, ROWS - 1u) * (COLS / 32u);
    var sums: array<vec4<f32>, 4>;
    var square = vec4<f32>(0.0);
    for (var block = 0u; block < COLS / 32u; block++) {
#repeat t 4
        var v{t} = x[of_tokens[{t}] + block * 8u];
#end
        let w = four_levels(of_rows + block, place);
        let scale = scales[of_scale + block];
#if NORM 1
        square += vec4<f32>(dot(v0u, v0u), dot(v1u, v1u), dot(v2u, v2u), dot(v3u, v3u));
        let g = gain[block * 8u + place];
#repeat t 4
        v{t} *= g;
#end
#endif
#repeat t 4
        let pair{t} = max(abs(v{t}.xy), abs(v{t}.zw));
#end
        highest[slot] = vec4<f32>(max(pair0u.x, pair0u.y), max(pair1u.x, pair1u.y),
            max(pair2u.x, pair2u.y), max(pair3u.x, pair3u.y));
        // Of the activations as they are: what is no number stays none.
        totals[slot] = vec4<f32>(sum(v0u), sum(v1u), sum(v2u), sum(v3u));
        workgroupBarrier();
        var unit = vec4<f32>(0.0);
        var total = vec4<f32>(0.0);
#repeat q 8
        unit = max(unit, highest[four * 9u + {q}]);
        total += totals[four * 9u + {q}];
#end
        unit /= 32639.0;
        // What is too small for a level's inverse is none.
        let levels = select(vec4<f32>(0.0), 1.0 / unit, unit > vec4<f32>(1e-36));
#repeat t 4
        let level{t} = vec4<i32>(round(v{t} * levels[{t}]));
        let high{t} = (level{t} + vec4<i32>(128)) >> vec4<u32>(8u);
        let low{t} = level{t} - (high{t} << vec4<u32>(8u));
#end
        x_high[slot] = vec4<u32>(pack4xI8(high0u), pack4xI8(high1u), pack4xI8(high2u), pack4xI8(high3u));
        x_low[slot] = vec4<u32>(pack4xI8(low0u), pack4xI8(low1u), pack4xI8(low2u), pack4xI8(low3u));
        w_tile[slot] = w;
        if (lane < 32u) {
            w_scales[lane] = unpack2x16float(scale);
        }
        workgroupBarrier();
        // A short chunk leaves part of the threads without tokens.
        if (four_tokens < tokens) {
#repeat t 4
            var high_sum{t} = vec4<i32>(0);
            var low_sum{t} = vec4<i32>(0);
#end
#repeat q 8
            {
                let w = w_tile[place * 9u + {q}];
                let high = x_high[four * 9u + {q}];
                let low = x_low[four * 9u + {q}];
#repeat t 4
                high_sum{t} += four_dots(w, high[{t}]);
                low_sum{t} += four_dots(w, low[{t}]);
#end
            }
#end
            let at = place * 4u;
            let s0 = w_scales[at];
            let s1 = w_scales[at + 1u];
            let s2 = w_scales[at + 2u];
            let s3 = w_scales[at + 3u];
            let d = vec4<f32>(s0.x, s1.x, s2.x, s3.x);
            let m = vec4<f32>(s0.y, s1.y, s2.y, s3.y);
#repeat t 4
            sums[{t}] += d * unit[{t}] * vec4<f32>((high_sum{t} << vec4<u32>(8u)) + low_sum{t}) + m * total[{t}];
#end
        }
    }
    var rms = vec4<f32>(1.0);
#if NORM 1
    squares[slot] = square;
    workgroupBarrier();
    square = vec4<f32>(0.0);
#repeat q 8
    square += squares[four * 9u + {q}];
#end
    rms = inverseSqrt(square / f32(COLS) + EPS);
#endif
    let row = first_row + place * 4u;
#repeat t 4
    if (four_tokens + {t} < tokens) {
        let sum = sums[{t}] * rms[{t}];
        if (row < ROWS) {
            store(four_tokens + {t}, row, vec2<f32>(sum.x, select(0.0, sum.y, row + 1u < ROWS)));
        }
        if (row + 2u < ROWS) {
            store(four_tokens + {t}, row + 2u, vec2<f32>(sum.z, select(0.0, sum.w, row + 3u < ROWS)));
        }
    }
#end
}
