import { GuardianError, type ErrorCode } from "./errors.js";
import * as cache from "./model-store.js";
import { browser, localPort, runs, workerPort, type Platform, type Port } from "./platform.js";
import { decide, merged, messages, type RawVerdict } from "./policy.js";
import { fixedReplies, fixedReply } from "./replies.js";
import { iterable, whole } from "./stream.js";
import { watch } from "./watch.js";
import type {
  Answer, BatchOptions, CachedModel, Category, CreateOptions, Info, Input, ModelSource, Policy, Protected, ProtectOptions, ReplyOptions, Request,
  ScreenOptions, Verdict, Watch, Watchable, WatchOptions, WireSource,
} from "./types.js";

export { GuardianError } from "./errors.js";
export type { ErrorCode } from "./errors.js";
export { REPLIES } from "./replies.js";
export type {
  BatchOptions, CachedModel, CacheKind, Category, CreateOptions, FixedReplies, Info, Input, ListEntry, Message, ModelSource, Policy, Preset, Progress,
  Protected, ProtectOptions, ReplyOptions, ScreenOptions, Verdict, Watch, Watchable, WatchOptions,
} from "./types.js";

type Body<R> = R extends Request ? Omit<R, "id"> : never;

interface Pending {
  resolve(value: unknown): void;
  reject(error: unknown): void;
  onAnswer?(answer: Answer): void;
}

/**
 * Screens what a person types and writes safeguard replies, in this page alone.
 *
 * @example
 * ```ts
 * const guardian = await Guardian.create({ model: "/model/" });
 * const { verdict, reply } = await guardian.protect(text);
 * if (reply) for await (const piece of reply) show(piece);
 * else send(text);
 * ```
 */
export class Guardian {
  readonly #port: Port;
  readonly #policy: Policy;
  readonly #replies: Partial<Record<Category, string>>;
  readonly #pending = new Map<number, Pending>();
  #next = 1;
  #info: Info | undefined;
  #ended: GuardianError | undefined;

  /** @internal */
  protected constructor(port: Port, policy: Policy, replies: Partial<Record<Category, string>>) {
    this.#port = port;
    this.#policy = policy;
    this.#replies = replies;
    port.onAnswer(
      (answer) => this.#receive(answer),
      (message) => this.#end(new GuardianError("internal", message)),
    );
  }

  /**
   * Loads a model, in a module worker of its own unless told otherwise. Rejects with a `GuardianError`, or an `AbortError` if
   * `signal` fires.
   *
   * @example
   * ```ts
   * const guardian = await Guardian.create({
   *   model: "/model/",
   *   onProgress: ({ phase, loaded, total }) => show(phase, loaded / total),
   *   signal: AbortSignal.timeout(60_000),
   * });
   * ```
   */
  static async create(options: CreateOptions): Promise<Guardian> {
    return this.createOn(browser, options);
  }

