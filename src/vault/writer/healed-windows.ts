/** Joins windows that are to be healed with those that an increment touches; pure. */
import { windowPages } from "#formats/geometry.ts";
import type { PlannedWindow, TouchedWindow } from "#vault/writer/segment-plan.ts";

/** The touched windows and those to be healed, in order; both are ascending. */
export function* withHealing(
  touched: Iterable<TouchedWindow>,
  healing: readonly number[],
): Generator<TouchedWindow> {
  let at = 0;
  const untouched = function* (end: number): Generator<TouchedWindow> {
    for (let window = healing[at]; window !== undefined && window < end; window = healing[++at]) {
      yield { window, pages: new Uint8Array(windowPages) };
    }
  };
  for (const one of touched) {
    yield* untouched(one.window);
    if (healing[at] === one.window) at++;
    yield one;
  }
  yield* untouched(Infinity);
}

/** The planned windows, of which those to be healed are stored whole. */
export async function* storeHealed(
  planned: AsyncIterable<PlannedWindow>,
  healing: readonly number[],
): AsyncGenerator<PlannedWindow> {
  const wanted = new Set(healing);
  for await (const window of planned) {
    yield wanted.has(window.window) ? { ...window, isRewritten: true } : window;
  }
}
