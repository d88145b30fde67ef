/**
 * The language of the locking protocol (docs/design/gc-and-locking.md): one request to the store, or
 * one piece of work, after the other.
 *
 * The protocol is written as generators of steps, which know nothing of bytes, keys and time. The
 * program runs them on a store (`run-steps.ts`); the simulation runs many of them in any order, stops
 * and kills them between steps, and breaks rules by their name.
 */
import type { ControlRecord } from "#formats/control-record.ts";
import type { PutOutcome } from "#ports/object-store.ts";

/** What an object of the protocol holds; a tombstone stands at a commit key. */
export type ControlBody = ControlRecord | { readonly kind: "tombstone" };

/** What is put: an object of the protocol, or content that only its writer and reader understand. */
export type PutBody = ControlBody | { readonly kind: "content"; readonly content: unknown };

/** What is read: also a deletion mark that does not open. */
export type ObjectBody = PutBody | { readonly kind: "damaged" };

/** One name of a listing. */
export interface ListedName {
  readonly name: string;
  readonly sizeBytes: number;
  /** A manifest's place that is taken by a tombstone. */
  readonly isTombstone: boolean;
  /** A deletion mark that does not open. */
  readonly isDamaged?: boolean;
}

/** One request, and why it is made. */
export type Step =
  | { readonly op: "put"; readonly why: Why; readonly name: string; readonly body: PutBody }
  | { readonly op: "get"; readonly why: Why; readonly name: string }
  | { readonly op: "list"; readonly why: Why; readonly prefix: string }
  | { readonly op: "remove"; readonly why: Why; readonly names: readonly string[] }
  | { readonly op: "pause"; readonly why: Why }
  | { readonly op: "work"; readonly why: Why; readonly run: () => Promise<unknown> };

/** Rules of the protocol; the simulation breaks them one by one. */
export const protocolRules = [
  "lease-first",
  "condemned-is-absent",
  "trust-listed-packs",
  "base-exists",
  "commit-if-absent",
  "end-session",
  "delete-by-mark",
  "marks-before-leases",
  "adopt-records",
  "condemn-first",
  "wait-for-leases",
  "fence",
  "records-again",
  "roots-again",
  "copy-out",
  "decide-if-absent",
  "mark-stays",
  "remove-in-order",
  "owner-removes-record",
] as const;

/** See {@link protocolRules}. */
export type Rule = (typeof protocolRules)[number];

/** Why a request is made: for a rule, or to choose what to do, where safety rests on no answer. */
export type Why = Rule | "choose";

/** A part of the protocol that comes to a `T`. */
export type Steps<T> = Generator<Step, T, unknown>;

/** Puts an object if none is there. */
export function* put(why: Why, name: string, body: PutBody): Steps<PutOutcome> {
  return (yield { op: "put", why, name, body }) as PutOutcome;
}

/** What a name holds; `undefined` where there is nothing. */
export function* get(why: Why, name: string): Steps<ObjectBody | undefined> {
  return (yield { op: "get", why, name }) as ObjectBody | undefined;
}

/** All names below a prefix; no snapshot. */
export function* list(why: Why, prefix: string): Steps<readonly ListedName[]> {
  return (yield { op: "list", why, prefix }) as readonly ListedName[];
}

/** Removes objects, those that are there: in any order, side by side; all are gone when it ends. */
export function* remove(why: Why, names: readonly string[]): Steps<void> {
  if (names.length > 0) yield { op: "remove", why, names };
}

/** Lets time go by. */
export function* pause(why: Why): Steps<void> {
  yield { op: "pause", why };
}

/** Runs what is no part of the protocol: reading the index, marking, copying. */
export function* work<T>(why: Why, run: () => Promise<T>): Steps<T> {
  return (yield { op: "work", why, run }) as T;
}