  /** @internal */
  protected static async createOn(platform: Platform, options: CreateOptions): Promise<Guardian> {
    const { model, integrity, backend = "auto", cache = "cache-api", wasmUrl, signal, onProgress, worker = platform.worker } = options;
    signal?.throwIfAborted();
    const policy = merged({}, options);
    const replies = fixedReplies(options.replies);
    oneOf(backend, ["auto", "webgpu", "cpu"], "backend");
    oneOf(cache, ["cache-api", "opfs", "none"], "cache");
    if (integrity !== undefined && !/^[0-9a-f]{64}$/i.test(integrity)) throw new GuardianError("argument", "integrity: a SHA-256 in hexadecimal is wanted, 64 digits");
    const source = await wire(model, platform, signal);
    const guardian = new this(await start(worker, platform), policy, replies);
    try {
      const request: Body<Request> = { kind: "load", source, backend, cache };
      if (integrity !== undefined) request.integrity = integrity;
      if (wasmUrl !== undefined) request.wasmUrl = new URL(wasmUrl, platform.base()).href;
      const info = await guardian.#call(request, signal, (answer) => {
        if (answer.kind === "progress") onProgress?.(answer.progress);
      });
      guardian.#info = info as Info;
      return guardian;
    } catch (error) {
      await guardian.dispose();
      throw error;
    }
  }

  /**
   * Whether a guardian can be had here: `available` at once from the cache, `downloadable`, or `unavailable` (no WebAssembly with
   * SIMD, or no workers).
   *
   * @example
   * ```ts
   * if ((await Guardian.availability({ model: "/model/" })) === "downloadable") askFirst();
   * ```
   */
  static async availability(options: { model?: string | URL } = {}): Promise<"unavailable" | "downloadable" | "available"> {
    if (!runs()) return "unavailable";
    if (options.model === undefined) return "downloadable";
    return (await Guardian.cache.has(options.model)) ? "available" : "downloadable";
  }

  /**
   * The models that are kept in this browser for the next visit. Versions stand side by side.
   *
   * @example
   * ```ts
   * for (const { url, version, bytes } of await Guardian.cache.list()) console.log(url, version, bytes);
   * await Guardian.cache.delete("/model/");
   * ```
   */
  static readonly cache: {
    /** Whether some version of the model is there, whole. */
    has(model: string | URL): Promise<boolean>;
    list(): Promise<CachedModel[]>;
    /** Forgets a model, one of its versions, or, without arguments, everything. Resolves to how many versions went. */
    delete(model?: string | URL, version?: string): Promise<number>;
  } = {
    has: async (model) => {
      const url = folder(model, browser);
      return (await cache.list()).some((kept) => kept.url === url && kept.complete);
    },
    list: () => cache.list(),
    delete: (model, version) => cache.remove(model === undefined ? undefined : folder(model, browser), version),
  };

  /** The model, the engine, and why the CPU is used if the GPU failed. */
  get info(): Info {
    if (!this.#info) throw new GuardianError("disposed", "this guardian is not loaded");
    return this.#info;
  }

  /**
   * Screens a text or a conversation.
   *
   * @example
   * ```ts
   * const { label, score, category } = await guardian.screen("How do I kill a process in Linux?");
   * await guardian.screen(text, { preset: "strict", thresholds: { advice: 0.9 }, review: [0.4, 0.6], signal });
   * ```
   */
  async screen(input: Input, options: ScreenOptions = {}): Promise<Verdict> {
    const policy = merged(this.#policy, options);
    const turns = messages(input);
    const raw = await this.#call({ kind: "screen", messages: turns, preset: policy.preset, threshold: policy.threshold }, options.signal);
    return decide(raw as RawVerdict, policy, turns.at(-1)?.content ?? "");
  }

  /**
   * Screens many, several in each pass of the model; the verdicts come in the order of the inputs. One that can't be screened rejects the call, and the error names it;
   * to go on in spite of it, screen one by one.
   *
   * @example
   * ```ts
   * const verdicts = await guardian.screenBatch(lines, { onVerdict: (verdict, index) => show(index, verdict) });
   * ```
   */
  async screenBatch(inputs: readonly Input[], options: BatchOptions = {}): Promise<Verdict[]> {
    if (!Array.isArray(inputs)) throw new GuardianError("argument", "screenBatch: a list of inputs is wanted");
    const { onVerdict, signal, ...own } = options;
    const policy = merged(this.#policy, own);
    const { preset, threshold } = policy;
    const verdicts: Verdict[] = [];
    // As many at a time as take some half a second: all of a call's inputs share the model's passes, and its answer comes at once.
    let size = 2;
    while (verdicts.length < inputs.length) {
      const named = (error: unknown, index: number) =>
        error instanceof GuardianError ? new GuardianError(error.code, `inputs[${index}]: ${error.message}`) : error;
      const first = verdicts.length;
      const turns = inputs.slice(first, first + size).map((input, index) => {
        try {
          return messages(input);
        } catch (error) {
          throw named(error, first + index);
        }
      });
      const started = performance.now();
      let results: (RawVerdict | { code: ErrorCode; message: string })[];
      try {
        results = (await this.#call({ kind: "batch", conversations: turns, preset, threshold }, signal)) as typeof results;
      } catch (error) {
        // One that is no conversation fails them all; which one, shows by itself.
        if (!(error instanceof GuardianError && error.code === "argument")) throw error;
        results = [];
        for (const [index, conversation] of turns.entries()) {
          const alone = this.#call({ kind: "screen", messages: conversation, preset, threshold }, signal);
          results.push((await alone.catch((error: unknown) => Promise.reject(named(error, first + index)))) as RawVerdict);
        }
      }
      for (const [index, result] of results.entries()) {
        if ("code" in result) throw named(new GuardianError(result.code, result.message), first + index);
        const verdict = decide(result, policy, turns[index]?.at(-1)?.content ?? "");
        verdicts.push(verdict);
        onVerdict?.(verdict, first + index);
      }
      size = Math.min(64, Math.max(1, Math.round((size * 500) / (performance.now() - started + 1))));
    }
    return verdicts;
  }

  /**
   * Writes a whole reply: a safeguard reply where the text is unsafe or `force` is set, else one sentence on why it is fine.
   *
   * @example
   * ```ts
   * const text = await guardian.reply(prompt, { force: true, maxTokens: 120 });
   * ```
   */
  async reply(input: Input, options: ReplyOptions = {}): Promise<string> {
    return whole(this.replyStream(input, options));
  }

  /**
   * Writes a reply, piece by piece; cancelling the stream stops the writing.
   *
   * @example
   * ```ts
   * for await (const piece of guardian.replyStream(prompt, { force: true })) element.append(piece);
   * ```
   */
  replyStream(input: Input, options: ReplyOptions = {}): ReadableStream<string> {
    const { signal, force, maxTokens, temperature, minP, seed } = options;
    const request = { kind: "reply", messages: messages(input), options: { force, maxTokens, temperature, minP, seed } } as const;
    const stop = new AbortController();
    const either = signal ? AbortSignal.any([signal, stop.signal]) : stop.signal;
    return iterable(new ReadableStream<string>({
      start: (controller) => {
        this.#call(request, either, (answer) => {
          if (answer.kind === "piece" && !either.aborted) controller.enqueue(answer.text);
        }).then(
          () => controller.close(),
          (error: unknown) => {
            if (!stop.signal.aborted) controller.error(error);
          },
        );
      },
      cancel: () => stop.abort(),
    }));
  }

  /**
   * Screens, and opens a safeguard reply where the text is unsafe; `reply` is `null` where it may go on. For some categories the reply is a
   * text written beforehand ({@link FixedReplies}), for the others the model's own words; `writer` tells.
   *
   * @example
   * ```ts
   * const { verdict, reply } = await guardian.protect(conversation);
   * if (!reply) return send(conversation);
   * for await (const piece of reply) show(piece);
   * ```
   */
  async protect(input: Input, options: ProtectOptions = {}): Promise<Protected> {
    const replies = options.replies === undefined ? this.#replies : fixedReplies(options.replies);
    const verdict = options.verdict ?? (await this.screen(input, options));
    if (verdict.label === "safe") return { verdict, reply: null, writer: null };
    const fixed = fixedReply(verdict, replies);
    if (fixed === null) return { verdict, reply: this.replyStream(input, { ...options, force: true }), writer: "model" };
    return { verdict, reply: iterable(new Blob([fixed]).stream().pipeThrough(new TextDecoderStream())), writer: "fixed" };
  }

  /**
   * Screens while a person types, whenever they pause. What did not change since the last screening is not computed again.
   *
   * @example
   * ```ts
   * const watching = guardian.watch(textarea, { onVerdict: (verdict) => light(verdict?.label) });
   * form.onsubmit = async () => { if ((await watching.current())?.label === "safe") send(); };
   * ```
   */
  watch(input: Watchable, options: WatchOptions): Watch {
    // Checked now, not at the first key.
    merged(this.#policy, options);
    return watch((text, screening) => this.screen(text, screening), input, options);
  }

  /** Ends the worker and frees its memory; calls in flight reject with the code `disposed`. Safe to call twice. */
  async dispose(): Promise<void> {
    this.#end(new GuardianError("disposed", "the guardian was disposed of"));
  }

  /** `await using guardian = await Guardian.create(...)` disposes at the end of the block. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  /** @internal Takes the GPU device away, as a driver reset would; tests use it. */
  async _loseDevice(): Promise<void> {
    await this.#call({ kind: "loseDevice" }, undefined);
  }

  #call(request: Body<Request>, signal: AbortSignal | undefined, onAnswer?: (answer: Answer) => void): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#ended) return reject(this.#ended);
      if (signal?.aborted) return reject(aborted());
      const id = this.#next++;
      const onAbort = () => {
        this.#port.postMessage({ id, kind: "abort" } satisfies Request);
        finish(() => reject(aborted()));
      };
      const finish = (settle: () => void) => {
        this.#pending.delete(id);
        signal?.removeEventListener("abort", onAbort);
        settle();
      };
      signal?.addEventListener("abort", onAbort);
      this.#pending.set(id, {
        resolve: (value) => finish(() => resolve(value)),
        reject: (error) => finish(() => reject(error)),
        onAnswer,
      });
      try {
        this.#port.postMessage({ ...request, id } as Request);
      } catch (error) {
        // What can't be cloned: a message's content that is a function, say.
        finish(() => reject(new GuardianError("argument", `the input can't be passed on: ${(error as Error).message}`)));
      }
    });
  }

  #receive(answer: Answer): void {
    if (answer.kind === "info") {
      this.#info = answer.info;
      return;
    }
    const pending = this.#pending.get(answer.id);
    if (!pending) return;
    switch (answer.kind) {
      case "done":
        return pending.resolve(answer.value);
      case "failed":
        return pending.reject(new GuardianError(answer.code as ErrorCode, answer.message));
      case "aborted":
        return pending.reject(aborted());
      default:
        pending.onAnswer?.(answer);
    }
  }

  #end(error: GuardianError): void {
    if (this.#ended) return;
    this.#ended = error;
    this.#info = undefined;
    this.#port.terminate();
    for (const pending of [...this.#pending.values()]) pending.reject(error);
  }
}

async function start(worker: Worker | boolean, platform: Platform): Promise<Port> {
  if (worker === false) {
    const { Runtime } = platform.runtime ? { Runtime: platform.runtime } : await import("./runtime.js");
    return localPort((post) => new Runtime(post, platform));
  }
  if (worker !== true) return workerPort(worker);
  if (typeof Worker === "undefined") {
    throw new GuardianError("unsupported", 'this place has no workers; pass `worker: false`, or import "slm-guardian/inline" in a service worker');
  }
  return workerPort(new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "slm-guardian" }));
}

