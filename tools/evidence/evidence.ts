/** What a claim with a bar is, as a program that anybody can run: `npm run evidence -- NAME`. */

/** What an evidence may use. */
export interface EvidenceContext {
  /** An empty folder, removed afterwards. */
  readonly scratch: string;
  /** `--key=value` arguments after the name. */
  readonly options: Readonly<Record<string, string>>;
  /** Aborts on Ctrl-C. */
  readonly signal: AbortSignal;
  /** Shows one line of progress. */
  log(line: string): void;
}

/** What an evidence measured. */
export interface EvidenceOutcome {
  /** The measured figure with its unit, on one line, for people. */
  readonly figure: string;
  /** Whether the figure meets the bar. */
  readonly holds: boolean;
  /** Set where options left a part out: such a run is shown, but not written down. */
  readonly isPartial?: true;
}

/** One claim. `evidence/NAME.ts` exports it as `evidence`; importing the file does nothing. */
export interface Evidence {
  /** `[a-z0-9-]+`, the name of its file. */
  readonly name: string;
  /** The claim in words, on one line. */
  readonly claim: string;
  /** What the figure must reach, on one line. */
  readonly bar: string;
  /**
   * Measures on this machine, now; nothing is remembered from an earlier run, except that bars on
   * one comparison of ten minutes share it for an hour while no source file changes.
   */
  run(context: EvidenceContext): Promise<EvidenceOutcome>;
}
