import type { Guardian, Verdict, Watch } from "slm-guardian";
import { announce, find } from "./dom.js";
import { inBrief } from "./failures.js";
import type { Store } from "./store.js";

/** Shortest time, in milliseconds, that a judgement stands before another replaces it. */
const DWELL = 600;

type Look = { tone: "idle" | "safe" | "unsafe" | "failed"; words: string; score: number };
const idle: Look = { tone: "idle", words: "Read as you type, in this page", score: 0 };

/** The line under the text box. It never says "checking": the last judgement stands until the next one is there. */
export class Indicator {
  #guardian: Guardian;
  #watch: Watch | undefined;
  #last: { text: string; verdict: Verdict } | undefined;
  #shown = idle;
  #next: Look | undefined;
  #since = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #line = find("#indicator");
  readonly #text = find<HTMLTextAreaElement>("#text");

  constructor(guardian: Guardian, private readonly store: Store) {
    this.#guardian = guardian;
    this.#begin();
    store.onChange(() => this.#begin());
    this.#text.addEventListener("input", () => {
      this.#line.dataset.stale = String(this.#text.value.trim() !== "");
    });
  }

  /** The verdict on `text`, if it has been read already under the present settings. */
  known(text: string): Verdict | undefined {
    return this.#last?.text === text ? this.#last.verdict : undefined;
  }

  /** Empties the text box, and the line with it. */
  clear(): void {
    this.#text.value = "";
    this.#text.dispatchEvent(new Event("input"));
    this.#want(idle);
  }

  #begin(): void {
    this.#watch?.stop();
    this.#last = undefined;
    find("#gauge").style.setProperty("--threshold", String(this.store.threshold));
    this.#watch = this.#guardian.watch(this.#text, {
      ...this.store.policy,
      onVerdict: (verdict, text) => {
        this.#last = verdict ? { text, verdict } : undefined;
        this.#want(verdict ? look(verdict) : idle);
      },
      onError: (error) => this.#want({ tone: "failed", words: inBrief(error), score: 0 }),
    });
  }

  /** Shows `look`, but not before the one that stands has stood long enough to be read. */
  #want(look: Look): void {
    this.#next = look;
    clearTimeout(this.#timer);
    const wait = look.tone === this.#shown.tone || look.tone === "idle" ? 0 : Math.max(0, this.#since + DWELL - performance.now());
    this.#timer = setTimeout(() => this.#show(), wait);
  }

  #show(): void {
    const look = this.#next ?? idle;
    const turned = look.tone !== this.#shown.tone;
    this.#line.dataset.tone = look.tone;
    this.#line.dataset.stale = "false";
    find("#gauge").dataset.tone = look.tone;
    find("#gauge").style.setProperty("--score", String(look.score));
    const words = find("#indicator-words");
    if (words.textContent !== look.words) words.textContent = look.words;
    // Worth a word only where it turns: each key would be a nuisance.
    if (turned && look.tone === "unsafe") announce(look.words);
    if (turned) this.#since = performance.now();
    this.#shown = look;
  }
}

function look({ label, category, score }: Verdict): Look {
  if (label === "safe") return { tone: "safe", words: "Reads as safe", score };
  return { tone: "unsafe", words: `Reads as unsafe: ${category ?? "on your list"}`, score };
}
