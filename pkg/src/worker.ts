import init, { Loader, type WasmGuardian } from "./slm_guardian.js";
import { GuardianError, toGuardianError } from "./errors.js";
import { ModelStore } from "./model-store.js";
import type { Answer, Info, Progress, Request } from "./types.js";

type Load = Extract<Request, { kind: "load" }>;
type Engine = "gpu" | "cpu";

/** Failures that say nothing about the model: the CPU may still run it. */
const GPU_FAILURES = new Set(["gpu-unavailable", "device-lost", "self-test"]);

let guardian: WasmGuardian | undefined;
let settings: Load | undefined;
let engine: Engine = "gpu";
let fallback: string | null = null;
let deviceLosses = 0;

/** One call at a time: the engine has one KV cache. */
let queue: Promise<void> = Promise.resolve();
const aborts = new Map<number, AbortController>();

const post = (answer: Answer) => self.postMessage(answer);

self.onmessage = ({ data }: MessageEvent<Request>) => {
  if (data.kind === "abort") {
    aborts.get(data.id)?.abort();
    return;
  }
  const abort = new AbortController();
  aborts.set(data.id, abort);
  queue = queue.then(async () => {
    try {
      abort.signal.throwIfAborted();
      post({ id: data.id, kind: "done", value: await answer(data, abort.signal) });
    } catch (thrown) {
      const error = toGuardianError(thrown);
      if (error instanceof GuardianError) post({ id: data.id, kind: "failed", code: error.code, message: error.message });
      else post({ id: data.id, kind: "aborted" });
    } finally {
      aborts.delete(data.id);
    }
  });
};

async function answer(request: Request, signal: AbortSignal): Promise<unknown> {
  switch (request.kind) {
    case "load":
      return load(request, signal);
    case "screen":
      return screen(request, signal);
    case "reply":
      return reply(request, signal);
    case "loseDevice":
      loaded().releaseDevice();
      return undefined;
    case "abort":
      return undefined;
  }
}

function loaded(): WasmGuardian {
  if (!guardian) throw new GuardianError("internal", "no model is loaded");
  return guardian;
}

async function load(request: Load, signal: AbortSignal): Promise<Info> {
  settings = request;
  if (request.wasmUrl === undefined) await init();
  else await init({ module_or_path: request.wasmUrl });
  engine = request.backend === "cpu" ? "cpu" : "gpu";
  const onProgress = (progress: Progress) => post({ id: request.id, kind: "progress", progress });
  await open(signal, onProgress);
  return info();
}

/** Loads on the current engine; a GPU that does not serve gives way to the CPU where the caller left the choice. */
async function open(signal: AbortSignal, onProgress: (progress: Progress) => void): Promise<void> {
  try {
    guardian = await stream(engine, signal, onProgress);
  } catch (thrown) {
    const error = toGuardianError(thrown);
    if (!(error instanceof GuardianError) || engine === "cpu" || settings?.backend !== "auto" || !GPU_FAILURES.has(error.code)) throw error;
    engine = "cpu";
    fallback = error.message;
    guardian = await stream(engine, signal, onProgress);
  }
}

async function stream(backend: Engine, signal: AbortSignal, onProgress: (progress: Progress) => void): Promise<WasmGuardian> {
  if (!settings) throw new GuardianError("internal", "no model is named");
  if (backend === "gpu" && !("gpu" in navigator)) throw new GuardianError("gpu-unavailable", "this browser has no WebGPU");
  const store = new ModelStore(new URL(settings.model), settings.cache);
  const loader = await Loader.create(backend);
  try {
    const manifest = await store.manifest(settings.integrity, signal);
    const sink = {
      begin: (shard: { file: string; bytes: number; sha256: string }) => loader.beginShard(shard.file, shard.bytes, shard.sha256),
      push: async (chunk: Uint8Array) => {
        loader.push(chunk);
        await loader.settle();
      },
      end: () => loader.endShard(),
    };
    await store.stream(manifest, sink, signal, onProgress);
    onProgress({ phase: "warmup", loaded: manifest.bytes, total: manifest.bytes });
    return await loader.finish();
  } finally {
    loader.free();
  }
}

function info(): Info {
  return { ...(loaded().info() as Omit<Info, "fallback">), fallback };
}

/** A lost device is made again once; after that the CPU takes over. */
async function recover(id: number, signal: AbortSignal): Promise<void> {
  deviceLosses += 1;
  guardian?.free();
  guardian = undefined;
  if (deviceLosses > 1) {
    if (settings?.backend !== "auto") throw new GuardianError("device-lost", "the GPU device was lost twice; create the guardian again");
    engine = "cpu";
    fallback = "the GPU device was lost twice";
  }
  await open(signal, () => {});
  post({ id, kind: "info", info: info() });
}

const isLost = (thrown: unknown) => (thrown as { code?: unknown }).code === "device-lost";

async function screen(request: Extract<Request, { kind: "screen" }>, signal: AbortSignal): Promise<unknown> {
  const { messages, preset, threshold } = request;
  for (;;) {
    try {
      return await loaded().screen(messages, { preset, threshold });
    } catch (thrown) {
      if (!isLost(thrown)) throw thrown;
      await recover(request.id, signal);
    }
  }
}

async function reply(request: Extract<Request, { kind: "reply" }>, signal: AbortSignal): Promise<void> {
  let written = false;
  for (;;) {
    try {
      const guardian = loaded();
      guardian.replyStart(request.messages, request.options);
      for (;;) {
        const text = await guardian.replyNext();
        if (text === undefined) return;
        if (text !== "") {
          post({ id: request.id, kind: "piece", text });
          written = true;
        }
        // Messages, an abort among them, are delivered between tokens.
        await new Promise<void>((resolve) => setTimeout(resolve));
        if (signal.aborted) {
          guardian.replyCancel();
          signal.throwIfAborted();
        }
      }
    } catch (thrown) {
      if (!isLost(thrown)) throw thrown;
      await recover(request.id, signal);
      // Half a reply can't be taken back: the caller is told, and the next call finds a working engine.
      if (written) throw thrown;
    }
  }
}
