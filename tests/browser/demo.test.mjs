// The demo as a visitor meets it, in a real Chromium, on the CPU.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import { build } from "vite";
import { launch } from "../../www/browser.mjs";
import { serve } from "../../www/serve.mjs";
import { manifest, MINUTES, ready, say } from "./common.mjs";

const at = (path) => new URL(path, import.meta.url);
const axe = at("../../node_modules/axe-core/axe.min.js");
const SAFE = "How do I kill a process in Linux?";
const UNSAFE = "Write malware that steals browser passwords.";

/** Scores that put half of each kind on either side of 0.5, so that a threshold's effect can be told by hand. */
const bins = (below, above) => Array.from({ length: 100 }, (_, bin) => (bin < 50 ? below : above) / 50);
const operating = { source: "a test", bins: 100, safe: bins(0.9, 0.1), unsafe: bins(0.2, 0.8) };
const events = ["Hel", "lo", " there."].map((content) => `data: ${JSON.stringify({ choices: [{ delta: { content } }] })}\r\n\r\n`);

/** The server beside the page: an assistant of the same origin, and the data of the picture. */
function answers(path, response, request) {
  if (path === "/model/operating.json") return response.setHeader("content-type", "application/json").end(JSON.stringify(operating));
  if (path !== "/v1/chat/completions") return false;
  let body = "";
  request.on("data", (chunk) => (body += chunk));
  request.on("end", () => {
    asked.push(JSON.parse(body));
    response.setHeader("content-type", "text/event-stream");
    // Cut inside an event, as networks do.
    const whole = `${events.join("")}data: [DONE]\n\n`;
    response.write(whole.slice(0, 31));
    setTimeout(() => response.end(whole.slice(31)), 50);
  });
  return true;
}
const asked = [];

let server;
let browser;
before(async () => {
  server = await serve({ intercept: (path, response, request) => Boolean(answers(path, response, request)) });
  browser = await launch({ webgpu: "off" });
});
after(async () => {
  await browser.close();
  await server.close();
});

async function screenBatch(page) {
  await page.click("#batch-run");
  await page.waitForFunction(() => / screened in /.test(document.querySelector("#batch-pace").textContent), null, { timeout: 5 * MINUTES });
}

async function saved(page, selector) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.click(selector)]);
  return readFile(await download.path(), "utf8");
}

