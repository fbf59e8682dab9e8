import { capital, fact, find, make } from "./dom.js";
import { histogram } from "./picture.js";
import { judged, toCsv, toJsonl, type Row } from "./rows.js";
import type { Store } from "./store.js";

const PAGE = 50;

/** What a batch found. A page of rows is drawn at a time, so ten thousand cost no more than fifty. */
export class Results {
  #rows: Row[] = [];
  #page = 0;
  readonly #filter = find<HTMLSelectElement>("#batch-filter");
  readonly #order = find<HTMLSelectElement>("#batch-order");

  constructor(private readonly store: Store) {
    for (const control of [this.#filter, this.#order]) {
      control.addEventListener("change", () => {
        this.#page = 0;
        this.update();
      });
    }
    find("#batch-back").addEventListener("click", () => this.#turn(-1));
    find("#batch-next").addEventListener("click", () => this.#turn(1));
    find("#batch-csv").addEventListener("click", () => save("guardian.csv", "text/csv", toCsv(this.#rows, store.threshold)));
    find("#batch-jsonl").addEventListener("click", () => save("guardian.jsonl", "application/x-ndjson", toJsonl(this.#rows, store.threshold)));
    store.onChange(() => this.update());
  }

  open(rows: Row[]): void {
    this.#rows = rows;
    this.#page = 0;
    find("#batch-results").hidden = false;
    this.update();
  }

  update(): void {
    if (this.#rows.length === 0) return;
    const { threshold } = this.store;
    const scores = this.#rows.flatMap(({ verdict }) => (verdict ? [verdict.score] : []));
    const unsafe = scores.filter((score) => score >= threshold).length;
    const bad = this.#rows.filter(({ error }) => error !== null).length;
    find("#batch-sums").replaceChildren(
      fact("Screened", scores.length.toLocaleString("en")),
      fact("Safe", (scores.length - unsafe).toLocaleString("en"), "harmless"),
      fact("Unsafe", unsafe.toLocaleString("en"), "harmful"),
      fact("Not screened", bad.toLocaleString("en")),
    );
    histogram(find<SVGSVGElement>("#batch-histogram"), scores, threshold);
    const chosen = this.#chosen();
    const pages = Math.max(1, Math.ceil(chosen.length / PAGE));
    this.#page = Math.min(this.#page, pages - 1);
    const from = this.#page * PAGE;
    find("#batch-table tbody").replaceChildren(...chosen.slice(from, from + PAGE).map((row) => this.#line(row)));
    find("#batch-page").textContent = chosen.length === 0 ? "None" : `${(from + 1).toLocaleString("en")} to ${Math.min(from + PAGE, chosen.length).toLocaleString("en")} of ${chosen.length.toLocaleString("en")}`;
    find<HTMLButtonElement>("#batch-back").disabled = this.#page === 0;
    find<HTMLButtonElement>("#batch-next").disabled = this.#page === pages - 1;
  }

  #turn(by: number): void {
    this.#page += by;
    this.update();
    find("#batch-table").scrollIntoView({ block: "nearest" });
  }

  #chosen(): Row[] {
    const { threshold } = this.store;
    const wanted = this.#filter.value;
    const rows = this.#rows.filter(({ verdict, error }) => {
      if (wanted === "all") return true;
      return wanted === "error" ? error !== null : verdict !== null && judged(verdict, threshold).label === wanted;
    });
    if (this.#order.value === "line") return rows;
    const sign = this.#order.value === "down" ? -1 : 1;
    // What has no score comes last either way.
    const key = ({ verdict }: Row) => (verdict ? sign * verdict.score : Infinity);
    return [...rows].sort((one, other) => key(one) - key(other) || one.line - other.line);
  }

  #line({ line, text, verdict, error }: Row): HTMLTableRowElement {
    const { threshold } = this.store;
    const row = make("tr", error ? "failed" : "");
    let words = error ? `Not screened: ${error}` : "waiting";
    if (verdict) {
      const { label, category } = judged(verdict, threshold);
      row.className = label;
      words = category === "" ? capital(label) : `${capital(label)}: ${category}`;
    }
    const shown = text.length > 300 ? `${text.slice(0, 300)}…` : text;
    row.append(make("td", "number", String(line)), make("td", "words", make("div", "", shown)), make("td", "verdict", words), make("td", "number", verdict ? verdict.score.toFixed(3) : "–"));
    return row;
  }
}

/** Hands a file to the visitor. It is made in memory: nothing goes over the network. */
function save(name: string, type: string, content: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: `${type};charset=utf-8` }));
  link.download = name;
  link.click();
  // Not at once: the browser may not have begun to read it.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
