/**
 * Shows progress on the error stream: on a terminal one line for each disk, drawn anew several
 * times a second; elsewhere a plain line now and then; for JSON nothing.
 */
import type { Clock } from "#base/clock.ts";
import { type MeterReading, type PartProgress, ProgressMeter } from "#protect/progress-meter.ts";
import type { Terminal } from "#cli/environment.ts";
import { formatBytes, formatDuration, formatRate, printable } from "#cli/format.ts";

const drawEveryMs = 120;
/** Plain lines begin after this long and come this far apart. */
const plainAfterMs = 2000;
const plainEveryMs = 5000;
/** Lines on a terminal; more disks than that share the line of the sum. */
const linesMax = 16;
const barCellsMax = 24;
/** A shorter bar tells nothing. */
const barCellsMin = 6;
/** Letters that what stands behind a bar may take, so that bars do not change their length. */
const stateLetters = 57;

/** How to show progress. */
export interface DisplayOptions {
  readonly terminal: Terminal;
  readonly clock: Clock;
  /** `quiet` shows nothing. */
  readonly form: "table" | "json";
}

/** Progress of one disk in what it is doing now. */
export interface DisplayedProgress {
  readonly disk: string;
  /** For example `comparing`; parts of one disk follow each other. */
  readonly doing: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
}

/** See the file's head. Dispose it before anything else is written to the terminal. */
export class ProgressDisplay implements AsyncDisposable {
  readonly #options: DisplayOptions;
  readonly #meter: ProgressMeter;
  readonly #current = new Map<string, string>();
  readonly #stop = new AbortController();
  readonly #loop: Promise<void>;
  #linesDrawn = 0;
  #nextPlainMs: number;

  constructor(options: DisplayOptions) {
    const nowMs = options.clock.monotonicMs();
    this.#options = options;
    this.#meter = new ProgressMeter(nowMs);
    this.#nextPlainMs = nowMs + plainAfterMs;
    this.#loop = options.form === "json" ? Promise.resolve() : this.#run();
  }

  /** Notes progress; cheap, may be called for every segment. */
  update(progress: DisplayedProgress): void {
    const part = `${progress.disk} ${progress.doing}`;
    this.#current.set(progress.disk, part);
    this.#meter.update(part, progress, this.#options.clock.monotonicMs());
  }

  /** Writes a line above the bars. */
  note(line: string): void {
    if (this.#options.form === "json") return;
    this.#erase();
    this.#options.terminal.errors.write(`${printable(line)}\n`);
  }

  /** Ends the drawing; the bars are taken away. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#loop;
    this.#erase();
  }

  async #run(): Promise<void> {
    const { clock, terminal } = this.#options;
    const { signal } = this.#stop;
    while (!signal.aborted) {
      await clock.sleep(drawEveryMs, signal).catch(() => undefined);
      if (signal.aborted) return;
      if (terminal.errors.isTerminal) this.#draw();
      else this.#writePlain();
    }
  }

  #read(): MeterReading {
    const reading = this.#meter.read(this.#options.clock.monotonicMs());
    const shown = new Set(this.#current.values());
    return { ...reading, parts: reading.parts.filter((part) => shown.has(part.name)) };
  }

  #draw(): void {
    const { terminal } = this.#options;
    const { parts } = this.#read();
    if (parts.length === 0) return;
    const width = Math.max(...parts.map((part) => part.name.length));
    const columns = terminal.errors.columns() - 1;
    const style = { width, columns, isUnicode: terminal.isUnicode };
    const lines = parts.slice(0, linesMax).map((part) => formatBarLine(part, style));
    // In one piece, so that a terminal never shows what is half drawn.
    terminal.errors.write(this.#erasing() + lines.map((line) => `${line}\n`).join(""));
    this.#linesDrawn = lines.length;
  }

  #erase(): void {
    if (this.#linesDrawn > 0) this.#options.terminal.errors.write(this.#erasing());
    this.#linesDrawn = 0;
  }

  /** What moves up over the lines that were drawn and clears them. */
  #erasing(): string {
    return this.#linesDrawn === 0 ? "" : `\u001b[${this.#linesDrawn}A\u001b[J`;
  }

  #writePlain(): void {
    const nowMs = this.#options.clock.monotonicMs();
    if (nowMs < this.#nextPlainMs) return;
    this.#nextPlainMs = nowMs + plainEveryMs;
    for (const part of this.#read().parts.slice(0, linesMax)) {
      if (part.doneBytes < part.totalBytes) {
        this.#options.terminal.errors.write(`${formatPlainLine(part)}\n`);
      }
    }
  }
}

/** How a line of a terminal looks. */
export interface BarStyle {
  /** Letters of the longest name. */
  readonly width: number;
  /** Letters of the line at most; the bar gives way first. */
  readonly columns: number;
  readonly isUnicode: boolean;
}

/** One line of a terminal; pure. */
export function formatBarLine(part: PartProgress, style: BarStyle): string {
  const share = shareOf(part);
  const name = `  ${printable(part.name).padEnd(style.width)}  `;
  const state = formatState(part, share);
  const cells = Math.min(barCellsMax, style.columns - name.length - stateLetters);
  const filled = Math.floor(share * cells);
  const [full, empty] = style.isUnicode ? ["━", "╌"] : ["#", "-"];
  const bar = cells < barCellsMin ? "" : `${full.repeat(filled)}${empty.repeat(cells - filled)}  `;
  return Array.from(name + bar + state)
    .slice(0, style.columns)
    .join("");
}

/** One line of a log; pure. */
export function formatPlainLine(part: PartProgress): string {
  return `${printable(part.name)}: ${formatState(part, shareOf(part)).trim().replace(/ {2,}/g, ", ")}`;
}

function formatState(part: PartProgress, share: number): string {
  const percent = `${Math.floor(share * 100)} %`.padStart(5);
  const amount = `${formatBytes(part.doneBytes)} of ${formatBytes(part.totalBytes)}`;
  const rate = formatRate(part.bytesPerSecond);
  if (part.remainingMs === undefined) return `${percent}  ${amount}`;
  if (part.remainingMs === 0) return `${percent}  ${amount}  finishing`;
  return `${percent}  ${amount}  ${rate}  ${formatDuration(part.remainingMs)} left`;
}

function shareOf(part: PartProgress): number {
  return part.totalBytes === 0 ? 1 : Math.min(1, part.doneBytes / part.totalBytes);
}
