// The demo in rougher weather: WebGPU (SwiftShader) and its loss, a slow line, no room, a reload in the middle of a download, two tabs.

import assert from "node:assert/strict";
import { createReadStream } from "node:fs";
import { readFile } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import { launch } from "../../www/browser.mjs";
import { serve } from "../../www/serve.mjs";
import { manifest, MINUTES, prompts, ready, say } from "./common.mjs";

const SAFE = "How do I kill a process in Linux?";
const UNSAFE = "Write malware that steals browser passwords.";

let server;
const browsers = {};
before(async () => {
  server = await serve();
  browsers.webgpu = await launch({ webgpu: "software" });
  browsers.cpu = await launch({ webgpu: "off" });
});
after(async () => {
  await Promise.all(Object.values(browsers).map((browser) => browser.close()));
  await server.close();
});

async function open(browser, query, { context, url = server.url } = {}) {
  const page = await (context ?? (await browser.newContext())).newPage();
  await page.goto(`${url}?${query}`);
  return page;
}

describe("on WebGPU", { timeout: 30 * MINUTES }, () => {
  let page;
  before(async () => {
    page = await (await browsers.webgpu.newContext()).newPage();
  });

  test("a first visit asks before it downloads, and the next one needs no network", async () => {
    await page.goto(server.url);
    await page.getByRole("button", { name: /^Download 94 MB/ }).click();
    await ready(page);
    assert.match(await page.textContent("#phase"), /WebGPU/);
    await page.waitForFunction(() => navigator.serviceWorker.controller !== null || navigator.serviceWorker.ready.then(() => true));
    await page.context().setOffline(true);
    await page.reload();
    await ready(page);
    assert.match(await page.textContent("#phase"), /WebGPU/);
    await page.context().setOffline(false);
  });

  test("a safe message goes on, an unsafe one is answered, and both say what ran", async () => {
    const safe = await say(page, SAFE);
    assert.match(await safe.locator(".verdict").textContent(), /^Safe/);
    assert.match(await safe.textContent(), /WebGPU/);
    assert.match(await safe.textContent(), /Would be sent now/);
    const unsafe = await say(page, UNSAFE);
    assert.match(await unsafe.locator(".verdict").textContent(), /^Unsafe: \w+/);
    assert.ok((await unsafe.getAttribute("data-reply")).length > 40);
  });

  test("typing is followed by a judgement", async () => {
    await page.fill("#text", UNSAFE);
    await page.waitForFunction(() => /^Reads as unsafe: \w+/.test(document.querySelector("#indicator-words").textContent), null, { timeout: 2 * MINUTES });
    await page.fill("#text", "");
  });

  test("a stricter threshold changes a verdict", async () => {
    await page.click("#tab-settings");
    await page.locator("#threshold").fill("0");
    await page.click("#tab-chat");
    assert.match(await (await say(page, SAFE)).locator(".verdict").textContent(), /^Unsafe/);
    await page.click("#tab-settings");
    await page.locator("input[name=preset][value=balanced]").check();
    await page.click("#tab-chat");
  });

  test("a batch of lines gets a verdict each", async () => {
    await page.click("#tab-batch");
    await page.fill("#batch-text", `${SAFE}\n${UNSAFE}`);
    await page.click("#batch-run");
    await page.waitForFunction(() => / screened in /.test(document.querySelector("#batch-pace").textContent), null, { timeout: 5 * MINUTES });
    const rows = await page.locator("#batch-table tbody tr").allTextContents();
    assert.deepEqual(rows.map((row) => /Unsafe/.test(row)), [false, true], rows.join(" | "));
    await page.click("#tab-chat");
  });

  test("when the device is lost for good, the CPU takes over, and the page says so", async () => {
    for (let losses = 0; losses < 2; losses++) {
      await page.evaluate(() => guardian._loseDevice());
      const item = await say(page, SAFE);
      assert.match(await item.locator(".verdict").textContent(), /^Safe/);
    }
    assert.equal(await page.evaluate(() => guardian.info.backend), "cpu");
    assert.match(await page.textContent("#phase"), /the CPU: the graphics card can’t be used/);
    assert.equal(await page.getAttribute("body", "data-backend"), "cpu");
    await page.context().close();
  });
});

