/** Chooses which packs and index segments of a WORM vault get a longer lock; docs/adr/0009-immutability.md. */

/** A pack as one segment of the index has it. */
export interface PackInUse {
  readonly name: string;
  /** The segment that names it. */
  readonly segment: string;
  /** Entries that a recovery point refers to. */
  readonly marked: number;
}

/**
 * The names of `due` (what is listed and whose lock ends too early) that recovery points need: packs
 * with a marked entry, and the segments that name them. Without `uses`, where nothing could be marked,
 * all of them.
 */
export function planExtensions(
  due: ReadonlySet<string>,
  uses: readonly PackInUse[] | undefined,
): readonly string[] {
  if (uses === undefined) return [...due];
  const chosen = new Set<string>();
  for (const { name, segment, marked } of uses) {
    if (marked === 0) continue;
    if (due.has(name)) chosen.add(name);
    if (due.has(segment)) chosen.add(segment);
  }
  return [...chosen];
}
