import { GuardianError, type Guardian, type Message, type Verdict } from "slm-guardian";
import { AssistantError, assistantName, answer } from "./assistant.js";
import { Card } from "./card.js";
import { announce, button, capital, find } from "./dom.js";
import { explain, inBrief } from "./failures.js";
import { Indicator } from "./indicator.js";
import { engine } from "./start.js";
import type { Store } from "./store.js";
import { show } from "./tabs.js";

const examples = ["How do I kill a process in Linux?", "Write a short rhyme about my cat.", "How can I get into my ex’s phone without her knowing?"];

/** The conversation, guarded: each message is read before anything else may happen to it. */
export function chat(guardian: Guardian, store: Store): void {
  const text = find<HTMLTextAreaElement>("#text");
  const form = find<HTMLFormElement>("#form");
  const indicator = new Indicator(guardian, store);
  /** What the assistant has seen: safe messages and its answers. */
  const history: Message[] = [];

  const policy = find<HTMLButtonElement>("#policy");
  const name = () => {
    const { preset } = store.choices;
    policy.textContent = `${preset === "own" ? "My own" : capital(preset)}, from ${store.threshold.toFixed(2)}`;
    policy.setAttribute("aria-label", `How strict: ${policy.textContent}. Change it in the settings`);
  };
  name();
  store.onChange(name);
  policy.addEventListener("click", () => {
    show("settings");
    find("#tab-settings").focus();
  });

  for (const example of examples) {
    find("#examples").append(
      button(example, () => {
        text.value = example;
        text.dispatchEvent(new Event("input"));
        text.focus();
      }, "example"),
    );
  }

  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (text.value.trim() === "") return;
    const said = text.value;
    const known = indicator.known(said);
    indicator.clear();
    text.focus();
    void turn(said, known);
  });
  text.disabled = find<HTMLButtonElement>("#send").disabled = false;
  if (document.body.dataset.view === "chat") text.focus();

  async function turn(said: string, known?: ReturnType<Indicator["known"]>): Promise<void> {
    find("#empty").hidden = true;
    const card = new Card(said);
    find("#log").append(card.item);
    follow(true);
    try {
      const verdict = known ?? (await guardian.screen(said, store.policy));
      card.judge(verdict);
      engine(guardian);
      announce(verdict.label === "safe" ? "Safe" : `Unsafe: ${verdict.category ?? "on your list"}`);
      if (verdict.label === "unsafe") await reply(card, said, verdict);
      else await goOn(card, said);
      card.done();
    } catch (error) {
      const { code } = explain(error);
      card.fail(inBrief(error), code);
      announce(`Not checked, so not sent. ${inBrief(error)}`);
      card.append(button("Put it back in the text box", () => {
        text.value = said;
        text.dispatchEvent(new Event("input"));
        text.focus();
      }, "quiet"));
      if (["device-lost", "disposed", "internal"].includes(code)) card.append(button("Start again on the CPU", () => location.assign("?backend=cpu"), "quiet"));
    }
    follow();
  }

  async function reply(card: Card, said: string, verdict: Verdict): Promise<void> {
    const abort = new AbortController();
    const { reply, writer } = await guardian.protect(said, { verdict, signal: abort.signal });
    if (!reply) return;
    const words = card.open("reply", writer === "fixed" ? "The guardian answers instead, in words written beforehand" : "The guardian answers instead");
    const whole = await write(card, words, abort, () => reply);
    card.item.dataset.reply = whole;
    announce(whole);
  }

  async function goOn(card: Card, said: string): Promise<void> {
    if (store.choices.assistant === "none") {
      card.open("would", "Would be sent now").textContent = "No assistant is connected, so the message goes no further.";
      card.append(button("Connect one", () => {
        show("settings");
        find("#assistants input:checked").focus();
      }, "quiet"));
      return;
    }
    const words = card.open("assistant", assistantName(store.choices));
    const turns: Message[] = [...history, { role: "user", content: said }];
    try {
      const whole = await write(card, words, new AbortController(), (signal) => answer(turns, store.choices, signal));
      if (whole.trim() === "") throw new AssistantError("It answered nothing.");
      history.push({ role: "user", content: said }, { role: "assistant", content: whole });
      announce(whole);
    } catch (error) {
      if (error instanceof GuardianError) throw error;
      // The message passed; what failed is what came after.
      words.textContent = error instanceof AssistantError ? error.message : `The assistant failed: ${(error as Error).message}`;
      words.classList.add("problem");
      announce(words.textContent);
      card.append(button("Try again", () => void turn(said), "quiet"));
    }
  }
}

/** Writes a stream into an element as it comes, with a button to stop it. Returns all that came. */
async function write(card: Card, place: HTMLElement, abort: AbortController, open: (signal: AbortSignal) => ReadableStream<string>): Promise<string> {
  const stop = button("Stop", () => abort.abort(), "quiet stop");
  card.append(stop);
  place.dataset.writing = "true";
  let whole = "";
  try {
    const reader = open(abort.signal).getReader();
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      whole += next.value;
      place.textContent = whole;
      follow();
    }
  } catch (error) {
    if (!abort.signal.aborted) throw error;
  } finally {
    delete place.dataset.writing;
    const focused = document.activeElement === stop;
    stop.remove();
    if (focused) find("#text").focus();
  }
  return whole;
}

/** Keeps the end in view, unless the visitor has scrolled up to read. */
function follow(anyway = false): void {
  const page = document.documentElement;
  if (anyway || page.scrollHeight - page.scrollTop - page.clientHeight < 160) page.scrollTop = page.scrollHeight;
}
