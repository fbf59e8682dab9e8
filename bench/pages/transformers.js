// transformers.js on the same model in 4 or 8 bits, as bench/export_onnx.py writes them.

export default {
  async load({ device, dtype, threads = 1 }) {
    // The build that has onnxruntime-web in it: transformers.web.js imports it by a bare name.
    const { AutoModelForCausalLM, AutoTokenizer, env } = await import("/npm/@huggingface/transformers/dist/transformers.js");
    env.allowRemoteModels = false;
    env.allowLocalModels = true;
    env.localModelPath = "/onnx/";
    env.useBrowserCache = false;
    env.useWasmCache = false;
    env.backends.onnx.wasm.wasmPaths = "/npm/onnxruntime-web/dist/";
    env.backends.onnx.wasm.numThreads = threads;
    const started = performance.now();
    this.tokenizer = await AutoTokenizer.from_pretrained("guardian");
    this.model = await AutoModelForCausalLM.from_pretrained("guardian", { dtype, device });
    const ms = performance.now() - started;
    this.labels = ["<|safe|>", "<|unsafe|>"].map((name) => this.tokenizer.encode(name, { add_special_tokens: false })[0]);
    return { ms, backend: device === "wasm" ? `wasm, ${threads} thread(s)` : device };
  },
  sequence(text, task) {
    return this.tokenizer(`<|im_start|>user\n${text}<|im_end|>\n<|im_start|>assistant\n${task}`, { add_special_tokens: false });
  },
  async screen(text) {
    const started = performance.now();
    const inputs = this.sequence(text, "<|pred|>");
    const { logits, ...cache } = await this.model(inputs);
    const [safe, unsafe] = this.labels.map((id) => logits.data[logits.data.length - logits.dims.at(-1) + id]);
    const ms = performance.now() - started;
    // On a GPU the cache's buffers stay until they are freed.
    for (const tensor of Object.values(cache)) tensor.dispose();
    return { ms, tokens: inputs.input_ids.dims[1], score: 1 / (1 + Math.exp(safe - unsafe)) };
  },
  async decode(text, count) {
    const times = [];
    const started = performance.now();
    // The first call has the prompt, the others a token each.
    const streamer = { put: () => times.push(performance.now()), end() {} };
    // At least as many as at most: an early end would leave less to measure.
    await this.model.generate({ ...this.sequence(text, "<|expl|><|harm|>"), max_new_tokens: count, min_new_tokens: count, do_sample: false, streamer });
    const [, first, ...rest] = times;
    return { first: first - started, perSecond: (1000 * rest.length) / (rest.at(-1) - first) };
  },
};
