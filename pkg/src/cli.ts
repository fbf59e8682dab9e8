#!/usr/bin/env node
// npx slm-guardian screen|reply ...: the package on the command line, on the CPU.

import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { GuardianError } from "./errors.js";
import { Guardian } from "./node.js";
import type { Preset } from "./types.js";

const USAGE = `usage: slm-guardian screen [--model PATH|URL] [--preset NAME] [--threshold X] TEXT...
       slm-guardian screen [...] --jsonl       one JSON object {"id","prompt"} or {"id","messages"} a line on standard input
       slm-guardian reply  [--model PATH|URL] [--force] [--max-tokens N] TEXT

The model is the folder with manifest.json; without --model, the installed package slm-guardian-135m.
Exit status: 0 done, 1 failed, 2 unusable arguments or input.`;

class Usage extends Error {}

async function main(): Promise<void> {
  const options = {
    model: { type: "string" }, preset: { type: "string" }, threshold: { type: "string" }, jsonl: { type: "boolean" },
    force: { type: "boolean" }, "max-tokens": { type: "string" }, help: { type: "boolean", short: "h" },
  } as const;
  let parsed;
  try {
    parsed = parseArgs({ options, allowPositionals: true });
  } catch (error) {
    throw new Usage((error as Error).message);
  }
  const { values, positionals: [command, ...texts] } = parsed;
  if (values.help) return console.log(USAGE);
  if (command !== "screen" && command !== "reply") throw new Usage(command === undefined ? "no command" : `no command is named ${JSON.stringify(command)}`);
  if (values.jsonl ? texts.length > 0 || command === "reply" : texts.length === 0) throw new Usage(values.jsonl ? "--jsonl reads standard input, for screen" : "no TEXT");
  const threshold = values.threshold === undefined ? undefined : Number(values.threshold);
  const guardian = await Guardian.create({ model: values.model ?? installed(), preset: values.preset as Preset | undefined, threshold });
  try {
    if (command === "reply") {
      const maxTokens = values["max-tokens"] === undefined ? undefined : Number(values["max-tokens"]);
      for await (const piece of guardian.replyStream(texts.join(" "), { force: values.force, maxTokens })) process.stdout.write(piece);
      process.stdout.write("\n");
    } else if (values.jsonl) {
      let number = 0;
      for await (const line of createInterface({ input: process.stdin })) {
        number += 1;
        if (line.trim() === "") continue;
        let row: { id?: unknown; prompt?: string; messages?: [] };
        try {
          row = JSON.parse(line) as typeof row;
        } catch (error) {
          throw new Usage(`line ${number}: ${(error as Error).message}`);
        }
        const input = row?.messages ?? row?.prompt;
        if (input === undefined) throw new Usage(`line ${number}: neither "prompt" nor "messages"`);
        const verdict = await guardian.screen(input).catch((error: unknown) => {
          throw error instanceof GuardianError ? new GuardianError(error.code, `line ${number}: ${error.message}`) : error;
        });
        console.log(JSON.stringify({ id: row.id ?? number, ...verdict }));
      }
    } else {
      for (const [index, text] of texts.entries()) console.log(JSON.stringify({ id: index + 1, ...(await guardian.screen(text)) }));
    }
  } finally {
    await guardian.dispose();
  }
}

/** The folder of the weights' own package. */
function installed(): string {
  try {
    return fileURLToPath(new URL(".", import.meta.resolve("slm-guardian-135m/manifest.json")));
  } catch {
    throw new Usage("no --model, and the package slm-guardian-135m is not installed");
  }
}

try {
  await main();
} catch (error) {
  const usable = error instanceof Usage || (error instanceof GuardianError && (error.code === "argument" || error.code === "input"));
  console.error(`slm-guardian: ${(error as Error).message}${error instanceof Usage ? `\n${USAGE}` : ""}`);
  process.exitCode = usable ? 2 : 1;
}
