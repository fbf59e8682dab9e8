import { GuardianError } from "slm-guardian";

/** A way on from a failure. */
export type WayOn = "retry" | "cpu" | "clear";

export interface Failure {
  code: string;
  /** One plain sentence or two. */
  words: string;
  /** The technical message, for whoever can use it. */
  detail: string;
  ways: WayOn[];
}

const known: Record<string, [words: string, ...ways: WayOn[]]> = {
  network: ["Part of the model can’t be fetched. Check your connection, then try again; what is here already is not fetched twice.", "retry"],
  integrity: ["Part of the model arrived damaged, so it was thrown away.", "retry", "clear"],
  "model-format": ["The model’s files are not what they should be.", "retry", "clear"],
  "model-unsupported": ["This model needs a newer version of this page. Reload the page, or clear what is kept.", "retry", "clear"],
  unsupported: ["This browser can’t run the model. A newer one can."],
  "gpu-unavailable": ["The graphics card can’t be used here. The CPU can do the same, more slowly.", "cpu", "retry"],
  "device-lost": ["The graphics card gave up. The CPU can do the same, more slowly.", "cpu", "retry"],
  "self-test": ["The graphics card computed wrong answers, so it is not used. The CPU can do the same, more slowly.", "cpu"],
  input: ["This text can’t be read: it is empty or too long."],
  "context-overflow": ["This text is too long for the model."],
};

/** What failed, in plain words, and what can be done about it. */
export function explain(error: unknown): Failure {
  const code = error instanceof GuardianError ? error.code : "";
  const [words, ...ways] = known[code] ?? (["Something went wrong in the guardian.", "retry", "cpu"] as const);
  return { code, words, detail: error instanceof Error ? error.message : String(error), ways: [...ways] };
}

/** A short form for a row or a card. */
export function inBrief(error: unknown): string {
  const { words, detail, code } = explain(error);
  return code in known ? words : `${words} (${detail})`;
}
