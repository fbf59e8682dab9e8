import init, { initSync, Loader, type WasmGuardian } from "./slm_guardian.js";
import { GuardianError, toGuardianError } from "./errors.js";
import { ModelStore, type Shard } from "./model-store.js";
import { browser, runs, type Platform } from "./platform.js";
import type { Answer, Info, Progress, Request } from "./types.js";

type Load = Extract<Request, { kind: "load" }>;
type Engine = "gpu" | "cpu";

/** Failures that say nothing about the model: the CPU may still run it. */
const GPU_FAILURES = new Set(["gpu-unavailable", "device-lost", "self-test"]);

/** @internal Runs one model: takes requests, posts answers. One call at a time: the engine has one KV cache. */
export class Runtime {
  #guardian: WasmGuardian | undefined;
  #settings: Load | undefined;
  #store: ModelStore | undefined;
  #engine: Engine = "gpu";
  #fallback: string | null = null;
  #deviceLosses = 0;
  #queue: Promise<void> = Promise.resolve();
  readonly #aborts = new Map<number, AbortController>();

  constructor(
    private readonly post: (answer: Answer) => void,
    private readonly platform: Platform = browser,
  ) {}

  receive(request: Request): void {
    if (request.kind === "abort") {
      this.#aborts.get(request.id)?.abort();
      return;
    }
    const { id } = request;
    const abort = new AbortController();
    this.#aborts.set(id, abort);
    this.#queue = this.#queue.then(async () => {
      try {
        abort.signal.throwIfAborted();
        this.post({ id, kind: "done", value: await this.answer(request, abort.signal) });
      } catch (thrown) {
        const error = toGuardianError(thrown);
        if (error instanceof GuardianError) this.post({ id, kind: "failed", code: error.code, message: error.message });
        else this.post({ id, kind: "aborted" });
      } finally {
        this.#aborts.delete(id);
      }
    });
  }

  /** Frees the model once the call in flight, which is told to stop, has ended. */
  close(): void {
    for (const abort of this.#aborts.values()) abort.abort();
    void this.#queue.then(() => this.release());
  }

  private release(): void {
    this.#guardian?.releaseDevice();
    this.#guardian?.free();
    this.#guardian = undefined;
  }

  private async answer(request: Request, signal: AbortSignal): Promise<unknown> {
    switch (request.kind) {
      case "load":
        return this.load(request, signal);
      case "screen":
        return this.retried(request.id, signal, (guardian) => guardian.screen(request.messages, { preset: request.preset, threshold: request.threshold }));
      case "batch":
        return this.batch(request, signal);
      case "reply":
        return this.reply(request, signal);
      case "loseDevice":
        this.loaded().releaseDevice();
        return undefined;
      case "abort":
        return undefined;
    }
  }

  private loaded(): WasmGuardian {
    if (!this.#guardian) throw new GuardianError("internal", "no model is loaded");
    return this.#guardian;
  }

  private async load(request: Load, signal: AbortSignal): Promise<Info> {
    if (!runs()) throw new GuardianError("unsupported", "this browser's WebAssembly has no SIMD; a newer one has");
    this.#settings = request;
    const wasm = request.wasmUrl ?? (await this.platform.wasm?.());
    if (wasm instanceof Uint8Array) initSync({ module: wasm as BufferSource });
    else await init(wasm === undefined ? undefined : { module_or_path: wasm });
    this.#engine = request.backend === "cpu" ? "cpu" : "gpu";
    this.#store = new ModelStore(request.source, request.integrity, request.cache, async (url, options) => {
      return (await this.platform.open?.(new URL(url))) ?? fetch(url, options);
    });
    await this.open(signal, (progress) => this.post({ id: request.id, kind: "progress", progress }));
    return this.info();
  }

  /** Loads on the current engine; a GPU that does not serve gives way to the CPU where the caller left the choice. */
  private async open(signal: AbortSignal, onProgress: (progress: Progress) => void): Promise<void> {
    try {
      this.#guardian = await this.stream(this.#engine, signal, onProgress);
    } catch (thrown) {
      const error = toGuardianError(thrown);
      if (!(error instanceof GuardianError) || this.#engine === "cpu" || this.#settings?.backend !== "auto" || !GPU_FAILURES.has(error.code)) throw error;
      this.#engine = "cpu";
      this.#fallback = error.message;
      this.#guardian = await this.stream(this.#engine, signal, onProgress);
    }
  }

  private async stream(backend: Engine, signal: AbortSignal, onProgress: (progress: Progress) => void): Promise<WasmGuardian> {
    const store = this.#store;
    if (!store) throw new GuardianError("internal", "no model is named");
    if (backend === "gpu" && !(globalThis.navigator && "gpu" in navigator)) throw new GuardianError("gpu-unavailable", "this browser has no WebGPU");
    const { bytes } = await store.manifest(signal);
    const loader = await Loader.create(backend);
    try {
      const sink = {
        begin: ({ file, bytes, sha256 }: Shard) => {
          if (sha256) loader.beginShard(file || "the model", bytes, sha256);
        },
        push: async (chunk: Uint8Array) => {
          loader.push(chunk);
          await loader.settle();
        },
        end: () => loader.endShard(),
      };
      await store.stream(sink, signal, onProgress);
      onProgress({ phase: "warmup", loaded: bytes, total: bytes });
      return await loader.finish();
    } finally {
      loader.free();
    }
  }

  private info(): Info {
    return { ...(this.loaded().info() as Omit<Info, "fallback" | "uncached">), fallback: this.#fallback, uncached: this.#store?.uncached ?? null };
  }

  /** A lost device is made again once; after that the CPU takes over. */
  private async recover(id: number, signal: AbortSignal): Promise<void> {
    this.#deviceLosses += 1;
    this.#guardian?.free();
    this.#guardian = undefined;
    if (this.#deviceLosses > 1) {
      if (this.#settings?.backend !== "auto") throw new GuardianError("device-lost", "the GPU device was lost twice; create the guardian again");
      this.#engine = "cpu";
      this.#fallback = "the GPU device was lost twice";
    }
    await this.open(signal, () => {});
    this.post({ id, kind: "info", info: this.info() });
  }

  /** Calls the engine, once more where it lost its device. */
  private async retried<T>(id: number, signal: AbortSignal, call: (guardian: WasmGuardian) => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await call(this.loaded());
      } catch (thrown) {
        if (!isLost(thrown)) throw thrown;
        await this.recover(id, signal);
      }
    }
  }

  /** Each input's verdict, or what is wrong with it. */
  private async batch(request: Extract<Request, { kind: "batch" }>, signal: AbortSignal): Promise<unknown> {
    const { conversations, preset, threshold } = request;
    const results = await this.retried(request.id, signal, (guardian) => guardian.screenBatch(conversations, { preset, threshold }));
    return results.map((result: unknown) => (result instanceof Error ? { code: (result as Error & { code: string }).code, message: result.message } : result));
  }

  private async reply(request: Extract<Request, { kind: "reply" }>, signal: AbortSignal): Promise<void> {
    let written = false;
    for (;;) {
      try {
        const guardian = this.loaded();
        guardian.replyStart(request.messages, request.options);
        for (;;) {
          const text = await guardian.replyNext();
          if (text === undefined) return;
          if (text !== "") {
            this.post({ id: request.id, kind: "piece", text });
            written = true;
          }
          // Messages, an abort among them, are delivered between tokens.
          await turn();
          if (signal.aborted) {
            guardian.replyCancel();
            signal.throwIfAborted();
          }
        }
      } catch (thrown) {
        if (!isLost(thrown)) throw thrown;
        await this.recover(request.id, signal);
        // Half a reply can't be taken back: the caller is told, and the next call finds a working engine.
        if (written) throw thrown;
      }
    }
  }
}

/** Lets messages in. Not by a timer: browsers hold back nested ones by 4 ms, as long as some tokens take. */
function turn(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(undefined);
  });
}

const isLost = (thrown: unknown) => (thrown as { code?: unknown }).code === "device-lost";
