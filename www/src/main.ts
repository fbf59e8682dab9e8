import { Guardian, GuardianError, type CreateOptions, type Verdict } from "slm-guardian";

const find = <T extends Element>(selector: string): T => {
  const element = document.querySelector<T>(selector);
  if (!element) throw new Error(`the page lacks ${selector}`);
  return element;
};
const phase = find<HTMLElement>("#phase");
const bar = find<HTMLProgressElement>("#progress");
const log = find<HTMLElement>("#log");
const form = find<HTMLFormElement>("#form");
const text = find<HTMLTextAreaElement>("#text");
const send = find<HTMLButtonElement>("#send");

const megabytes = (bytes: number) => `${Math.round(bytes / 1e6)} MB`;
const backendName = { gpu: "WebGPU", cpu: "the CPU" };

/** `?backend=cpu` and `?cache=none` choose; anything else is left to the package. */
function options(): CreateOptions {
  const query = new URLSearchParams(location.search);
  const backend = query.get("backend");
  return {
    model: query.get("model") ?? "/model/",
    backend: backend === "webgpu" || backend === "cpu" ? backend : "auto",
    cache: query.get("cache") === "none" ? "none" : "cache-api",
    onProgress: ({ phase: name, loaded, total }) => {
      bar.value = loaded / total;
      phase.textContent = name === "download" ? `Loading the model: ${megabytes(loaded)} of ${megabytes(total)}` : "Checking that the model computes right…";
    },
  };
}

async function start(): Promise<void> {
  document.body.dataset.state = "loading";
  let guardian: Guardian;
  try {
    guardian = await Guardian.create(options());
  } catch (error) {
    document.body.dataset.state = "failed";
    document.body.dataset.code = error instanceof GuardianError ? error.code : "";
    phase.textContent = `The guardian can't start: ${(error as Error).message}. Reload the page to try again.`;
    bar.hidden = true;
    return;
  }
  const { backend, fallback } = guardian.info;
  phase.textContent = `Ready, on ${backendName[backend]}${fallback ? ` (${fallback})` : ""}.`;
  bar.hidden = true;
  text.disabled = send.disabled = false;
  document.body.dataset.state = "ready";
  document.body.dataset.backend = backend;
  // For tests and the command line: the page's own guardian.
  Object.assign(globalThis, { guardian });

  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const said = text.value;
    if (said.trim() === "") return;
    text.value = "";
    void turn(guardian, said);
  });
  text.focus();
}

/** One message: what was said, the verdict, and the safeguard reply as it is written. Text only, never HTML. */
async function turn(guardian: Guardian, said: string): Promise<void> {
  const item = document.createElement("li");
  const part = (className: string, content: string) => {
    const element = document.createElement("p");
    element.className = className;
    element.textContent = content;
    item.append(element);
    return element;
  };
  part("said", said);
  const line = part("verdict", "Checking…");
  item.dataset.state = "checking";
  log.append(item);
  try {
    const { verdict, reply } = await guardian.protect(said);
    item.className = verdict.label;
    line.textContent = verdict.label === "safe" ? "Safe: would be sent now" : `Unsafe: ${verdict.category ?? ""}`;
    part("facts", facts(verdict));
    item.dataset.verdict = JSON.stringify(verdict);
    if (reply) {
      const place = part("reply", "");
      const reader = reply.getReader();
      for (let next = await reader.read(); !next.done; next = await reader.read()) place.textContent += next.value;
      item.dataset.reply = place.textContent ?? "";
    }
    item.dataset.state = "done";
  } catch (error) {
    item.className = "failed";
    line.textContent = `Not checked, so not sent: ${(error as Error).message}`;
    item.dataset.state = "failed";
    item.dataset.code = error instanceof GuardianError ? error.code : "";
  }
}

function facts(verdict: Verdict): string {
  const { score, threshold, preset, ms, backend, tokens } = verdict;
  return `score ${score.toFixed(3)}, threshold ${threshold.toFixed(3)} (${preset ?? "own"}), ${tokens} tokens, ${Math.round(ms)} ms on ${backendName[backend]}`;
}

void start();
