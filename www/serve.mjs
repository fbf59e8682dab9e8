// Serves the built demo and the model on loopback, with the headers a production site should send.

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
const types = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".css": "text/css",
  ".wasm": "application/wasm",
  ".json": "application/json",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".webmanifest": "application/manifest+json",
};

/** No other origin, no eval; WebAssembly may be compiled, and the page installed. */
export const csp =
  "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; manifest-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** The part of `size` bytes that a Range header asks for: `[first, last]`, `null` for all of it, `undefined` if there is no such part. */
function part(header, size) {
  const [, first, last] = /^bytes=(\d*)-(\d*)$/.exec(header ?? "") ?? [];
  // Several parts at once, or another unit: a server may send all of it instead.
  if (first === undefined || (first === "" && last === "")) return null;
  const begin = first === "" ? Math.max(0, size - Number(last)) : Number(first);
  const end = first === "" || last === "" ? size - 1 : Math.min(Number(last), size - 1);
  return begin <= end ? [begin, end] : undefined;
}

/** Starts the server. `intercept(path, response, request)` may answer first, by returning true; tests break shards with it. */
export async function serve({ port = 0, intercept = () => false, model = join(here, "../model") } = {}) {
  const server = createServer(async (request, response) => {
    response.setHeader("content-security-policy", csp);
    response.setHeader("x-content-type-options", "nosniff");
    response.setHeader("referrer-policy", "no-referrer");
    try {
      const path = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname));
      if (intercept(path, response, request)) return;
      const file = path.startsWith("/model/") ? join(model, path.slice(7)) : join(here, "dist", path === "/" ? "index.html" : path);
      const found = await stat(file);
      if (!found.isFile()) throw new Error("a folder");
      const tag = `"${found.size.toString(36)}-${Math.round(found.mtimeMs).toString(36)}"`;
      // Names with a hash never change what they hold; all else is asked for anew.
      response.setHeader("cache-control", path.startsWith("/assets/") ? "public, max-age=31536000, immutable" : "no-cache");
      response.setHeader("content-type", types[extname(file)] ?? "application/octet-stream");
      response.setHeader("accept-ranges", "bytes");
      response.setHeader("etag", tag);
      if (request.headers["if-none-match"] === tag && request.headers.range === undefined) return void response.writeHead(304).end();
      // A download that broke off goes on only with the file it began with.
      const changed = request.headers["if-range"] !== undefined && request.headers["if-range"] !== tag;
      const range = changed ? null : part(request.headers.range, found.size);
      if (range === undefined) return void response.writeHead(416, { "content-range": `bytes */${found.size}` }).end();
      const [start, end] = range ?? [0, found.size - 1];
      const length = found.size === 0 ? 0 : end - start + 1;
      response.writeHead(range ? 206 : 200, { "content-length": length, ...(range && { "content-range": `bytes ${start}-${end}/${found.size}` }) });
      if (request.method === "HEAD" || length === 0) return void response.end();
      createReadStream(file, { start, end }).on("error", () => response.destroy()).pipe(response);
    } catch {
      response.writeHead(404, { "content-type": "text/plain" }).end("not found\n");
    }
  });
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}/`, close: () => new Promise((resolve) => server.close(resolve)) };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { url } = await serve({ port: Number(process.env.PORT ?? 8080) });
  console.log(`The demo is at ${url} (Ctrl-C ends it)`);
}
