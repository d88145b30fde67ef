/**
 * Cuts what is to be read of a disk into segments; pure.
 *
 * Segments come in ascending order of windows, and no window is in two of them.
 */
import { assert } from "#base/assert.ts";
import { pageBytes, windowBytes, windowPages } from "#formats/geometry.ts";
import type { Extent } from "#ports/disk.ts";
import { segmentBytes, segmentPages } from "#vault/limits.ts";

/** What happened to a page: nothing, new data, zeroed. */
export const pageChanges = { none: 0, data: 1, zero: 2 } as const;

/** The changed pages of one window. */
export interface TouchedWindow {
  readonly window: number;
  /** One of {@link pageChanges} for each of 64 pages. */
  readonly pages: Uint8Array;
}

/** A task for the pipeline: read whole windows, read changed pages, or just note zeros. */
export type Segment =
  | WholeWindows
  | { readonly kind: "pages"; readonly windows: readonly TouchedWindow[] }
  | { readonly kind: "zeros"; readonly firstWindow: number; readonly windows: number };

/** Windows that are read and stored as they are. */
export interface WholeWindows {
  readonly kind: "windows";
  readonly windows: readonly number[];
  /** Of each window, the pages that may have changed: fewer than all where it is stored anew. */
  readonly changedPages: readonly number[];
}

const windowsPerSegment = segmentBytes / windowBytes;

/** Consecutive windows. */
export interface WindowRun {
  readonly firstWindow: number;
  readonly windows: number;
}

/** The windows that data extents touch, as few runs as there are. */
export async function collectDataWindows(
  extents: AsyncIterable<Extent>,
): Promise<readonly WindowRun[]> {
  const runs: { firstWindow: number; windows: number }[] = [];
  for await (const extent of extents) {
    if (extent.kind === "zero" || extent.lengthBytes === 0) continue;
    const run = runs.at(-1);
    const end = Math.ceil((extent.offsetBytes + extent.lengthBytes) / windowBytes);
    const first = Math.floor(extent.offsetBytes / windowBytes);
    if (run !== undefined && first <= run.firstWindow + run.windows) {
      run.windows = Math.max(run.windows, end - run.firstWindow);
    } else {
      runs.push({ firstWindow: first, windows: end - first });
    }
  }
  return runs;
}

/** Segments of a full read of these windows. */
export function* planFull(runs: readonly WindowRun[]): Generator<Segment> {
  const open = new OpenSegment();
  for (const run of runs) {
    for (let window = run.firstWindow; window < run.firstWindow + run.windows; window++) {
      yield* open.addWhole(window, windowPages);
    }
  }
  yield* open.close();
}

/** A window of an increment, and whether it is stored whole because it lies in many pieces. */
export interface PlannedWindow extends TouchedWindow {
  readonly isRewritten: boolean;
}

/**
 * Segments of an increment; `windows` are ascending.
 *
 * @param isGuess Whether a window may be known to differ without its pages being known: then
 *   it is compared page by page, although all of them are named.
 */
export async function* planIncrement(
  windows: AsyncIterable<PlannedWindow>,
  sizeBytes: number,
  isGuess?: (window: number) => Promise<boolean>,
): AsyncGenerator<Segment> {
  const open = new OpenSegment();
  for await (const window of windows) {
    const kind = classify(window, sizeBytes);
    const isGuessed = kind === "data" && (await isGuess?.(window.window)) === true;
    const isWhole = window.isRewritten || (kind === "data" && !isGuessed);
    if (kind === "zero") yield* open.addZero(window.window);
    else if (isWhole) yield* open.addWhole(window.window, countChangedPages(window));
    else yield* open.addPages(window);
  }
  yield* open.close();
}

/** The windows that page-aligned extents touch, ascending. The last extent may end with the disk. */
export function* touchedWindows(extents: Iterable<Extent>): Generator<TouchedWindow> {
  let current: { window: number; pages: Uint8Array } | undefined;
  let end = 0;
  for (const extent of extents) {
    assert(extent.offsetBytes >= end, "extents are in order and do not overlap");
    assert(extent.offsetBytes % pageBytes === 0, "extents start on a page");
    end = extent.offsetBytes + extent.lengthBytes;
    const change = extent.kind === "data" ? pageChanges.data : pageChanges.zero;
    let page = extent.offsetBytes / pageBytes;
    const lastPage = Math.ceil(end / pageBytes);
    while (page < lastPage) {
      const window = Math.floor(page / windowPages);
      if (current?.window !== window) {
        if (current !== undefined) yield current;
        current = { window, pages: new Uint8Array(windowPages) };
      }
      const until = Math.min(lastPage, (window + 1) * windowPages);
      current.pages.fill(change, page % windowPages, until - window * windowPages);
      page = until;
    }
  }
  if (current !== undefined) yield current;
}

/** How many pages of a window changed; data alone, or zeros too. */
export function countChangedPages(touched: TouchedWindow): number {
  let count = 0;
  for (const change of touched.pages) if (change !== pageChanges.none) count++;
  return count;
}

function classify(touched: TouchedWindow, sizeBytes: number): "data" | "zero" | "mixed" {
  const pagesInDisk = Math.ceil((sizeBytes - touched.window * windowBytes) / pageBytes);
  const pages = touched.pages.subarray(0, Math.max(1, pagesInDisk));
  if (pages.every((change) => change === pageChanges.data)) return "data";
  return pages.every((change) => change === pageChanges.zero) ? "zero" : "mixed";
}

/** The segment that is being filled; a change of kind closes it. */
class OpenSegment {
  #whole: number[] = [];
  #changedPages: number[] = [];
  #pages: TouchedWindow[] = [];
  #pageCount = 0;
  #zeros: { firstWindow: number; windows: number } | undefined;

  *addZero(window: number): Generator<Segment> {
    const zeros = this.#zeros;
    if (zeros !== undefined && zeros.firstWindow + zeros.windows === window) {
      zeros.windows++;
      return;
    }
    yield* this.close();
    this.#zeros = { firstWindow: window, windows: 1 };
  }

  *addWhole(window: number, changedPages: number): Generator<Segment> {
    if (this.#whole.length === 0) yield* this.close();
    this.#whole.push(window);
    this.#changedPages.push(changedPages);
    if (this.#whole.length === windowsPerSegment) yield* this.close();
  }

  *addPages(touched: TouchedWindow): Generator<Segment> {
    const pages = countChangedPages(touched);
    if (this.#pages.length === 0 || this.#pageCount + pages > segmentPages) yield* this.close();
    this.#pages.push(touched);
    this.#pageCount += pages;
  }

  *close(): Generator<Segment> {
    if (this.#zeros !== undefined) yield { kind: "zeros", ...this.#zeros };
    if (this.#whole.length > 0) {
      yield { kind: "windows", windows: this.#whole, changedPages: this.#changedPages };
    }
    if (this.#pages.length > 0) yield { kind: "pages", windows: this.#pages };
    this.#zeros = undefined;
    this.#whole = [];
    this.#changedPages = [];
    this.#pages = [];
    this.#pageCount = 0;
  }
}
