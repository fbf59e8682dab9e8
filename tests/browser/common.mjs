// What the browser tests share: waiting for the demo, and saying something to it.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";

const read = (path) => readFile(new URL(path, import.meta.url), "utf8");

/** The project's own prompts, harmful ones first, each with its label. */
export const prompts = (await read("../data/prompts.jsonl")).trim().split("\n").map((line) => JSON.parse(line));
export const manifest = JSON.parse(await read("../../model/manifest.json"));
export const MINUTES = 60_000;

/** Waits until the demo's guardian answers, or has said why not. */
export async function settled(page) {
  await page.waitForSelector("body[data-state=ready], body[data-state=failed]", { timeout: 10 * MINUTES });
}

export async function ready(page) {
  await settled(page);
  assert.equal(await page.getAttribute("body", "data-state"), "ready", await page.textContent("#phase"));
}

/** Sends a message, and waits for all that comes of it. */
export async function say(page, text) {
  const count = await page.locator("#log li").count();
  await page.fill("#text", text);
  await page.press("#text", "Enter");
  const item = page.locator("#log li").nth(count);
  await item.and(page.locator("[data-state=done], [data-state=failed]")).waitFor({ timeout: 10 * MINUTES });
  return item;
}
