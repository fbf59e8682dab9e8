/** One turn of a conversation. */
export interface Message {
  role: "user" | "assistant" | "system";
  content: string;
}

/** A text, or a conversation whose last turn is the user's. */
export type Input = string | Message[];

/** A named operating point, chosen on development data. */
export type Preset = "permissive" | "balanced" | "strict";

/** The twelve kinds of harm. */
export type Category =
  | "violence"
  | "weapons"
  | "crime"
  | "cyber"
  | "hate"
  | "suicide"
  | "sexual"
  | "minors"
  | "privacy"
  | "misinformation"
  | "advice"
  | "jailbreak";

/** What the guardian says of a text. */
export interface Verdict {
  label: "safe" | "unsafe";
  /** Calibrated probability of harm, 0 to 1. */
  score: number;
  /** `unsafe` from this score on. */
  threshold: number;
  /** `null` where a threshold of the caller's decided. */
  preset: Preset | null;
  /** The likeliest category of an unsafe text; `null` for a safe one. */
  category: Category | null;
  /** Probability of each category, given that the text is harmful. */
  categories: Record<Category, number>;
  /** The score lies in the caller's review band: let a person decide. */
  uncertain: boolean;
  /** Which of the caller's lists decided, whatever the score; `null` if none did. */
  list: "allow" | "deny" | null;
  tokens: number;
  /** Forward passes: windows of all readings of the text. */
  windows: number;
  /** Oldest turns of a conversation that did not fit. */
  turnsDropped: number;
  /** What was undone in the reading that gave the score: `normalized`, `base64`, ...; empty for the text as typed. */
  decoded: string[];
  /** Wall-clock time of the screening, milliseconds. */
  ms: number;
  backend: "gpu" | "cpu";
  model: string;
}

/** A text or a pattern; a text matches a whole message, whatever its case and outer spaces. */
export type ListEntry = string | RegExp;

/** How scores become verdicts. What a call leaves out is as `Guardian.create` was given it. */
export interface Policy {
  /** Default `balanced`. */
  preset?: Preset;
  /** Overrides the preset, 0 to 1. */
  threshold?: number;
  /** Overrides `threshold` for texts whose likeliest category is named here, 0 to 1. `{ advice: 1 }` lets nearly all advice pass. */
  thresholds?: Partial<Record<Category, number>>;
  /** Messages that are safe whatever the score. */
  allow?: readonly ListEntry[];
  /** Messages that are unsafe whatever the score; they win over `allow`. */
  deny?: readonly ListEntry[];
  /** `[low, high]`: a verdict with a score from `low` up to `high` is marked `uncertain`. */
  review?: readonly [low: number, high: number];
}

export interface ScreenOptions extends Policy {
  signal?: AbortSignal;
}

export interface BatchOptions extends ScreenOptions {
  /** Called as each verdict is there, in order. */
  onVerdict?: (verdict: Verdict, index: number) => void;
}

export interface ReplyOptions {
  signal?: AbortSignal;
  /** A safeguard reply whatever the text. Default false. */
  force?: boolean;
  /** Default 160. */
  maxTokens?: number;
  /** 0, the default, takes the likeliest token each time. */
  temperature?: number;
  /** With a temperature: only tokens at least this many times as likely as the likeliest. Default 0.05. */
  minP?: number;
  /** With a temperature: the same seed gives the same reply. Default 0. */
  seed?: number;
}

/**
 * Which safeguard replies are texts written beforehand, and which the model writes: `grave`, the default, has texts for `suicide`, `minors` and
 * `advice`, where wrong words do most harm; `fixed` has one for every category; `model` has none. Texts of your own, by category, take the place of
 * these three or stand beside them; `null` leaves a category to the model.
 */
export type FixedReplies = "grave" | "fixed" | "model" | Partial<Record<Category, string | null>>;

export interface ProtectOptions extends ScreenOptions, Omit<ReplyOptions, "force"> {
  /** Default: as `Guardian.create` was given it. */
  replies?: FixedReplies;
  /** The verdict on this input where it is known already: it is not screened again, and the policy given here has no say. */
  verdict?: Verdict;
}

/** What `protect` resolves to. */
export interface Protected {
  verdict: Verdict;
  /** `null` where the text may go on. */
  reply: ReadableStream<string> | null;
  /** Whose words the reply is: the model's, or a text written beforehand. `null` where there is none. */
  writer: "model" | "fixed" | null;
}

