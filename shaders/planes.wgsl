// Weights as two aligned planes: `quants` holds WORDS u32 for each block of 32 elements, `scales` one f16 pair (d, m)
// a block, x = d q + m. FORMAT: 0 nibbles (Q4_0, Q4_1), 1 nibbles and a word of high bits (Q5_0), 2 signed bytes
// (Q8_0), 3 f16 pairs, 4 f32; the last two have no scales.

#if FORMAT 0 1
// The levels q of elements 4i to 4i + 3 of a block, i < 8, a byte each.
fn levels4(block: u32, i: u32) -> u32 {
    let word = (quants[block * WORDS + (i & 3u)] >> ((i >> 2u) * 4u)) & 0x0f0f0f0fu;
#endif
#if FORMAT 0
    return word;
#endif
#if FORMAT 1
    // Four bits in a row, each to the fifth bit of its byte.
    let high = (quants[block * WORDS + 4u] >> (4u * i)) & 15u;
    return word | (((high * 0x204081u) & 0x01010101u) << 4u);
#endif
#if FORMAT 0 1
}
#endif
#if FORMAT 2
fn levels4(block: u32, i: u32) -> u32 {
    return quants[block * WORDS + i];
}
#endif

// Elements 4i to 4i + 3 of a block, i < 8.
fn decode4(block: u32, i: u32) -> vec4<f32> {
#if FORMAT 0 1
    let scale = unpack2x16float(scales[block]);
    let word = quants[block * WORDS + (i & 3u)] >> ((i >> 2u) * 4u);
    var q = vec4<u32>(word, word >> 8u, word >> 16u, word >> 24u) & vec4<u32>(15u);
#endif
#if FORMAT 1
    let high = quants[block * WORDS + 4u] >> (4u * i);
    q |= (vec4<u32>(high, high >> 1u, high >> 2u, high >> 3u) & vec4<u32>(1u)) << vec4<u32>(4u);
#endif
#if FORMAT 0 1
    return vec4<f32>(q) * scale.x + scale.y;
#endif
#if FORMAT 2
    let word = bitcast<i32>(quants[block * WORDS + i]);
    let q = vec4<i32>(word << 24u, word << 16u, word << 8u, word) >> vec4<u32>(24u);
    return vec4<f32>(q) * unpack2x16float(scales[block]).x;
#endif
#if FORMAT 3
    let at = block * WORDS + 2u * i;
    return vec4<f32>(unpack2x16float(quants[at]), unpack2x16float(quants[at + 1u]));
#endif
#if FORMAT 4
    let at = block * WORDS + 4u * i;
    return bitcast<vec4<f32>>(vec4<u32>(quants[at], quants[at + 1u], quants[at + 2u], quants[at + 3u]));
#endif
}
