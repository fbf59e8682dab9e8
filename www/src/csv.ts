/** One record of a CSV file, and the line it begins on. */
export interface CsvRecord {
  line: number;
  cells: string[];
}

/** Records, and the line of a quotation mark that is never closed. */
export interface Csv {
  records: CsvRecord[];
  unclosed: number | null;
}

/** The separator of the first line: whichever of comma, semicolon and tab stands in it most, outside quotes. */
export function separator(text: string): string {
  const counts = new Map([[",", 0], [";", 0], ["\t", 0]]);
  let quoted = false;
  for (const letter of text) {
    if (letter === '"') quoted = !quoted;
    else if (!quoted && (letter === "\n" || letter === "\r")) break;
    else if (!quoted && counts.has(letter)) counts.set(letter, (counts.get(letter) ?? 0) + 1);
  }
  return [...counts].reduce((best, next) => (next[1] > best[1] ? next : best))[0];
}

/**
 * Reads RFC 4180: cells may be quoted, and then hold separators, line ends and doubled quotation marks. Any of the three line
 * ends will do, a byte order mark and empty lines are passed over, and a quotation mark inside an unquoted cell is itself.
 */
export function parseCsv(text: string, by = separator(text)): Csv {
  const records: CsvRecord[] = [];
  let cells: string[] = [];
  let cell = "";
  let line = 1;
  let begun = 1;
  let quoted = false;
  let wasQuoted = false;
  let opened = 0;
  let at = text.startsWith("\uFEFF") ? 1 : 0;
  const endCell = () => {
    cells.push(cell);
    cell = "";
    wasQuoted = false;
  };
  const endRecord = () => {
    const empty = cells.length === 0 && cell === "" && !wasQuoted;
    if (!empty) {
      endCell();
      records.push({ line: begun, cells });
    }
    cells = [];
  };
  for (; at < text.length; at++) {
    const letter = text[at]!;
    if (letter === "\n" || (letter === "\r" && text[at + 1] !== "\n")) line++;
    if (quoted) {
      if (letter !== '"') cell += letter;
      else if (text[at + 1] === '"') cell += text[++at];
      else quoted = false;
    } else if (letter === '"' && cell === "" && !wasQuoted) {
      quoted = wasQuoted = true;
      opened = line;
    } else if (letter === by) endCell();
    else if (letter === "\n" || letter === "\r") {
      if (letter === "\r" && text[at + 1] === "\n") {
        at++;
        line++;
      }
      endRecord();
      begun = line;
    } else cell += letter;
  }
  endRecord();
  return { records, unclosed: quoted ? opened : null };
}

/** Writes RFC 4180: quotes where they are needed, ends lines with CRLF. */
export function writeCsv(rows: readonly (readonly string[])[]): string {
  const cell = (value: string) => (/[",\r\n]|^\s|\s$/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  return rows.map((row) => `${row.map(cell).join(",")}\r\n`).join("");
}