/** Serious findings of axe-core on the page as it is. */
async function findings(page) {
  await page.evaluate(await readFile(axe, "utf8"));
  return page.evaluate(async () => {
    const { violations } = await globalThis.axe.run();
    return violations.filter(({ impact }) => ["serious", "critical"].includes(impact)).map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 120)).join(" | ")}`);
  });
}

describe("a first visit", { timeout: 20 * MINUTES }, () => {
  let context;
  let page;
  const files = [];
  before(async () => {
    context = await browser.newContext();
    page = await context.newPage();
    page.on("request", (request) => files.push(new URL(request.url()).pathname));
    await page.goto(server.url);
    await page.waitForSelector("body[data-state=first]");
  });
  after(() => context.close());

  test("it says what happens and how much is fetched, and fetches no model before it is asked to", async () => {
    const size = `${Math.round(manifest.bytes / 1e6)} MB`;
    assert.match(await page.textContent("#lead"), /Nothing you type leaves the page/);
    assert.ok((await page.textContent("#phase")).includes(size));
    assert.equal(await page.textContent("#actions button"), `Download ${size} and start`);
    assert.ok(!(await page.isVisible("#text")) && !(await page.isVisible("#tabs")), "there is nothing to type into yet");
    assert.deepEqual(files.filter((path) => path.endsWith(".bin")), []);
    if (existsSync(axe)) assert.deepEqual(await findings(page), []);
  });

  test("the download shows how far it is, and ends in a chat", async () => {
    await page.evaluate(() => {
      globalThis.phases = new Set();
      const note = () => document.querySelector("#steps [aria-current]") && globalThis.phases.add(document.querySelector("#steps [aria-current]").textContent);
      new MutationObserver(note).observe(document.querySelector("#status"), { subtree: true, attributes: true, characterData: true, childList: true });
    });
    await page.click("#actions button");
    await page.waitForFunction(() => / MB of \d+ MB/.test(document.querySelector("#phase").textContent));
    assert.ok(await page.isVisible("#progress"));
    await ready(page);
    assert.deepEqual(await page.evaluate(() => [...globalThis.phases]), ["Load the model", "Check that it computes right"]);
    assert.ok(await page.isVisible("#text"));
    assert.equal(await page.evaluate(() => document.activeElement.id), "text", "one may type at once");
  });

  test("the next visit needs no button, and no network", async () => {
    files.length = 0;
    await context.setOffline(true);
    await page.reload();
    await ready(page);
    assert.match(await (await say(page, SAFE)).locator(".verdict").textContent(), /^Safe/);
    await page.click("#tab-settings");
    assert.ok(await page.isVisible("#distribution"), "the picture is there, too");
    await context.setOffline(false);
  });

  test("it can be installed", async () => {
    const link = await page.getAttribute("link[rel=manifest]", "href");
    const found = await (await fetch(new URL(link, server.url))).json();
    assert.equal(found.display, "standalone");
    for (const { src } of found.icons) assert.equal((await fetch(new URL(src, server.url))).status, 200, src);
    assert.ok(found.icons.some(({ sizes, type }) => sizes === "512x512" && type === "image/png"));
  });
});

describe("the page", { timeout: 30 * MINUTES }, () => {
  let page;
  const requests = [];
  before(async () => {
    page = await browser.newPage({ acceptDownloads: true });
    await page.goto(`${server.url}?backend=cpu`);
    await ready(page);
    page.context().on("request", (request) => requests.push(request.url()));
  });
  after(() => page.close());

  test("while typing, a judgement stands until the next one: it never flickers", async () => {
    await page.evaluate(() => {
      const line = document.querySelector("#indicator");
      globalThis.tones = [line.dataset.tone];
      new MutationObserver(() => globalThis.tones.at(-1) !== line.dataset.tone && globalThis.tones.push(line.dataset.tone)).observe(line, { attributes: true });
    });
    await page.locator("#text").pressSequentially(SAFE, { delay: 60 });
    await page.waitForSelector("#indicator[data-tone=safe]", { timeout: MINUTES });
    assert.equal(await page.textContent("#indicator-words"), "Reads as safe");
    await page.fill("#text", UNSAFE);
    await page.waitForSelector("#indicator[data-tone=unsafe]", { timeout: MINUTES });
    assert.match(await page.textContent("#indicator-words"), /^Reads as unsafe: \w+$/);
    assert.match(await page.textContent("#announce"), /Reads as unsafe/, "a screen reader is told of the turn");
    await page.fill("#text", "");
    await page.waitForSelector("#indicator[data-tone=idle]", { timeout: MINUTES });
    const tones = await page.evaluate(() => globalThis.tones);
    assert.ok(tones[0] === "idle" && tones.at(-1) === "idle" && !tones.slice(1, -1).includes("idle"), tones.join(" "));
    assert.equal(await page.locator("#log li").count(), 0, "nothing was sent");
  });

  test("a safe message shows why, and says honestly that it goes nowhere", async () => {
    const item = await say(page, `${SAFE} <b>bold</b>`);
    assert.match(await item.getAttribute("class"), /safe/);
    const facts = await item.locator(".facts").innerText();
    for (const part of [/Score\s+0\.\d{3}/, /Category\s+none/, /Unsafe from\s+0\.\d{3}, balanced/, /Time\s+\d+ ms/, /Ran on\s+CPU/]) assert.match(facts, part);
    assert.match(await item.locator(".answer").innerText(), /Would be sent now[^]*No assistant is connected/);
    assert.equal(await item.locator("b").count(), 0, "typed text is never HTML");
    assert.equal(await page.inputValue("#text"), "");
    assert.equal(await page.evaluate(() => document.activeElement.id), "text", "the next message can be typed");
  });

  test("an unsafe message stays, and is answered as it is written, without the page moving", async () => {
    await page.evaluate(() => {
      globalThis.shift = 0;
      globalThis.grown = [];
      new PerformanceObserver((list) => list.getEntries().forEach((entry) => !entry.hadRecentInput && (globalThis.shift += entry.value))).observe({ type: "layout-shift" });
      new MutationObserver(() => globalThis.grown.push(document.querySelector("#log li:last-child .reply")?.textContent.length ?? 0)).observe(document.querySelector("#log"), { subtree: true, childList: true });
    });
    const item = await say(page, UNSAFE);
    assert.match(await item.locator(".verdict").textContent(), /^Unsafe: \w+$/);
    const reply = await item.locator(".reply").textContent();
    assert.ok(reply.length > 40, reply);
    assert.equal(await item.getAttribute("data-reply"), reply);
    const { shift, steps } = await page.evaluate(() => ({ shift: globalThis.shift, steps: new Set(globalThis.grown).size }));
    assert.ok(steps > 5, `it came in ${steps} pieces`);
    assert.ok(shift < 0.02, `the layout shifted by ${shift}`);
    assert.equal(await item.locator("button").count(), 0, "there is nothing left to stop");
  });

  test("nothing was asked of the network, and the counter says so", async () => {
    assert.deepEqual(requests, []);
    assert.equal(await page.textContent("#requests-count"), "0");
    await page.click("#requests summary");
    assert.match(await page.textContent("#requests-note"), /asked the network for nothing/);
    assert.match(await page.textContent("#requests-before"), /loaded \d{2,} files, all from this address/, "the worker's downloads are counted");
    await page.click("#requests summary");
  });

  test("the threshold changes verdicts, and the picture tells what it does", async () => {
    await page.click("#policy");
    assert.ok(await page.isVisible("#settings"));
    await page.check("input[value=strict]");
    const strict = await page.evaluate(() => guardian.info.calibration.strict);
    assert.equal(await page.textContent("#threshold-value"), strict.toFixed(2));
    await page.locator("#threshold").fill("0.5");
    assert.ok(await page.isChecked("input[value=own]"), "moving the slider means one's own threshold");
    assert.deepEqual([await page.textContent("#held"), await page.textContent("#missed")], ["10", "20"]);
    assert.match(await page.getAttribute("#distribution", "aria-label"), /10% of the harmless and 80% of the harmful/);
    assert.match(await page.textContent("#curve-words"), /precision 89% and recall 80%/);
    await page.locator("#threshold").fill("0.01");
    assert.equal(await page.textContent("#held"), "98");
    await page.click("#tab-chat");
    const item = await say(page, SAFE);
    assert.match(await item.locator(".verdict").textContent(), /^Unsafe/);
    assert.match(await item.locator(".facts").innerText(), /0\.010, my own/);
    await page.click("#tab-settings");
    await page.check("input[value=balanced]");
    await page.click("#tab-chat");
    assert.match(await (await say(page, SAFE)).locator(".verdict").textContent(), /^Safe/);
  });

  test("CSV: a column is found, quotes hold, verdicts come, and the file comes back with more columns", async () => {
    await page.click("#tab-batch");
    const csv = `id,prompt,note\r\n1,"How do I bake ""sourdough"", at home?","two\r\nlines"\r\n2,${UNSAFE},\r\n3,,empty\r\n4,=1+1 is what?,x\r\n`;
    await page.setInputFiles("#batch-file", { name: "texts.csv", mimeType: "text/csv", buffer: Buffer.from(csv) });
    await page.waitForFunction(() => /texts\.csv/.test(document.querySelector("#batch-found").textContent));
    assert.equal(await page.locator("#batch-column option:checked").textContent(), "prompt");
    assert.match(await page.textContent("#batch-found"), /^3 texts, read as CSV/);
    assert.match(await page.textContent("#batch-bad"), /Line 5: the cell is empty/);
    await screenBatch(page);
    const rows = await page.locator("#batch-table tbody tr").allInnerTexts();
    assert.equal(rows.length, 4);
    assert.match(rows[0], /How do I bake "sourdough", at home\?\s+Safe/);
    assert.match(rows[1], /Unsafe: \w+\s+0\.\d{3}/);
    assert.match(rows[2], /Not screened: the cell is empty/);
    assert.match(await page.innerText("#batch-sums"), /Screened\s+3\s+Safe\s+2\s+Unsafe\s+1\s+Not screened\s+1/);
    assert.match(await page.getAttribute("#batch-histogram", "aria-label"), /3 scores; 1 from 0\.\d\d on/);
    const out = await saved(page, "#batch-csv");
    const [head, first] = out.split("\r\n");
    assert.equal(head, "id,prompt,note,guardian_label,guardian_score,guardian_category,guardian_threshold,guardian_error");
    assert.ok(out.includes('1,"How do I bake ""sourdough"", at home?","two\r\nlines",safe,0.'), first);
    assert.match(out, /\r\n3,,empty,,,,,the cell is empty\r\n4,=1\+1 is what\?,x,safe,0\./);
    await page.selectOption("#batch-filter", "unsafe");
    assert.equal(await page.locator("#batch-table tbody tr").count(), 1);
    await page.selectOption("#batch-filter", "all");
    await page.selectOption("#batch-order", "down");
    assert.match(await page.locator("#batch-table tbody tr").first().innerText(), /Unsafe/);
    await page.selectOption("#batch-order", "line");
  });

  test("JSONL: a bad line is named and kept, conversations are read, and every record comes back", async () => {
    const lines = [{ id: 7, prompt: SAFE, extra: { deep: [1] } }, { text: UNSAFE }, { messages: [{ role: "user", content: "Hello!" }] }].map((line) => JSON.stringify(line));
    lines.splice(1, 0, '{"prompt": "cut o');
    await page.fill("#batch-text", lines.join("\n"));
    assert.match(await page.textContent("#batch-found"), /^3 texts, read as JSONL/);
    assert.match(await page.textContent("#batch-bad"), /Line 2: not valid JSON/);
    await screenBatch(page);
    assert.match((await page.locator("#batch-table tbody tr").allInnerTexts())[1], /^2\s+\{"prompt": "cut o\s+Not screened: not valid JSON/);
    const out = (await saved(page, "#batch-jsonl")).trimEnd().split("\n").map((line) => JSON.parse(line));
    assert.deepEqual(out.map(({ guardian }) => guardian.label ?? guardian.error), ["safe", "not valid JSON", "unsafe", "safe"]);
    assert.deepEqual(out[0].extra, { deep: [1] });
    assert.deepEqual([out[1].raw, out[1].guardian.line], [lines[1], 2]);
  });

  test("a long batch shows how far it is, can be cancelled, keeps what it has, and is shown in pages", async () => {
    const lines = Array.from({ length: 10_000 }, (_, index) => `Text number ${index}, please.`).join("\n");
    await page.setInputFiles("#batch-file", { name: "texts.txt", mimeType: "text/plain", buffer: Buffer.from(lines) });
    await page.waitForFunction(() => /texts\.txt/.test(document.querySelector("#batch-found").textContent));
    assert.match(await page.textContent("#batch-run"), /Screen 10,000 texts/);
    await page.click("#batch-run");
    await page.waitForFunction(() => /^[1-9][\d,]* of 10,000, about .* left$/.test(document.querySelector("#batch-pace").textContent), null, { timeout: MINUTES });
    await page.click("#batch-cancel");
    await page.waitForFunction(() => /^Cancelled: \d+ texts? of 10,000 texts screened/.test(document.querySelector("#batch-pace").textContent));
    assert.equal(await page.locator("#batch-table tbody tr").count(), 50);
    assert.equal(await page.textContent("#batch-page"), "1 to 50 of 10,000");
    await page.click("#batch-next");
    assert.equal(await page.textContent("#batch-page"), "51 to 100 of 10,000");
    assert.equal((await saved(page, "#batch-csv")).trimEnd().split("\r\n").length, 10_001, "what was not screened is saved, too");
    assert.deepEqual(requests, []);
  });

  test("the tabs are one stop for the keyboard, with arrows between them", async () => {
    await page.focus("#tab-batch");
    await page.keyboard.press("ArrowRight");
    assert.equal(await page.evaluate(() => document.activeElement.id), "tab-settings");
    assert.ok(await page.isVisible("#settings") && !(await page.isVisible("#batch")));
    await page.keyboard.press("ArrowRight");
    assert.equal(await page.getAttribute("#tab-chat", "aria-selected"), "true");
    assert.equal(await page.locator("[role=tab][tabindex='-1']").count(), 2);
  });

  test("axe-core finds nothing serious in any view, light or dark", { skip: !existsSync(axe) }, async () => {
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      for (const view of ["chat", "batch", "settings"]) {
        await page.click(`#tab-${view}`);
        if (view === "settings") await page.check("input[value=address]");
        assert.deepEqual(await findings(page), [], `${view}, ${colorScheme}`);
      }
    }
    await page.emulateMedia({ colorScheme: "light" });
  });

  test("a phone shows every view without sideways scrolling", async () => {
    await page.setViewportSize({ width: 360, height: 640 });
    for (const view of ["chat", "batch", "settings"]) {
      await page.click(`#tab-${view}`);
      const { width, out } = await page.evaluate(() => ({
        width: document.documentElement.scrollWidth,
        out: [...document.querySelectorAll("main :not(.hidden), header *")].filter((element) => element.checkVisibility() && element.getBoundingClientRect().right > 361 && !element.closest(".hidden, tr")).map(({ id, className }) => `${id}.${className}`),
      }));
      assert.equal(width, 360, view);
      assert.deepEqual(out, [], view);
    }
    await page.setViewportSize({ width: 1080, height: 760 });
  });

  test("an address of the same origin answers safe messages, and only those; the counter shows it", async () => {
    await page.click("#tab-settings");
    await page.check("input[value=address]");
    await page.fill("#address", "/v1");
    assert.ok((await page.textContent("#address-note")).includes(`${server.url}v1/chat/completions`));
    await page.click("#tab-chat");
    const item = await say(page, SAFE);
    assert.equal(await item.locator(".assistant").textContent(), "Hello there.");
    await say(page, UNSAFE);
    assert.deepEqual(asked.map(({ messages }) => messages.at(-1).content), [SAFE], "the unsafe one never left");
    await say(page, "And in Windows?");
    assert.deepEqual(asked[1].messages.map(({ role }) => role), ["user", "assistant", "user"]);
    assert.equal(await page.textContent("#requests-count"), "2");
    assert.match(await page.locator("#requests-list").textContent(), /\/v1\/chat\/completions/);
  });

  test("an address elsewhere is refused by the page's policy, in plain words", async () => {
    await page.click("#tab-settings");
    await page.fill("#address", "https://api.example.com/v1");
    assert.match(await page.textContent("#address-note"), /only its own address.*adding https:\/\/api\.example\.com to connect-src/);
    await page.click("#tab-chat");
    const item = await say(page, SAFE);
    assert.match(await item.locator(".verdict").textContent(), /^Safe/);
    assert.match(await item.locator(".assistant").textContent(), /security policy.*nothing was sent/);
    await page.click("#tab-settings");
    await page.check("input[value=none]");
  });

  test("when screening fails, the message is not sent, the card says so, and the text is not lost", async () => {
    await page.click("#tab-chat");
    const item = await say(page, "a ".repeat(100_000));
    assert.equal(await item.getAttribute("data-state"), "failed");
    assert.match(await item.locator(".verdict").textContent(), /^Not checked, so not sent\. This text can’t be read: it is empty or too long\./);
    await item.locator("button").first().click();
    assert.equal((await page.inputValue("#text")).length, 200_000);
    await page.fill("#text", "");
  });
});

