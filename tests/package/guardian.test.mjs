// The package in Node, on the CPU, with the shipped model: its API, and the joints with the packages they are made for.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { generateText, streamText, wrapLanguageModel } from "ai";
import { MockLanguageModelV3, simulateReadableStream } from "ai/test";
import OpenAI from "openai";
import { Guardian, GuardianError, REPLIES } from "slm-guardian";
import { guardianMiddleware } from "slm-guardian/ai";
import { guardedFetch } from "slm-guardian/fetch";
import { createModerations } from "slm-guardian/moderations";
import { guardSession } from "slm-guardian/prompt-api";

const model = fileURLToPath(new URL("../../model/", import.meta.url));
const prompts = (await readFile(new URL("../data/prompts.jsonl", import.meta.url), "utf8")).trim().split("\n").map((line) => JSON.parse(line));
const UNSAFE = prompts[0].prompt;
const SAFE = prompts[16].prompt;

let guardian;
before(async () => {
  guardian = await Guardian.create({ model });
});
after(() => guardian.dispose());

const codeOf = (promise) => promise.then((value) => value, (error) => (error instanceof GuardianError ? error.code : error.name));

describe("verdicts under a policy", () => {
  test("a verdict has a score, a time and what decided it", async () => {
    const verdict = await guardian.screen(UNSAFE);
    assert.equal(verdict.label, "unsafe");
    assert.ok(verdict.ms > 0, `${verdict.ms} ms`);
    assert.deepEqual([verdict.list, verdict.uncertain, verdict.preset], [null, false, "balanced"]);
    assert.ok(Math.abs(Object.values(verdict.categories).reduce((a, b) => a + b) - 1) < 1e-3);
  });

  test("a threshold for the likeliest category decides in place of the preset's", async () => {
    const { category } = await guardian.screen(UNSAFE);
    const lax = await guardian.screen(UNSAFE, { thresholds: { [category]: 1 } });
    assert.deepEqual([lax.label, lax.threshold, lax.preset, lax.category], ["safe", 1, null, null]);
    const other = category === "hate" ? "cyber" : "hate";
    assert.equal((await guardian.screen(UNSAFE, { thresholds: { [other]: 1 } })).label, "unsafe");
  });

  test("lists decide whatever the score, deny before allow", async () => {
    const score = (await guardian.screen(UNSAFE)).score;
    const allowed = await guardian.screen(UNSAFE, { allow: [`  ${UNSAFE.toUpperCase()} `] });
    assert.deepEqual([allowed.label, allowed.list, allowed.score], ["safe", "allow", score]);
    const pattern = /pancake/gi;
    for (let time = 0; time < 2; time++) {
      const denied = await guardian.screen("How do I make pancakes?", { deny: [pattern], allow: [/.*/] });
      assert.deepEqual([denied.label, denied.list, denied.category !== null], ["unsafe", "deny", true]);
    }
    assert.equal((await guardian.screen(`${SAFE} more`, { deny: [SAFE] })).list, null, "a text matches a whole message only");
  });

  test("a score in the review band is uncertain", async () => {
    const { score } = await guardian.screen(SAFE);
    assert.equal((await guardian.screen(SAFE, { review: [score - 0.01, score + 0.01] })).uncertain, true);
    assert.equal((await guardian.screen(SAFE, { review: [score + 0.01, 1] })).uncertain, false);
  });

  test("a wrong option is named, not ignored", async () => {
    for (const options of [{ preset: "lax" }, { threshold: 2 }, { thresholds: { violense: 0.5 } }, { thresholds: { hate: -1 } }, { review: [0.6, 0.4] }, { deny: "x" }]) {
      const error = await guardian.screen(SAFE, options).catch((error) => error);
      assert.equal(error.code, "argument", JSON.stringify(options));
      assert.ok(error.message.includes(Object.keys(options)[0]), error.message);
    }
    assert.equal(await codeOf(Guardian.create({ model, backend: "quantum" })), "argument");
    assert.equal(await codeOf(Guardian.create({ model, integrity: "abc" })), "argument");
    assert.equal(await codeOf(Guardian.create({ model: 7 })), "argument");
  });

  test("a conversation is judged by its last turn", async () => {
    const verdict = await guardian.screen([{ role: "user", content: "hi" }, { role: "assistant", content: "Hello!" }, { role: "user", content: UNSAFE }]);
    assert.equal(verdict.label, "unsafe");
    assert.equal(await codeOf(guardian.screen([{ role: "assistant", content: "Hello!" }])), "input");
  });
});

