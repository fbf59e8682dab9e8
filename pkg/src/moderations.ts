import type { ModerationCreateParams, ModerationCreateResponse } from "openai/resources/moderations";
import { GuardianError } from "./errors.js";
import { textOf } from "./gate.js";
import type { Guardian } from "./guardian.js";
import type { BatchOptions, Category, Verdict } from "./types.js";

/** Where OpenAI's names and ours mean the same, or ours is part of theirs. */
const NAMES: Record<string, Category[]> = {
  "harassment": ["hate"],
  "harassment/threatening": [],
  "hate": ["hate"],
  "hate/threatening": [],
  "illicit": ["weapons", "crime", "cyber"],
  "illicit/violent": ["weapons"],
  "self-harm": ["suicide"],
  "self-harm/instructions": [],
  "self-harm/intent": [],
  "sexual": ["sexual", "minors"],
  "sexual/minors": ["minors"],
  "violence": ["violence"],
  "violence/graphic": [],
};

/**
 * `moderations.create` in OpenAI's shape, answered in this page. Beside OpenAI's category names, of which those that the guardian does
 * not tell apart stay `false` and 0, stand the guardian's own twelve. A category's score is the score of harm times its share.
 *
 * @example
 * ```ts
 * const { moderations } = createModerations(guardian);
 * const { results } = await moderations.create({ input: text });
 * if (results[0].flagged) stop();
 * ```
 */
export function createModerations(guardian: Guardian, options: BatchOptions = {}) {
  const create = async ({ input }: ModerationCreateParams, call: { signal?: AbortSignal } = {}): Promise<ModerationCreateResponse> => {
    const inputs = typeof input === "string" ? [input] : input;
    if (!Array.isArray(inputs)) throw new GuardianError("argument", "input: a text, or a list of texts or of parts, is wanted");
    // A list of parts is one input, a list of texts is many.
    const texts = inputs.length > 0 && inputs.every((part) => typeof part !== "string") ? [textOf(inputs, "input")] : inputs.map((part, index) => textOf(part, `input[${index}]`));
    const verdicts = await guardian.screenBatch(texts, { ...options, ...call });
    return { id: `modr-${crypto.randomUUID()}`, model: guardian.info.model, results: verdicts.map(result) };
  };
  return { moderations: { create } };
}

function result({ label, score, category, categories }: Verdict): ModerationCreateResponse["results"][number] {
  const flagged = label === "unsafe";
  const named = { ...NAMES, ...Object.fromEntries((Object.keys(categories) as Category[]).filter((name) => !(name in NAMES)).map((name) => [name, [name]])) };
  const each = <T>(value: (ours: Category[]) => T) => Object.fromEntries(Object.entries(named).map(([name, ours]) => [name, value(ours)]));
  return {
    flagged,
    categories: each((ours) => flagged && category !== null && ours.includes(category)),
    category_scores: each((ours) => score * ours.reduce((sum, name) => sum + categories[name], 0)),
    category_applied_input_types: each((ours) => (ours.length > 0 ? ["text"] : [])),
  } as unknown as ModerationCreateResponse["results"][number];
}
