// The sum of `value` over a workgroup of 64, in every thread.
var<workgroup> partial: array<f32, 64>;

fn sum64(value: f32, lane: u32, subgroup_size: u32) -> f32 {
#if SUBGROUPS 1
    // One partial a subgroup; the rest of the tree is at most 16 long.
    let part = subgroupAdd(value);
    workgroupBarrier();
    if (lane % subgroup_size == 0u) {
        partial[lane / subgroup_size] = part;
    }
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < (64u + subgroup_size - 1u) / subgroup_size; i++) {
        total += partial[i];
    }
    return total;
#endif
#if SUBGROUPS 0
    workgroupBarrier();
    partial[lane] = value;
    for (var step = 32u; step > 0u; step >>= 1u) {
        workgroupBarrier();
        if (lane < step) {
            partial[lane] += partial[lane + step];
        }
    }
    workgroupBarrier();
    return partial[0];
#endif
}
