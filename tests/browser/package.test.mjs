// The packed package in a fresh Vite project, in a real Chromium: the ten lines of the README, the custom element, the React hook, and
// where the model is kept.

import assert from "node:assert/strict";
import { createReadStream } from "node:fs";
import { readFile } from "node:fs/promises";
import { extname, join } from "node:path";
import { after, before, describe, test } from "node:test";
import { launch } from "../../www/browser.mjs";
import { serve } from "../../www/serve.mjs";
import { manifest, MINUTES, prompts } from "./common.mjs";
import { build } from "../apps/build.mjs";

const UNSAFE = prompts[0].prompt;
const SAFE = prompts[16].prompt;
const types = { ".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm" };

let browser;
let site;
let server;
const requests = [];

/** The app's files, under the demo's strict policy; the model from the repository. */
async function serving(extra = () => false) {
  return serve({
    intercept: (path, response) => {
      if (extra(path, response)) return true;
      if (path.startsWith("/model/")) {
        requests.push(path);
        return false;
      }
      const file = join(site, path === "/" ? "index.html" : path);
      response.setHeader("content-type", types[extname(file)] ?? "application/octet-stream");
      createReadStream(file).on("error", () => response.writeHead(404).end()).pipe(response);
      return true;
    },
  });
}

before(async () => {
  site = await build("vite");
  server = await serving();
  browser = await launch({ webgpu: "off" });
}, { timeout: 5 * MINUTES });
after(async () => {
  await browser?.close();
  await server?.close();
});

/** A page of its own storage, with the app's `part`. */
async function open(part, { context, url = server.url } = {}) {
  const page = await (context ?? (await browser.newContext())).newPage();
  page.on("pageerror", (error) => console.error(`page: ${error.message}`));
  await page.goto(`${url}#${part}`);
  return page;
}

test("the README's quick start is a guarded text box in a fresh Vite project, in under ten lines", { timeout: 5 * MINUTES }, async () => {
  const readme = await readFile(new URL("../../pkg/README.md", import.meta.url), "utf8");
  const lines = /```js\n([^]*?)```/.exec(readme)[1].trim().split("\n").filter((line) => line.trim() !== "");
  assert.ok(lines.length <= 10, `${lines.length} lines`);
  const page = await open("quick");
  await page.waitForSelector("body[data-ready]", { state: "attached", timeout: MINUTES });
  const send = async (text) => {
    await page.fill("#chat textarea", text);
    await page.evaluate(() => (document.querySelector("#chat output").textContent = ""));
    await page.click("#chat button");
    // A streamed reply has ended once it stands still.
    await page.waitForFunction(async () => {
      const output = document.querySelector("#chat output");
      const before = output.textContent;
      await new Promise((resolve) => setTimeout(resolve, 3000));
      return before !== "" && output.textContent === before;
    }, null, { timeout: MINUTES });
    return page.textContent("#chat output");
  };
  assert.equal(await send(SAFE), "would be sent");
  const reply = await send(UNSAFE);
  assert.ok(reply !== "would be sent" && reply.length > 40, reply);
  await page.context().close();
});

test("<guardian-textarea> holds back a form while its text is unsafe", { timeout: 5 * MINUTES }, async () => {
  const page = await open("element");
  const submit = async (text) => {
    await page.locator("guardian-textarea textarea").fill(text);
    await page.click("#element button");
  };
  // Submitted before the model is there: it waits.
  await submit(UNSAFE);
  await page.waitForFunction(() => document.querySelector("guardian-textarea").matches(":invalid"), null, { timeout: 2 * MINUTES });
  assert.match(await page.locator("guardian-textarea .line").textContent(), /not sent/);
  assert.deepEqual((await page.evaluate(() => events)).filter(([name]) => name === "submit"), []);
  await submit(SAFE);
  await page.waitForFunction(() => events.some(([name]) => name === "submit"), null, { timeout: MINUTES });
  const events = await page.evaluate(() => globalThis.events);
  assert.deepEqual(events.filter(([name]) => name === "submit"), [["submit", SAFE]]);
  assert.deepEqual(events.filter(([name]) => name === "error"), []);
  const removed = await page.evaluate(() => {
    const element = document.querySelector("guardian-textarea");
    element.remove();
    return element.verdict;
  });
  assert.equal(removed, null);
  await page.context().close();
});

