import { GuardianError } from "./errors.js";
import type { Category, Input, ListEntry, Message, Policy, Preset, Verdict } from "./types.js";

/** @internal What the engine says, before the caller's policy. */
export type RawVerdict = Omit<Verdict, "uncertain" | "list">;

const CATEGORIES: Record<Category, true> = {
  violence: true, weapons: true, crime: true, cyber: true, hate: true, suicide: true, sexual: true, minors: true, privacy: true,
  misinformation: true, advice: true, jailbreak: true,
};
const PRESETS: Record<Preset, true> = { permissive: true, balanced: true, strict: true };

/** @internal The call's policy over the guardian's own, checked: a typo must not quietly mean the default. */
export function merged(own: Policy, call: Policy): Policy {
  const policy: Policy = {};
  for (const key of ["preset", "threshold", "thresholds", "allow", "deny", "review"] as const) {
    const value = call[key] ?? own[key];
    if (value !== undefined) Object.assign(policy, { [key]: value });
  }
  // A call that names a preset means it, though the guardian was given a threshold.
  if (call.preset !== undefined && call.threshold === undefined) delete policy.threshold;
  const { preset, threshold, thresholds = {}, allow = [], deny = [], review } = policy;
  if (preset !== undefined && !Object.hasOwn(PRESETS, preset)) throw wrong(`no preset is named ${JSON.stringify(preset)}; ${Object.keys(PRESETS).join(", ")} are`);
  if (threshold !== undefined) probability(threshold, "threshold");
  for (const [name, value] of Object.entries(thresholds)) {
    checkCategory(name, "thresholds");
    if (value !== undefined) probability(value, `thresholds.${name}`);
  }
  for (const [name, entries] of Object.entries({ allow, deny })) {
    if (!Array.isArray(entries) || !entries.every((entry) => typeof entry === "string" || entry instanceof RegExp)) {
      throw wrong(`${name}: a list of texts and regular expressions is wanted`);
    }
  }
  if (review !== undefined) {
    review.forEach((bound, index) => probability(bound, `review[${index}]`));
    if (review.length !== 2 || review[0] > review[1]) throw wrong("review: [low, high] is wanted, low first");
  }
  return policy;
}

/** @internal The engine's score under the caller's policy. */
export function decide(raw: RawVerdict, policy: Policy, text: string): Verdict {
  const { thresholds = {}, allow = [], deny = [], review } = policy;
  const likeliest = (Object.keys(raw.categories) as Category[]).reduce((a, b) => (raw.categories[b] > raw.categories[a] ? b : a));
  const own = thresholds[likeliest];
  const threshold = own ?? raw.threshold;
  const list = matches(deny, text) ? "deny" : matches(allow, text) ? "allow" : null;
  const label = list === null ? (raw.score >= threshold ? "unsafe" : "safe") : list === "deny" ? "unsafe" : "safe";
  return {
    ...raw,
    label,
    threshold,
    preset: own === undefined ? raw.preset : null,
    category: label === "unsafe" ? likeliest : null,
    uncertain: list === null && review !== undefined && raw.score >= review[0] && raw.score <= review[1],
    list,
  };
}

/** @internal */
export function messages(input: Input): Message[] {
  if (typeof input === "string") return [{ role: "user", content: input }];
  if (!Array.isArray(input)) throw wrong("the input is neither a text nor a list of messages");
  return input;
}

function matches(list: readonly ListEntry[], text: string): boolean {
  const plain = (value: string) => value.trim().toLowerCase();
  return list.some((entry) => {
    if (typeof entry === "string") return plain(entry) === plain(text);
    // A sticky or global pattern remembers where it stopped.
    entry.lastIndex = 0;
    return entry.test(text);
  });
}

/** @internal A typo in a category's name must not quietly mean none. */
export function checkCategory(name: string, option: string): void {
  if (!Object.hasOwn(CATEGORIES, name)) throw wrong(`${option}: no category is named ${JSON.stringify(name)}; ${Object.keys(CATEGORIES).join(", ")} are`);
}

function probability(value: number, name: string): void {
  if (typeof value !== "number" || !(value >= 0 && value <= 1)) throw wrong(`${name}: ${String(value)} is no probability, 0 to 1`);
}

const wrong = (problem: string) => new GuardianError("argument", problem);