/** A source as it crosses to the worker. A stream is read to its end here: Safari hands none to workers. */
async function wire(model: ModelSource, platform: Platform, signal: AbortSignal | undefined): Promise<WireSource> {
  if (typeof model === "string" || model instanceof URL) return { url: folder(model, platform) };
  if (model instanceof Blob) return { blob: model };
  if (model instanceof ArrayBuffer) return { blob: new Blob([model]) };
  if (ArrayBuffer.isView(model)) return { blob: new Blob([new Uint8Array(model)]) };
  const stream = model instanceof Response ? model.body : model;
  if (!(stream instanceof ReadableStream)) throw new GuardianError("argument", "model: a URL, a Blob, an ArrayBuffer, a stream or a Response is wanted");
  if (stream.locked) throw new GuardianError("argument", "model: this stream is being read already");
  try {
    return { blob: await new Response(stream.pipeThrough(new TransformStream(), signal ? { signal } : {})).blob() };
  } catch (error) {
    if (signal?.aborted) throw aborted();
    throw new GuardianError("network", `the model's stream broke off: ${(error as Error).message}`);
  }
}

/** The address of a folder ends with a slash, that of a file does not. */
function folder(model: string | URL, platform: Platform): string {
  let url: URL;
  try {
    url = new URL(model, platform.base());
  } catch {
    throw new GuardianError("argument", `model: ${String(model)} is no URL`);
  }
  if (!/\.gguf$/i.test(url.pathname) && !url.pathname.endsWith("/")) url.pathname += "/";
  return url.href;
}

function oneOf(value: string, choices: string[], name: string): void {
  if (!choices.includes(value)) throw new GuardianError("argument", `${name}: ${JSON.stringify(value)} is none of ${choices.join(", ")}`);
}

function aborted(): DOMException {
  return new DOMException("The call was aborted.", "AbortError");
}
