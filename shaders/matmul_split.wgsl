// What matmul.wgsl gives, on GPUs that wait for memory rather than for arithmetic when tokens are few: the columns are split
// over SLICES groups of threads, which meet at the end alone, so that no step waits for a barrier. A workgroup of 8 SLICES takes 8 rows by 32 tokens, a thread 4 rows by 8 tokens in every
// SLICES-th quad of columns. SLICES divides the quads of a row.
#if NORM 1
// [slice, token]
var<workgroup> squares: array<f32, 32 * SLICES>;
#endif

// [slice, the thread's token, place in the slice], each the sums of 4 rows, of the slices in one half.
var<workgroup> partial: array<vec4<f32>, 32 * SLICES>;

@compute @workgroup_size(8 * SLICES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tokens = token_count();
    let place = lane % 8u;
    let slice = lane / 8u;
    let first_row = group.x * 8u;
    let first_token = group.y * 32u;
    let t0 = place / 2u * 8u;
    let token = first_token + t0;
    var sums: array<vec4<f32>, 8>;
#if NORM 1
    var square: array<f32, 8>;
#endif
    if (token < tokens) {
        // Past the last row or token the last one is read again, and not stored.
        let blocks = min(vec4<u32>(first_row + place % 2u * 4u) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(ROWS - 1u)) * (COLS / 32u);
        for (var quad = slice; quad < COLS / 4u; quad += SLICES) {
            let block = quad / 8u;
            let w0 = decode4(blocks.x + block, quad % 8u);
            let w1 = decode4(blocks.y + block, quad % 8u);
            let w2 = decode4(blocks.z + block, quad % 8u);
            let w3 = decode4(blocks.w + block, quad % 8u);
#if NORM 1
            let g = gain[quad];
#endif
#repeat t 8
            {
                var v = x[min(token + {t}, tokens - 1u) * (COLS / 4u) + quad];
#if NORM 1
                square[{t}] += dot(v, v);
                v *= g;
#endif
                sums[{t}] += vec4<f32>(dot(w0, v), dot(w1, v), dot(w2, v), dot(w3, v));
            }
#end
        }
    }
#if NORM 1
    if (place % 2u == 0u) {
#repeat t 8
        squares[slice * 32u + t0 + {t}] = square[{t}];
#end
    }
#endif
    // The upper half of the slices hands over to the lower, which then lies open for all.
    if (slice >= SLICES / 2u) {
#repeat t 8
        partial[((slice - SLICES / 2u) * 8u + {t}) * 8u + place] = sums[{t}];
#end
    }
    workgroupBarrier();
    if (slice < SLICES / 2u) {
#repeat t 8
        partial[(slice * 8u + {t}) * 8u + place] += sums[{t}];
#end
    }
    workgroupBarrier();
    // Two rows of one token each: 128 pairs.
    for (var pair = lane; pair < 128u; pair += 8u * SLICES) {
        let t = pair / 4u;
        let row = pair % 4u * 2u;
        if (first_token + t >= tokens || first_row + row >= ROWS) {
            continue;
        }
        var total = vec4<f32>(0.0);
        for (var i = 0u; i < SLICES / 2u; i++) {
            total += partial[(i * 8u + t % 8u) * 8u + t / 8u * 2u + row / 4u];
        }
        var two = select(total.xy, total.zw, row % 4u == 2u);
#if NORM 1
        var sum = 0.0;
        for (var i = 0u; i < SLICES; i++) {
            sum += squares[i * 32u + t];
        }
        two *= inverseSqrt(sum / f32(COLS) + EPS);
#endif
        if (first_row + row + 1u >= ROWS) {
            two.y = 0.0;
        }
        store(first_token + t, first_row + row, two);
    }
}
