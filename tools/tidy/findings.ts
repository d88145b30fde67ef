/** What a tidy rule finds, and how a test reports it. */
import assert from "node:assert/strict";

import { exceptions, type TidyException } from "./exceptions.ts";

/** One place where a rule is broken. `message` says what to do instead. */
export interface Finding {
  readonly rule: string;
  readonly path: string;
  readonly line: number;
  readonly message: string;
}

/** `findings` without those that an exception covers. */
export function withoutExceptions(
  findings: readonly Finding[],
  list: readonly TidyException[] = exceptions,
): readonly Finding[] {
  return findings.filter(
    (finding) => !list.some((entry) => entry.rule === finding.rule && entry.path === finding.path),
  );
}

/** The exceptions of `rule` that no finding needs any more. */
export function staleExceptions(
  rule: string,
  findings: readonly Finding[],
  list: readonly TidyException[] = exceptions,
): readonly TidyException[] {
  return list.filter(
    (entry) => entry.rule === rule && !findings.some((finding) => finding.path === entry.path),
  );
}

/** Fails with one line per finding of `rule` that no exception covers, and on stale exceptions. */
export function assertTidy(rule: string, findings: readonly Finding[]): void {
  for (const finding of findings) assert.equal(finding.rule, rule);
  const broken = withoutExceptions(findings).map(
    (finding) => `${finding.path}:${finding.line}: ${finding.message}`,
  );
  const stale = staleExceptions(rule, findings).map(
    (entry) => `${entry.path}: the exception of rule "${rule}" is not needed; remove it`,
  );
  const lines = [...broken, ...stale];
  assert.ok(lines.length === 0, `rule "${rule}":\n  ${lines.join("\n  ")}`);
}
