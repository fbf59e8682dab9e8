import type { CacheKind } from "./types.js";

/** @internal Where files are kept between visits, by key. Every method may reject: no room, private mode, no such storage. */
export interface Shelf {
  readonly kind: "cache-api" | "opfs";
  get(key: string): Promise<ReadableStream<Uint8Array<ArrayBuffer>> | undefined>;
  has(key: string): Promise<boolean>;
  /** Keeps the stream's bytes; if it errors, nothing is kept. */
  put(key: string, bytes: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<void>;
  keys(): Promise<string[]>;
  delete(key: string): Promise<void>;
}

const NAME = "slm-guardian";

/** @internal */
export function shelf(kind: CacheKind): Shelf | undefined {
  if (kind === "cache-api") return typeof caches === "undefined" ? undefined : new CacheShelf();
  if (kind === "opfs") return globalThis.navigator?.storage?.getDirectory === undefined ? undefined : new FileShelf();
  return undefined;
}

class CacheShelf implements Shelf {
  readonly kind = "cache-api";

  async get(key: string) {
    return (await (await this.open()).match(this.url(key)))?.body ?? undefined;
  }

  async has(key: string) {
    // keys(), not match(): it opens no body.
    return (await (await this.open()).keys(this.url(key))).length > 0;
  }

  async put(key: string, bytes: ReadableStream<Uint8Array<ArrayBuffer>>) {
    await (await this.open()).put(this.url(key), new Response(bytes));
  }

  async keys() {
    return (await (await this.open()).keys()).map(({ url }) => url.slice(this.url("").length));
  }

  async delete(key: string) {
    await (await this.open()).delete(this.url(key));
  }

  private open(): Promise<Cache> {
    return caches.open(NAME);
  }

  /** Keys of a cache must be URLs; this one is never fetched. */
  private url(key: string): string {
    return new URL(`/.${NAME}/${key}`, globalThis.location.origin).href;
  }
}

class FileShelf implements Shelf {
  readonly kind = "opfs";

  async get(key: string) {
    const file = await this.file(key);
    return file?.stream() as ReadableStream<Uint8Array<ArrayBuffer>> | undefined;
  }

  async has(key: string) {
    return (await this.file(key)) !== undefined;
  }

  async put(key: string, bytes: ReadableStream<Uint8Array<ArrayBuffer>>) {
    const handle = await (await this.open()).getFileHandle(key, { create: true });
    try {
      // A writable replaces the file only when it is closed, which a failed pipe does not.
      await bytes.pipeTo(await handle.createWritable());
    } catch (error) {
      await this.delete(key).catch(() => {});
      throw error;
    }
  }

  async keys() {
    const names = [];
    for await (const name of (await this.open()).keys()) names.push(name);
    return names;
  }

  async delete(key: string) {
    await (await this.open()).removeEntry(key);
  }

  private async open(): Promise<FileSystemDirectoryHandle> {
    return (await navigator.storage.getDirectory()).getDirectoryHandle(NAME, { create: true });
  }

  private async file(key: string): Promise<File | undefined> {
    try {
      const file = await (await (await this.open()).getFileHandle(key)).getFile();
      // An empty file is one whose writing never ended.
      return file.size > 0 ? file : undefined;
    } catch (error) {
      if ((error as Error).name === "NotFoundError") return undefined;
      throw error;
    }
  }
}
