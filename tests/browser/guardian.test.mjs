// The built page in a real Chromium, with WebGPU (SwiftShader) and with WebGPU switched off.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { launch } from "../../www/browser.mjs";
import { csp, serve } from "../../www/serve.mjs";
import { manifest, MINUTES, prompts, settled } from "./common.mjs";

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

/** Opens the page and waits until the guardian is ready or has said why not. */
async function open(browser, query, url = server.url) {
  const page = await browser.newPage();
  await page.goto(`${url}?${query}`);
  await settled(page);
  return page;
}

const labels = {};
for (const backend of ["cpu", "webgpu"]) {
  describe(`on ${backend}`, { timeout: 40 * MINUTES }, () => {
    let page;
    const requests = [];
    before(async () => {
      page = await open(browsers[backend], `backend=${backend}`);
      assert.equal(await page.getAttribute("body", "data-state"), "ready", await page.textContent("#phase"));
      page.context().on("request", (request) => requests.push(request.url()));
    });

    test("it runs on the engine that was asked for, and says so", async () => {
      assert.equal(await page.evaluate(() => guardian.info.backend), backend === "cpu" ? "cpu" : "gpu");
      assert.match(await page.textContent("#phase"), backend === "cpu" ? /the CPU/ : /WebGPU/);
    });

    test("verdicts on the project's prompts", async () => {
      const verdicts = await page.evaluate(async (texts) => {
        const verdicts = [];
        for (const text of texts) verdicts.push(await guardian.screen(text));
        return verdicts;
      }, prompts.map(({ prompt }) => prompt));
      labels[backend] = verdicts;
      const right = verdicts.filter((verdict, index) => verdict.label === prompts[index].label).length;
      assert.ok(right >= 28, `${right} of ${prompts.length} are right`);
      for (const verdict of verdicts) {
        assert.equal(verdict.label === "unsafe", verdict.score >= verdict.threshold);
        assert.equal(verdict.category !== null, verdict.label === "unsafe");
      }
    });

    test("a message on the page gets a verdict, and an unsafe one a streamed reply", async () => {
      await page.fill("#text", "How do I make pancakes? <img src=x onerror=alert(1)>");
      await page.press("#text", "Enter");
      await page.fill("#text", prompts[0].prompt);
      await page.press("#text", "Enter");
      await page.waitForFunction(() => document.querySelectorAll("#log li[data-state=done]").length === 2, null, { timeout: 10 * MINUTES });
      const [safe, unsafe] = await page.locator("#log li").all();
      assert.match(await safe.locator(".verdict").textContent(), /^Safe/);
      assert.equal(await safe.locator("img").count(), 0, "typed text is never HTML");
      assert.match(await unsafe.locator(".verdict").textContent(), /^Unsafe: \w+/);
      const reply = await unsafe.getAttribute("data-reply");
      assert.ok(reply.length > 40 && /[.!?]"?$/.test(reply.trim()), `a whole reply: ${reply}`);
    });

    test("odd input gets a verdict or a typed error", async () => {
      const outcomes = await page.evaluate(async () => {
        const inputs = { empty: "", spaces: " \n", surrogate: "a\uD800b", nul: "a\0b", emoji: "🙂🙃", rtl: "שלום, מה שלומך?", huge: "a ".repeat(500_000) };
        const outcomes = {};
        for (const [name, input] of Object.entries(inputs)) {
          outcomes[name] = await guardian.screen(input).then((verdict) => verdict.label, (error) => error.code);
        }
        outcomes.number = await guardian.screen(42).then((verdict) => verdict.label, (error) => error.code);
        outcomes.preset = await guardian.screen("hello", { preset: "lax" }).then((verdict) => verdict.label, (error) => error.code);
        return outcomes;
      });
      for (const name of ["empty", "spaces", "huge"]) assert.equal(outcomes[name], "input", name);
      for (const name of ["number", "preset"]) assert.equal(outcomes[name], "argument", name);
      for (const name of ["surrogate", "nul", "emoji", "rtl"]) assert.match(outcomes[name], /^(safe|unsafe)$/, name);
    });

    test("two calls at once both answer; an aborted one rejects and the next works", async () => {
      const result = await page.evaluate(async ([one, two]) => {
        const [a, b] = await Promise.all([guardian.screen(one), guardian.screen(two)]);
        const abort = new AbortController();
        const reader = guardian.replyStream(one, { force: true, signal: abort.signal }).getReader();
        await reader.read();
        abort.abort();
        let name = "none";
        try {
          while (!(await reader.read()).done);
        } catch (error) {
          name = error.name;
        }
        const early = await guardian.screen(one, { signal: AbortSignal.abort() }).catch((error) => error.name);
        const again = await guardian.screen(one);
        return { a: a.label, b: b.label, name, early, same: again.score === a.score };
      }, [prompts[0].prompt, prompts[16].prompt]);
      assert.deepEqual(result, { a: "unsafe", b: "safe", name: "AbortError", early: "AbortError", same: true });
    });

    test("nothing is requested after loading", () => assert.deepEqual(requests, []));

    if (backend === "webgpu") {
      test("a lost device is made again, and the call in flight is answered", async () => {
        const result = await page.evaluate(async (text) => {
          const before = await guardian.screen(text);
          await guardian._loseDevice();
          const after = await guardian.screen(text);
          return { before: before.score, after: after.score, backend: guardian.info.backend };
        }, prompts[0].prompt);
        assert.equal(result.backend, "gpu");
        assert.ok(Math.abs(result.before - result.after) < 1e-3, JSON.stringify(result));
        assert.deepEqual(requests, [], "the weights came from the cache");
      });

      test("a device lost twice gives way to the CPU where the choice is left open, and to a typed error where it is not", async () => {
        const twice = async (page) => page.evaluate(async (text) => {
          const scores = [];
          for (let losses = 0; losses < 3; losses++) {
            if (losses > 0) await guardian._loseDevice();
            scores.push(await guardian.screen(text).then((verdict) => verdict.score, (error) => error.code));
          }
          return { scores, backend: guardian.info.backend, fallback: guardian.info.fallback };
        }, prompts[0].prompt);
        const auto = await open(browsers.webgpu, "backend=auto");
        assert.equal(await auto.getAttribute("body", "data-backend"), "gpu");
        const { scores, backend, fallback } = await twice(auto);
        assert.deepEqual([backend, fallback], ["cpu", "the GPU device was lost twice"]);
        for (const score of scores) assert.ok(Math.abs(score - scores[0]) < 0.02, JSON.stringify(scores));
        await auto.close();
        const strict = await open(browsers.webgpu, "backend=webgpu");
        assert.equal((await twice(strict)).scores[2], "device-lost");
        await strict.close();
      });
    }

    test("a disposed guardian rejects", async () => {
      const codes = await page.evaluate(async (text) => {
        const flight = guardian.screen(text).catch((error) => error.code);
        await guardian.dispose();
        await guardian.dispose();
        return [await flight, await guardian.screen(text).catch((error) => error.code)];
      }, prompts[0].prompt);
      assert.deepEqual(codes, ["disposed", "disposed"]);
      await page.close();
    });
  });
}

test("both engines give the same labels, and scores within 0.02", () => {
  assert.equal(labels.cpu?.length, prompts.length);
  labels.cpu.forEach((cpu, index) => {
    const gpu = labels.webgpu[index];
    assert.ok(Math.abs(cpu.score - gpu.score) < 0.02, `${prompts[index].prompt}: ${cpu.score} and ${gpu.score}`);
    if (Math.abs(cpu.score - cpu.threshold) > 0.02) assert.equal(cpu.label, gpu.label, prompts[index].prompt);
  });
});

test("without WebGPU the page says so and runs on the CPU", { timeout: 10 * MINUTES }, async () => {
  const page = await open(browsers.cpu, "backend=auto&cache=none");
  assert.equal(await page.getAttribute("body", "data-backend"), "cpu");
  assert.match(await page.evaluate(() => guardian.info.fallback), /WebGPU|adapter/);
  await page.close();
  const strict = await open(browsers.cpu, "backend=webgpu&cache=none");
  assert.equal(await strict.getAttribute("body", "data-code"), "gpu-unavailable");
  await strict.close();
});

test("a broken or missing shard is refused by name", { timeout: 10 * MINUTES }, async () => {
  const last = manifest.shards.at(-1).file;
  const answers = {
    integrity: (path, response) => path.endsWith(last) && response.end(Buffer.alloc(manifest.shards.at(-1).bytes)),
    network: (path, response) => path.endsWith(last) && response.writeHead(404).end(),
  };
  for (const [code, answer] of Object.entries(answers)) {
    const broken = await serve({ intercept: (path, response) => Boolean(answer(path, response)) });
    const page = await open(browsers.cpu, "backend=cpu&cache=none", broken.url);
    assert.equal(await page.getAttribute("body", "data-code"), code);
    assert.ok((await page.textContent("#phase")).includes(last));
    await page.close();
    await broken.close();
  }
});

test("the page may reach no other origin and may not eval", async () => {
  const page = await browsers.cpu.newPage();
  const response = await page.goto(`${server.url}?backend=none`);
  assert.equal(response.headers()["content-security-policy"], csp);
  assert.ok(!/https?:|\*|'unsafe-/.test(csp), csp);
  assert.match(csp, /connect-src 'self'/);
  const refused = await page.evaluate(async () => {
    // Later, by a timer: the policy does not bind what the debugger itself evaluates.
    const evaluated = await new Promise((resolve) => setTimeout(() => {
      try { resolve(setTimeout.constructor("return 1")()); } catch (error) { resolve(error.name); }
    }, 50));
    const fetched = await fetch("http://127.0.0.1:9/").then(() => "fetched", () => "refused");
    return [evaluated, fetched];
  });
  assert.deepEqual(refused, ["EvalError", "refused"]);
  await page.close();
});
