/** Runs stages of test files as one run: one report and one summary at the end. */
import { join, relative } from "node:path";
import { run } from "node:test";
import type { TestEvent } from "node:test/reporters";

import type { TestStage } from "./groups.ts";

/** What a run came to. */
export interface RunResult {
  readonly counts: Readonly<Record<CountName, number>>;
  readonly durationMs: number;
  /** Files that ran but hold no test. */
  readonly filesWithoutTests: readonly string[];
  /** Wall time of each file's process, slowest first. */
  readonly fileTimes: readonly { readonly file: string; readonly durationMs: number }[];
}

const countNames = ["tests", "suites", "pass", "fail", "cancelled", "skipped", "todo"] as const;
type CountName = (typeof countNames)[number];

/** How many of the slowest files the report names. */
const slowestShown = 10;

/** How a run is done. Files are relative to `root`. */
export interface RunOptions {
  readonly root: string;
  readonly stages: readonly TestStage[];
  /** Longest time of one test, and longest time in which no test of any file begins or ends. */
  readonly fileTimeoutMs: number;
  readonly signal: AbortSignal;
}

/**
 * The events of all stages one after the other, as node:test's reporters take them. The summary
 * lines of each stage are held back and added up: report {@link StagedRun.events} to its end, then
 * {@link StagedRun.closing}, so that the summary closes the report also after failures.
 */
export class StagedRun {
  readonly #options: RunOptions;
  readonly #counts = Object.fromEntries(countNames.map((name) => [name, 0])) as Record<
    CountName,
    number
  >;
  #durationMs = 0;
  readonly #filesWithoutTests: string[] = [];
  readonly #fileTimes: { readonly file: string; readonly durationMs: number }[] = [];

  constructor(options: RunOptions) {
    this.#options = options;
  }

  /** Whether something ran, and all of it passed. */
  get isGood(): boolean {
    const { tests, fail, cancelled, skipped, todo } = this.#counts;
    return (
      tests > 0 && fail + cancelled + skipped + todo === 0 && this.#filesWithoutTests.length === 0
    );
  }

  get result(): RunResult {
    return {
      counts: this.#counts,
      durationMs: this.#durationMs,
      filesWithoutTests: this.#filesWithoutTests,
      fileTimes: this.#fileTimes.toSorted((a, b) => b.durationMs - a.durationMs),
    };
  }

  async *events(): AsyncGenerator<TestEvent> {
    for (const stage of this.#options.stages) yield* this.#runStage(stage);
  }

  async *#runStage(stage: TestStage): AsyncGenerator<TestEvent> {
    const { root, fileTimeoutMs, signal } = this.#options;
    // A file whose tests have ended but that holds something open would never end by itself.
    const silent = new AbortController();
    const silence = setTimeout(() => silent.abort(), fileTimeoutMs);
    try {
      const stream = run({
        cwd: root,
        files: stage.files.map((file) => join(root, file)),
        concurrency: stage.concurrency,
        timeout: fileTimeoutMs,
        signal: AbortSignal.any([signal, silent.signal]),
      });
      for await (const event of stream as AsyncIterable<TestEvent>) {
        silence.refresh();
        this.#watch(event);
        if (!this.#isSummary(event)) yield event;
      }
    } finally {
      clearTimeout(silence);
    }
  }

  /** The slowest files, what is wrong beside failed tests, and the summary. */
  *closing(): Generator<TestEvent> {
    for (const { file, durationMs } of this.result.fileTimes.slice(0, slowestShown)) {
      const seconds = (durationMs / 1_000).toFixed(1).padStart(6);
      yield diagnostic(`slow file ${seconds} s ${relative(this.#options.root, file)}`);
    }
    for (const file of this.#filesWithoutTests)
      yield diagnostic(`no test in ${relative(this.#options.root, file)}`);
    for (const name of countNames) yield diagnostic(`${name} ${this.#counts[name]}`);
    yield diagnostic(`duration_ms ${this.#durationMs.toFixed(0)}`);
  }

  #watch(event: TestEvent): void {
    if (event.type !== "test:complete" && event.type !== "test:pass") return;
    const { name, file } = event.data;
    if (file === undefined || name !== file) return;
    if (event.type === "test:pass") this.#filesWithoutTests.push(file);
    else this.#fileTimes.push({ file, durationMs: event.data.details.duration_ms });
  }

  /** Takes the closing lines of one stage; they are the only diagnostics that name no file. */
  #isSummary(event: TestEvent): boolean {
    if (event.type === "test:summary") return event.data.file === undefined;
    if (event.type !== "test:diagnostic" || event.data.file !== undefined) return false;
    const [, name, value] = /^(\w+) ([\d.]+)$/.exec(event.data.message) ?? [];
    if (name === "duration_ms") this.#durationMs += Number(value);
    else if (isCountName(name)) this.#counts[name] += Number(value);
    else return false;
    return true;
  }
}

function isCountName(name: string | undefined): name is CountName {
  return countNames.some((candidate) => candidate === name);
}

function diagnostic(message: string): TestEvent {
  return { type: "test:diagnostic", data: { nesting: 0, message, level: "info" } };
}