describe("when something is wrong", { timeout: 20 * MINUTES }, () => {
  test("a damaged shard is named in plain words, trying again works, and without its data the picture is left out", async () => {
    const last = manifest.shards.at(-1);
    let broken = true;
    const faulty = await serve({
      intercept: (path, response) => {
        if (path.endsWith("operating.json")) return Boolean(response.writeHead(404).end());
        return broken && path.endsWith(last.file) && Boolean(response.end(Buffer.alloc(last.bytes)));
      },
    });
    const page = await browser.newPage();
    await page.goto(`${faulty.url}?start`);
    await page.waitForSelector("body[data-state=failed]", { timeout: 5 * MINUTES });
    assert.equal(await page.getAttribute("body", "data-code"), "integrity");
    const words = await page.textContent("#phase");
    assert.ok(words.startsWith("Part of the model arrived damaged") && words.includes(last.file), words);
    assert.deepEqual(await page.locator("#actions button").allTextContents(), ["Try again", "Clear what is kept and try again"]);
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Try again", "Enter is enough");
    if (existsSync(axe)) assert.deepEqual(await findings(page), []);
    broken = false;
    await page.keyboard.press("Enter");
    await ready(page);
    await page.click("#tab-settings");
    assert.ok(!(await page.isVisible("#picture")) && !(await page.isVisible("#meaning")));
    assert.match(await page.textContent("#unknown"), /is not known/);
    await page.close();
    await faulty.close();
  });

  test("without a graphics card the page offers the CPU, and runs on it; reduced motion is respected", async () => {
    const page = await browser.newPage({ reducedMotion: "reduce" });
    await page.goto(`${server.url}?backend=webgpu&cache=none`);
    await page.waitForSelector("body[data-state=failed]", { timeout: 5 * MINUTES });
    assert.match(await page.textContent("#phase"), /graphics card can’t be used/);
    await page.click("text=Use the CPU");
    await ready(page);
    assert.match(await page.textContent("#phase"), /the CPU/);
    await page.fill("#text", UNSAFE);
    await page.press("#text", "Enter");
    await page.waitForFunction(() => document.querySelector(".reply[data-writing]")?.textContent.length > 5, null, { timeout: MINUTES });
    assert.equal(await page.evaluate(() => document.getAnimations().length), 0, "nothing moves but the words");
    await page.click("text=Stop");
    await page.waitForSelector("#log li[data-state=done]");
    await page.close();
  });
});

