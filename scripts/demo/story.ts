/** How the demo speaks: steps, facts, and the closing table. In a log it is the same without colours. */
import { systemClock } from "#base/clock.ts";
import { formatDuration, formatTable } from "#cli/format.ts";

const isColoured = process.stdout.isTTY && process.env["NO_COLOR"] === undefined;

function paint(code: string, text: string): string {
  return isColoured ? `\u001b[${code}m${text}\u001b[0m` : text;
}

/** One line of the closing table. */
export interface Fact {
  readonly what: string;
  readonly figure: string;
  readonly timeMs?: number;
}

/** Tells what happens while it happens, and keeps what the closing table shows. */
export class Story {
  readonly #startMs = systemClock.monotonicMs();
  readonly #facts: Fact[] = [];
  #step = 0;

  /** Begins a step. */
  step(title: string): void {
    this.#step++;
    console.log(`\n${paint("1;36", `${this.#step}. ${title}`)}`);
  }

  /** One line below the step. */
  say(line: string): void {
    console.log(`   ${line}`);
  }

  /** A command that the demo runs, as a user would type it. */
  command(line: string): void {
    console.log(`   ${paint("33", `$ ${line}`)}`);
  }

  /** Something that was checked and holds. */
  good(line: string): void {
    console.log(`   ${paint("32", "✓")} ${line}`);
  }

  /** Keeps a line for the closing table. */
  note(fact: Fact): void {
    this.#facts.push(fact);
  }

  /** The closing table. */
  close(): void {
    const rows = this.#facts.map(({ what, figure, timeMs }) => [
      what,
      figure,
      timeMs === undefined ? "" : formatDuration(timeMs),
    ]);
    const columns = [
      { head: "WHAT" },
      { head: "FIGURE" },
      { head: "TIME", align: "right" as const },
    ];
    const [head = "", ...lines] = formatTable(columns, rows);
    const totalMs = systemClock.monotonicMs() - this.#startMs;
    console.log(`\n${paint("1;36", "What happened")}`);
    console.log(`   ${paint("1", head)}`);
    for (const line of lines) console.log(`   ${line}`);
    console.log(
      `\n${paint("1;32", `The restored VM holds what the guest wrote. Done in ${formatDuration(totalMs)}.`)}`,
    );
  }
}

/** Runs `work` and returns what it took. */
export async function timed<T>(
  work: () => Promise<T>,
): Promise<{ readonly result: T; readonly timeMs: number }> {
  const startMs = systemClock.monotonicMs();
  const result = await work();
  return { result, timeMs: systemClock.monotonicMs() - startMs };
}
