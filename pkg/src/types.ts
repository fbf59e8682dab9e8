/** One turn of a conversation. */
export interface Message {
  role: "user" | "assistant" | "system";
  content: string;
}

/** A text, or a conversation whose last turn is the user's. */
export type Input = string | Message[];

/** A named operating point, chosen on development data. */
export type Preset = "permissive" | "balanced" | "strict";

/** What the guardian says of a text. */
export interface Verdict {
  label: "safe" | "unsafe";
  /** Calibrated probability of harm, 0 to 1. */
  score: number;
  /** `unsafe` from this score on. */
  threshold: number;
  /** `null` where the caller gave a threshold. */
  preset: Preset | null;
  /** The likeliest category of an unsafe text. */
  category: string | null;
  /** Probability of each category, given that the text is harmful. */
  categories: Record<string, number>;
  tokens: number;
  /** Forward passes: windows of all readings of the text. */
  windows: number;
  /** Oldest turns of a conversation that did not fit. */
  turnsDropped: number;
  /** Readings, other than the text as typed, that gave the score: `normalized`, `base64`, ... */
  decoded: string[];
  /** Wall-clock time in the worker, milliseconds. */
  ms: number;
  backend: "gpu" | "cpu";
  model: string;
}

export interface ScreenOptions {
  signal?: AbortSignal;
  /** Default `balanced`, or what `Guardian.create` was given. */
  preset?: Preset;
  /** Overrides the preset, 0 to 1. */
  threshold?: number;
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

/** Loading, in bytes. */
export interface Progress {
  phase: "download" | "warmup";
  loaded: number;
  total: number;
}

export interface Info {
  model: string;
  version: string;
  backend: "gpu" | "cpu";
  calibration: { temperature: number; permissive: number; balanced: number; strict: number };
  categories: string[];
  layers: number;
  hidden: number;
  vocab: number;
  context: number;
  adapter: { name: string; api: string; f16: boolean; subgroups: boolean } | null;
  /** Why the CPU is used although the GPU was asked for or could have been; `null` if nothing went wrong. */
  fallback: string | null;
}

export interface CreateOptions {
  /** URL of the folder that holds `manifest.json` and the shards. */
  model: string | URL;
  /** SHA-256 of `manifest.json`, hexadecimal; the manifest carries those of the shards, which are always checked. */
  integrity?: string;
  /** `auto`, the default, tries WebGPU and goes on with the CPU. */
  backend?: "auto" | "webgpu" | "cpu";
  preset?: Preset;
  /** `cache-api`, the default, keeps the shards for the next visit; `none` fetches them each time. */
  cache?: "cache-api" | "none";
  /** Where `slm_guardian_bg.wasm` is, if the bundler does not find it. */
  wasmUrl?: string | URL;
  /** A worker that runs this package's `worker.js`, if the bundler does not find it. */
  worker?: Worker;
  signal?: AbortSignal;
  onProgress?: (progress: Progress) => void;
}

/** @internal What the page asks of the worker. */
export type Request = { id: number } & (
  | { kind: "load"; model: string; integrity?: string; backend: "auto" | "webgpu" | "cpu"; cache: "cache-api" | "none"; wasmUrl?: string }
  | { kind: "screen"; messages: Message[]; preset?: Preset; threshold?: number }
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
