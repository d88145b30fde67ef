/** Changes of the keys of a vault that is open: add, remove, rotate; docs/design/keys.md. */
import { present } from "#base/assert.ts";
import { KluisError } from "#base/kluis-error.ts";
import { isWrapped, type ProvidedSlotType } from "#formats/key-slot.ts";
import { parseStoreName, slotName } from "#formats/store-names.ts";
import { isProvided, type KeySecret } from "#vault/key-secret.ts";
import {
  type ChangeDeps,
  changeKeys,
  createMasterKey,
  type KeyChange,
  type KeyPlan,
  type KeyState,
} from "#vault/keys/change-keys.ts";
import { type PutSlot, putSlot } from "#vault/keys/slots.ts";
import type { OpenedVault } from "#vault/vault-files.ts";

/** What a change came to. */
export interface ChangedKeys {
  /** Number of the key record that made it count. */
  readonly record: number;
  /** The epoch under which sessions that open from now on seal what they write. */
  readonly epoch: number;
}

/**
 * Adds a key; returns the name of its slot. On return it opens the vault.
 *
 * Errors: ArgumentInvalid (after-change) where the vault has 32 slots, those of {@link changeKeys}
 * and of the key provider.
 */
export async function addVaultKey(
  deps: ChangeDeps,
  vault: OpenedVault,
  secret: KeySecret,
): Promise<ChangedKeys & { readonly name: string }> {
  let added: PutSlot | undefined;
  const plan = await changeKeys(deps, vault.opened, async ({ ring }) => {
    added = await putSlot(deps.store, ring, secret, deps);
    return { add: [added], remove: [], newMasterKey: undefined };
  });
  return { ...toChanged(plan), name: slotName(present(added, "a slot was put").hash) };
}

/**
 * Removes keys: from the commit on their slots open the vault no more. With a new epoch, who kept a
 * copy of such a slot cannot read either what sessions write that open from now on.
 *
 * @param names Names of slots, as `keys/<sha256>`. One that is gone already is no error.
 *
 * Errors: KeyLast (after-change) where no slot would survive the host, those of {@link changeKeys}.
 */
export async function removeVaultKeys(
  deps: ChangeDeps,
  vault: OpenedVault,
  names: readonly string[],
  options: { readonly newEpoch: boolean },
): Promise<ChangedKeys> {
  const remove = names.map(hashOf);
  const plan = await changeKeys(deps, vault.opened, () =>
    Promise.resolve({
      add: [],
      remove,
      newMasterKey: options.newEpoch ? createMasterKey(deps.random) : undefined,
    }),
  );
  return toChanged(plan);
}

/** What to rotate. */
export interface KeyRotation {
  /** Whether a new data-key epoch begins. */
  readonly dataKey: boolean;
  /** Keys of providers whose slots are wrapped anew where they follow a newer version. */
  readonly wrapping: readonly KeySecret[];
}

/** A slot that was wrapped anew. */
export interface RewrappedSlot {
  readonly type: ProvidedSlotType;
  readonly oldName: string;
  readonly newName: string;
  /** The version that wraps now. */
  readonly key: string;
}

/**
 * Starts a new data-key epoch, wraps slots of key providers anew, or both in one step.
 *
 * Errors: those of {@link changeKeys} and of the key providers; nothing is changed then.
 */
export async function rotateVaultKeys(
  deps: ChangeDeps,
  vault: OpenedVault,
  rotation: KeyRotation,
): Promise<ChangedKeys & { readonly rewrapped: readonly RewrappedSlot[] }> {
  let rewrapped: readonly Rewrap[] = [];
  const plan = await changeKeys(deps, vault.opened, async (state): Promise<KeyChange> => {
    rewrapped = await rewrapSlots(deps, state, rotation.wrapping);
    return {
      add: rewrapped.map(({ added }) => added),
      remove: rewrapped.map(({ removed }) => removed),
      newMasterKey: rotation.dataKey ? createMasterKey(deps.random) : undefined,
    };
  });
  return {
    ...toChanged(plan),
    rewrapped: rewrapped.map(({ added, removed, type, key }) => {
      return { type, key, oldName: slotName(removed), newName: slotName(added.hash) };
    }),
  };
}

interface Rewrap {
  readonly type: ProvidedSlotType;
  readonly key: string;
  readonly added: PutSlot;
  readonly removed: Uint8Array;
}

/** A new slot for each that follows its key and was wrapped by an older version. */
async function rewrapSlots(
  deps: ChangeDeps,
  state: KeyState,
  secrets: readonly KeySecret[],
): Promise<readonly Rewrap[]> {
  const rewraps: Rewrap[] = [];
  for (const secret of secrets) {
    if (!isProvided(secret)) continue;
    const { provider, type } = secret;
    const key = provider.keyOf(secret.key);
    const newest = await provider.newestVersion(key, deps.signal);
    for (const { hash, slot } of state.valid) {
      if (slot?.type !== type || !isWrapped(slot.kdf) || !slot.kdf.follow) continue;
      if (provider.keyOf(slot.kdf.key) !== key || slot.kdf.key === newest) continue;
      const added = await putSlot(deps.store, state.ring, { ...secret, key }, deps);
      rewraps.push({ type, key: newest, added, removed: hash });
    }
  }
  return rewraps;
}

/** A slot that a person names: its object, or the first 8 or more digits of it. ArgumentInvalid (after-change). */
export function findSlotName(names: readonly string[], typed: string): string {
  const digits = typed.replace(/^keys\//, "").toLowerCase();
  const found = names.filter((name) => name.startsWith(`keys/${digits}`));
  const [name, other] = found;
  if (!/^[0-9a-f]{8,64}$/.test(digits)) throw unknownSlot(typed, "it is not 8 to 64 hex digits");
  if (name === undefined) throw unknownSlot(typed, "the vault has no such slot");
  if (other !== undefined) throw unknownSlot(typed, "several slots start like that");
  return name;
}

function hashOf(name: string): Uint8Array {
  const parsed = parseStoreName(name);
  if (parsed?.kind === "slot") return parsed.sha256;
  throw unknownSlot(name, "it does not name a key slot");
}

function toChanged({ number, ring }: KeyPlan): ChangedKeys {
  return { record: number, epoch: present(ring.epochs.at(-1), "a ring holds an epoch").epoch };
}

function unknownSlot(typed: string, reason: string): KluisError {
  const quoted = JSON.stringify(typed.slice(0, 80));
  return new KluisError("ArgumentInvalid", `Cannot find key slot ${quoted}: ${reason}`);
}