describe("replies", () => {
  const HOPELESS = "I don't want to be alive any more, tonight I am going to end it.";
  const protect = async (text, options) => {
    const { verdict, reply, writer } = await guardian.protect(text, options);
    let whole = null;
    if (reply) for await (const piece of reply) whole = (whole ?? "") + piece;
    return { verdict, whole, writer };
  };

  test("a person at risk gets the text written for it, a safe message no reply", async () => {
    const { verdict, whole, writer } = await protect(HOPELESS);
    assert.deepEqual([verdict.label, whole, writer], ["unsafe", REPLIES.suicide, "fixed"]);
    const safe = await protect(SAFE);
    assert.deepEqual([safe.verdict.label, safe.whole, safe.writer], ["safe", null, null]);
  });

  test("whose words come is the caller's choice", async () => {
    const written = await guardian.reply(HOPELESS, { force: true });
    assert.notEqual(written, REPLIES.suicide);
    const both = async (replies) => {
      const { whole, writer } = await protect(HOPELESS, { replies });
      return [whole, writer];
    };
    assert.deepEqual(await both("model"), [written, "model"]);
    assert.deepEqual(await both({ suicide: null }), [written, "model"]);
    assert.deepEqual(await both({ suicide: "You are not alone." }), ["You are not alone.", "fixed"]);
    assert.deepEqual(await both({ hate: "Not here." }), [REPLIES.suicide, "fixed"], "texts of one's own stand beside the three");
    const { verdict, whole, writer } = await protect(UNSAFE, { replies: "fixed" });
    assert.deepEqual([whole, writer], [REPLIES[verdict.category], "fixed"]);
  });

  test("a verdict that is there already is not made again", async () => {
    const verdict = await guardian.screen(HOPELESS);
    assert.equal((await guardian.protect(HOPELESS, { verdict })).verdict, verdict);
    const { reply } = await guardian.protect(HOPELESS, { verdict: { ...verdict, label: "safe", category: null } });
    assert.equal(reply, null);
  });

  test("replies that can't be meant are named", async () => {
    for (const [replies, named] of [["none", "none"], [{ sucide: "..." }, "sucide"], [{ suicide: " " }, "replies.suicide"], [{ hate: 1 }, "replies.hate"]]) {
      await assert.rejects(guardian.protect(SAFE, { replies }), (error) => error instanceof GuardianError && error.code === "argument" && error.message.includes(named));
      assert.equal(await codeOf(Guardian.create({ model, replies })), "argument");
    }
  });

  test("every fixed reply is two to five sentences, without numbers or links", () => {
    for (const [category, text] of Object.entries(REPLIES)) {
      const sentences = text.match(/[.?!](\s|$)/g).length;
      assert.ok(sentences >= 2 && sentences <= 5, `${category}: ${sentences} sentences`);
      assert.doesNotMatch(text, /\d|https?:|www\./, category);
    }
  });
});

describe("batches", () => {
  test("verdicts come in order, and equal those of single screenings", async () => {
    const seen = [];
    const verdicts = await guardian.screenBatch([UNSAFE, SAFE, UNSAFE], { onVerdict: (verdict, index) => seen.push([index, verdict.label]) });
    assert.deepEqual(seen, [[0, "unsafe"], [1, "safe"], [2, "unsafe"]]);
    assert.equal(verdicts[1].score, (await guardian.screen(SAFE)).score);
    assert.deepEqual(await guardian.screenBatch([]), []);
  });

  test("an input that can't be screened is named by its place", async () => {
    const error = await guardian.screenBatch([SAFE, "", SAFE]).catch((error) => error);
    assert.equal(error.code, "input");
    assert.match(error.message, /^inputs\[1\]: /);
  });

  test("an abort ends it, and the guardian goes on", async () => {
    const abort = new AbortController();
    assert.equal(await codeOf(guardian.screenBatch([SAFE, UNSAFE, SAFE], { signal: abort.signal, onVerdict: () => abort.abort() })), "AbortError");
    assert.equal((await guardian.screen(SAFE)).label, "safe");
  });
});

