// A loopback server for the bench's pages, with the headers that threads need.

import { createReadStream } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../", import.meta.url));
const types = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm", ".json": "application/json" };

/** `folders` maps a path's first part to a folder. */
export async function serve(folders) {
  const { shards } = JSON.parse(await readFile(join(root, "model/manifest.json"), "utf8"));
  const places = { model: join(root, "model"), npm: join(root, "bench/node_modules"), pages: join(root, "bench/pages"), ...folders };
  const server = createServer(async (request, response) => {
    response.setHeader("cross-origin-opener-policy", "same-origin");
    response.setHeader("cross-origin-embedder-policy", "require-corp");
    const path = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname));
    try {
      // The shards are one file, cut: a peer takes it whole.
      if (path === "/model.gguf") {
        for (const { file } of shards) response.write(await readFile(join(places.model, file)));
        return void response.end();
      }
      const [, first, ...rest] = path.split("/");
      const file = join(places[first], rest.join("/"));
      const { size } = await stat(file);
      response.writeHead(200, { "content-type": types[extname(file)] ?? "application/octet-stream", "content-length": size });
      createReadStream(file).pipe(response);
    } catch {
      response.writeHead(404).end("not found");
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}/`, close: () => server.close() };
}
