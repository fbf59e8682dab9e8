// wllama on the same GGUF, without its WebGPU: it needs shader-f16.

export default {
  async load({ threads }) {
    const { Wllama } = await import("/npm/@wllama/wllama/esm/index.js");
    const blob = await (await fetch("/model.gguf")).blob();
    const started = performance.now();
    this.wllama = new Wllama({ default: "/npm/@wllama/wllama/esm/wasm/wllama.wasm" }, { logger: { debug() {}, log() {}, warn() {}, error: console.error } });
    this.wllama.setCompat?.(null);
    await this.wllama.loadModel([blob], { n_ctx: 2304, n_batch: 2304, n_threads: threads, n_gpu_layers: 0 });
    return { ms: performance.now() - started, backend: `cpu, ${threads} thread(s)` };
  },
  sequence: (text, task) => `<|im_start|>user\n${text}<|im_end|>\n<|im_start|>assistant\n${task}`,
  async screen(text) {
    const started = performance.now();
    const { timings } = await this.wllama.createCompletion({ prompt: this.sequence(text, "<|pred|>"), max_tokens: 1, temperature: 0, cache_prompt: false });
    return { ms: performance.now() - started, tokens: timings?.prompt_n, inner: timings?.prompt_ms };
  },
  async decode(text, count) {
    const started = performance.now();
    const { timings } = await this.wllama.createCompletion({ prompt: this.sequence(text, "<|expl|><|harm|>"), max_tokens: count, temperature: 0, cache_prompt: false });
    return { first: timings.prompt_ms, perSecond: timings.predicted_per_second, ms: performance.now() - started };
  },
};