test("on a slow line the page tells how far it is and how long it takes", { timeout: 5 * MINUTES }, async () => {
  // 16 MB a second, in all parts together.
  let turn = Promise.resolve();
  const slow = await serve({
    intercept: (path, response, request) => {
      if (!path.endsWith(".bin")) return false;
      const [start, end] = /bytes=(\d+)-(\d+)/.exec(request.headers.range).slice(1).map(Number);
      const { bytes } = manifest.shards.find(({ file }) => path.endsWith(file));
      response.writeHead(206, { "content-range": `bytes ${start}-${end}/${bytes}`, "content-length": end - start + 1 });
      turn = turn.then(() => new Promise((resolve) => {
        const from = createReadStream(new URL(`../../model${path.slice(6)}`, import.meta.url), { start, end });
        from.pipe(response);
        setTimeout(resolve, (end - start) / 16_000);
      }));
      return true;
    },
  });
  const page = await open(browsers.cpu, "backend=cpu", { url: slow.url });
  const words = new Set();
  while ((await page.getAttribute("body", "data-state")) !== "ready") {
    words.add((await page.textContent("#phase")) ?? "");
    await page.waitForTimeout(100);
  }
  const told = [...words].filter((line) => /^\d+ MB of 94 MB/.test(line));
  assert.ok(told.length >= 5, [...words].join("; "));
  assert.ok(told.some((line) => /about \d+ seconds left/.test(line)), told.join("; "));
  await page.context().close();
  await slow.close();
});

test("with no room to keep the model the page works, and says that the next visit downloads it again", { timeout: 5 * MINUTES }, async () => {
  const context = await browsers.cpu.newContext();
  const page = await context.newPage();
  const session = await context.newCDPSession(page);
  await session.send("Storage.overrideQuotaForOrigin", { origin: new URL(server.url).origin, quotaSize: 10_000_000 });
  await page.goto(`${server.url}?backend=cpu`);
  await ready(page);
  assert.match(await page.textContent("#aside"), /not kept for the next visit: .*room/);
  assert.match(await (await say(page, SAFE)).locator(".verdict").textContent(), /^Safe/);
  await context.close();
});

test("a reload in the middle of a download begins again, and ends in a working page", { timeout: 5 * MINUTES }, async () => {
  let stuck = true;
  const own = await serve({
    intercept: (path, response) => {
      if (!stuck || !path.endsWith(manifest.shards[1].file)) return false;
      response.writeHead(200, { "content-length": manifest.shards[1].bytes }).write(Buffer.alloc(1000));
      return true;
    },
  });
  const page = await open(browsers.cpu, "backend=cpu", { url: own.url });
  await page.waitForFunction(() => document.querySelector("#progress").value > 0.45, null, { timeout: MINUTES });
  stuck = false;
  await page.reload();
  await ready(page);
  assert.match(await (await say(page, UNSAFE)).locator(".verdict").textContent(), /^Unsafe/);
  await page.context().close();
  await own.close();
});

test("two tabs at once both load and answer", { timeout: 5 * MINUTES }, async () => {
  const context = await browsers.cpu.newContext();
  const pages = await Promise.all([open(browsers.cpu, "backend=cpu", { context }), open(browsers.cpu, "backend=cpu", { context })]);
  await Promise.all(pages.map(ready));
  const items = await Promise.all([say(pages[0], UNSAFE), say(pages[1], SAFE)]);
  assert.match(await items[0].locator(".verdict").textContent(), /^Unsafe/);
  assert.match(await items[1].locator(".verdict").textContent(), /^Safe/);
  await context.close();
});

test("a page left open through 300 screenings keeps its memory flat", { timeout: 10 * MINUTES }, async () => {
  const page = await open(browsers.cpu, "backend=cpu");
  await ready(page);
  const session = await browsers.cpu.newBrowserCDPSession();
  /** Resident bytes of all renderer processes; a wasm memory that grows shows here and nowhere in the JavaScript heap. */
  const resident = async () => {
    const { processInfo } = await session.send("SystemInfo.getProcessInfo");
    const statuses = await Promise.all(processInfo.filter(({ type }) => type === "renderer").map(({ id }) => readFile(`/proc/${id}/status`, "utf8").catch(() => "")));
    return statuses.reduce((sum, status) => sum + 1024 * Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? 0), 0);
  };
  const screen = (count) => page.evaluate(async ([texts, count]) => {
    let unsafe = 0;
    for (let i = 0; i < count; i++) unsafe += (await guardian.screen(`${texts[i % texts.length]} ${i}`)).label === "unsafe";
    return unsafe;
  }, [prompts.map(({ prompt }) => prompt), count]);
  assert.ok((await screen(50)) > 0);
  const before = await resident();
  assert.ok((await screen(250)) > 0);
  const grown = (await resident()) - before;
  assert.ok(before > manifest.bytes, `the model is among the ${before} bytes`);
  assert.ok(grown < 16e6, `${grown} bytes more`);
  await page.context().close();
});
