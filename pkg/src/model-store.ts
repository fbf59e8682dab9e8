import { body, download, type Fetch } from "./download.js";
import { GuardianError } from "./errors.js";
import { shelf, type Shelf } from "./shelf.js";
import type { CachedModel, CacheKind, Progress, WireSource } from "./types.js";

/** @internal One file of a model. Without a `sha256` nothing vouches for its bytes but its format. */
export interface Shard {
  file: string;
  bytes: number;
  sha256?: string;
}

/** @internal `manifest.json`: the shards of one GGUF file, in order. */
export interface Manifest {
  name: string;
  version: string;
  bytes: number;
  shards: Shard[];
}

/** @internal Where a shard's bytes go. */
export interface Sink {
  begin(shard: Shard): void;
  push(chunk: Uint8Array): Promise<void>;
  /** Refuses a shard whose bytes are not those of the manifest. */
  end(): void;
}

/** What is kept beside the shards: the manifest as it came, and whence. */
interface Kept {
  url: string;
  text: string;
}

/** @internal One model: where its bytes come from, and where they are kept. */
export class ModelStore {
  /** Why the model is not kept for the next visit. */
  uncached: string | null = null;
  #shelf: Shelf | undefined;
  #manifest: Manifest | undefined;

  constructor(
    private readonly source: WireSource,
    private readonly integrity: string | undefined,
    cache: CacheKind,
    private readonly fetch: Fetch,
  ) {
    if (!("url" in source) || cache === "none") return;
    this.#shelf = shelf(cache);
    if (!this.#shelf) this.uncached = `this browser, or this page's address, offers no ${cache === "opfs" ? "origin private file system" : "Cache API"}`;
  }

  /** The manifest; one is made up for a single file, which is its own only shard. Fetched once. */
  async manifest(signal: AbortSignal): Promise<Manifest> {
    signal.throwIfAborted();
    this.#manifest ??= "url" in this.source ? await this.fetched(this.source.url, signal) : this.given(this.source.blob);
    return this.#manifest;
  }

  /** Streams every shard into `sink`, from the shelf where it stands there. A shard is kept only once the sink has found it whole. */
  async stream(sink: Sink, signal: AbortSignal, onProgress: (progress: Progress) => void): Promise<void> {
    const manifest = await this.manifest(signal);
    let loaded = 0;
    for (const shard of manifest.shards) {
      const key = this.key(shard);
      const kept = key === undefined ? undefined : await this.read(key);
      const keep = key !== undefined && kept === undefined ? this.keep(key) : undefined;
      sink.begin(shard);
      try {
        for await (const chunk of kept ? body(new Response(kept)) : this.bytes(shard, signal)) {
          signal.throwIfAborted();
          await sink.push(chunk);
          await keep?.push(chunk);
          loaded += chunk.byteLength;
          onProgress({ phase: "download", loaded, total: Math.max(loaded, manifest.bytes) });
        }
        sink.end();
      } catch (error) {
        keep?.fail(error);
        // What the shelf held is not what it should be: the next try must not find it again.
        if (kept !== undefined && key !== undefined) await this.#shelf?.delete(key).catch(() => {});
        throw error;
      }
      await keep?.end();
    }
    if (this.uncached === null && "url" in this.source && this.#shelf && manifest.shards.every(({ sha256 }) => sha256)) {
      await this.attempt(this.remember(this.source.url));
    }
  }

  private async fetched(url: string, signal: AbortSignal): Promise<Manifest> {
    if (/\.gguf$/i.test(new URL(url).pathname)) return this.single(url, signal);
    const place = await keyOf(url);
    const pinned = this.integrity === undefined ? undefined : await this.text(`${place}.manifest-${this.integrity.toLowerCase()}`);
    if (pinned !== undefined) return parse((JSON.parse(pinned) as Kept).text, url);
    const address = new URL("manifest.json", url).href;
    let text: string;
    try {
      const response = await this.fetch(address, { signal, cache: "no-cache" });
      if (!response.ok) throw new GuardianError("network", `${address} answers ${response.status} ${response.statusText}`);
      text = await response.text();
    } catch (error) {
      signal.throwIfAborted();
      // Without a network the last one that was loaded whole will do.
      const last = error instanceof GuardianError ? undefined : await this.text(`${place}.latest`);
      if (last === undefined) throw error instanceof GuardianError ? error : new GuardianError("network", `${address} can't be fetched: ${(error as Error).message}`);
      text = (JSON.parse(last) as Kept).text;
    }
    if (this.integrity !== undefined) {
      const found = await sha256(new TextEncoder().encode(text));
      if (found !== this.integrity.toLowerCase()) throw new GuardianError("integrity", `${address} has the SHA-256 ${found}, want ${this.integrity}`);
    }
    this.#text = text;
    return parse(text, url);
  }
  #text = "";

  /** A lone `.gguf`: its length is the server's word. */
  private async single(url: string, signal: AbortSignal): Promise<Manifest> {
    if (this.integrity === undefined && this.#shelf) {
      this.#shelf = undefined;
      this.uncached = "a single file is kept only if its `integrity` is given: without it a newer file could not be told from a kept one";
    }
    const stop = new AbortController();
    let bytes: number;
    try {
      const response = await this.fetch(url, { signal: AbortSignal.any([signal, stop.signal]), headers: { range: "bytes=0-0" } });
      if (!response.ok) throw new GuardianError("network", `${url} answers ${response.status} ${response.statusText}`);
      const ranged = /\/(\d+)$/.exec(response.headers.get("content-range") ?? "")?.[1];
      bytes = Number(response.status === 206 ? ranged : response.headers.get("content-length"));
    } catch (error) {
      signal.throwIfAborted();
      throw error instanceof GuardianError ? error : new GuardianError("network", `${url} can't be fetched: ${(error as Error).message}`);
    } finally {
      stop.abort();
    }
    if (!(bytes > 0)) throw new GuardianError("network", `${url} does not say how long it is; serve it with a Content-Length`);
    return lone(new URL(url).pathname.split("/").pop() ?? "model.gguf", bytes, this.integrity);
  }

  private given(blob: Blob): Manifest {
    return lone("name" in blob ? String(blob.name) : "the model", blob.size, this.integrity);
  }

  private bytes(shard: Shard, signal: AbortSignal): AsyncIterable<Uint8Array<ArrayBuffer>> {
    if ("blob" in this.source) return body(new Response(this.source.blob));
    const { url } = this.source;
    return download(this.fetch, shard.file === "" ? url : new URL(shard.file, url).href, shard.bytes, signal);
  }

  private key(shard: Shard): string | undefined {
    return this.#shelf && shard.sha256 ? `shard-${shard.sha256.toLowerCase()}` : undefined;
  }

  private async read(key: string): Promise<ReadableStream<Uint8Array<ArrayBuffer>> | undefined> {
    return this.attempt(this.#shelf?.get(key));
  }

  private async text(key: string): Promise<string | undefined> {
    const found = await this.attempt(this.#shelf?.get(key));
    return found && new Response(found).text();
  }

  /** Opens a stream onto the shelf, which is closed once the sink has accepted all of it. */
  private keep(key: string) {
    let controller!: ReadableStreamDefaultController<Uint8Array<ArrayBuffer>>;
    let drained = () => {};
    const stream = new ReadableStream<Uint8Array<ArrayBuffer>>(
      { start: (made) => void (controller = made), pull: () => drained(), cancel: () => drained() },
      new ByteLengthQueuingStrategy({ highWaterMark: 4 * 1024 * 1024 }),
    );
    let failed = false;
    const put = this.attempt(
      this.#shelf?.put(key, stream).catch((error: unknown) => {
        failed = true;
        drained();
        throw error;
      }),
    );
    return {
      /** Waits while the shelf lags behind, so that nothing piles up. */
      push: async (chunk: Uint8Array<ArrayBuffer>) => {
        if (failed) return;
        try {
          controller.enqueue(chunk.slice());
        } catch {
          // The shelf has cancelled: no room.
          return;
        }
        if ((controller.desiredSize ?? 1) <= 0) await new Promise<void>((resolve) => (drained = resolve));
      },
      end: async () => {
        try {
          controller.close();
        } catch {
          // Cancelled already.
        }
        await put;
      },
      fail: (reason: unknown) => {
        try {
          controller.error(reason);
        } catch {
          // Cancelled already.
        }
      },
    };
  }

  private async remember(url: string): Promise<void> {
    if (!this.#shelf || this.#text === "") return;
    const kept = JSON.stringify({ url, text: this.#text } satisfies Kept);
    const place = await keyOf(url);
    for (const name of [`manifest-${await sha256(new TextEncoder().encode(this.#text))}`, "latest"]) {
      await this.#shelf.put(`${place}.${name}`, new Response(kept).body as ReadableStream<Uint8Array<ArrayBuffer>>);
    }
  }

  /** Storage that fails costs the next visit a download, not this one its model. */
  private async attempt<T>(work: Promise<T> | undefined): Promise<T | undefined> {
    try {
      return await work;
    } catch (error) {
      const { name, message } = error as Error;
      if (name !== "AbortError" && !(error instanceof GuardianError)) {
        this.uncached ??= name === "QuotaExceededError" ? "there is no room left for it in this browser's storage" : `this browser refused to store it: ${message}`;
      }
      return undefined;
    }
  }
}

/** @internal Every version of every model that is kept, newest last. */
export async function list(): Promise<CachedModel[]> {
  const found: CachedModel[] = [];
  for (const { place, kept, manifest } of await manifests()) {
    const there = await Promise.all(manifest.shards.map((shard) => place.has(`shard-${shard.sha256}`)));
    found.push({ url: kept.url, name: manifest.name, version: manifest.version, bytes: manifest.bytes, complete: there.every(Boolean), cache: place.kind });
  }
  return found;
}

/** @internal Forgets a model, or one version of it, or all; shards that another kept version shares stay. */
export async function remove(url?: string, version?: string): Promise<number> {
  const all = await manifests();
  const goes = ({ kept, manifest }: (typeof all)[number]) => (url === undefined || kept.url === url) && (version === undefined || manifest.version === version);
  const stays = new Set(all.filter((entry) => !goes(entry)).flatMap(({ place, manifest }) => manifest.shards.map(({ sha256 }) => `${place.kind} ${sha256}`)));
  const gone = all.filter(goes);
  for (const { place, key, kept, manifest } of gone) {
    for (const { sha256 } of manifest.shards) if (!stays.has(`${place.kind} ${sha256}`)) await place.delete(`shard-${sha256}`).catch(() => {});
    const latest = `${await keyOf(kept.url)}.latest`;
    const last = await place.get(latest);
    if (last && (JSON.parse(await new Response(last).text()) as Kept).text === kept.text) await place.delete(latest);
    await place.delete(key);
  }
  // Shards of a download that never ended belong to no manifest.
  if (url === undefined && version === undefined) {
    for (const place of shelves()) for (const key of await place.keys().catch(() => [])) await place.delete(key).catch(() => {});
  }
  return gone.length;
}

const shelves = () => (["cache-api", "opfs"] as const).flatMap((kind) => shelf(kind) ?? []);

async function manifests() {
  const found: { place: Shelf; key: string; kept: Kept; manifest: Manifest }[] = [];
  for (const place of shelves()) {
    // A browser that refuses storage keeps nothing.
    for (const key of await place.keys().catch(() => [])) {
      if (!/^[0-9a-f]+\.manifest-/.test(key)) continue;
      const stream = await place.get(key);
      if (!stream) continue;
      const kept = JSON.parse(await new Response(stream).text()) as Kept;
      found.push({ place, key, kept, manifest: parse(kept.text, kept.url) });
    }
  }
  return found;
}

function parse(text: string, url: string): Manifest {
  const address = new URL("manifest.json", url).href;
  let manifest: Manifest;
  try {
    manifest = JSON.parse(text) as Manifest;
  } catch {
    throw new GuardianError("model-format", `${address} is no JSON; is the model's address right?`);
  }
  const { shards } = manifest;
  if (!Array.isArray(shards) || shards.length === 0) throw new GuardianError("model-format", `${address} names no shards`);
  for (const [index, shard] of shards.entries()) {
    if (typeof shard?.file !== "string" || shard.file === "" || !(shard.bytes > 0) || !/^[0-9a-f]{64}$/i.test(shard.sha256 ?? "")) {
      throw new GuardianError("model-format", `${address}: shard ${index} needs a file, its bytes and its sha256`);
    }
  }
  return manifest;
}

const lone = (name: string, bytes: number, sha256: string | undefined): Manifest => ({ name, version: "", bytes, shards: [{ file: "", bytes, sha256 }] });

async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A short name for a URL that any storage takes. */
async function keyOf(url: string): Promise<string> {
  return (await sha256(new TextEncoder().encode(url))).slice(0, 16);
}
