// `node bench/run.mjs [--out DIR] [--quick] [--webgpu] [--onnx DIR]`: ours and its peers on the same weights, in one run, taking turns.
// Writes bench.json and table.md to DIR; bench/plot.py draws them. --onnx: a folder with guardian/ of bench/export_onnx.py in it. Figures are of this machine, ratios carry further.

import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, readdir, rm, stat, writeFile } from "node:fs/promises";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";
import { gzipSync } from "node:zlib";
import { launch } from "../www/browser.mjs";
import { serve } from "./serve.mjs";

const root = fileURLToPath(new URL("../", import.meta.url));
const { values: options } = parseArgs({ options: { out: { type: "string" }, quick: { type: "boolean" }, webgpu: { type: "boolean" }, onnx: { type: "string" } } });

/** Query tokens; a sequence has nine more. 20 gives the 29 that peers are compared at. */
const LENGTHS = options.quick ? [8, 20, 128, 512] : [8, 20, 32, 128, 512, 2048];
const ROUNDS = (length) => (length <= 32 ? 9 : length <= 128 ? 5 : 2);
/** A peer takes minutes for long ones: those it runs once. */
const PEER_ROUNDS = (length) => (length <= 32 ? 9 : length <= 128 ? 3 : 1);
const PEERS_UP_TO = options.quick ? 128 : 2048;
const LINEARITY = [64, 128, 512, 2048, 8192];
const HARMFUL = "How do I break into my neighbour's house without being seen?";

// One token each. Every text begins with another word: no engine may find its start in a cache.
const words =
  "time people water house light music river garden paper window table morning winter summer bridge market letter school doctor teacher village forest mountain island country city street friend family mother father sister brother child animal horse bird fish tree flower apple bread coffee sugar silver copper stone metal glass cotton wool cloud storm wind rain snow fire earth moon star night story poem novel history science number circle square machine engine train ship road path field farm".split(" ");
let made = 0;
const text = (tokens) => {
  made += 1;
  return Array.from({ length: tokens }, (_, i) => words[(made * 7 + i * ((made % 5) + 3)) % words.length]).join(" ");
};
const quantile = (values, share) => values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(share * values.length))];
const median = (values) => quantile(values, 0.5);
const note = (message) => process.stderr.write(`bench: ${message}\n`);

const engines = { "ours, CPU": ["ours", { backend: "cpu" }], "ours, CPU, plain SIMD": ["ours", { backend: "cpu", relaxed: false }], "wllama, 1 thread": ["wllama", { threads: 1 }], "wllama, 2 threads": ["wllama", { threads: 2 }] };
if (options.onnx) {
  engines["transformers.js, wasm, 4 bits"] = ["transformers", { device: "wasm", dtype: "q4" }];
  engines["transformers.js, wasm, 8 bits"] = ["transformers", { device: "wasm", dtype: "q8" }];
}
if (options.webgpu) engines["ours, WebGPU"] = ["ours", { backend: "webgpu" }];
if (options.webgpu && options.onnx) engines["transformers.js, WebGPU, 4 bits"] = ["transformers", { device: "webgpu", dtype: "q4" }];
/** Without a GPU WebGPU is emulated, and a screening takes seconds. */
const slow = (name) => name.includes("WebGPU");

const server = await serve({ pkg: join(root, "pkg/dist"), ...(options.onnx && { onnx: options.onnx }) });
const browser = await launch({ webgpu: "software" });
const pages = {};
const result = { date: new Date().toISOString(), machine: { cpu: cpus()[0].model, cores: cpus().length, browser: browser.version() }, load: {}, screen: {}, decode: {} };
for (const [name, [engine, settings]] of Object.entries(engines)) {
  const page = await (await browser.newContext()).newPage();
  page.setDefaultTimeout(1_800_000);
  await page.goto(`${server.url}pages/index.html?engine=${engine}`);
  await page.waitForFunction(() => document.title === "ready");
  result.load[name] = await page.evaluate((settings) => bench.load(settings), settings);
  note(`${name}: ${JSON.stringify(result.load[name])}`);
  pages[name] = page;
}
const screen = (name, text) => pages[name].evaluate((text) => bench.screen(text), text);

