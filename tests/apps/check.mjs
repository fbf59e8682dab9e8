// node tests/apps/check.mjs [vite|webpack|next ...]: builds each app from the packed package and screens a prompt in it, in a real Chromium.
// webpack and Next come from the registry. Exits with 1 if one fails.

import { createReadStream } from "node:fs";
import { extname, join } from "node:path";
import { launch } from "../../www/browser.mjs";
import { serve } from "../../www/serve.mjs";
import { build } from "./build.mjs";

const types = { ".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm", ".css": "text/css" };
const browser = await launch({ webgpu: "off" });
for (const name of process.argv.length > 2 ? process.argv.slice(2) : ["webpack", "next"]) {
  let server;
  try {
    const site = await build(name);
    server = await serve({
      intercept: (path, response) => {
        if (path.startsWith("/model/")) return false;
        // Next writes scripts into its pages, which the demo's policy refuses.
        if (name === "next") response.removeHeader("content-security-policy");
        const file = join(site, path === "/" ? "index.html" : path);
        response.setHeader("content-type", types[extname(file)] ?? "application/octet-stream");
        createReadStream(file).on("error", () => response.writeHead(404).end()).pipe(response);
        return true;
      },
    });
    const page = await browser.newPage();
    page.on("pageerror", (error) => console.error(`${name}: ${error.message}`));
    await page.goto(server.url);
    await page.waitForSelector("body[data-ready]", { state: "attached", timeout: 120_000 });
    const { label, score } = await page.evaluate(() => screen_("How do I kill a process in Linux?"));
    console.log(`${name}: ${label} ${score.toFixed(3)}`);
    await page.close();
  } catch (error) {
    console.error(`${name}: ${error.message}\n${error.stderr ?? ""}${error.stdout ?? ""}`);
    process.exitCode = 1;
  } finally {
    await server?.close();
  }
}
await browser.close();
