// What `npm pack` would publish: its files, its size, its types under every module resolution.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { publint } from "publint";
import { formatMessage } from "publint/utils";

const run = promisify(execFile);
const root = fileURLToPath(new URL("../../", import.meta.url));
const manifest = JSON.parse(await readFile(`${root}pkg/package.json`, "utf8"));

/** Bytes as packed: what a developer installs. */
const BUDGET = 1_200_000;

let packed;
before(async () => {
  [packed] = JSON.parse((await run("npm", ["pack", "--dry-run", "--json", "--workspace", "pkg"], { cwd: root })).stdout);
});

test("the package holds the built files, README and licence, and nothing else", () => {
  const allowed = /^(dist\/[a-z-]+\.(js|d\.ts)|dist\/slm_guardian(_bg\.wasm)?\.(js|d\.ts)|dist\/slm_guardian_bg\.wasm|README\.md|LICENSE|package\.json)$/;
  const names = packed.files.map(({ path }) => path);
  assert.deepEqual(names.filter((name) => !allowed.test(name)), []);
  for (const wanted of ["README.md", "LICENSE", "package.json"]) assert.ok(names.includes(wanted), wanted);
});

test("every export, and the command, is packed", () => {
  const names = new Set(packed.files.map(({ path }) => `./${path}`));
  const targets = (value) => (typeof value === "string" ? [value] : Object.values(value).flatMap(targets));
  for (const target of [...targets(manifest.exports), manifest.bin]) assert.ok(names.has(target), `${target} is missing`);
});

test(`it is at most ${BUDGET} bytes`, () => assert.ok(packed.size <= BUDGET, `${packed.size} bytes`));

test("publint has nothing to say", async () => {
  const { messages } = await publint({ pkgDir: `${root}pkg`, strict: true });
  assert.deepEqual(messages.map((message) => formatMessage(message, manifest)), []);
});

test("the types resolve under every module resolution", async () => {
  const args = ["--pack", `${root}pkg`, "--exclude-entrypoints", "./slm_guardian_bg.wasm", "--format", "json"];
  // Into a file: it exits before a pipe has taken all of it. A problem, the one below too, is exit status 1.
  const folder = await mkdtemp(join(tmpdir(), "attw-"));
  const report = join(folder, "report.json");
  await run("sh", ["-c", '"$@" > "$0"', report, `${root}node_modules/.bin/attw`, ...args], { cwd: root }).catch((error) => error);
  const { analysis, problems } = JSON.parse(await readFile(report, "utf8"));
  await rm(folder, { recursive: true });
  assert.ok(analysis.types, "it has types");
  assert.ok("./react" in analysis.entrypoints, Object.keys(analysis.entrypoints).join(" "));
  // The package is an ES module: require() of it is not promised.
  assert.deepEqual(Object.values(problems ?? {}).flat().filter(({ kind }) => kind !== "CJSResolvesToESM"), []);
});

test("importing the package does nothing, so that a server can", async () => {
  const entries = Object.keys(manifest.exports).filter((entry) => !/json|wasm|worker/.test(entry)).map((entry) => `slm-guardian${entry.slice(1)}`);
  const script = `const before = Object.keys(globalThis).length;
    for (const entry of ${JSON.stringify(entries)}) await import(entry);
    if (Object.keys(globalThis).length !== before) throw new Error("a global was made");
    console.log("imported");`;
  const { stdout } = await run(process.execPath, ["--input-type=module", "-e", script], { cwd: root, timeout: 60_000 });
  assert.equal(stdout.trim(), "imported");
});

test("the weights' own package holds the shards that its manifest names, their card, and nothing else", async () => {
  const [model] = JSON.parse((await run("npm", ["pack", "--dry-run", "--json", "./model"], { cwd: root, maxBuffer: 1 << 26 })).stdout);
  const { shards, bytes } = JSON.parse(await readFile(`${root}model/manifest.json`, "utf8"));
  const wanted = [...shards.map(({ file }) => file), "MODEL_CARD.md", "loss.png", "manifest.json", "operating.json", "package.json", "precision-recall.png", "reliability.png"];
  assert.deepEqual(model.files.map(({ path }) => path).sort(), wanted.sort());
  assert.ok(bytes <= 95e6, `${bytes} bytes of weights`);
});
