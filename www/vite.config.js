import { createHash } from "node:crypto";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { defineConfig } from "vite";

const out = join(import.meta.dirname, "dist");

/** Writes into the service worker which files this build has, and a hash of them: a new build is a new cache. */
const precache = {
  name: "precache",
  apply: "build",
  async closeBundle() {
    const found = await readdir(out, { recursive: true, withFileTypes: true });
    const paths = found.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath ?? entry.path, entry.name)).sort();
    const hash = createHash("sha256");
    const files = [];
    for (const path of paths) {
      const url = path.slice(out.length).replaceAll("\\", "/");
      if (url === "/sw.js") continue;
      hash.update(url).update(await readFile(path));
      files.push(url === "/index.html" ? "/" : url);
    }
    const constants = `const __FILES__ = ${JSON.stringify(files)}, __VERSION__ = "${hash.digest("hex").slice(0, 12)}";\n`;
    await writeFile(join(out, "sw.js"), constants + (await readFile(join(out, "sw.js"), "utf8")));
  },
};

export default defineConfig({
  root: import.meta.dirname,
  // The worker and the wasm file are found through `new URL(..., import.meta.url)` in the package.
  worker: { format: "es" },
  plugins: [precache],
  build: {
    outDir: "dist",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    target: "es2022",
    rollupOptions: {
      input: { index: join(import.meta.dirname, "index.html"), sw: join(import.meta.dirname, "src/sw.ts") },
      // A service worker governs what lies below it, and is known by its name.
      output: { entryFileNames: ({ name }) => (name === "sw" ? "sw.js" : "assets/[name]-[hash].js") },
    },
  },
});
