/** What a verification found wrong, bounded in memory. */
import { toHex } from "#base/bytes.ts";
import type { KluisError } from "#base/kluis-error.ts";
import type { BlockLocation } from "#vault/index/entry-reader.ts";

/** Objects that are named one by one in a report. */
export const badObjectsMax = 1000;
/** Ranges of a disk that are named one by one in a report. */
export const badRangesMax = 1000;
/** Damaged blocks that are remembered one by one; beyond that their frames count as damaged. */
const badBlocksMax = 100_000;

/** All is well, something is damaged, or something could not be looked at. */
export type Verdict = "sound" | "damaged" | "unknown";

/** An object that is not as it must be. */
export interface BadObject {
  readonly name: string;
  readonly verdict: Exclude<Verdict, "sound">;
  readonly reason: string;
}

/** Errors that prove damage; every other one only keeps us from looking. */
export function verdictOf(error: KluisError): Exclude<Verdict, "sound"> {
  const isDamage =
    error.code === "ObjectCorrupt" ||
    error.code === "ObjectNotFound" ||
    error.code === "BlockMissing" ||
    error.code === "KeyWrong";
  return isDamage ? "damaged" : "unknown";
}

/** The worse of two verdicts; damage is certain, so it weighs most. */
export function worse(a: Verdict, b: Verdict): Verdict {
  if (a === "damaged" || b === "damaged") return "damaged";
  return a === "unknown" || b === "unknown" ? "unknown" : "sound";
}

interface BadPack {
  verdict: Exclude<Verdict, "sound">;
  /** Numbers of frames; all where it is undefined. */
  frames: Set<number> | undefined;
}

/** Collects damage; tells which locations it touches. */
export class Damage {
  readonly #objects = new Map<string, BadObject>();
  readonly #packs = new Map<string, BadPack>();
  readonly #blocks = new Set<string>();
  #omitted = 0;
  #verdict: Verdict = "sound";

  /** Objects that are not as they must be, up to {@link badObjectsMax}. */
  get objects(): readonly BadObject[] {
    return [...this.#objects.values()];
  }

  /** Further ones. */
  get objectsOmitted(): number {
    return this.#omitted;
  }

  /** The worst of everything noted. */
  get verdict(): Verdict {
    return this.#verdict;
  }

  /** Whether nothing was noted, of objects, packs or blocks. */
  get isNone(): boolean {
    return this.#verdict === "sound" && this.#packs.size === 0 && this.#blocks.size === 0;
  }

  /** Notes that an object is bad, with the first reason heard. */
  addObject(object: BadObject): void {
    this.#verdict = worse(this.#verdict, object.verdict);
    if (this.#objects.has(object.name)) return;
    if (this.#objects.size < badObjectsMax) this.#objects.set(object.name, object);
    else this.#omitted++;
  }

  /** Notes that nothing of a pack can be used. */
  addPack(name: Uint8Array, verdict: BadPack["verdict"]): void {
    this.#packs.set(packKey(name), { verdict, frames: undefined });
  }

  /** Names of packs of which something is damaged. */
  get damagedPacks(): readonly Uint8Array[] {
    return [...this.#packs]
      .filter(([, { verdict }]) => verdict === "damaged")
      .map(([name]) => new Uint8Array(Buffer.from(name, "latin1")));
  }

  /** Notes that a frame of a pack cannot be opened. */
  addFrame(name: Uint8Array, frame: number, verdict: BadPack["verdict"]): void {
    const pack = this.#packs.get(packKey(name));
    if (pack === undefined) {
      this.#packs.set(packKey(name), { verdict, frames: new Set([frame]) });
      return;
    }
    pack.frames?.add(frame);
    if (verdict === "damaged") pack.verdict = verdict;
  }

  /** Notes a block whose content is not what its id says, in a frame that opens. */
  addBlock(id: Uint8Array, place: { readonly pack: Uint8Array; readonly frame: number }): void {
    if (this.#blocks.size < badBlocksMax) this.#blocks.add(toHex(id));
    else this.addFrame(place.pack, place.frame, "damaged");
  }

  /** What this damage means for the block `id` that lies at `location`. */
  verdictAt(id: Uint8Array, location: BlockLocation): Verdict {
    const pack = this.#packs.get(packKey(location.pack.name));
    if (pack !== undefined && (pack.frames === undefined || pack.frames.has(location.frame))) {
      return pack.verdict;
    }
    return this.#blocks.size > 0 && this.#blocks.has(toHex(id)) ? "damaged" : "sound";
  }
}

function packKey(name: Uint8Array): string {
  return Buffer.from(name.buffer, name.byteOffset, name.byteLength).toString("latin1");
}
