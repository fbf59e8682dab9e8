import type { Verdict } from "slm-guardian";
import { fact, make } from "./dom.js";

const decimals = (value: number) => value.toFixed(3);

/** One message in the conversation: what was said, the verdict, and what came of it. Text only, never HTML. */
export class Card {
  readonly item = make("li");
  readonly #line = make("p", "verdict", "Checking…");
  readonly #gauge = make("div", "gauge");
  readonly #facts = make("dl", "facts");
  readonly #notes = make("p", "notes");
  readonly #answer = make("div", "answer");

  constructor(said: string) {
    this.item.dataset.state = "checking";
    this.#gauge.setAttribute("aria-hidden", "true");
    this.#notes.hidden = this.#answer.hidden = true;
    // The same rows as a verdict has, so that nothing moves when it comes.
    this.#facts.append(...["Score", "Category", "Unsafe from", "Time", "Ran on"].map((term) => fact(term, "\u2013")));
    this.item.append(make("p", "said", said), make("div", "judged", this.#line, this.#gauge, this.#facts, this.#notes), this.#answer);
  }

  judge(verdict: Verdict): void {
    const { label, category, score, threshold, preset, ms, backend } = verdict;
    this.item.className = label;
    this.item.dataset.verdict = JSON.stringify(verdict);
    this.#line.textContent = label === "safe" ? "Safe" : `Unsafe: ${category ?? "on your list"}`;
    this.#gauge.dataset.tone = label;
    this.#gauge.style.setProperty("--score", String(score));
    this.#gauge.style.setProperty("--threshold", String(threshold));
    this.#facts.replaceChildren(
      fact("Score", decimals(score)),
      fact("Category", category ?? "none"),
      fact("Unsafe from", `${decimals(threshold)}, ${preset ?? "my own"}`),
      fact("Time", `${Math.round(ms)} ms`),
      fact("Ran on", backend === "gpu" ? "WebGPU" : "CPU"),
    );
    const notes = remarks(verdict);
    this.#notes.hidden = notes === "";
    this.#notes.textContent = notes;
  }

  /** Opens the place for an answer, which is as high as most answers get, so that streaming moves nothing. */
  open(className: string, heading: string): HTMLElement {
    const words = make("p", className);
    this.#answer.hidden = false;
    this.#answer.className = `answer ${className}-box`;
    this.#answer.replaceChildren(make("p", "by", heading), words);
    return words;
  }

  /** Adds buttons, or a remark, under the answer. */
  append(...nodes: Node[]): void {
    this.#answer.hidden = false;
    this.#answer.append(...nodes);
  }

  fail(words: string, code: string): void {
    this.item.className = "failed";
    this.#line.textContent = `Not checked, so not sent. ${words}`;
    this.#gauge.hidden = this.#facts.hidden = true;
    this.item.dataset.code = code;
    this.item.dataset.state = "failed";
  }

  done(): void {
    this.item.dataset.state = "done";
  }
}

/** What is unusual about a verdict, in words. */
function remarks({ decoded, windows, uncertain, list, turnsDropped }: Verdict): string {
  const found: string[] = [];
  if (list) found.push(list === "allow" ? "On the list of what is always let through." : "On the list of what is always held back.");
  if (uncertain) found.push("A close call.");
  if (decoded.length > 0) found.push(`A disguise was undone first: ${decoded.join(", ")}.`);
  if (windows > 1) found.push(`Read in ${windows} passes.`);
  if (turnsDropped > 0) found.push(`${turnsDropped} older messages did not fit.`);
  return found.join(" ");
}
