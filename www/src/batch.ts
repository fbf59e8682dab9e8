import type { Guardian } from "slm-guardian";
import { announce, find, make } from "./dom.js";
import { inBrief } from "./failures.js";
import { Results } from "./results.js";
import { fromColumn, fromCsv, fromJsonl, fromLines, guess, likelyColumn, type Format, type Row, type Table } from "./rows.js";
import type { Store } from "./store.js";

/** Above this many characters a file is not shown: the text box would be slow, and nobody edits that much by hand. */
const SHOWN = 500_000;

const count = (number: number, one: string, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

/** Many texts at once: reading them, screening them one by one, and what was found. */
export function batch(guardian: Guardian, store: Store): void {
  const text = find<HTMLTextAreaElement>("#batch-text");
  const format = find<HTMLSelectElement>("#batch-format");
  const column = find<HTMLSelectElement>("#batch-column");
  const header = find<HTMLInputElement>("#batch-header");
  const run = find<HTMLButtonElement>("#batch-run");
  const cancel = find<HTMLButtonElement>("#batch-cancel");
  const results = new Results(store);
  let file = "";
  /** The texts as they came: a text box changes line ends, which may stand inside a CSV cell. */
  let source = text.value;
  let rows: Row[] = [];
  let table: Table | undefined;

  /** Reads the text box anew. `columns` is false where only the choice of a column has changed. */
  const read = (columns = true) => {
    const as: Format = format.value === "auto" ? guess(source, file) : (format.value as Format);
    find("#batch-column-field").hidden = find("#batch-header-field").hidden = as !== "csv";
    if (as !== "csv") rows = as === "jsonl" ? fromJsonl(source) : fromLines(source);
    else {
      if (columns || !table) {
        table = fromCsv(source, header.checked);
        column.replaceChildren(...table.header.map((name, index) => new Option(name, String(index))));
        column.value = String(likelyColumn(table));
      }
      rows = fromColumn(table, Number(column.value));
    }
    const bad = rows.filter(({ error }) => error !== null);
    const good = rows.length - bad.length;
    const kind = { lines: "one text a line", csv: "CSV", jsonl: "JSONL" }[as];
    find("#batch-found").textContent = rows.length === 0 ? "No texts yet." : `${count(good, "text")}, read as ${kind}${file ? `, from ${file}` : ""}.`;
    run.disabled = good === 0;
    run.textContent = good === 0 ? "Screen them" : `Screen ${count(good, "text")}`;
    const list = find("#batch-bad");
    list.hidden = bad.length === 0;
    list.replaceChildren(...bad.slice(0, 5).map(({ line, error }) => make("li", "", `Line ${line}: ${error}. It is left out, and kept in what you save.`)));
    if (bad.length > 5) list.append(make("li", "", `And ${count(bad.length - 5, "line")} more like these.`));
  };
  text.addEventListener("input", () => {
    file = "";
    source = text.value;
    read();
  });
  for (const control of [format, header]) control.addEventListener("change", () => read());
  column.addEventListener("change", () => read(false));

  const take = async (chosen: File | undefined) => {
    if (!chosen) return;
    try {
      source = await chosen.text();
      file = chosen.name;
      text.value = source.length > SHOWN ? "" : source;
      text.placeholder = source.length > SHOWN ? `${file} is too long to show. Paste other texts here, or drop another file.` : "Paste texts here, or drop a file";
      read();
      announce(find("#batch-found").textContent ?? "");
    } catch (error) {
      find("#batch-found").textContent = `The file can’t be read: ${(error as Error).message}`;
    }
  };
  const input = find<HTMLInputElement>("#batch-file");
  find("#batch-choose").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    void take(input.files?.[0]);
    input.value = "";
  });
  const drop = find("#drop");
  for (const name of ["dragover", "dragleave", "drop"] as const) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop") void take(event.dataTransfer?.files[0]);
    });
  }

  run.addEventListener("click", () => {
    const abort = new AbortController();
    cancel.onclick = () => abort.abort();
    void screen(rows, abort.signal);
  });

  async function screen(all: Row[], signal: AbortSignal): Promise<void> {
    const todo = all.filter(({ input }) => input !== null);
    run.disabled = true;
    cancel.hidden = find("#batch-work").hidden = false;
    cancel.focus();
    for (const row of todo) {
      row.verdict = null;
      row.error = null;
    }
    results.open(all);
    pace(0, todo.length, 0);
    const started = performance.now();
    let drawn = 0;
    let done = 0;
    for (const row of todo) {
      // One by one, not through `screenBatch`: a text that can't be screened must not end the rest.
      try {
        row.verdict = await guardian.screen(row.input ?? "", { ...store.policy, signal });
      } catch (error) {
        if (signal.aborted) break;
        row.error = inBrief(error);
      }
      done += 1;
      if (performance.now() - drawn < 250 && done < todo.length) continue;
      drawn = performance.now();
      pace(done, todo.length, (drawn - started) / 1000);
      results.update();
    }
    results.update();
    const words = done < todo.length ? `Cancelled: ${count(done, "text")} of ${count(todo.length, "text")} screened.` : `${count(done, "text")} screened in ${time((performance.now() - started) / 1000)}.`;
    find("#batch-pace").textContent = words;
    announce(words);
    const focused = document.activeElement === cancel;
    cancel.hidden = true;
    run.disabled = false;
    if (focused) run.focus();
  }
  // A reload may have left a text in the box.
  read();
}

function pace(done: number, all: number, seconds: number): void {
  find<HTMLProgressElement>("#batch-progress").value = done / all;
  const left = done > 0 && done < all ? `, about ${time((seconds / done) * (all - done))} left` : "";
  find("#batch-pace").textContent = `${done.toLocaleString("en")} of ${all.toLocaleString("en")}${left}`;
}

function time(seconds: number): string {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} minutes` : `${(seconds / 3600).toFixed(1)} hours`;
}
