import { GuardianError } from "./errors.js";
import { Guardian } from "./guardian.js";
import type { CreateOptions, Preset, Progress, Verdict, Watch } from "./types.js";

const STYLE = `
  :host { display: block; font: inherit; }
  :host([hidden]) { display: none; }
  .label { display: block; margin-block-end: 0.25em; }
  textarea { box-sizing: border-box; width: 100%; font: inherit; color: inherit; background: transparent; border: 1px solid currentColor; border-radius: 0.4em; padding: 0.5em; resize: vertical; }
  textarea:focus-visible { outline: 2px solid Highlight; outline-offset: 1px; }
  .line { display: flex; gap: 0.4em; align-items: center; min-height: 1.5em; font-size: 0.875em; }
  .dot { width: 0.6em; height: 0.6em; border-radius: 50%; border: 1px solid currentColor; }
  .line[data-state="safe"] .dot { background: light-dark(#17663f, #6fd3a0); border-color: transparent; }
  .line[data-state="unsafe"] .dot { background: light-dark(#a3271d, #ff9d92); border-color: transparent; }
`;

// On a server there is no HTMLElement; importing this file must not fail there.
const Base = typeof HTMLElement === "undefined" ? (class {} as unknown as typeof HTMLElement) : HTMLElement;

/**
 * `<guardian-textarea>`: a text area that takes part in its form and holds it back while what was typed is unsafe, or can't be screened.
 * Attributes: `model` (required), `name`, `label`, `placeholder`, `rows`, `preset`, `backend`. Events, all bubbling:
 * `guardian-ready`, `guardian-progress`, `guardian-verdict` and `guardian-error`, with the matter in `detail`. Style its parts `label`,
 * `textarea` and `status`.
 *
 * @example
 * ```html
 * <form><guardian-textarea name="prompt" label="Your message" model="/model/"></guardian-textarea><button>Send</button></form>
 * <script type="module">import { define } from "slm-guardian/element"; define();</script>
 * ```
 */
export class GuardianTextarea extends Base {
  static readonly formAssociated = true;
  static readonly observedAttributes = ["label", "placeholder", "rows"];

  /** Set before the element is connected to share a guardian; the element then neither loads nor disposes of one. */
  guardian: Guardian | null = null;
  /** Further options for loading. */
  options: Partial<CreateOptions> = {};

  readonly #internals: ElementInternals;
  readonly #area: HTMLTextAreaElement;
  readonly #label: HTMLLabelElement;
  readonly #line: HTMLElement;
  readonly #words: HTMLElement;
  #own: Guardian | null = null;
  #loading: Promise<Guardian> | null = null;
  #abort: AbortController | null = null;
  #watch: Watch | null = null;
  #verdict: Verdict | null = null;
  #form: HTMLFormElement | null = null;