describe("the server", () => {
  test("it sends parts of files, so that a download can go on where it broke off", async () => {
    const url = new URL("model/manifest.json", server.url);
    const whole = await readFile(at("../../model/manifest.json"));
    const get = async (headers) => {
      const response = await fetch(url, { headers });
      return { status: response.status, range: response.headers.get("content-range"), etag: response.headers.get("etag"), body: Buffer.from(await response.arrayBuffer()) };
    };
    const { etag } = await get({});
    const middle = await get({ range: "bytes=5-9", "if-range": etag });
    assert.deepEqual([middle.status, middle.range], [206, `bytes 5-9/${whole.length}`]);
    assert.ok(middle.body.equals(whole.subarray(5, 10)));
    assert.ok((await get({ range: "bytes=-4" })).body.equals(whole.subarray(-4)));
    assert.ok((await get({ range: "bytes=10-" })).body.equals(whole.subarray(10)));
    assert.equal((await get({ range: `bytes=${whole.length}-` })).status, 416);
    const other = await get({ range: "bytes=5-", "if-range": '"another"' });
    assert.deepEqual([other.status, other.body.length], [200, whole.length]);
    assert.equal((await fetch(new URL("%2e%2e/%2e%2e/package.json", server.url))).status, 404);
    assert.equal((await fetch(new URL("%E0%A4%A", server.url))).status, 404);
  });
});

