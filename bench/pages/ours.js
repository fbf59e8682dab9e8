// Ours, through the package as an application uses it, but on the page's thread, where its memory can be looked at.

export default {
  async load({ backend, relaxed = true }) {
    // The package's own check of SIMD is a few bytes; without this it would take relaxed SIMD wherever that is faster.
    const { validate } = WebAssembly;
    if (!relaxed) WebAssembly.validate = (bytes) => bytes.byteLength < 1000 && validate(bytes);
    const { Guardian } = await import("/pkg/guardian.js");
    const open = async () => {
      const started = performance.now();
      this.guardian = await Guardian.create({ model: "/model/", backend, worker: false });
      return performance.now() - started;
    };
    const cold = await open();
    await this.guardian.dispose();
    const warm = await open();
    const wasm = await (await import("/pkg/slm_guardian.js")).default();
    return { ms: cold, warm, backend: this.guardian.info.backend, kernel: this.guardian.info.kernel, wasmMemory: wasm.memory.buffer.byteLength };
  },
  async screen(text) {
    const started = performance.now();
    const verdict = await this.guardian.screen(text);
    // The turn's header and end, the assistant's header, <|pred|>.
    return { ms: performance.now() - started, tokens: verdict.tokens + 9, score: verdict.score };
  },
  async decode(text, count) {
    const times = [];
    const started = performance.now();
    for await (const _ of this.guardian.replyStream(text, { force: true, maxTokens: count })) times.push(performance.now());
    const [first, last] = [times[0], times.at(-1)];
    return { first: first - started, perSecond: (1000 * (times.length - 1)) / (last - first) };
  },
  async batch(texts) {
    const started = performance.now();
    await this.guardian.screenBatch(texts);
    return performance.now() - started;
  },
};
