/** Which snapshots of a VM go; pure. The rules are those of docs/design/snapshots.md. */

/** The least and the most days that a snapshot is kept, and how many unless told otherwise. */
export const snapshotDays = { min: 1, max: 30, usual: 2 } as const;

/** The days of a snapshot are counted from its instant. */
export const dayMs = 24 * 3600 * 1000;

/** What is known of a snapshot. */
export interface ExpiryFacts {
  readonly id: string;
  readonly takenAtMs: number;
  /** `undefined` where it is no recovery point: nobody waits for it. */
  readonly days: number | undefined;
  /** Whether the newest recovery point of some vault was sent from it. */
  readonly isBase: boolean;
  /** Whether somebody reads it, as far as a release has found out. */
  readonly isRead: boolean;
}

/** Snapshots that go, each list oldest first. */
export interface ExpiryPlan {
  /** Their days are over. */
  readonly due: readonly string[];
  /** They go before their days are over, to make room; each belongs to no other list. */
  readonly early: readonly string[];
  /** As `early`, but the next transfer to some vault was to build on them, and will compare instead. */
  readonly bases: readonly string[];
}

/**
 * Plans an expiry.
 *
 * @param snapshots Oldest first.
 * @param room How many have to go at least, where that is possible.
 */
export function planExpiry(
  snapshots: readonly ExpiryFacts[],
  now: { readonly nowMs: number; readonly room: number },
): ExpiryPlan {
  const isOver = ({ takenAtMs, days }: ExpiryFacts): boolean =>
    takenAtMs + (days ?? 0) * dayMs <= now.nowMs;
  // The newest stays, and what is read.
  const free = snapshots.slice(0, -1).filter(({ isRead }) => !isRead);
  const due = free.filter((snapshot) => !snapshot.isBase && isOver(snapshot));
  const rest = free.filter((snapshot) => !due.includes(snapshot));
  const missing = Math.max(0, now.room - due.length);
  const early = rest.filter(({ isBase }) => !isBase).slice(0, missing);
  const bases = rest.filter(({ isBase }) => isBase).slice(0, missing - early.length);
  return { due: idsOf(due), early: idsOf(early), bases: idsOf(bases) };
}

function idsOf(snapshots: readonly ExpiryFacts[]): readonly string[] {
  return snapshots.map(({ id }) => id);
}
