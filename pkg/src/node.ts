import { createReadStream } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { Readable } from "node:stream";
import { pathToFileURL } from "node:url";
import { Guardian as Base } from "./guardian.js";
import type { Platform } from "./platform.js";
import type { CreateOptions } from "./types.js";

export * from "./guardian.js";

const node: Platform = {
  worker: false,
  base: () => pathToFileURL(`${process.cwd()}/`).href,
  wasm: () => readFile(new URL("./slm_guardian_bg.wasm", import.meta.url)),
  open: async (url) => {
    if (url.protocol !== "file:") return undefined;
    // A path that is not there fails here as a fetch would.
    const { size } = await stat(url);
    return new Response(Readable.toWeb(createReadStream(url)) as ReadableStream<Uint8Array<ArrayBuffer>>, { headers: { "content-length": String(size) } });
  },
};

/** The same in Node 20 and later, on the CPU: `model` may be a path, and the default is this thread. */
export class Guardian extends Base {
  static override async create(options: CreateOptions): Promise<Guardian> {
    return this.createOn(node, { cache: "none", ...options });
  }
}
