import type { Info, Policy, Preset } from "slm-guardian";

export type Choice = Preset | "own";
export type AssistantKind = "none" | "builtin" | "address";

/** What a visitor may choose. */
export interface Choices {
  preset: Choice;
  /** The visitor's own threshold, used where `preset` is `own`. */
  own: number;
  assistant: AssistantKind;
  address: string;
  addressModel: string;
  /** Never kept: it is forgotten with the page. */
  addressKey: string;
  engine: "auto" | "cpu";
}

const KEY = "guardian-settings";
const initial: Choices = { preset: "balanced", own: 0.5, assistant: "none", address: "", addressModel: "", addressKey: "", engine: "auto" };

/** The visitor's choices, kept in this browser where it allows that. */
export class Store {
  #choices: Choices;
  #calibration: Info["calibration"] | undefined;
  readonly #listeners: (() => void)[] = [];

  constructor() {
    this.#choices = { ...initial, ...kept() };
  }

  get choices(): Readonly<Choices> {
    return this.#choices;
  }

  /** The thresholds of the presets, once the model is there. */
  calibrate(calibration: Info["calibration"]): void {
    this.#calibration = calibration;
    this.#tell();
  }

  /** The score from which a message is held back. */
  get threshold(): number {
    const { preset, own } = this.#choices;
    return preset === "own" ? own : (this.#calibration?.[preset] ?? own);
  }

  thresholdOf(choice: Choice): number {
    return choice === "own" ? this.#choices.own : (this.#calibration?.[choice] ?? 0);
  }

  get policy(): Policy {
    const { preset, own } = this.#choices;
    return preset === "own" ? { threshold: own } : { preset };
  }

  set(change: Partial<Choices>): void {
    this.#choices = { ...this.#choices, ...change };
    try {
      localStorage.setItem(KEY, JSON.stringify({ ...this.#choices, addressKey: undefined }));
    } catch {
      // Private modes refuse; the choice then lasts as long as the page.
    }
    this.#tell();
  }

  onChange(listener: () => void): void {
    this.#listeners.push(listener);
  }

  #tell(): void {
    for (const listener of this.#listeners) listener();
  }
}

/** What was kept, field by field: another version of this page, or a visitor, may have written anything there. */
function kept(): Partial<Choices> {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? "{}") as Record<string, unknown>;
    const choices: Partial<Choices> = {};
    if (["permissive", "balanced", "strict", "own"].includes(found.preset as string)) choices.preset = found.preset as Choice;
    if (typeof found.own === "number" && found.own > 0 && found.own < 1) choices.own = found.own;
    if (["none", "builtin", "address"].includes(found.assistant as string)) choices.assistant = found.assistant as AssistantKind;
    if (typeof found.address === "string") choices.address = found.address;
    if (typeof found.addressModel === "string") choices.addressModel = found.addressModel;
    if (found.engine === "cpu") choices.engine = "cpu";
    return choices;
  } catch {
    return {};
  }
}
