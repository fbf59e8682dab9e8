// What changes from call to call; the rest of every kernel is fixed when its pipeline is made.
struct Call {
    tokens: u32,        // tokens in this chunk
    start: u32,         // place of the first of them in the KV cache
    probes: u32,        // probe entries in this chunk
    kept: u32,          // tokens that go through the whole of the last layer
    random: u32,        // 0: greedy, 1: Gumbel-max
    temperature: f32,
    floor: f32,         // temperature * ln(min_p), added to the highest logit
    seed: u32,
    position: u32,      // absolute position of the token whose successor is picked
    skip_from: u32,     // ids from here to below skip_to are never picked
    skip_to: u32,
    shared_places: u32, // places at the cache's start that all tokens of the chunk see
}
