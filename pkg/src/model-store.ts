import { GuardianError } from "./errors.js";
import type { Progress } from "./types.js";

/** `manifest.json`: the shards of one GGUF file, in order. */
export interface Manifest {
  name: string;
  version: string;
  bytes: number;
  shards: { file: string; bytes: number; sha256: string }[];
}

/** Where a shard's bytes go. */
export interface Sink {
  begin(shard: Manifest["shards"][number]): void;
  push(chunk: Uint8Array): Promise<void>;
  end(): void;
}

const CACHE = "slm-guardian-v1";

/** Streams a model's shards from the cache or the network; nothing is held whole. */
export class ModelStore {
  constructor(
    private readonly base: URL,
    private readonly cache: "cache-api" | "none",
  ) {}

  /** Fetches and checks the manifest. */
  async manifest(integrity: string | undefined, signal: AbortSignal): Promise<Manifest> {
    const response = await this.response("manifest.json", signal);
    const bytes = await response.clone().arrayBuffer();
    if (integrity !== undefined) {
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
      const found = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
      if (found !== integrity.toLowerCase()) {
        throw new GuardianError("integrity", `manifest.json has the SHA-256 ${found}, want ${integrity}`);
      }
    }
    let manifest: Manifest;
    try {
      manifest = JSON.parse(new TextDecoder().decode(bytes)) as Manifest;
    } catch {
      throw new GuardianError("model-format", `${this.url("manifest.json")} is no JSON; is the model's address right?`);
    }
    if (!Array.isArray(manifest.shards) || manifest.shards.length === 0) {
      throw new GuardianError("model-format", `${this.url("manifest.json")} names no shards`);
    }
    await this.keep("manifest.json", response);
    return manifest;
  }

  /** Streams every shard into `sink`. A shard is cached only once the sink has found it whole. */
  async stream(manifest: Manifest, sink: Sink, signal: AbortSignal, onProgress: (progress: Progress) => void): Promise<void> {
    let loaded = 0;
    for (const shard of manifest.shards) {
      const response = await this.response(shard.file, signal);
      // The clone buffers what the sink has not read yet, so it is only made where it will be kept.
      const copy = response.headers.get("x-slm-guardian") === "cached" || this.cache === "none" ? null : response.clone();
      const kept = copy === null ? null : copy.blob();
      kept?.catch(() => {});
      if (!response.body) throw new GuardianError("network", `${this.url(shard.file)} came without a body`);
      sink.begin(shard);
      const reader = response.body.getReader();
      try {
        for (;;) {
          const { done, value } = await read(reader, this.url(shard.file), signal);
          if (done) break;
          await sink.push(value);
          loaded += value.byteLength;
          onProgress({ phase: "download", loaded, total: manifest.bytes });
        }
      } finally {
        void reader.cancel().catch(() => {});
      }
      sink.end();
      if (kept !== null) await this.keep(shard.file, new Response(await kept));
    }
  }

  private url(file: string): string {
    return new URL(file, this.base).href;
  }

  private async response(file: string, signal: AbortSignal): Promise<Response> {
    signal.throwIfAborted();
    const url = this.url(file);
    const cached = await this.cached(url);
    if (cached) return new Response(cached.body, { headers: { "x-slm-guardian": "cached" } });
    let response: Response;
    try {
      response = await fetch(url, { signal });
    } catch (error) {
      signal.throwIfAborted();
      throw new GuardianError("network", `${url} can't be fetched: ${(error as Error).message}`);
    }
    if (!response.ok) throw new GuardianError("network", `${url} answers ${response.status} ${response.statusText}`);
    return response;
  }

  private async cached(url: string): Promise<Response | undefined> {
    if (this.cache === "none") return undefined;
    try {
      return await (await caches.open(CACHE)).match(url);
    } catch {
      // Private modes refuse storage: the model works uncached.
      return undefined;
    }
  }

  private async keep(file: string, response: Response): Promise<void> {
    if (this.cache === "none" || response.headers.get("x-slm-guardian") === "cached") return;
    try {
      await (await caches.open(CACHE)).put(this.url(file), response);
    } catch {
      // No room or no permission: the next visit fetches again.
    }
  }
}

async function read(reader: ReadableStreamDefaultReader<Uint8Array>, url: string, signal: AbortSignal) {
  try {
    signal.throwIfAborted();
    return await reader.read();
  } catch (error) {
    signal.throwIfAborted();
    throw new GuardianError("network", `${url} broke off: ${(error as Error).message}`);
  }
}