test("useGuardian loads, useVerdict follows the text, unmounting frees the worker", { timeout: 5 * MINUTES }, async () => {
  const page = await open("react");
  await page.waitForFunction(() => document.querySelector("#status")?.textContent === "ready", null, { timeout: 2 * MINUTES });
  for (const [text, label] of [[UNSAFE, "unsafe"], [SAFE, "safe"]]) {
    await page.fill("#react textarea", text);
    await page.waitForFunction((want) => document.querySelector("#verdict").textContent === want, label, { timeout: MINUTES });
  }
  assert.equal(page.workers().length, 1);
  const gone = page.workers()[0].waitForEvent("close");
  await page.click("#toggle");
  await gone;
  await page.context().close();
});

describe("where the model is kept", { timeout: 10 * MINUTES }, () => {
  /** Loads once; resolves to what the guardian says of it and of UNSAFE. */
  const load = (page, options = {}) => page.evaluate(async ([options, text]) => {
    const guardian = await Guardian.create({ model: "/model/", backend: "cpu", ...options });
    const { label } = await guardian.screen(text);
    const { uncached } = guardian.info;
    await guardian.dispose();
    return { label, uncached };
  }, [options, UNSAFE]);
  const shards = () => requests.splice(0).filter((path) => path.endsWith(".bin")).length;
  const cache = (page, method, ...args) => page.evaluate(([method, args]) => Guardian.cache[method](...args), [method, args]);

  for (const kind of ["cache-api", "opfs"]) {
    test(`${kind}: the second visit fetches no shard; the model can be listed and deleted`, async () => {
      const page = await open("");
      shards();
      assert.equal(await page.evaluate(() => Guardian.availability({ model: "/model/" })), "downloadable");
      assert.deepEqual(await load(page, { cache: kind }), { label: "unsafe", uncached: null });
      assert.ok(shards() >= manifest.shards.length);
      assert.deepEqual(await load(page, { cache: kind }), { label: "unsafe", uncached: null });
      assert.equal(shards(), 0);
      const url = `${server.url}model/`;
      const entry = { url, name: manifest.name, version: manifest.version, bytes: manifest.bytes, complete: true, cache: kind };
      assert.deepEqual(await cache(page, "list"), [entry]);
      assert.equal(await page.evaluate(() => Guardian.availability({ model: "/model" })), "available");
      assert.equal(await cache(page, "delete", "/elsewhere/"), 0);
      assert.equal(await cache(page, "delete", "/model/", manifest.version), 1);
      assert.deepEqual([await cache(page, "has", "/model/"), await cache(page, "list")], [false, []]);
      await load(page, { cache: kind });
      assert.ok(shards() >= manifest.shards.length);
      await page.context().close();
    });
  }

  test("without a network, what was loaded once still loads", async () => {
    let down = false;
    const own = await serving((path, response) => down && path.startsWith("/model/") && (response.destroy(), true));
    const page = await open("", { url: own.url });
    await load(page);
    down = true;
    assert.deepEqual(await load(page), { label: "unsafe", uncached: null });
    assert.equal(await load(page, { cache: "none" }).catch(({ message }) => /can't be fetched/.test(message)), true);
    await page.context().close();
    await own.close();
  });

  test("a kept shard that was tampered with is refused, and fetched anew", async () => {
    const page = await open("");
    await load(page);
    await page.evaluate(async () => {
      const store = await caches.open("slm-guardian");
      const [request] = (await store.keys()).filter(({ url }) => url.includes("shard-"));
      const bytes = new Uint8Array(await (await store.match(request)).arrayBuffer());
      bytes[bytes.length - 1] ^= 1;
      await store.put(request, new Response(bytes));
    });
    assert.equal(await load(page).catch((error) => /SHA-256/.test(error.message)), true);
    shards();
    assert.equal((await load(page)).label, "unsafe");
    assert.ok(shards() > 0);
    await page.context().close();
  });

  test("versions stand side by side, and the newer one is found at once", async () => {
    let version = "1";
    const own = await serving((path, response) => {
      if (path !== "/model/manifest.json") return false;
      response.end(JSON.stringify({ ...manifest, version }));
      return true;
    });
    const page = await open("", { url: own.url });
    await load(page);
    version = "2";
    await load(page);
    assert.deepEqual((await cache(page, "list")).map(({ version, complete }) => [version, complete]).sort(), [["1", true], ["2", true]]);
    assert.equal(await cache(page, "delete", "/model/", "1"), 1);
    shards();
    await load(page);
    assert.equal(shards(), 0, "the shards that both versions share stayed");
    await page.context().close();
    await own.close();
  });

  test("with no room, or no storage, the guardian works and says so", async () => {
    const context = await browser.newContext();
    const page = await open("", { context });
    const session = await context.newCDPSession(page);
    await session.send("Storage.overrideQuotaForOrigin", { origin: new URL(server.url).origin, quotaSize: 10_000_000 });
    for (const kind of ["cache-api", "opfs"]) {
      const { label, uncached } = await load(page, { cache: kind });
      assert.equal(label, "unsafe");
      assert.match(uncached, /no room|refused/, kind);
    }
    assert.deepEqual(await cache(page, "list"), []);
    await context.close();
  });

  test("a page reloaded in the middle of a download loads on the next try", async () => {
    let slow = true;
    const own = await serving((path, response) => {
      if (!slow || !path.endsWith("00002-of-00003.bin")) return false;
      response.writeHead(200, { "content-length": manifest.shards[1].bytes });
      response.write(Buffer.alloc(1000));
      return true;
    });
    const page = await open("", { url: own.url });
    await page.evaluate(() => void Guardian.create({ model: "/model/", backend: "cpu", onProgress: ({ loaded }) => (globalThis.loaded = loaded) }).catch(() => {}));
    await page.waitForFunction((bytes) => globalThis.loaded >= bytes, manifest.shards[0].bytes, { timeout: MINUTES });
    await page.reload();
    slow = false;
    assert.equal((await load(page)).label, "unsafe");
    assert.equal((await cache(page, "list")).length, 1);
    await page.context().close();
    await own.close();
  });
});

test("two pages at once load and answer", { timeout: 5 * MINUTES }, async () => {
  const context = await browser.newContext();
  const pages = [await open("", { context }), await open("", { context })];
  const labels = await Promise.all(pages.map((page) => page.evaluate(async (text) => {
    const guardian = await Guardian.create({ model: "/model/", backend: "cpu" });
    return (await guardian.screen(text)).label;
  }, UNSAFE)));
  assert.deepEqual(labels, ["unsafe", "unsafe"]);
  await context.close();
});

test("on the page's own thread, without a worker", { timeout: 5 * MINUTES }, async () => {
  const page = await open("");
  const result = await page.evaluate(async (text) => {
    const guardian = await Guardian.create({ model: "/model/", backend: "cpu", worker: false });
    const { label } = await guardian.screen(text);
    await guardian.dispose();
    return label;
  }, UNSAFE);
  assert.equal(result, "unsafe");
  assert.equal(page.workers().length, 0);
  await page.context().close();
});

test("relaxed SIMD where it is exact and faster, with the very scores of plain SIMD", { timeout: 10 * MINUTES }, async () => {
  /** What loads where the engine's product of 127 and 255, four times over, is `product`, or where it takes no relaxed SIMD. */
  const load = async (product) => {
    const page = await open("");
    return page.evaluate(async ([product, texts]) => {
      const { Instance, validate } = WebAssembly;
      // The package's own check of plain SIMD is a few bytes.
      WebAssembly.validate = (bytes) => (product !== null || bytes.byteLength < 1000) && validate(bytes);
      WebAssembly.Instance = function (module, imports) {
        const { exports } = new Instance(module, imports);
        return { exports: exports.product ? { ...exports, product: () => product } : exports };
      };
      const guardian = await Guardian.create({ model: "/model/", backend: "cpu", worker: false });
      const scores = [];
      for (const text of texts) scores.push((await guardian.screen(text)).score);
      scores.push(...(await guardian.screenBatch(texts)).map(({ score }) => score));
      const { kernel } = guardian.info;
      await guardian.dispose();
      return { kernel, scores };
    }, [product, [...prompts.map(({ prompt }) => prompt), "a", "a b", "a b c", "a b c d", "word ".repeat(300)]]).finally(() => page.context().close());
  };
  const [unsigned, signed, saturated, refused] = [await load(4 * 127 * 255), await load(-4 * 127), await load(2 * 32_767), await load(null)];
  assert.deepEqual([unsigned.kernel, signed.kernel, saturated.kernel, refused.kernel], ["relaxed-simd", "relaxed-simd", "simd128", "simd128"]);
  for (const other of [signed, saturated, refused]) assert.deepEqual(other.scores, unsigned.scores);
});

test("in a service worker", { timeout: 5 * MINUTES }, async () => {
  const page = await open("");
  const label = await page.evaluate(async (text) => {
    await navigator.serviceWorker.register("/sw.js", { type: "module" });
    const { active } = await navigator.serviceWorker.ready;
    const { port1, port2 } = new MessageChannel();
    return new Promise((resolve) => {
      port1.onmessage = ({ data }) => resolve(data.label);
      active.postMessage(text, [port2]);
    });
  }, UNSAFE);
  assert.equal(label, "unsafe");
  await page.context().close();
});
