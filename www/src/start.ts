import { Guardian, type CreateOptions, type Progress } from "slm-guardian";
import { announce, button, engineName, find, megabytes } from "./dom.js";
import { explain, type WayOn } from "./failures.js";
import type { Requests } from "./requests.js";
import type { Store } from "./store.js";

const query = new URLSearchParams(location.search);

/** Where the model is: `?model=`, else beside the page. */
export const model = query.get("model") ?? "/model/";

/** Size of the download in bytes, from the manifest, or from what is kept where the network is gone. */
async function size(): Promise<number | null> {
  try {
    const response = await fetch(new URL("manifest.json", new URL(model, document.baseURI)), { cache: "no-cache" });
    const { bytes } = (await response.json()) as { bytes?: unknown };
    return typeof bytes === "number" ? bytes : null;
  } catch {
    return (await Guardian.cache.list().catch(() => []))[0]?.bytes ?? null;
  }
}

function lay(state: "first" | "loading" | "failed" | "ready", title: string): void {
  document.body.dataset.state = state;
  find("#title").textContent = title;
  find("#lead").hidden = state !== "first";
  find("#steps").hidden = find("#progress").hidden = state !== "loading";
  find("#actions").replaceChildren();
  find("#aside").textContent = "";
}

/** The first visit: what happens, how large it is, and a button. Nothing is fetched before it is pressed. */
async function ask(again = false): Promise<void> {
  const bytes = await size();
  lay("first", "A private check for what you write");
  find("#phase").textContent = `The model is downloaded once (${bytes === null ? "size unknown" : megabytes(bytes)}), kept in this browser, and works offline from then on.`;
  find("#aside").textContent = "It runs on your graphics card where it can, else on the CPU.";
  await new Promise<void>((resolve) => {
    const go = button(bytes === null ? "Download and start" : `Download ${megabytes(bytes)} and start`, resolve);
    find("#actions").append(go);
    // The button that was pressed is gone; on a first visit a reader begins at the top.
    if (again) go.focus({ preventScroll: true });
  });
}

/** Shows progress. The bar and the words change often; a screen reader is told only of a new phase. */
function reporter(cached: boolean): (progress: Progress) => void {
  const bar = find<HTMLProgressElement>("#progress");
  const started = performance.now();
  let before: Progress["phase"] | undefined;
  return ({ phase, loaded, total }) => {
    if (phase !== before) {
      announce(phase === "download" ? "Loading the model" : "Checking that the model computes right");
      for (const step of document.querySelectorAll<HTMLElement>("#steps li")) {
        step.classList.toggle("done", phase === "warmup" && step.dataset.step === "download");
        if (step.dataset.step === phase) step.setAttribute("aria-current", "step");
        else step.removeAttribute("aria-current");
      }
      before = phase;
    }
    bar.value = loaded / total;
    if (phase === "warmup") {
      find("#phase").textContent = "The model answers questions whose answers are known.";
      return;
    }
    const left = ((performance.now() - started) / 1000) * (total / loaded - 1);
    const wait = cached || loaded < total / 50 ? "" : left > 90 ? `, about ${Math.round(left / 60)} minutes left` : left > 5 ? `, about ${Math.ceil(left / 5) * 5} seconds left` : "";
    find("#phase").textContent = `${megabytes(loaded)} of ${megabytes(total)}${cached ? ", from this browser" : ""}${wait}`;
  };
}

/** Says what failed, with ways on; resolves to the one that was chosen. */
function fail(error: unknown): Promise<WayOn> {
  const { code, words, detail, ways } = explain(error);
  lay("failed", "The guardian can’t start");
  document.body.dataset.code = code;
  find("#phase").textContent = words;
  find("#aside").textContent = detail;
  // The file's name helps whoever hosts the page, so it stands with the sentence.
  if (/[\w-]+\.(bin|gguf|json)/.test(detail)) find("#phase").textContent += ` (${/[\w-]+\.(?:bin|gguf|json)/.exec(detail)?.[0]})`;
  announce(words);
  const names: Record<WayOn, string> = { retry: "Try again", cpu: "Use the CPU", clear: "Clear what is kept and try again" };
  return new Promise((resolve) => {
    for (const [index, way] of ways.entries()) find("#actions").append(button(names[way], () => resolve(way), index > 0 ? "quiet" : ""));
    find("#actions").querySelector("button")?.focus({ preventScroll: true });
  });
}

/** Brings up a guardian, whatever it takes: asks on a first visit, shows progress, and offers ways on until one works. */
export async function start(store: Store, requests: Requests): Promise<Guardian> {
  const wanted = query.get("backend");
  let backend: CreateOptions["backend"] = wanted === "webgpu" || wanted === "cpu" ? wanted : wanted === null ? store.choices.engine : "auto";
  const availability = await Guardian.availability({ model }).catch(() => "downloadable" as const);
  // `?backend=` and `?start` are for those who have decided already.
  if (availability === "downloadable" && wanted === null && !query.has("start")) await ask();
  for (;;) {
    lay("loading", availability === "available" ? "Waking the model" : "Fetching the model");
    delete document.body.dataset.code;
    find("#phase").textContent = "Starting…";
    const stop = new AbortController();
    if (availability !== "available") find("#actions").append(button("Stop", () => stop.abort(), "quiet"));
    try {
      const cache = query.get("cache") === "none" ? "none" : "cache-api";
      // Ended with the guardian, so each try needs its own.
      const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name: "slm-guardian" });
      requests.include(worker);
      return await Guardian.create({ model, backend, cache, worker, signal: stop.signal, onProgress: reporter(availability === "available") });
    } catch (error) {
      if (stop.signal.aborted) {
        await ask(true);
        continue;
      }
      const way = await fail(error);
      if (way === "cpu") backend = "cpu";
      if (way === "clear") await Guardian.cache.delete(model).catch(() => 0);
    }
  }
}

/** The line under the header once all is well. */
export function ready(guardian: Guardian): void {
  lay("ready", "Guardian");
  const { uncached } = guardian.info;
  if (uncached) find("#aside").textContent = `The model is not kept for the next visit: ${uncached}.`;
  engine(guardian);
}

/** Which engine runs; it changes where a GPU is lost for good. */
export function engine({ info: { backend, fallback } }: Guardian): void {
  if (document.body.dataset.backend === backend) return;
  document.body.dataset.backend = backend;
  find("#phase").textContent = `Ready, on ${engineName[backend]}${fallback ? ": the graphics card can’t be used here" : ""}.`;
  announce(`Ready, on ${engineName[backend]}.`);
}
