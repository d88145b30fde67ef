/** Which random rounds an exactness run takes; pure: the same seed, the same rounds. */
import { pageBytes } from "#formats/geometry.ts";
import type { Prng } from "#testing/seed.ts";
import type { DriverName } from "./exact-vm.ts";

const MiB = 1024 * 1024;
/** The least that every round writes. */
const writtenBytesMin = 4 * MiB;
/** A second or two of a job that goes slowly. */
const liveBytes = 1.5 * MiB;
/** A kill falls anywhere in a job or a backup, or just behind its end. */
const delayMsMax = 700;
const growthBytesMax = 2 * MiB;
const sectorBytes = 512;
/** Rounds that follow one another in one way: long enough for a base and what befalls it. */
const stretch = { least: 3, most: 6 };

/** What befalls a VM or its backups. */
export type FaultKind =
  | "discard"
  | "resize"
  | "reboot"
  | "qemu-kill"
  | "libvirtd-kill"
  | "snapshot-deletion";

/** The faults that a driver's VMs can have. */
export function faultKindsOf(driver: DriverName): readonly FaultKind[] {
  const kinds = ["discard", "resize", "reboot", "qemu-kill", "snapshot-deletion"] as const;
  return driver === "qemu" ? kinds : [...kinds, "libvirtd-kill"];
}

/** A fault, with all that chance decides about it. */
export interface PlannedFault {
  readonly kind: FaultKind;
  /** Whether it comes while the guest writes, during a backup, or when nothing goes on. */
  readonly moment: "writing" | "backup" | "idle";
  readonly delayMs: number;
  /** One of two ways: a reset or a shutdown, a detach or a release, another file system's discards too. */
  readonly isOther: boolean;
  /** Where on the disk, from 0 to below 1. */
  readonly place: number;
  readonly sizeBytes: number;
}

/** One job of fio on the raw disk. */
export interface PlannedWrite {
  readonly pattern: "scattered" | "contiguous" | "zeros";
  readonly seed: number;
  readonly sizeBytes: number;
  /** Where on the disk, from 0 to below 1. */
  readonly place: number;
}

/** One round. */
export interface PlannedRound {
  readonly number: number;
  readonly writes: readonly PlannedWrite[];
  /** Written while a machine dies. */
  readonly lastWrite: PlannedWrite;
  /** Written over the instant of the last backup, where that needs no layer. */
  readonly liveWrite: PlannedWrite;
  readonly faults: readonly PlannedFault[];
  /** Whether the last backup freezes the guest. */
  readonly isFrozen: boolean;
  /** Whether the last backup finds the VM off, where a fault ended it. */
  readonly isOff: boolean;
  /** Whether snapshots expire first, all that may. */
  readonly isExpiryDue: boolean;
  /** Whether backups are made without a snapshot tier. */
  readonly isFleeced: boolean;
}

/** Plans so many rounds; faults and ways come round in turn, in an order of their own each time. */
export function planRounds(
  rounds: number,
  kinds: readonly FaultKind[],
  prng: Prng,
): readonly PlannedRound[] {
  let deck: (FaultKind | undefined)[] = [];
  let isFleeced = prng.below(2) === 0;
  let left = 0;
  return Array.from({ length: rounds }, (_, index) => {
    if (left === 0) {
      isFleeced = !isFleeced;
      left = stretch.least + prng.below(stretch.most - stretch.least + 1);
    }
    left -= 1;
    if (deck.length === 0) deck = shuffle([...kinds, undefined], prng);
    const wanted = [deck.pop(), ...(prng.below(4) === 0 ? [kinds[prng.below(kinds.length)]] : [])];
    const distinct = [...new Set(wanted.filter((kind) => kind !== undefined))];
    return {
      number: index + 1,
      writes: [
        planWrite(prng, prng.below(2) === 0 ? "scattered" : "contiguous"),
        ...(prng.below(4) === 0 ? [planWrite(prng, "zeros")] : []),
      ],
      lastWrite: planWrite(prng, prng.below(2) === 0 ? "scattered" : "contiguous"),
      liveWrite: {
        ...planWrite(prng, prng.below(2) === 0 ? "scattered" : "contiguous"),
        sizeBytes: liveBytes,
      },
      faults: distinct.map((kind) => planFault(kind, prng)),
      isFrozen: prng.below(3) === 0,
      isOff: prng.below(3) === 0,
      isExpiryDue: prng.below(6) === 0,
      isFleeced,
    };
  });
}

function planWrite(prng: Prng, pattern: PlannedWrite["pattern"]): PlannedWrite {
  const more = prng.below(512) * pageBytes;
  return {
    pattern,
    seed: 1 + prng.below(0x7fff_ffff),
    sizeBytes: pattern === "zeros" ? MiB : writtenBytesMin + more,
    place: prng.below(1000) / 1000,
  };
}

function planFault(kind: FaultKind, prng: Prng): PlannedFault {
  const moments = ["writing", "backup", "idle"] as const;
  const sizeBytes =
    kind === "resize"
      ? sectorBytes * (1 + prng.below(growthBytesMax / sectorBytes))
      : pageBytes * (256 + prng.below(2048));
  return {
    kind,
    moment: moments[prng.below(moments.length)] ?? "idle",
    delayMs: prng.below(delayMsMax),
    isOther: prng.below(2) === 0,
    place: prng.below(1000) / 1000,
    sizeBytes,
  };
}

function shuffle<T>(cards: readonly T[], prng: Prng): T[] {
  const left = [...cards];
  return cards.map(() => left.splice(prng.below(left.length), 1)[0] as T);
}