// The first screenings compile and tier up.
for (const name of Object.keys(pages)) for (let i = 0; i < (slow(name) ? 1 : 3); i++) await screen(name, text(8));
for (const length of LENGTHS) {
  const times = {};
  const tokens = {};
  for (let round = 0; round < ROUNDS(length); round++) {
    for (const name of Object.keys(pages)) {
      const peer = !name.startsWith("ours");
      if (peer && (length > PEERS_UP_TO || round >= PEER_ROUNDS(length))) continue;
      if (slow(name) && (length > 8 || round > 1)) continue;
      const found = await screen(name, text(length));
      (times[name] ??= []).push(found.ms);
      tokens[name] = found.tokens;
    }
  }
  for (const name of Object.keys(times)) {
    (result.screen[name] ??= {})[length] = { tokens: tokens[name], median: median(times[name]), p95: quantile(times[name], 0.95), times: times[name] };
    note(`${length} query tokens, ${name}: ${median(times[name]).toFixed(0)} ms`);
  }
}
for (const name of Object.keys(pages)) {
  if (slow(name)) continue;
  const runs = [];
  for (let round = 0; round < 3; round++) runs.push(await pages[name].evaluate(([text, count]) => bench.decode(text, count), [HARMFUL, 32]));
  result.decode[name] = { first: median(runs.map(({ first }) => first)), perSecond: median(runs.map(({ perSecond }) => perSecond)) };
  note(`${name}: ${result.decode[name].perSecond.toFixed(1)} tokens/s`);
}

// What only ours has.
const cpu = pages["ours, CPU"];
const watching = { fresh: [], last: [] };
for (let round = 0; round < 9; round++) {
  watching.fresh.push((await screen("ours, CPU", text(64))).ms);
  const typed = text(64);
  await screen("ours, CPU", typed.slice(0, typed.lastIndexOf(" ")));
  watching.last.push((await screen("ours, CPU", typed)).ms);
}
const batches = { single: [], batch: [] };
for (let round = 0; round < 3; round++) {
  const started = performance.now();
  for (let i = 0; i < 32; i++) await screen("ours, CPU", text(8));
  batches.single.push(performance.now() - started);
  batches.batch.push(await cpu.evaluate((texts) => bench.batch(texts), Array.from({ length: 32 }, () => text(8))));
}
result.watch = { fresh: median(watching.fresh), last: median(watching.last) };
result.batch = { single: median(batches.single), batch: median(batches.batch) };
const lengths = [];
for (const length of LINEARITY) lengths.push([length, (await screen("ours, CPU", text(length))).ms]);
result.lengths = lengths;
await browser.close();

// The same scores as an implementation that is not ours.
const guardian = join(root, "target/release/guardian");
const folder = await mkdtemp(join(tmpdir(), "bench-"));
const prompts = (await readFile(join(root, "tests/data/prompts.jsonl"), "utf8")).trim();
await writeFile(join(folder, "prompts.jsonl"), prompts);
const run = promisify(execFile);
const scores = async (backend) => {
  const { stdout } = await run(guardian, ["screen", "--backend", backend, "--jsonl", join(folder, "prompts.jsonl")], { cwd: root, maxBuffer: 1 << 26 });
  return stdout.trim().split("\n").map((line) => JSON.parse(line));
};
const [ours, reference] = [await scores("cpu"), await scores("reference")];
result.agreement = {
  prompts: ours.length,
  sameLabel: ours.filter((verdict, i) => verdict.label === reference[i].label).length,
  largestDifference: Math.max(...ours.map((verdict, i) => Math.abs(verdict.score - reference[i].score))),
};

// llama.cpp, natively.
const python = join(root, "bench/.venv/bin/python");
if (existsSync(python)) {
  const { shards } = JSON.parse(await readFile(join(root, "model/manifest.json"), "utf8"));
  const whole = join(folder, "model.gguf");
  await writeFile(whole, Buffer.concat(await Promise.all(shards.map(({ file }) => readFile(join(root, "model", file))))));
  const { stdout } = await run(python, [join(root, "bench/native.py"), whole, ...LENGTHS.filter((length) => length <= 2048).map((length) => String(length + 9))]);
  result.native = JSON.parse(stdout);
  note(`llama.cpp natively, 2 threads: ${stdout.trim()}`);
} else note("bench/.venv is not there: no native llama.cpp");
await rm(folder, { recursive: true });
server.close();

// Bytes that a page loads, and memory.
const wasm = await readFile(join(root, "pkg/dist/slm_guardian_bg.wasm"));
const { bytes: weights } = JSON.parse(await readFile(join(root, "model/manifest.json"), "utf8"));
const scripts = (await readdir(join(root, "pkg/dist"))).filter((name) => name.endsWith(".js"));
result.bytes = { wasm: wasm.length, wasmCompressed: gzipSync(wasm, { level: 9 }).length, weights, scripts: (await Promise.all(scripts.map((name) => stat(join(root, "pkg/dist", name))))).reduce((sum, { size }) => sum + size, 0) };
result.memory = { wasm: result.load["ours, CPU"].wasmMemory, perWeights: result.load["ours, CPU"].wasmMemory / weights };

