/**
 * Which windows an increment stores whole, so that disks do not fall to pieces for ever; pure.
 *
 * Each increment continues a sweep over the disk where the last one stopped: of the leaves that it
 * touches anyway, those in many pieces are stored anew, window after window, until a share of what
 * changed is spent. Measured in docs/adr/0005-rewrite-rule.md: neighbours have to be rewritten
 * together, because scattered rewrites leave every old block in use and only add to them.
 */
import { assert } from "#base/assert.ts";
import { leafWindows, windowPages } from "#formats/geometry.ts";
import type { Leaf } from "#formats/map-node.ts";

/** Pages that an increment may store beyond its changes, for each changed page. */
export const rewriteShare = 0.15;
/** A leaf is swept once it has this many pieces: 40 of at most 64 a window. */
export const rewritePiecesMin = 40 * leafWindows;

/** A leaf that an increment touches. */
export interface TouchedLeaf {
  readonly index: number;
  /** As the base holds it. */
  readonly leaf: Leaf | undefined;
  /** Pages that change in each of its 8 windows. */
  readonly changedPages: ArrayLike<number>;
}

/** What a sweep leaves to the next one; kept in the manifest of the disk. */
export interface SweepState {
  /** The window where the next increment goes on. */
  readonly cursor: number;
  /** Pages that were not enough for a window and may be spent then; 0 to 63. */
  readonly creditPages: number;
}

/** Settings of a sweep; share and threshold are for measurements. */
export interface SweepOptions {
  /**
   * Pages that changed, or fewer: where changes are tracked in larger units, one for each unit.
   * What is rewritten is bounded by this figure.
   */
  readonly changedPages: number;
  /** Of the increment before; by default a new sweep. */
  readonly state?: SweepState | undefined;
  readonly share?: number;
  readonly piecesMin?: number;
}

/** The part of the sweep that one increment of one disk does. */
export class RewriteSweep {
  readonly #start: number;
  readonly #piecesMin: number;
  #budgetPages: number;
  #next = 0;
  #isSpent = false;
  #lastLeaf = -1;

  constructor(options: SweepOptions) {
    const { cursor, creditPages } = options.state ?? { cursor: 0, creditPages: 0 };
    assert(Number.isSafeInteger(cursor) && cursor >= 0, "a cursor is a window");
    assert(creditPages >= 0 && creditPages < windowPages, "a credit is less than a window");
    this.#start = cursor;
    this.#piecesMin = options.piecesMin ?? rewritePiecesMin;
    const share = options.share ?? rewriteShare;
    const sharePages = Math.floor(options.changedPages * share);
    // What was saved is for increments whose own share is less than a window: none pays for others beside that.
    this.#budgetPages = Math.min(sharePages + creditPages, Math.max(sharePages, windowPages));
  }

  /** For the next increment; ask when all touched leaves were planned. At the end of the disk the sweep starts anew. */
  get state(): SweepState {
    const creditPages = Math.min(this.#budgetPages, windowPages - 1);
    return { cursor: this.#isSpent ? this.#next : 0, creditPages };
  }

  /** Whether {@link RewriteSweep.planLeaf} may choose from this leaf; if not, it need not be read. */
  isWanted(leafIndex: number): boolean {
    return !this.#isSpent && (leafIndex + 1) * leafWindows > this.#start;
  }

  /**
   * The windows of a touched leaf that are to be stored whole, ascending; also such as do not
   * change themselves. Ask for each leaf once, in ascending order.
   */
  planLeaf(touched: TouchedLeaf): readonly number[] {
    assert(touched.index > this.#lastLeaf, "leaves are planned in ascending order");
    this.#lastLeaf = touched.index;
    if (touched.leaf === undefined || !this.isWanted(touched.index)) return [];
    const first = touched.index * leafWindows;
    // A leaf whose first windows the last increment has rewritten is finished in any case.
    const isBegun = this.#start > first;
    if (!isBegun && countPieces(touched.leaf) < this.#piecesMin) return [];
    const chosen: number[] = [];
    for (const [at, window] of touched.leaf.windows.entries()) {
      const pieces = window?.pieces.length ?? 0;
      const extraPages = windowPages - (touched.changedPages[at] ?? 0);
      if (first + at < this.#start || pieces <= 1 || extraPages === 0) continue;
      if (extraPages > this.#budgetPages) {
        this.#isSpent = true;
        this.#next = first + at;
        break;
      }
      this.#budgetPages -= extraPages;
      chosen.push(first + at);
    }
    return chosen;
  }
}

function countPieces(leaf: Leaf): number {
  let count = 0;
  for (const window of leaf.windows) count += window?.pieces.length ?? 0;
  return count;
}