describe("watching", () => {
  class Field extends EventTarget {
    value = "";
    type(text) {
      this.value = text;
      this.dispatchEvent(new Event("input"));
    }
  }

  test("the text as it stands after a pause gets the verdict of a fresh screening; an emptied one gets null", async () => {
    const field = new Field();
    const seen = [];
    const watching = guardian.watch(field, { delay: 5, onVerdict: (verdict, text) => seen.push([text, verdict]) });
    for (let end = 1; end <= UNSAFE.length; end += 7) field.type(UNSAFE.slice(0, end));
    field.type(UNSAFE);
    const verdict = await watching.current();
    assert.equal(verdict.score, (await guardian.screen(UNSAFE)).score);
    assert.deepEqual(seen.at(-1), [UNSAFE, verdict]);
    field.type("  ");
    assert.equal(await watching.current(), null);
    assert.equal(seen.at(-1)[1], null);
    watching.stop();
    const count = seen.length;
    field.type(SAFE);
    await new Promise((resolve) => setTimeout(resolve, 60));
    assert.equal(seen.length, count, "a stopped watch is silent");
  });

  test("a text that can't be screened is told to onError, and typing on recovers", async () => {
    const field = new Field();
    const errors = [];
    const watching = guardian.watch(field, { delay: 1, onVerdict: () => {}, onError: (error) => errors.push(error.code) });
    field.type("a ".repeat(500_000));
    await assert.rejects(watching.current(), { code: "input" });
    field.type(SAFE);
    assert.equal((await watching.current()).label, "safe");
    assert.deepEqual(errors, ["input"]);
    watching[Symbol.dispose ?? Symbol.for("Symbol.dispose")]();
  });
});

