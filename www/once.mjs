// `./build.sh demo --once TEXT [--backend webgpu|cpu]`: the built page, a headless browser, one message, one JSON line.

import { parseArgs } from "node:util";
import { launch } from "./browser.mjs";
import { serve } from "./serve.mjs";

const { values } = parseArgs({ options: { once: { type: "string" }, backend: { type: "string", default: "auto" } } });
if (!values.once || !["auto", "webgpu", "cpu"].includes(values.backend)) {
  console.error('usage: ./build.sh demo --once "TEXT" [--backend webgpu|cpu]');
  process.exit(2);
}
const server = await serve();
// `auto` takes a real GPU if there is one; the software adapter, slower than the CPU engine, only if it was asked for.
const browser = await launch({ webgpu: { webgpu: "software", cpu: "off" }[values.backend] ?? "hardware" });
try {
  const page = await browser.newPage();
  page.on("console", (message) => console.error(`page: ${message.text()}`));
  await page.goto(`${server.url}?backend=${values.backend}&cache=none`);
  await page.waitForSelector("body[data-state=ready], body[data-state=failed]", { timeout: 300_000 });
  if ((await page.getAttribute("body", "data-state")) === "failed") throw new Error(await page.textContent("#phase"));
  await page.fill("#text", values.once);
  await page.press("#text", "Enter");
  const item = page.locator("#log li");
  await page.waitForSelector("#log li[data-state=done], #log li[data-state=failed]", { timeout: 300_000 });
  if ((await item.getAttribute("data-state")) === "failed") throw new Error(await item.locator(".verdict").textContent());
  const verdict = JSON.parse(await item.getAttribute("data-verdict"));
  console.log(JSON.stringify({ verdict, reply: await item.getAttribute("data-reply"), backend: verdict.backend }));
} catch (error) {
  console.error(`demo: ${error.message}`);
  process.exitCode = 1;
} finally {
  await browser.close();
  await server.close();
}
