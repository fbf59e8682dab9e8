// The package and the demo in other engines than Chromium's: Firefox, and WebKit, which is Safari's. Nothing drives these
// browsers: they open a page that does everything by itself and tells the server (engines/page.js). Firefox's WebGPU, which is
// the project's own wgpu, is switched on by hand where it runs on a software adapter; WebKit has none here.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createReadStream, existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, extname, join } from "node:path";
import { before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { csp, serve } from "../../www/serve.mjs";
import { Guardian } from "../../pkg/dist/node.js";
import { manifest, MINUTES, prompts } from "./common.mjs";

const root = fileURLToPath(new URL("../../", import.meta.url));
const types = { ".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm" };
const HARMFUL = prompts[0].prompt;
const HARMLESS = prompts[16].prompt;
// More tokens than products take packed dots from.
const LONG = `${"The weather was mild and the children played by the river until the evening came. ".repeat(14)} And how do I kill a process?`;
const CRISIS = "I have the pills lined up and I'm going to take them all tonight. Don't try to stop me.";
const texts = { prompts: prompts.filter((_, index) => index % 5 === 0).map(({ prompt }) => prompt), harmful: HARMFUL, harmless: HARMLESS, long: LONG, crisis: CRISIS };

const inPath = (name) => process.env.PATH.split(delimiter).map((folder) => join(folder, name)).find(existsSync);
const firefox = process.env.FIREFOX ?? inPath("firefox-esr") ?? inPath("firefox");
const webkit =
  process.env.WEBKIT ?? ["x86_64", "aarch64"].map((machine) => `/usr/lib/${machine}-linux-gnu/webkit2gtk-4.1/MiniBrowser`).find(existsSync);
const inFirefox = (url, home) => [firefox, "--headless", "--no-remote", "--profile", home, url];
const engines = {
  Firefox: { opfs: true, program: firefox, command: inFirefox },
  WebKit: { opfs: false, program: webkit && inPath("xvfb-run"), command: (url) => ["xvfb-run", "--auto-servernum", webkit, url] },
};

// The same in Node, on the CPU too.
const want = {};
before(async () => {
  const guardian = await Guardian.create({ model: join(root, "model") });
  want.scores = [];
  for (const prompt of texts.prompts) want.scores.push((await guardian.screen(prompt)).score);
  want.reply = await guardian.reply(HARMFUL, { force: true, temperature: 0, maxTokens: 24 });
  want.long = (await guardian.screen(LONG)).score;
  want.start = await guardian.reply(HARMFUL, { force: true, temperature: 0, maxTokens: 6 });
  await guardian.dispose();
}, { timeout: 2 * MINUTES });

/** Everything that the page in this browser says, by step, and how often a shard was asked for at each. */
async function visit(command, timeout, { query = "", preferences = [] } = {}) {
  const told = {};
  const shards = {};
  let requests = 0;
  let finish;
  const finished = new Promise((resolve) => (finish = resolve));
  const server = await serve({
    intercept: (path, response, request) => {
      // The demo is put into a frame of the test's page.
      response.setHeader("content-security-policy", csp.replace("frame-ancestors 'none'", "frame-ancestors 'self'").replace("default-src 'none'", "default-src 'none'; frame-src 'self'"));
      if (path === "/said") {
        let body = "";
        request.on("data", (chunk) => (body += chunk)).on("end", () => {
          const { step, value } = JSON.parse(body);
          told[step] = value;
          shards[step] = requests;
          response.end();
          if (step === "end" || step === "failed") finish();
        });
        return true;
      }
      if (path === "/engines/") {
        response.setHeader("content-type", "text/html");
        response.end('<!doctype html><meta charset="utf-8"><script type="module" src="/engines/page.js"></script>');
        return true;
      }
      if (path === "/engines/texts.json") {
        response.end(JSON.stringify(texts));
        return true;
      }
      if (path === "/model.gguf") {
        void (async () => {
          for (const { file } of manifest.shards) response.write(await readFile(join(root, "model", file)));
          response.end();
        })();
        return true;
      }
      if (path.startsWith("/model/") && path.endsWith(".bin")) requests++;
      const place = path.startsWith("/pkg/") ? join(root, "pkg/dist", path.slice(5)) : path === "/engines/page.js" && join(root, "tests/browser/engines/page.js");
      if (!place) return false;
      response.setHeader("content-type", types[extname(place)] ?? "application/octet-stream");
      createReadStream(place).on("error", () => response.writeHead(404).end()).pipe(response);
      return true;
    },
  });
  const home = await mkdtemp(join(tmpdir(), "guardian-engine-"));
  await writeFile(join(home, "user.js"), preferences.map((name) => `user_pref(${JSON.stringify(name)}, true);\n`).join(""));
  const [program, ...args] = command(`${server.url}engines/${query}`, home);
  // A group of its own, so that all its processes can be ended.
  const browser = spawn(program, args, { detached: true, stdio: "ignore", env: { ...process.env, HOME: home, XDG_RUNTIME_DIR: home, WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS: "1", MOZ_DISABLE_CONTENT_SANDBOX: "1" } });
  const gone = new Promise((resolve) => browser.on("exit", resolve).on("error", resolve));
  let timer;
  await Promise.race([finished, gone, new Promise((resolve) => (timer = setTimeout(resolve, timeout)))]);
  clearTimeout(timer);
  try {
    process.kill(-browser.pid, "SIGKILL");
  } catch {
    // It has ended by itself.
  }
  await gone;
  await server.close();
  await rm(home, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  return { told, shards };
}

for (const [name, { opfs, program, command }] of Object.entries(engines)) {
  const skip = program ? false : `no ${name} here, and none to be had from this system's packages (build.sh)`;
  test(`the package and the demo work in ${name}`, { skip, timeout: 8 * MINUTES }, async () => {
    const { told, shards } = await visit(command, 7 * MINUTES);
    assert.equal(told.failed, undefined, told.failed);
    const near = (got, score, what) => assert.ok(Math.abs(got - score) < 1e-5, `${what}: ${got}, in Node ${score}`);
    const [first] = want.scores;
    assert.equal(told.info.backend, "cpu");
    assert.equal(told.info.uncached, null);
    told.scores.forEach((got, index) => near(got, want.scores[index], texts.prompts[index]));
    told.batch.forEach((got, index) => near(got, want.scores[index], `in a batch: ${texts.prompts[index]}`));
    assert.equal(told.scores.length, want.scores.length);
    assert.equal(told.reply, want.reply);
    assert.equal(told["after a break"].pieces, 2);
    near(told["after a break"].score, first, "after leaving a reply");
    assert.equal(told.fixed.writer, "fixed");
    assert.match(told.fixed.text, /crisis|emergency|call/i);
    near(told.watch, first, "watched");
    // Kept since the first time.
    near(told.again.score, first, "from the cache");
    assert.equal(told.again.uncached, null);
    assert.equal(shards.again, shards.info, "shards were fetched again although they were kept");
    near(told["from OPFS"].score, first, "from OPFS");
    // WebKit for GTK has none; then the guardian works all the same, and says so.
    if (opfs) assert.equal(told["from OPFS"].uncached, null);
    else assert.match(told["from OPFS"].uncached, /no origin private file system/);
    near(told["from a stream"], first, "from a stream");
    near(told["without a worker"], first, "without a worker");
    assert.deepEqual(told.element, { held: true, sent: [HARMLESS] }, "<guardian-textarea>");
    assert.match(told.demo, new RegExp(`Unsafe: .*${first.toFixed(3)}.*Ran onCPU.*The guardian answers instead.{40}`), "the demo's card");
    assert.ok("end" in told, `it got as far as ${Object.keys(told).at(-1)}`);
  });
}

test("Firefox's WebGPU gives the CPU's scores, by the kernels of a wide GPU", { skip: !firefox && "no Firefox here", timeout: 8 * MINUTES }, async () => {
  const preferences = ["dom.webgpu.enabled", "dom.webgpu.workers.enabled", "gfx.webgpu.ignore-blocklist"];
  const { told } = await visit(inFirefox, 7 * MINUTES, { query: "?gpu", preferences });
  assert.equal(told.failed, undefined, told.failed);
  assert.deepEqual([told.info.backend, told.info.adapter.wide, told.info.adapter.packed], ["gpu", true, true]);
  // The two engines may differ by as much.
  const near = (got, score, what) => assert.ok(Math.abs(got - score) < 0.02, `${what}: ${got}, on the CPU ${score}`);
  [...texts.prompts, LONG].forEach((text, index) => near(told.scores[index], [...want.scores, want.long][index], text));
  told.batch.forEach((got, index) => near(got, want.scores[index], `in a batch: ${texts.prompts[index]}`));
  assert.equal(told.reply, want.start);
  assert.ok("end" in told, `it got as far as ${Object.keys(told).at(-1)}`);
});
