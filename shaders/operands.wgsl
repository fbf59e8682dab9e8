// What the products of many tokens read: x [tokens, COLS], w [ROWS, COLS] in planes, and with NORM 1 the norm's `gain`. KEPT 1: x
// has the kept tokens alone.
@group(0) @binding(0) var<uniform> call: Call;
@group(0) @binding(1) var<storage, read> quants: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
#if NORM 1
@group(0) @binding(5) var<storage, read> gain: array<vec4<f32>>;
#endif

fn token_count() -> u32 {
#if KEPT 0
    return call.tokens;
#endif
#if KEPT 1
    return call.kept;
#endif
}