  constructor() {
    super();
    this.#internals = this.attachInternals();
    const root = this.attachShadow({ mode: "open", delegatesFocus: true });
    // A constructed sheet: a strict Content-Security-Policy refuses a <style>.
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(STYLE);
    root.adoptedStyleSheets = [sheet];
    const make = <K extends keyof HTMLElementTagNameMap>(tag: K, className: string, part?: string) => {
      const element = document.createElement(tag);
      element.className = className;
      if (part) element.setAttribute("part", part);
      return element;
    };
    this.#label = make("label", "label", "label");
    this.#area = make("textarea", "", "textarea");
    this.#area.id = "area";
    this.#label.htmlFor = "area";
    this.#line = make("div", "line", "status");
    this.#line.setAttribute("role", "status");
    const dot = make("span", "dot");
    dot.setAttribute("aria-hidden", "true");
    this.#words = make("span", "words");
    this.#line.append(dot, this.#words);
    root.append(this.#label, this.#area, this.#line);
    this.#area.addEventListener("input", () => {
      this.#verdict = null;
      this.#changed();
    });
  }

  get value(): string {
    return this.#area.value;
  }

  set value(text: string) {
    this.#area.value = text;
    this.#area.dispatchEvent(new Event("input", { bubbles: true, composed: true }));
  }

  /** The verdict on the present text; `null` while there is none. */
  get verdict(): Verdict | null {
    return this.#verdict;
  }

  get name(): string {
    return this.getAttribute("name") ?? "";
  }

  attributeChangedCallback(name: string, _old: string | null, value: string | null): void {
    if (name === "label") this.#label.textContent = value;
    else if (value === null) this.#area.removeAttribute(name);
    else this.#area.setAttribute(name, value);
  }

  connectedCallback(): void {
    this.#form = this.#internals.form;
    // Capturing: before the page's own handler sends anything.
    this.#form?.addEventListener("submit", this.#submitted, { capture: true });
    this.#changed();
    void this.#load().catch(() => {});
  }

  disconnectedCallback(): void {
    this.#form?.removeEventListener("submit", this.#submitted, { capture: true });
    this.#watch?.stop();
    this.#watch = null;
    this.#abort?.abort();
    void this.#own?.dispose();
    this.#own = null;
    this.#loading = null;
    this.#verdict = null;
  }

  formResetCallback(): void {
    this.value = "";
  }

  formDisabledCallback(disabled: boolean): void {
    this.#area.disabled = disabled;
  }

  #load(): Promise<Guardian> {
    this.#loading ??= this.#open().catch((error: Error) => {
      this.#loading = null;
      if (error.name !== "AbortError") this.#failed(error);
      throw error;
    });
    return this.#loading;
  }

  async #open(): Promise<Guardian> {
    let guardian = this.guardian;
    if (!guardian) {
      const model = this.getAttribute("model");
      if (model === null) throw new GuardianError("argument", "<guardian-textarea> needs a model attribute, or a guardian");
      const abort = (this.#abort = new AbortController());
      const options: CreateOptions = {
        ...this.options,
        model,
        signal: abort.signal,
        onProgress: (progress: Progress) => {
          this.#say("loading", `Loading the check: ${Math.round((100 * progress.loaded) / progress.total)} %`);
          this.#tell("progress", progress);
        },
      };
      const [preset, backend] = [this.getAttribute("preset"), this.getAttribute("backend")];
      if (preset !== null) options.preset = preset as Preset;
      if (backend !== null) options.backend = backend as NonNullable<CreateOptions["backend"]>;
      guardian = await Guardian.create(options);
      if (abort.signal.aborted) {
        void guardian.dispose();
        throw new DOMException("The element was removed.", "AbortError");
      }
      this.#own = guardian;
    }
    this.#watch = guardian.watch(this.#area, {
      onVerdict: (verdict) => {
        this.#verdict = verdict;
        this.#changed();
        this.#tell("verdict", verdict);
      },
      onError: (error) => this.#failed(error),
    });
    this.#changed();
    this.#tell("ready", guardian.info);
    return guardian;
  }

  /** Validity and the line below follow the verdict. */
  #changed(): void {
    this.#internals.setFormValue(this.#area.value);
    const empty = this.#area.value.trim() === "";
    if (this.#verdict?.label === "unsafe") {
      const words = `This looks harmful (${this.#verdict.category ?? "unsafe"}), so it is not sent.`;
      this.#say("unsafe", words);
      this.#internals.setValidity({ customError: true }, words, this.#area);
    } else {
      this.#internals.setValidity({});
      this.#say(empty || !this.#verdict ? "" : "safe", empty || !this.#watch ? "" : this.#verdict ? "Looks fine." : "Checking…");
    }
  }

  #failed(error: Error): void {
    this.#say("error", `Not checked: ${error.message}`);
    this.#tell("error", error);
  }

  #say(state: string, words: string): void {
    this.#line.dataset.state = state;
    if (this.#words.textContent !== words) this.#words.textContent = words;
  }

  #tell(name: string, detail: unknown): void {
    this.dispatchEvent(new CustomEvent(`guardian-${name}`, { detail, bubbles: true, composed: true }));
  }

  /** A text without a verdict waits for one; the form is then submitted again, or reports why not. */
  #submitted = (event: SubmitEvent): void => {
    if (this.#area.value.trim() === "" || this.#verdict?.label === "safe") return;
    event.preventDefault();
    event.stopImmediatePropagation();
    const { submitter } = event;
    const form = this.#form;
    void (async () => {
      try {
        await this.#load();
        const verdict = await this.#watch?.current();
        this.#verdict = verdict ?? null;
        this.#changed();
        if (verdict?.label === "safe") form?.requestSubmit(submitter);
        else this.#internals.reportValidity();
      } catch (error) {
        if ((error as Error).name !== "AbortError") this.#failed(error as Error);
      }
    })();
  };
}

/** Registers the element, once. */
export function define(name = "guardian-textarea"): void {
  if (!customElements.get(name)) customElements.define(name, name === "guardian-textarea" ? GuardianTextarea : class extends GuardianTextarea {});
}

declare global {
  interface HTMLElementTagNameMap {
    "guardian-textarea": GuardianTextarea;
  }
}