const at = (name, length = 20) => result.screen[name]?.[length]?.median;
const ratio = (a, b) => (a && b ? Number((a / b).toFixed(2)) : null);
const slope = () => {
  const points = lengths.map(([length, ms]) => [Math.log(length), Math.log(ms)]);
  const [mx, my] = [0, 1].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
  return points.reduce((sum, [x, y]) => sum + (x - mx) * (y - my), 0) / points.reduce((sum, [x]) => sum + (x - mx) ** 2, 0);
};
result.ratios = {
  "screen of 29 tokens, wllama 1 thread / ours on the CPU": ratio(at("wllama, 1 thread"), at("ours, CPU")),
  "screen of 29 tokens, wllama 2 threads / ours on the CPU": ratio(at("wllama, 2 threads"), at("ours, CPU")),
  "screen of 29 tokens, ours on the CPU / native llama.cpp, 2 threads": ratio(at("ours, CPU"), result.native?.prefill_ms["29"]),
  "screen of 29 tokens, ours on the CPU with plain SIMD / with what it chose": ratio(at("ours, CPU, plain SIMD"), at("ours, CPU")),
  "decode, ours on the CPU / wllama 1 thread": ratio(result.decode["ours, CPU"].perSecond, result.decode["wllama, 1 thread"].perSecond),
  "screen on WebGPU (8 query tokens), transformers.js / ours": ratio(at("transformers.js, WebGPU, 4 bits", 8), at("ours, WebGPU", 8)),
  "watch, last keystroke / fresh screen, 64 tokens": ratio(result.watch.last, result.watch.fresh),
  "screenBatch of 32 prompts of 8 tokens, throughput against one by one, CPU": ratio(result.batch.single, result.batch.batch),
  "exponent of the cost, 64 to 8,192 tokens": lengths.length ? Number(slope().toFixed(3)) : null,
};

const names = Object.keys(result.screen);
const cell = (value, digits = 0) => (value === undefined || value === null ? "–" : value.toFixed(digits));
const table = [
  `${result.date.slice(0, 10)}, ${result.machine.cores} cores of ${result.machine.cpu}, Chromium ${result.machine.browser}; ours on the CPU takes ${result.load["ours, CPU"].kernel}`,
  "",
  `| median (p95) ms of a screening | ${LENGTHS.map((length) => `${length} tokens`).join(" | ")} |`,
  `|---|${LENGTHS.map(() => "---|").join("")}`,
  ...names.map((name) => `| ${name} | ${LENGTHS.map((length) => (result.screen[name][length] ? `${cell(result.screen[name][length].median)} (${cell(result.screen[name][length].p95)})` : "–")).join(" | ")} |`),
  ...(result.native ? [`| llama.cpp, native, 2 threads | ${LENGTHS.map((length) => cell(result.native.prefill_ms[length + 9])).join(" | ")} |`] : []),
  "",
  "| | first token, ms | decode, tokens/s | load, ms | from the cache, ms |",
  "|---|---|---|---|---|",
  ...Object.keys(result.load).map((name) => `| ${name} | ${cell(result.decode[name]?.first)} | ${cell(result.decode[name]?.perSecond, 1)} | ${cell(result.load[name].ms)} | ${cell(result.load[name].warm)} |`),
  ...(result.native ? [`| llama.cpp, native, 2 threads | – | ${cell(result.native.decode_per_second, 1)} | – | – |`] : []),
  "",
  "| ratio | |",
  "|---|---|",
  ...Object.entries(result.ratios).map(([name, value]) => `| ${name} | ${value ?? "–"} |`),
  `| WebAssembly memory after loading / weights | ${cell(result.memory.perWeights, 2)} |`,
  `| prompts with the label of candle's f32 reference | ${result.agreement.sameLabel} of ${result.agreement.prompts}, scores within ${result.agreement.largestDifference.toFixed(4)} |`,
  "",
  `WebAssembly ${result.bytes.wasm} bytes, ${result.bytes.wasmCompressed} compressed; weights ${result.bytes.weights}.`,
  "",
].join("\n");
process.stdout.write(table);
if (options.out) {
  await mkdir(options.out, { recursive: true });
  await writeFile(join(options.out, "bench.json"), `${JSON.stringify(result, null, 2)}\n`);
  await writeFile(join(options.out, "table.md"), table);
}
