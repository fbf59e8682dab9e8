import { Guardian } from "slm-guardian";
import { builtin, fetchBuiltin, place, widen } from "./assistant.js";
import { engineName, fact, find, megabytes } from "./dom.js";
import { rates, type Operating } from "./operating.js";
import { curve, distribution, percent } from "./picture.js";
import { model } from "./start.js";
import type { AssistantKind, Choice, Choices, Store } from "./store.js";

export function settings(guardian: Guardian, store: Store, data: Operating | null): void {
  threshold(store, data);
  assistants(store);
  void modelFacts(guardian);
  engine(store);
}

const radios = (name: string) => [...document.querySelectorAll<HTMLInputElement>(`input[name=${name}]`)];

/** Presets, the slider, and the picture of what they mean. */
function threshold(store: Store, data: Operating | null): void {
  const slider = find<HTMLInputElement>("#threshold");
  for (const radio of radios("preset")) radio.addEventListener("change", () => store.set({ preset: radio.value as Choice, own: radio.value === "own" ? store.threshold : store.choices.own }));
  // The ends would hold back everything or nothing, and the package wants a probability that means something.
  slider.addEventListener("input", () => store.set({ preset: "own", own: Math.min(0.99, Math.max(0.01, Number(slider.value))) }));
  find("#picture").hidden = find("#meaning").hidden = data === null;
  find("#unknown").hidden = data !== null;
  if (data) find("#source").textContent = `Measured on: ${data.source}. Heights grow with the square root, so that small numbers show. Your messages may differ from these.`;

  const update = () => {
    const { preset } = store.choices;
    for (const radio of radios("preset")) {
      radio.checked = radio.value === preset;
      const value = radio.closest("label")?.querySelector("output");
      if (value) value.textContent = store.thresholdOf(radio.value as Choice).toFixed(2);
    }
    const at = store.threshold;
    slider.value = String(at);
    slider.setAttribute("aria-valuetext", `${at.toFixed(2)}: messages with this score or more are held back`);
    find("#threshold-value").textContent = at.toFixed(2);
    find("#threshold-value").style.setProperty("--at", String(at));
    if (!data) return;
    distribution(find<SVGSVGElement>("#distribution"), data, at);
    curve(find<SVGSVGElement>("#curve"), data, at);
    const { recall, fallout, precision } = rates(data, at);
    find("#held").textContent = String(Math.round(fallout * 100));
    find("#missed").textContent = String(Math.round((1 - recall) * 100));
    find("#curve-words").textContent = `Here: precision ${precision === null ? "unknown" : percent(precision)} and recall ${percent(recall)}, were half of all messages harmful.`;
  };
  update();
  store.onChange(update);
}

/** Who answers safe messages. */
function assistants(store: Store): void {
  const fields: Record<string, keyof Choices> = { "#address": "address", "#address-model": "addressModel", "#address-key": "addressKey" };
  for (const radio of radios("assistant")) radio.addEventListener("change", () => store.set({ assistant: radio.value as AssistantKind }));
  for (const [selector, name] of Object.entries(fields)) {
    const field = find<HTMLInputElement>(selector);
    field.value = String(store.choices[name]);
    field.addEventListener("input", () => store.set({ [name]: field.value }));
  }
  find<HTMLFormElement>("#address-fields").addEventListener("submit", (event) => event.preventDefault());
  const update = () => {
    const { assistant, address } = store.choices;
    for (const radio of radios("assistant")) radio.checked = radio.value === assistant;
    find("#address-fields").hidden = assistant !== "address";
    const url = place(address);
    const away = url !== undefined && url.origin !== location.origin;
    find("#address-note").textContent =
      url === undefined
        ? "That is not an address of a web server."
        : away
          ? `This page’s security policy lets it reach only its own address, ${location.origin}. ${widen(url)} Until then, asking it fails here, and nothing is sent.`
          : `Messages go to ${url.href}.`;
    find("#address-note").classList.toggle("problem", url === undefined || away);
  };
  update();
  store.onChange(update);
  // Asked only once it is wanted: the question alone wakes things in Chrome.
  let offered = false;
  const offer = () => {
    if (offered || document.body.dataset.view !== "settings") return;
    offered = true;
    void offerBuiltin();
  };
  document.addEventListener("view", offer);
  offer();
}

async function offerBuiltin(): Promise<void> {
  const words = {
    available: "ready to use; it runs on this machine too",
    downloadable: "can be downloaded by the browser, several gigabytes",
    downloading: "is being downloaded by the browser",
    unavailable: "this browser has none; Chrome on a desktop may",
  };
  const update = async () => {
    const found = await builtin();
    find("#builtin-words").textContent = words[found];
    find<HTMLInputElement>("#assistants input[value=builtin]").disabled = found === "unavailable";
    find("#builtin-get").hidden = found !== "downloadable";
  };
  find("#builtin-download").addEventListener("click", () => {
    find("#builtin-progress").textContent = "Asking the browser…";
    fetchBuiltin((part) => (find("#builtin-progress").textContent = percent(part))).then(
      () => void update(),
      (error: Error) => (find("#builtin-progress").textContent = `The browser refused: ${error.message}`),
    );
  });
  await update();
}

/** What runs, where, and what is kept. */
async function modelFacts({ info }: Guardian): Promise<void> {
  const kept = (await Guardian.cache.list().catch(() => [])).find(({ url }) => url === new URL(model, document.baseURI).href);
  find("#model-facts").replaceChildren(
    fact("Name", `${info.model}, version ${info.version}`),
    fact("Runs on", engineName[info.backend] + (info.adapter ? ` (${info.adapter.name})` : "")),
    ...(info.fallback ? [fact("Why not the graphics card", info.fallback, "wide")] : []),
    fact("Kept in this browser", kept ? megabytes(kept.bytes) : "no"),
    fact("Knows", `${info.categories.length} kinds of harm`),
  );
  const forget = find<HTMLButtonElement>("#forget");
  forget.hidden = !kept;
  forget.addEventListener("click", () => {
    Guardian.cache.delete(model).then(
      () => (find("#forgotten").textContent = "Deleted. The next visit downloads it again."),
      (error: Error) => (find("#forgotten").textContent = `It can’t be deleted: ${error.message}`),
    );
    forget.hidden = true;
  });
}

function engine(store: Store): void {
  const select = find<HTMLSelectElement>("#engine");
  select.value = store.choices.engine;
  select.addEventListener("change", () => {
    store.set({ engine: select.value === "cpu" ? "cpu" : "auto" });
    find("#reload").hidden = false;
  });
  // Without the query, which may have chosen another engine.
  find("#reload").addEventListener("click", () => location.assign(location.pathname));
}