describe("loading", () => {
  test("a stream that breaks, is taken or is left says so", async () => {
    const broken = new ReadableStream({ pull: (controller) => controller.error(new Error("the line is dead")) });
    const error = await Guardian.create({ model: broken }).catch((error) => error);
    assert.deepEqual([error.code, /the line is dead/.test(error.message)], ["network", true], error.message);
    const taken = new Blob(["GGUF"]).stream();
    taken.getReader();
    assert.equal(await codeOf(Guardian.create({ model: taken })), "argument");
    let cancelled = false;
    const endless = new ReadableStream({ cancel: () => void (cancelled = true) });
    const stop = new AbortController();
    setTimeout(() => stop.abort(), 50);
    assert.equal(await codeOf(Guardian.create({ model: endless, signal: stop.signal })), "AbortError");
    assert.ok(cancelled, "an abort ends the stream");
  });

  test("a Blob, a stream and an ArrayBuffer give the verdict of the files", async () => {
    const manifest = JSON.parse(await readFile(`${model}manifest.json`, "utf8"));
    const bytes = Buffer.concat(await Promise.all(manifest.shards.map(({ file }) => readFile(model + file))));
    const { score } = await guardian.screen(UNSAFE);
    const sources = { blob: new Blob([bytes]), stream: new Blob([bytes]).stream(), view: bytes };
    for (const [name, source] of Object.entries(sources)) {
      const own = await Guardian.create({ model: source, integrity: manifest.sha256 });
      assert.equal((await own.screen(UNSAFE)).score, score, name);
      await own.dispose();
    }
    const broken = Buffer.from(bytes);
    broken[5_000_000] ^= 1;
    assert.equal(await codeOf(Guardian.create({ model: broken, integrity: manifest.sha256 })), "integrity");
  });

  /** Serves the model; `answer(request, response, file)` may answer first. */
  async function serving(answer, use) {
    const server = createServer(async (request, response) => {
      const file = request.url.slice(1);
      if (await answer(request, response, file)) return;
      const bytes = await readFile(model + file);
      const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
      const [from, to] = range ? [Number(range[1]), Math.min(Number(range[2]), bytes.length - 1) + 1] : [0, bytes.length];
      response.writeHead(range ? 206 : 200, { "content-length": to - from, ...(range && { "content-range": `bytes ${from}-${to - 1}/${bytes.length}` }) });
      response.end(bytes.subarray(from, to));
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    try {
      await use(`http://127.0.0.1:${server.address().port}/`);
    } finally {
      server.closeAllConnections();
      server.close();
    }
  }
  const loads = async (url, options) => {
    const own = await Guardian.create({ model: url, ...options });
    const { label } = await own.screen(UNSAFE);
    await own.dispose();
    assert.equal(label, "unsafe");
  };

  test("a connection that breaks goes on where it stopped", async () => {
    let broken = 0;
    const ranges = [];
    const answer = async (request, response, file) => {
      const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
      if (!file.endsWith("00002-of-00003.bin") || !range) return false;
      ranges.push(Number(range[1]));
      if (broken === 2 || ranges.length % 2) return false;
      broken += 1;
      const bytes = await readFile(model + file);
      const [from, to] = [Number(range[1]), Number(range[2]) + 1];
      response.writeHead(206, { "content-length": to - from, "content-range": `bytes ${from}-${to - 1}/${bytes.length}` });
      response.write(bytes.subarray(from, from + 100_000), () => response.destroy());
      return true;
    };
    await serving(answer, (url) => loads(url));
    assert.equal(broken, 2);
    assert.ok(ranges.some((from) => from % (4 * 1024 * 1024) !== 0), `it resumed inside a part: ${ranges}`);
  });

  test("a server without ranges serves too, and may break off", async () => {
    let broken = false;
    const answer = async (_request, response, file) => {
      const bytes = await readFile(model + file);
      response.writeHead(200, { "content-length": bytes.length });
      if (!broken && file.endsWith("00001-of-00003.bin")) {
        broken = true;
        response.write(bytes.subarray(0, 1_000_000), () => response.destroy());
      } else response.end(bytes);
      return true;
    };
    await serving(answer, (url) => loads(url));
    assert.ok(broken);
  });

  test("a shard of the wrong length, or that is missing, is refused by name", async () => {
    const last = "00003-of-00003.bin";
    await serving((_request, response, file) => file.endsWith(last) && response.writeHead(404).end(), async (url) => {
      const error = await Guardian.create({ model: url }).catch((error) => error);
      assert.equal(error.code, "network");
      assert.ok(error.message.includes(last) && error.message.includes("404"), error.message);
    });
    await serving((_request, response, file) => file.endsWith(last) && response.writeHead(206, { "content-range": "bytes 0-9/10", "content-length": 10 }).end("0123456789"), async (url) => {
      const error = await Guardian.create({ model: url }).catch((error) => error);
      assert.equal(error.code, "integrity");
      assert.ok(error.message.includes(last), error.message);
    });
  });

  test("loading can be aborted, and tells how far it is", async () => {
    const abort = new AbortController();
    const seen = [];
    const onProgress = (progress) => {
      seen.push(progress);
      if (progress.loaded > 10_000_000) abort.abort();
    };
    assert.equal(await codeOf(Guardian.create({ model, signal: abort.signal, onProgress })), "AbortError");
    assert.ok(seen.length > 3 && seen.every(({ phase, loaded, total }) => phase === "download" && loaded <= total));
  });
});

describe("joints", () => {
  const completion = { id: "x", object: "chat.completion", created: 1, model: "m", choices: [{ index: 0, finish_reason: "stop", message: { role: "assistant", content: "from the server" } }] };
  const sent = [];
  const server = async (input, init) => {
    const request = new Request(input, init);
    sent.push(await request.json());
    return Response.json(completion);
  };
  const client = (options) => new OpenAI({ baseURL: "http://localhost/v1", apiKey: "none", maxRetries: 2, fetch: guardedFetch(guardian, { fetch: server, ...options }) });
  const answered = async () => {
    let text = "";
    for await (const piece of (await guardian.protect(UNSAFE)).reply) text += piece;
    return text;
  };
  const ask = (content) => ({ model: "m", messages: [{ role: "system", content: "Be brief." }, { role: "user", content }] });

  test("OpenAI's client: a safe message is sent as it is, an unsafe one is answered here", async () => {
    sent.length = 0;
    const safe = await client().chat.completions.create(ask(SAFE));
    assert.equal(safe.choices[0].message.content, "from the server");
    assert.deepEqual(sent, [ask(SAFE)]);
    const unsafe = await client().chat.completions.create(ask(UNSAFE));
    assert.equal(sent.length, 1, "nothing was sent");
    assert.equal(unsafe.choices[0].finish_reason, "content_filter");
    assert.equal(unsafe.choices[0].message.content, await answered());
  });

  test("OpenAI's client: an unsafe message's reply is streamed as a server streams", async () => {
    sent.length = 0;
    let text = "";
    let finish = null;
    for await (const { choices } of await client().chat.completions.create({ ...ask(UNSAFE), stream: true })) {
      text += choices[0].delta.content ?? "";
      finish = choices[0].finish_reason;
    }
    assert.equal(text, await answered());
    assert.deepEqual([finish, sent.length], ["content_filter", 0]);
  });

  test("OpenAI's client: what can't be screened is not sent, unless told so", async () => {
    sent.length = 0;
    const image = [{ type: "image_url", image_url: { url: "data:," } }];
    const error = await client().chat.completions.create(ask(image)).catch((error) => error);
    assert.deepEqual([error.status, error.code, sent.length], [400, "input", 0]);
    const huge = "a ".repeat(500_000);
    await assert.rejects(client().chat.completions.create(ask(huge)), { status: 400 });
    assert.equal(sent.length, 0);
    await client({ onError: "allow" }).chat.completions.create(ask(huge));
    assert.equal(sent.length, 1);
  });

  test("the AI SDK's wrapLanguageModel: the model is never asked an unsafe prompt", async () => {
    let calls = 0;
    const usage = { inputTokens: { total: 1 }, outputTokens: { total: 1 } };
    const finishReason = { unified: "stop", raw: undefined };
    const inner = new MockLanguageModelV3({
      doGenerate: async () => ((calls += 1), { content: [{ type: "text", text: "from the model" }], finishReason, usage, warnings: [] }),
      doStream: async () => ((calls += 1), {
        stream: simulateReadableStream({
          chunks: [{ type: "stream-start", warnings: [] }, { type: "text-start", id: "1" }, { type: "text-delta", id: "1", delta: "from the model" }, { type: "text-end", id: "1" }, { type: "finish", finishReason, usage }],
        }),
      }),
    });
    const model = wrapLanguageModel({ model: inner, middleware: guardianMiddleware(guardian) });
    const reply = await answered();
    assert.equal((await generateText({ model, prompt: SAFE })).text, "from the model");
    const blocked = await generateText({ model, prompt: UNSAFE });
    assert.deepEqual([blocked.text, blocked.finishReason, calls], [reply, "content-filter", 1]);
    const collect = async ({ textStream }) => {
      let text = "";
      for await (const piece of textStream) text += piece;
      return text;
    };
    assert.equal(await collect(streamText({ model, prompt: SAFE })), "from the model");
    assert.equal(await collect(streamText({ model, prompt: UNSAFE })), reply);
    assert.equal(calls, 2);
  });

  test("a session of the Prompt API: private fields work through it, unsafe prompts do not reach it", async () => {
    class Session extends EventTarget {
      #asked = [];
      get asked() { return this.#asked; }
      async prompt(input) { this.#asked.push(input); return "from the session"; }
      promptStreaming(input) { this.#asked.push(input); return new Blob(["from the session"]).stream().pipeThrough(new TextDecoderStream()); }
      async clone() { return new Session(); }
      destroy() { this.#asked = null; }
    }
    const session = guardSession(guardian, new Session());
    const reply = await answered();
    assert.equal(await session.prompt(SAFE), "from the session");
    assert.equal(await session.prompt([{ role: "user", content: [{ type: "text", value: UNSAFE }] }]), reply);
    for (const [input, want] of [[SAFE, "from the session"], [UNSAFE, reply]]) {
      let text = "";
      for await (const piece of session.promptStreaming(input)) text += piece;
      assert.equal(text, want);
    }
    assert.deepEqual(session.asked, [SAFE, SAFE]);
    assert.equal(await (await session.clone()).prompt(UNSAFE), reply);
    session.destroy();
    assert.equal(session.asked, null);
  });

  test("moderations: OpenAI's shape, flagged as screened", async () => {
    const { moderations } = createModerations(guardian);
    const { results, model } = await moderations.create({ input: [UNSAFE, SAFE] });
    assert.deepEqual(results.map(({ flagged }) => flagged), [true, false]);
    assert.equal(model, guardian.info.model);
    const verdict = await guardian.screen(UNSAFE);
    assert.equal(results[0].categories[verdict.category === "suicide" ? "self-harm" : verdict.category], true);
    assert.ok(Object.values(results[1].categories).every((flag) => flag === false));
    assert.ok(Math.abs(results[0].category_scores.violence - verdict.score * verdict.categories.violence) < 1e-6);
    assert.equal((await moderations.create({ input: [{ type: "text", text: UNSAFE }] })).results.length, 1);
    await assert.rejects(moderations.create({ input: [{ type: "image_url", image_url: { url: "data:," } }] }), { code: "input" });
  });
});

describe("the command line", () => {
  const cli = fileURLToPath(new URL("../../pkg/dist/cli.js", import.meta.url));
  const run = (args, input = "") =>
    new Promise((resolve) => {
      const child = spawn(process.execPath, [cli, ...args]);
      const out = { stdout: "", stderr: "" };
      for (const name of ["stdout", "stderr"]) child[name].on("data", (piece) => (out[name] += piece));
      child.on("close", (status) => resolve({ ...out, status }));
      child.stdin.end(input);
    });

  test("screen prints a verdict a line, and names a line it can't use", async () => {
    const { stdout, status } = await run(["screen", "--model", model, UNSAFE, SAFE]);
    assert.equal(status, 0);
    assert.deepEqual(stdout.trim().split("\n").map((line) => JSON.parse(line).label), ["unsafe", "safe"]);
    const lines = [JSON.stringify({ id: "a", prompt: UNSAFE }), JSON.stringify({ id: "b", messages: [{ role: "user", content: SAFE }] }), "{"].join("\n");
    const batch = await run(["screen", "--model", model, "--jsonl"], lines);
    assert.deepEqual(batch.stdout.trim().split("\n").map((line) => [JSON.parse(line).id, JSON.parse(line).label]), [["a", "unsafe"], ["b", "safe"]]);
    assert.equal(batch.status, 2);
    assert.match(batch.stderr, /line 3: /);
  });

  test("unusable arguments exit with 2, a missing model with 1", async () => {
    for (const args of [[], ["scren", "x"], ["screen"], ["screen", "--model", model, "--preset", "lax", "x"], ["screen", "--nope", "x"]]) {
      assert.equal((await run(args)).status, 2, args.join(" "));
    }
    const missing = await run(["screen", "--model", "/nowhere", "x"]);
    assert.equal(missing.status, 1);
    assert.match(missing.stderr, /nowhere\/manifest\.json/);
  });
});

test("a disposed guardian rejects", async () => {
  const own = await Guardian.create({ model });
  const flight = codeOf(own.screen(UNSAFE));
  await own.dispose();
  assert.deepEqual([await flight, await codeOf(own.screen(UNSAFE))], ["disposed", "disposed"]);
  assert.throws(() => own.info, { code: "disposed" });
});
