/** The last steps of a session that ends. */
import { KluisError } from "#base/kluis-error.ts";
import { farewellMs } from "#vault/limits.ts";
import { runSteps, type StepDeps } from "./run-steps.ts";
import type { Steps } from "./steps.ts";

/**
 * Runs `steps` even where the session was aborted, but not for long: who pressed Ctrl-C because the store
 * does not answer waits for this. What is left undone a collection does later, so no error is told.
 */
export async function sayFarewell(steps: Steps<unknown>, deps: StepDeps): Promise<void> {
  const late = new AbortController();
  const done = new AbortController();
  const watch = deps.clock.sleep(farewellMs, done.signal).then(
    () => late.abort(new KluisError("Cancelled", "Cannot end the session: the store is silent")),
    () => undefined,
  );
  await Promise.allSettled([runSteps(steps, { ...deps, signal: late.signal })]);
  done.abort();
  await watch;
}