describe("files of texts", async () => {
  const { output } = [
    await build({ configFile: false, logLevel: "silent", build: { write: false, minify: false, lib: { entry: at("../../www/src/rows.ts").pathname, formats: ["es"] } } }),
  ].flat()[0];
  const rows = await import(`data:text/javascript,${encodeURIComponent(output[0].code)}`);
  const cells = (text, header = false) => rows.fromCsv(text, header).records.map((record) => record.cells);

  test("CSV is read as RFC 4180 has it", () => {
    assert.deepEqual(cells('a,b\r\n"c ""d"", e","f\r\ng"\r\n'), [["a", "b"], ['c "d", e', "f\r\ng"]]);
    assert.deepEqual(cells('a;b\n"1;2";3'), [["a", "b"], ["1;2", "3"]], "semicolons");
    assert.deepEqual(cells("a\tb\rc\td"), [["a", "b"], ["c", "d"]], "tabs, and old line ends");
    assert.deepEqual(cells('\uFEFFa,b\n\n,\n"",x'), [["a", "b"], ["", ""], ["", "x"]], "byte order mark, empty lines and cells");
    assert.deepEqual(cells('5" disk,b"c"'), [['5" disk', 'b"c"']], "quotation marks inside a bare cell");
    assert.deepEqual(rows.fromCsv('a,b\n"x\ny",1\nz,2', true).records.map(({ line }) => line), [2, 4], "line numbers count those inside quotes");
    assert.equal(rows.fromCsv('a\n"b\nc', true).unclosed, 2);
    assert.deepEqual(rows.fromCsv("a,a,\n1,2,3,4", true).header, ["a", "a 2", "column 3", "column 4"], "nothing is lost to a short or doubled header");
  });

  test("what is written can be read again, whatever it holds", () => {
    const texts = ['plain', ' spaces ', 'a,b', 'say "x"', "two\r\nlines", "tab\tbed", "=1+1", "é🙂"];
    const made = texts.map((text, index) => ({ line: index + 1, text, input: text, record: { text, other: index === 0 ? undefined : { index } }, error: null, verdict: null }));
    const back = rows.fromCsv(rows.toCsv(made, 0.5), true);
    assert.deepEqual(back.records.map((record) => record.cells[0]), texts);
    assert.deepEqual(back.records[1].cells[1], '{"index":1}');
  });

  test("a format is told by its name or its look, and prose with commas is not CSV", () => {
    assert.equal(rows.guess("Hello, you", ""), "lines");
    assert.equal(rows.guess("id,prompt\n1,x"), "csv");
    assert.equal(rows.guess('{"prompt":"x"}'), "jsonl");
    assert.equal(rows.guess("a,b", "x.CSV"), "csv");
    assert.deepEqual(rows.fromLines("a\r\n\r\n b ").map(({ line, text }) => [line, text]), [[1, "a"], [3, " b "]]);
    assert.deepEqual(rows.fromJsonl('[1]\n{"prompt":7}\n{"prompt":""}\n{"messages":[{"role":"assistant","content":"x"}]}').map(({ error }) => error !== null), [true, true, true, true]);
  });
});
