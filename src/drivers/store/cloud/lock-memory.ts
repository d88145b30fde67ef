/** What a locked place has learnt about its objects, as far as it still holds; internal to this folder. */

/** Objects that are remembered; some 300 bytes each. */
const objectsMax = 100_000;

/** An object of a locked place. */
export interface LockedObject {
  readonly name: string;
  readonly versionId: string;
  readonly sizeBytes: number;
  /** When the store took it, by its clock. */
  readonly putMs: number;
}

interface Known {
  readonly object: LockedObject;
  /** A lock is never shortened, so an end that was seen stays a lower bound. */
  readonly endMs: number | undefined;
}

/** Remembers which version holds an object, and how long it is locked; forgets the oldest knowledge first. */
export class LockMemory {
  readonly #known = new Map<string, Known>();

  find(name: string): LockedObject | undefined {
    return this.#known.get(name)?.object;
  }

  /** The end of the lock of that very version. */
  lockEnd({ name, versionId }: LockedObject): number | undefined {
    const known = this.#known.get(name);
    return known?.object.versionId === versionId ? known.endMs : undefined;
  }

  note(object: LockedObject, endMs = this.lockEnd(object)): void {
    this.#known.delete(object.name);
    this.#known.set(object.name, { object, endMs });
    if (this.#known.size <= objectsMax) return;
    for (const name of this.#known.keys()) {
      this.#known.delete(name);
      return;
    }
  }

  forget(name: string): void {
    this.#known.delete(name);
  }
}
