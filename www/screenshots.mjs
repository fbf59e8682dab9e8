// Pictures of the built page's main states, on the CPU, into screenshots/: `node www/screenshots.mjs`.

import { mkdir, readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { launch } from "./browser.mjs";
import { serve } from "./serve.mjs";

const folder = fileURLToPath(new URL("screenshots/", import.meta.url));
const desktop = { width: 1080, height: 760 };
const phone = { width: 360, height: 720 };
await mkdir(folder, { recursive: true });

// The second shard never comes: the page stays in the middle of its download.
const { shards } = JSON.parse(await readFile(new URL("../model/manifest.json", import.meta.url), "utf8"));
const stuck = await serve({ intercept: (path) => path.endsWith(shards[1].file) });
const server = await serve();
const browser = await launch({ webgpu: "off" });
let page;
/** Waits for fades to end, then takes the picture. */
async function shoot(name, options = {}) {
  await page.waitForTimeout(900);
  await page.screenshot({ path: `${folder}${name}.png`, ...options });
  console.log(name);
}
/** Sends a message and waits for all that comes of it. */
async function say(text) {
  const before = await page.locator("#log li[data-state=done]").count();
  await page.fill("#text", text);
  await page.press("#text", "Enter");
  await page.waitForFunction((count) => document.querySelectorAll("#log li[data-state=done]").length > count, before, { timeout: 120_000 });
}

try {
  page = await browser.newPage({ viewport: desktop, colorScheme: "light", reducedMotion: "reduce" });
  await page.goto(stuck.url);
  await page.waitForSelector("body[data-state=first]");
  await shoot("first-visit");
  await page.click("#actions button");
  await page.waitForFunction((part) => document.querySelector("#progress").value > part, (shards[0].bytes / 1e8) * 0.9, { timeout: 60_000 });
  await shoot("loading");
  await page.close();

  page = await browser.newPage({ viewport: desktop, colorScheme: "light", reducedMotion: "reduce" });
  await page.goto(`${server.url}?backend=webgpu`);
  await page.waitForSelector("body[data-state=failed]", { timeout: 60_000 });
  await shoot("failed");
  await page.close();

  page = await browser.newPage({ viewport: desktop, colorScheme: "light", reducedMotion: "reduce" });
  await page.goto(`${server.url}?backend=cpu`);
  await page.waitForSelector("body[data-state=ready]", { timeout: 120_000 });
  await shoot("chat-empty");
  await page.locator("#text").pressSequentially("How do I kill a process", { delay: 30 });
  await page.waitForSelector("#indicator[data-tone=safe]", { timeout: 30_000 });
  await shoot("typing");
  await say("How do I kill a process in Linux?");
  await shoot("safe");
  await say("How can I get into my ex’s phone without her knowing?");
  await shoot("unsafe");
  await page.emulateMedia({ colorScheme: "dark" });
  await shoot("unsafe-dark");
  await page.emulateMedia({ colorScheme: "light" });

  await page.click("#tab-settings");
  await shoot("settings", { fullPage: true });
  await page.emulateMedia({ colorScheme: "dark" });
  await page.locator("#threshold").fill("0.7");
  await shoot("settings-dark", { fullPage: true });
  await page.click("input[value=balanced]");
  await page.emulateMedia({ colorScheme: "light" });

  await page.click("#tab-batch");
  const prompts = (await readFile(new URL("../tests/data/prompts.jsonl", import.meta.url), "utf8")).trim().split("\n");
  prompts.splice(4, 0, '{"id":"t05","prompt":"a line that was cut o');
  await page.fill("#batch-text", prompts.join("\n"));
  await page.click("#batch-run");
  await page.waitForFunction(() => /screened in/.test(document.querySelector("#batch-pace").textContent), null, { timeout: 180_000 });
  await shoot("batch", { fullPage: true, clip: { x: 0, y: 0, width: desktop.width, height: 1150 } });

  await page.setViewportSize(phone);
  await page.click("#tab-chat");
  await page.evaluate(() => scrollTo(0, document.documentElement.scrollHeight));
  await shoot("phone-unsafe");
  await page.click("#tab-settings");
  await page.evaluate(() => scrollTo(0, 0));
  await shoot("phone-settings");
  await page.click("#tab-batch");
  await page.locator("#batch-sums").scrollIntoViewIfNeeded();
  await page.evaluate(() => scrollBy(0, 400));
  await shoot("phone-batch");
} finally {
  await browser.close();
  await server.close();
  process.exit();
}
