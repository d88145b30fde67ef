/**
 * Changes of a vault's keys: planned on what the newest key record says, committed by putting the
 * next one; docs/design/keys.md.
 */
import { present } from "#base/assert.ts";
import { bytesEqual, toHex } from "#base/bytes.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";
import type { KeySlot } from "#formats/key-slot.ts";
import { recordSlotsMax } from "#formats/key-record.ts";
import { keyRecordName, keyRecordsMax, slotName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { type KeyRing, keyEpochsMax, masterKeyBytes } from "#vault/keys/key-ring.ts";
import type { OpenedRing } from "#vault/keys/open-ring.ts";
import {
  type ListedSlot,
  openKeyRecord,
  readKeyRecords,
  sealKeyRecord,
} from "#vault/keys/records.ts";
import { listKeySlots, type PutSlot } from "#vault/keys/slots.ts";
import { survivesHost } from "#vault/surviving-keys.ts";

/** How often a change is planned anew because another one came first. */
export const changeTriesMax = 8;

/** What a change is planned on. */
export interface KeyState {
  readonly ring: KeyRing;
  /** The number of the newest record. */
  readonly number: number;
  /** Slots that it lists; `slot` is absent where the object is damaged or gone. */
  readonly valid: readonly (ListedSlot & { readonly slot: KeySlot | undefined })[];
  /** Slots of this vault that it does not list. */
  readonly strays: readonly PutSlot[];
  /** Whether the newest record and its copy are both whole. */
  readonly isTwofold: boolean;
}

/** What is to change. Nothing at all tidies up where there is anything to tidy. */
export interface KeyChange {
  /** Slots that were put since the state was read. */
  readonly add: readonly PutSlot[];
  /** SHA-256 of slots. */
  readonly remove: readonly Uint8Array[];
  /** 32 bytes: what is written from now on is sealed under it. */
  readonly newMasterKey: Uint8Array | undefined;
}

/** What the next record says, and what goes when it is there. */
export interface KeyPlan {
  readonly number: number;
  readonly ring: KeyRing;
  readonly slots: readonly ListedSlot[];
  /** Names of slot objects. */
  readonly deletions: readonly string[];
}

/**
 * Plans the next record.
 *
 * Errors: KeyLast (after-change) where no slot would survive the host, ArgumentInvalid
 * (after-change) where a bound would be passed.
 */
export function planKeyChange(state: KeyState, change: KeyChange): KeyPlan {
  const { add, remove, newMasterKey } = change;
  const isRemoved = (hash: Uint8Array): boolean => remove.some((gone) => bytesEqual(gone, hash));
  const kept = state.valid.filter(({ hash }) => !isRemoved(hash));
  const slots = [
    ...kept,
    ...add.map(({ hash, slot }) => ({ hash, slot, publicKey: slot.publicKey })),
  ];
  if (!slots.some(({ slot }) => slot !== undefined && survivesHost(slot))) {
    const reason = "every other key lies on the host that makes the backups";
    throw new KluisError("KeyLast", `Cannot change the keys: ${reason}`);
  }
  if (slots.length > recordSlotsMax) throw full(`it would have ${slots.length} key slots`);
  if (state.number >= keyRecordsMax) throw full(`they were changed ${state.number} times`);
  const { vaultId, epochs } = state.ring;
  if (newMasterKey !== undefined && epochs.length >= keyEpochsMax) {
    throw full(`the vault has ${epochs.length} key epochs`);
  }
  const newest = present(epochs.at(-1), "a key ring holds an epoch").epoch;
  const added = newMasterKey === undefined ? [] : [{ epoch: newest + 1, masterKey: newMasterKey }];
  const isStray = ({ hash }: PutSlot): boolean => !add.some((slot) => bytesEqual(slot.hash, hash));
  return {
    number: state.number + 1,
    ring: { vaultId, epochs: [...epochs, ...added] },
    slots: slots.map(({ hash, publicKey }) => ({ hash, publicKey })),
    deletions: [...remove, ...state.strays.filter(isStray).map(({ hash }) => hash)].map(slotName),
  };
}

/** What {@link changeKeys} needs. */
export interface ChangeDeps {
  readonly store: ObjectStore;
  readonly random: RandomSource;
  readonly signal?: AbortSignal;
}

/**
 * Changes the keys of a vault. `prepare` is called for each try, after the state was read: what it
 * puts then cannot be among what a change of another host deletes.
 *
 * Where nothing is to change and nothing to tidy, nothing is put, and the plan is what is there. Else the
 * change counts when this returns, and from one moment before it; what it makes superfluous is
 * deleted last, and by a later change where this one is cut off.
 *
 * Errors: those of {@link planKeyChange}, Busy (backoff) where others keep coming first, KeyWrong
 * (after-change) where another host removed the key that `opened` the vault, ObjectCorrupt (never)
 * where the newest record is damaged; those of the store.
 */
export async function changeKeys(
  deps: ChangeDeps,
  opened: OpenedRing,
  prepare: (state: KeyState) => Promise<KeyChange>,
): Promise<KeyPlan> {
  const { store, random, signal } = deps;
  for (let tries = changeTriesMax; tries > 0; tries--) {
    const state = await readKeyState(store, opened, signal);
    const change = await prepare(state);
    if (isNothing(state, change)) {
      const { ring, number, valid: slots } = state;
      return { ring, number, slots, deletions: [] };
    }
    const plan = planKeyChange(state, change);
    const bytes = sealKeyRecord(plan.ring, plan, random);
    if (!(await putRecord(deps, { vaultId: plan.ring.vaultId, number: plan.number }, bytes)))
      continue;
    for (const name of plan.deletions) await removeSlot(deps, name);
    return plan;
  }
  throw new KluisError("Busy", "Cannot change the keys: other hosts keep changing them");
}

/** Then no record is put: their number is bounded, and timers ask every day whether there is anything to do. */
function isNothing(state: KeyState, { add, remove, newMasterKey }: KeyChange): boolean {
  const isWanted = add.length > 0 || remove.length > 0 || newMasterKey !== undefined;
  return !isWanted && state.strays.length === 0 && state.isTwofold;
}

/** A slot that is locked stays: no record lists it, and a later change removes it. */
async function removeSlot({ store, signal }: ChangeDeps, name: string): Promise<void> {
  try {
    await store.remove(name, signal);
  } catch (error) {
    if (!isKluisError(error, "ObjectLocked")) throw error;
  }
}

/**
 * Puts a record and its copy; whether it is ours: of racing calls for one number one is.
 *
 * Errors: those of the store; the record may be there all the same.
 */
export async function putRecord(
  deps: ChangeDeps,
  record: { readonly vaultId: Uint8Array; readonly number: number },
  bytes: Uint8Array,
): Promise<boolean> {
  const { store, signal } = deps;
  const id = { vault: toHex(record.vaultId), number: record.number };
  const name = keyRecordName(id);
  if ((await store.put(name, [bytes], signal)) === "exists") {
    // Ours all the same where the store lost the answer to an earlier attempt of the same put.
    if (!bytesEqual(await store.get(name, undefined, signal), bytes)) return false;
  }
  await store.put(keyRecordName(id, { isCopy: true }), [bytes], signal);
  return true;
}

async function readKeyState(
  store: ObjectStore,
  opened: OpenedRing,
  signal: AbortSignal | undefined,
): Promise<KeyState> {
  const { slot, unsealed } = opened;
  const { vaultId } = opened.ring;
  const { newest, highest, damaged, missing } = await readKeyRecords(store, vaultId, signal);
  if (newest === undefined || highest !== newest.number) {
    const names = damaged.length === 0 ? "there is none" : damaged.join(", ");
    const reason = `the newest key record cannot be read (${names})`;
    throw new KluisError("ObjectCorrupt", `Cannot change the keys: ${reason}`);
  }
  const ring = openKeyRecord(newest, slot.hash, unsealed);
  if (ring === undefined) {
    const reason = "another host has just removed the key that opened the vault";
    throw new KluisError("KeyWrong", `Cannot change the keys: ${reason}`);
  }
  const { slots } = await listKeySlots(store, vaultId, signal);
  const isValid = (hash: Uint8Array): boolean =>
    newest.slots.some((listed) => bytesEqual(listed.slot, hash));
  const valid = newest.slots.map(({ slot: hash, publicKey }) => {
    const object = slots.find((candidate) => bytesEqual(candidate.hash, hash));
    return { hash, publicKey, slot: object?.slot };
  });
  const strays = await dropLocked(
    store,
    slots.filter(({ hash }) => !isValid(hash)),
    signal,
  );
  const isTwofold = damaged.length === 0 && missing.length === 0;
  return { ring, number: newest.number, valid, strays, isTwofold };
}

/** Slots that can be removed now: those of a WORM vault stay for the time of their lock. */
async function dropLocked<T extends { readonly hash: Uint8Array }>(
  { locks }: ObjectStore,
  slots: readonly T[],
  signal: AbortSignal | undefined,
): Promise<readonly T[]> {
  if (locks === undefined || slots.length === 0) return slots;
  const nowMs = await locks.nowMs(signal);
  const free: T[] = [];
  for (const slot of slots) {
    if (await locks.endsBefore(slotName(slot.hash), nowMs, signal)) free.push(slot);
  }
  return free;
}

function full(reason: string): KluisError {
  return new KluisError("ArgumentInvalid", `Cannot change the keys: ${reason}`);
}

/** A fresh master key for a new epoch. */
export function createMasterKey(random: RandomSource): Uint8Array {
  return random.bytes(masterKeyBytes);
}
