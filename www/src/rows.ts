import type { Input, Message, Verdict } from "slm-guardian";
import { parseCsv, writeCsv, type CsvRecord } from "./csv.js";

export type Format = "lines" | "csv" | "jsonl";

/** One text of a batch, from where it was read to what was found. */
export interface Row {
  line: number;
  /** As it is shown. */
  text: string;
  /** What is screened; `null` where the row can't be. */
  input: Input | null;
  /** All that came with it, to be written out again. */
  record: Record<string, unknown>;
  /** Why there is no verdict. */
  error: string | null;
  verdict: Verdict | null;
}

const names = ["prompt", "text", "messages", "message", "content", "query", "question", "input"];

/** What a text looks like. Lines of prose have commas too, so CSV is only what has a known column or a name that says so. */
export function guess(text: string, file = ""): Format {
  if (/\.(jsonl|ndjson)$/i.test(file)) return "jsonl";
  if (/\.(csv|tsv)$/i.test(file)) return "csv";
  const first = text.trimStart().split(/[\r\n]/, 1)[0] ?? "";
  if (first.startsWith("{")) return "jsonl";
  const [header] = parseCsv(first).records;
  return header && header.cells.length > 1 && header.cells.some((cell) => names.includes(cell.trim().toLowerCase())) ? "csv" : "lines";
}

export function fromLines(text: string): Row[] {
  return text.split(/\r\n|\n|\r/).flatMap((line, index) => {
    return line.trim() === "" ? [] : [{ line: index + 1, text: line, input: line, record: { text: line }, error: null, verdict: null }];
  });
}

/** A CSV file as a table: names of the columns, and records. */
export interface Table {
  header: string[];
  records: CsvRecord[];
  /** The line of a quotation mark that is never closed. */
  unclosed: number | null;
}

export function fromCsv(text: string, hasHeader: boolean): Table {
  const { records, unclosed } = parseCsv(text);
  const wide = records.reduce((most, { cells }) => Math.max(most, cells.length), 0);
  const given = hasHeader ? (records.shift()?.cells ?? []) : [];
  const header: string[] = [];
  for (let column = 0; column < wide; column++) {
    const base = given[column]?.trim() || `column ${column + 1}`;
    let name = base;
    for (let copy = 2; header.includes(name); copy++) name = `${base} ${copy}`;
    header.push(name);
  }
  return { header, records, unclosed };
}

/** The column that has the texts, as far as can be told: one with a known name, else the one with the longest cells. */
export function likelyColumn({ header, records }: Table): number {
  for (const name of names) {
    const found = header.findIndex((each) => each.trim().toLowerCase() === name);
    if (found >= 0) return found;
  }
  const long = header.map((_, column) => records.slice(0, 200).reduce((sum, { cells }) => sum + (cells[column]?.length ?? 0), 0));
  return Math.max(0, long.indexOf(Math.max(...long)));
}

export function fromColumn({ header, records, unclosed }: Table, column: number): Row[] {
  const last = records.at(-1);
  return records.map((each) => {
    const text = each.cells[column] ?? "";
    const record = Object.fromEntries(header.map((name, at) => [name, each.cells[at] ?? ""]));
    const error = unclosed !== null && each === last ? `the quotation mark of line ${unclosed} is never closed` : text.trim() === "" ? "the cell is empty" : null;
    return { line: each.line, text, input: error ? null : text, record, error, verdict: null };
  });
}

export function fromJsonl(text: string): Row[] {
  return text.replace(/^\uFEFF/, "").split(/\r\n|\n|\r/).flatMap((raw, index): Row[] => {
    if (raw.trim() === "") return [];
    const row = { line: index + 1, verdict: null };
    const bad = (error: string, record: Record<string, unknown> = { raw }): Row[] => [{ ...row, text: raw, input: null, record, error }];
    let record: Record<string, unknown>;
    try {
      record = JSON.parse(raw) as Record<string, unknown>;
    } catch {
      return bad("not valid JSON");
    }
    if (typeof record !== "object" || record === null || Array.isArray(record)) return bad("not an object");
    const { prompt, text, messages } = record;
    const words = prompt ?? text;
    if (typeof words === "string") return words.trim() === "" ? bad("the text is empty", record) : [{ ...row, text: words, input: words, record, error: null }];
    if (!isConversation(messages)) return bad("no field prompt, text or messages that can be read", record);
    return [{ ...row, text: messages.at(-1)?.content ?? "", input: messages, record, error: null }];
  });
}

function isConversation(value: unknown): value is Message[] {
  return (
    Array.isArray(value) &&
    value.length > 0 &&
    value.every((turn: Partial<Message> | null) => typeof turn?.content === "string" && ["user", "assistant", "system"].includes(turn.role ?? "")) &&
    (value as Message[]).at(-1)?.role === "user"
  );
}

/** A verdict under a threshold of now: the score does not depend on it. */
export function judged({ score, categories }: Verdict, threshold: number): { label: "safe" | "unsafe"; category: string } {
  if (score < threshold) return { label: "safe", category: "" };
  const [likeliest] = Object.entries(categories).sort(([, one], [, other]) => other - one);
  return { label: "unsafe", category: likeliest?.[0] ?? "" };
}

const found = ({ verdict, error }: Row, threshold: number) => ({
  label: verdict ? judged(verdict, threshold).label : "",
  score: verdict ? verdict.score : "",
  category: verdict ? judged(verdict, threshold).category : "",
  threshold: verdict ? Number(threshold.toFixed(4)) : "",
  error: error ?? (verdict ? "" : "not screened"),
});

/** Every row as it came, with five columns more. */
export function toCsv(rows: readonly Row[], threshold: number): string {
  const columns = [...new Set(rows.flatMap(({ record }) => Object.keys(record)))];
  const cell = (value: unknown) => (value === undefined || value === null ? "" : typeof value === "string" ? value : JSON.stringify(value));
  const more = ["label", "score", "category", "threshold", "error"] as const;
  return writeCsv([
    [...columns, ...more.map((name) => `guardian_${name}`)],
    ...rows.map((row) => {
      const extra = found(row, threshold);
      return [...columns.map((name) => cell(row.record[name])), ...more.map((name) => String(extra[name]))];
    }),
  ]);
}

/** Every row as it came, with one field more. */
export function toJsonl(rows: readonly Row[], threshold: number): string {
  return rows
    .map((row) => {
      const { error, ...rest } = found(row, threshold);
      return `${JSON.stringify({ ...row.record, guardian: row.verdict ? rest : { error, line: row.line } })}\n`;
    })
    .join("");
}
