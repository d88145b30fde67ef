/** The table of docs/evidence.md: the newest outcome of each evidence. */

/** One row of the table. No field holds a line break. */
export interface LedgerRow {
  readonly name: string;
  /** `YYYY-MM-DD`. */
  readonly date: string;
  readonly cores: number;
  readonly command: string;
  readonly figure: string;
  readonly bar: string;
  readonly holds: boolean;
}

const columns = ["name", "date", "cores", "command", "figure", "bar", "holds"] as const;
const tableHead = [`| ${columns.join(" | ")} |`, "|---|---|---:|---|---|---|---|"].join("\n");

/** The rows of the page, in its order. Throws where a row cannot be read. */
export function parseLedger(page: string): readonly LedgerRow[] {
  const at = page.indexOf(tableHead);
  if (at === -1) throw new SyntaxError("Cannot read the ledger: its table is missing");
  const lines = page.slice(at + tableHead.length).split("\n");
  return lines.filter((line) => line !== "").map((line) => parseRow(line));
}

/** The page with `row` in place of the one of its name, rows sorted by name. */
export function updateLedger(page: string, row: LedgerRow): string {
  const rows = [...parseLedger(page).filter((other) => other.name !== row.name), row];
  rows.sort((a, b) => (a.name < b.name ? -1 : 1));
  const head = page.slice(0, page.indexOf(tableHead));
  return `${head}${[tableHead, ...rows.map((entry) => encodeRow(entry))].join("\n")}\n`;
}

function encodeRow(row: LedgerRow): string {
  const cells = columns.map((column) => {
    const value = row[column];
    if (typeof value === "boolean") return value ? "yes" : "NO";
    return String(value).replaceAll(/\s+/g, " ").replaceAll("|", "\\|");
  });
  return `| ${cells.join(" | ")} |`;
}

function parseRow(line: string): LedgerRow {
  const cells = line
    .split(/(?<!\\)\|/)
    .slice(1, -1)
    .map((cell) => cell.trim().replaceAll("\\|", "|"));
  const [name, date, cores, command, figure, bar, holds] = cells;
  if (cells.length !== columns.length || (holds !== "yes" && holds !== "NO")) {
    throw new SyntaxError(`Cannot read the ledger: "${line}" is not a row of it`);
  }
  return {
    name: name ?? "",
    date: date ?? "",
    cores: Number(cores),
    command: command ?? "",
    figure: figure ?? "",
    bar: bar ?? "",
    holds: holds === "yes",
  };
}
