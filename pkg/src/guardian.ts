import { GuardianError, type ErrorCode } from "./errors.js";
import type { Answer, CreateOptions, Info, Input, Message, Preset, ReplyOptions, Request, ScreenOptions, Verdict } from "./types.js";

export { GuardianError } from "./errors.js";
export type { ErrorCode } from "./errors.js";
export type { CreateOptions, Info, Input, Message, Preset, Progress, ReplyOptions, ScreenOptions, Verdict } from "./types.js";

type Body<R> = R extends Request ? Omit<R, "id"> : never;

interface Pending {
  resolve(value: unknown): void;
  reject(error: unknown): void;
  onAnswer?(answer: Answer): void;
}

/**
 * Screens what a person types and writes safeguard replies, in this page alone.
 *
 * ```ts
 * const guardian = await Guardian.create({ model: "/model/" });
 * const { verdict, reply } = await guardian.protect(text);
 * if (reply) for await (const piece of reply) show(piece);
 * else send(text);
 * ```
 */
export class Guardian {
  readonly #worker: Worker;
  readonly #preset: Preset | undefined;
  readonly #pending = new Map<number, Pending>();
  #next = 1;
  #info: Info | undefined;
  #ended: GuardianError | undefined;

  private constructor(worker: Worker, preset: Preset | undefined) {
    this.#worker = worker;
    this.#preset = preset;
    worker.onmessage = ({ data }: MessageEvent<Answer>) => this.#receive(data);
    worker.onerror = (event) => {
      event.preventDefault();
      this.#end(new GuardianError("internal", `the worker failed: ${event.message || "its script can't be loaded"}`));
    };
  }

  /** Loads the model in a module worker. Rejects with a `GuardianError`, or an `AbortError` if `signal` fires. */
  static async create(options: CreateOptions): Promise<Guardian> {
    const { model, integrity, backend = "auto", cache = "cache-api", wasmUrl, signal, onProgress, preset } = options;
    signal?.throwIfAborted();
    const base = new URL(model, document.baseURI).href;
    const worker = options.worker ?? new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "slm-guardian" });
    const guardian = new Guardian(worker, preset);
    try {
      const request: Body<Request> = { kind: "load", model: base.endsWith("/") ? base : `${base}/`, backend, cache };
      if (integrity !== undefined) request.integrity = integrity;
      if (wasmUrl !== undefined) request.wasmUrl = new URL(wasmUrl, document.baseURI).href;
      guardian.#info = (await guardian.#call(request, signal, (answer) => {
        if (answer.kind === "progress") onProgress?.(answer.progress);
      })) as Info;
      return guardian;
    } catch (error) {
      await guardian.dispose();
      throw error;
    }
  }

  /** The model, the engine, and why the CPU is used if the GPU failed. */
  get info(): Info {
    if (!this.#info) throw new GuardianError("disposed", "this guardian is not loaded");
    return this.#info;
  }

  /** Screens a text or a conversation. */
  async screen(input: Input, options: ScreenOptions = {}): Promise<Verdict> {
    const { signal, preset = this.#preset, threshold } = options;
    return (await this.#call({ kind: "screen", messages: messages(input), preset, threshold }, signal)) as Verdict;
  }

  /** Writes a whole reply. */
  async reply(input: Input, options: ReplyOptions = {}): Promise<string> {
    let text = "";
    for await (const piece of iterate(this.replyStream(input, options))) text += piece;
    return text;
  }

  /** Writes a reply, piece by piece; cancelling the stream stops the writing. */
  replyStream(input: Input, options: ReplyOptions = {}): ReadableStream<string> {
    const { signal, ...rest } = options;
    const stop = new AbortController();
    const either = signal ? AbortSignal.any([signal, stop.signal]) : stop.signal;
    return new ReadableStream<string>({
      start: (controller) => {
        const request = { kind: "reply", messages: messages(input), options: rest } as const;
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
    });
  }

  /** Screens, and opens a safeguard reply where the text is unsafe; `reply` is `null` where it may go on. */
  async protect(input: Input, options: ScreenOptions & ReplyOptions = {}): Promise<{ verdict: Verdict; reply: ReadableStream<string> | null }> {
    const verdict = await this.screen(input, options);
    if (verdict.label === "safe") return { verdict, reply: null };
    const { signal, maxTokens, temperature, minP, seed } = options;
    return { verdict, reply: this.replyStream(input, { signal, maxTokens, temperature, minP, seed, force: true }) };
  }

  /** Ends the worker and frees its memory; calls in flight reject with the code `disposed`. Safe to call twice. */
  async dispose(): Promise<void> {
    this.#end(new GuardianError("disposed", "the guardian was disposed of"));
  }

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
        this.#worker.postMessage({ id, kind: "abort" } satisfies Request);
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
      this.#worker.postMessage({ ...request, id } as Request);
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
    this.#worker.terminate();
    for (const pending of [...this.#pending.values()]) pending.reject(error);
  }
}

function messages(input: Input): Message[] {
  if (typeof input === "string") return [{ role: "user", content: input }];
  if (!Array.isArray(input)) throw new GuardianError("argument", "the input is neither a text nor a list of messages");
  return input;
}

function aborted(): DOMException {
  return new DOMException("The call was aborted.", "AbortError");
}

/** `for await` over a stream, in browsers whose streams are not iterable yet. */
async function* iterate(stream: ReadableStream<string>): AsyncGenerator<string> {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.releaseLock();
  }
}