export interface WatchOptions extends ScreenOptions {
  /** Called with each new verdict and the text it is about; with `null` once the text is empty. */
  onVerdict: (verdict: Verdict | null, text: string) => void;
  /** Called when a text can't be screened. Without it, the error is thrown where no one catches it, so that it shows. */
  onError?: (error: Error, text: string) => void;
  /** Pause in typing, milliseconds, before the text is screened. Default 150. */
  delay?: number;
}

/** What can be watched: an `<input>`, a `<textarea>`, or anything like them that has a value and fires `input`. */
export interface Watchable extends EventTarget {
  readonly value: string;
}

/** A watch that goes on until it is stopped. */
export interface Watch {
  /** The verdict on the text as it now stands: at once where it is known already, else screened now. `null` for an empty text. */
  current(): Promise<Verdict | null>;
  stop(): void;
  [Symbol.dispose](): void;
}

/** Loading, in bytes. */
export interface Progress {
  /** `download` (from the network or the cache), then `warmup`: the engine gives known answers. */
  phase: "download" | "warmup";
  loaded: number;
  total: number;
}

export interface Info {
  model: string;
  version: string;
  backend: "gpu" | "cpu";
  /** The instructions of the CPU's matrix products: `relaxed-simd` where a browser has them and they are exact and faster. `null` on the GPU. */
  kernel: "relaxed-simd" | "simd128" | null;
  calibration: { temperature: number; bias: number; permissive: number; balanced: number; strict: number };
  categories: Category[];
  layers: number;
  hidden: number;
  vocab: number;
  context: number;
  /**
   * The GPU, `null` on the CPU, and which kernels it gets: with 16-bit floats, with subgroups, for thousands of threads at once
   * (`wide`), in packed dots of bytes where tokens are many (`packed`).
   */
  adapter: { name: string; api: string; f16: boolean; subgroups: boolean; wide: boolean; packed: boolean } | null;
  /** Why the CPU is used although the GPU was asked for or could have been; `null` if nothing went wrong. */
  fallback: string | null;
  /** Why the model was not kept for the next visit (no room, private mode); `null` if it was, or was not to be. */
  uncached: string | null;
}

/**
 * Where a model comes from: the URL of a folder with `manifest.json` and shards, the URL of a single `.gguf`, or the bytes
 * of a `.gguf` themselves. In Node a path will do as well as a URL.
 */
export type ModelSource = string | URL | Blob | ArrayBuffer | Uint8Array | ReadableStream<Uint8Array> | Response;

/** Where a model is kept for the next visit. */
export type CacheKind = "cache-api" | "opfs" | "none";

export interface CreateOptions extends Policy {
  model: ModelSource;
  /** SHA-256, hexadecimal, of `manifest.json`, or of the `.gguf` where there is none. The manifest carries those of the shards, which are always checked. */
  integrity?: string;
  /** `auto`, the default, tries WebGPU and goes on with the CPU. */
  backend?: "auto" | "webgpu" | "cpu";
  /** Default `cache-api`. Only what comes from a URL is kept. */
  cache?: CacheKind;
  /** Where `slm_guardian_bg.wasm` is, if the bundler does not find it. */
  wasmUrl?: string | URL;
  /** A worker that runs this package's `worker.js`, if the bundler does not find it; `false` runs on this thread. Default true. */
  worker?: Worker | boolean;
  signal?: AbortSignal;
  onProgress?: (progress: Progress) => void;
  /** Default `grave`. */
  replies?: FixedReplies;
}

/** A model in the cache. */
export interface CachedModel {
  /** The URL it came from. */
  url: string;
  name: string;
  version: string;
  bytes: number;
  /** Whether all of it is there. */
  complete: boolean;
  cache: "cache-api" | "opfs";
}

/** @internal What crosses to the worker in place of a `ModelSource`. */
export type WireSource = { url: string } | { blob: Blob };

/** @internal What the page asks of the worker. */
export type Request = { id: number } & (
  | { kind: "load"; source: WireSource; integrity?: string; backend: "auto" | "webgpu" | "cpu"; cache: CacheKind; wasmUrl?: string }
  | { kind: "screen"; messages: Message[]; preset?: Preset; threshold?: number }
  | { kind: "batch"; conversations: Message[][]; preset?: Preset; threshold?: number }
  | { kind: "reply"; messages: Message[]; options: Omit<ReplyOptions, "signal"> }
  | { kind: "abort" }
  | { kind: "loseDevice" }
);

/** @internal What the worker answers. */
export type Answer = { id: number } & (
  | { kind: "progress"; progress: Progress }
  | { kind: "info"; info: Info }
  | { kind: "piece"; text: string }
  | { kind: "done"; value?: unknown }
  | { kind: "failed"; code: string; message: string }
  | { kind: "aborted" }
);
