import { defineConfig } from "vite";

export default defineConfig({
  root: import.meta.dirname,
  // The worker and the wasm file are found through `new URL(..., import.meta.url)` in the package.
  worker: { format: "es" },
  build: { outDir: "dist", emptyOutDir: true, assetsInlineLimit: 0, target: "es2022" },
});
