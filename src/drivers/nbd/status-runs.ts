/** Joins the block status of several meta contexts into runs that have one state in each. */
import type { NbdMetaContext } from "#formats/nbd-handshake.ts";
import { nbdProtocolError, type NbdStatusDescriptor } from "#formats/nbd-wire.ts";

/** A range with one state in every meta context. */
export interface NbdStatusRun {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** One value for each of the client's meta contexts, in their order. */
  readonly flags: readonly number[];
}

/** What was asked, and which part of it is wanted. */
export interface StatusWindow {
  /** Where the descriptors start. */
  readonly offsetBytes: number;
  readonly startBytes: number;
  readonly endBytes: number;
}

/**
 * The runs of the window from `startBytes` on, as far as every context reaches. NbdProtocol where
 * a context is missing, or none of the window is covered.
 */
export function toStatusRuns(
  statuses: ReadonlyMap<number, readonly NbdStatusDescriptor[]>,
  contexts: readonly NbdMetaContext[],
  window: StatusWindow,
): readonly NbdStatusRun[] {
  const cursors = contexts.map(({ id, name }) => {
    const descriptors = statuses.get(id);
    if (descriptors === undefined) throw nbdProtocolError(`it sends no status of "${name}"`);
    return { descriptors, index: 0, endBytes: window.offsetBytes };
  });
  if (statuses.size !== contexts.length) {
    throw nbdProtocolError("it sends the status of a context that was not selected");
  }
  const runs: NbdStatusRun[] = [];
  let atBytes = window.startBytes;
  while (atBytes < window.endBytes) {
    let endBytes = window.endBytes;
    const flags: number[] = [];
    for (const cursor of cursors) {
      const descriptor = advance(cursor, atBytes);
      if (descriptor === undefined) return checkedRuns(runs);
      flags.push(descriptor.flags);
      endBytes = Math.min(endBytes, cursor.endBytes);
    }
    runs.push({ offsetBytes: atBytes, lengthBytes: endBytes - atBytes, flags });
    atBytes = endBytes;
  }
  return checkedRuns(runs);
}

interface Cursor {
  readonly descriptors: readonly NbdStatusDescriptor[];
  /** The next descriptor to take; `endBytes` is the end of the one before. */
  index: number;
  endBytes: number;
}

/** The descriptor that holds `atBytes`; `undefined` behind the last. */
function advance(cursor: Cursor, atBytes: number): NbdStatusDescriptor | undefined {
  while (cursor.endBytes <= atBytes) {
    const next = cursor.descriptors[cursor.index];
    if (next === undefined) return undefined;
    cursor.index += 1;
    cursor.endBytes += next.lengthBytes;
  }
  return cursor.descriptors[cursor.index - 1];
}

function checkedRuns(runs: readonly NbdStatusRun[]): readonly NbdStatusRun[] {
  if (runs.length === 0) throw nbdProtocolError("it sends a status that covers nothing");
  return runs;
}
