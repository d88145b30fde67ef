/** Runs steps of the protocol on a store: seals what is put, opens what is read. */
import type { Clock } from "#base/clock.ts";
import { forEachBounded } from "#base/for-each-bounded.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";
import {
  encodeControlRecord,
  parseControlRecord,
  tombstoneBytes,
  tombstonePlain,
} from "#formats/control-record.ts";
import { decisionPrefix, deletedPrefix, pointPrefix } from "#formats/store-names.ts";
import type { ObjectInfo, ObjectStore } from "#ports/object-store.ts";
import { buildContainer } from "#vault/container/build-container.ts";
import { openContainer } from "#vault/container/container-reader.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { controlPollMs, controlRequestsInFlight, objectBytesMax } from "#vault/limits.ts";
import type { ListedName, ObjectBody, Step, Steps } from "./steps.ts";

/** What steps are run with. */
export interface StepDeps {
  readonly store: ObjectStore;
  readonly keys: VaultKeys;
  readonly random: RandomSource;
  readonly clock: Clock;
  readonly signal?: AbortSignal | undefined;
}

/** Runs steps to their end. Errors: those of the store and of the work; ObjectCorrupt (never). */
export async function runSteps<T>(steps: Steps<T>, deps: StepDeps): Promise<T> {
  let answer: unknown;
  for (;;) {
    const { done, value } = steps.next(answer);
    if (done === true) return value;
    deps.signal?.throwIfAborted();
    answer = await carryOut(value, deps);
  }
}

/** Whether an object at a commit key, of that size, is a tombstone; one that is damaged is none. */
export async function isTombstone(
  info: { readonly name: string; readonly sizeBytes: number },
  deps: Pick<StepDeps, "store" | "keys" | "signal">,
): Promise<boolean> {
  if (info.sizeBytes !== tombstoneBytes) return false;
  const range = { offsetBytes: 0, lengthBytes: tombstoneBytes };
  const bytes = await deps.store.get(info.name, range, deps.signal);
  try {
    openContainer(deps.keys, { name: info.name, bytes, type: "tombstone" });
    return true;
  } catch (error) {
    if (isKluisError(error, "ObjectCorrupt")) return false;
    throw error;
  }
}

async function carryOut(step: Step, deps: StepDeps): Promise<unknown> {
  const { store, signal } = deps;
  if (step.op === "put") return await store.put(step.name, [seal(step, deps)], signal);
  if (step.op === "get") return await read(step.name, deps);
  if (step.op === "list") return await listNames(step.prefix, deps);
  if (step.op === "work") return await step.run();
  if (step.op === "remove") {
    await forEachBounded(step.names, controlRequestsInFlight, (name) => remove(name, deps));
  } else await deps.clock.sleep(controlPollMs, signal);
  return undefined;
}

/** What has been locked anew since it was chosen stays, as garbage; a manifest that is locked is none. */
async function remove(name: string, { store, signal }: StepDeps): Promise<void> {
  try {
    await store.remove(name, signal);
  } catch (error) {
    if (!isKluisError(error, "ObjectLocked") || name.startsWith(pointPrefix)) throw error;
  }
}

function seal({ name, body }: Step & { readonly op: "put" }, deps: StepDeps): Uint8Array {
  if (body.kind === "content") return body.content as Uint8Array;
  if (body.kind === "tombstone") return buildContainer("tombstone", tombstonePlain, deps).bytes;
  return buildContainer("control", encodeControlRecord(name, body), deps).bytes;
}

/** What a name holds; `undefined` where there is nothing, also where it vanished just now. */
async function read(name: string, deps: StepDeps): Promise<ObjectBody | undefined> {
  const { store, signal } = deps;
  const info = await store.stat(name, signal);
  if (info === undefined) return undefined;
  if (name.startsWith(deletedPrefix)) return await readMark(info, deps);
  try {
    if (await isTombstone(info, deps)) return { kind: "tombstone" };
    // A manifest is only asked whether it is there.
    if (name.startsWith(pointPrefix)) return { kind: "content", content: undefined };
    return await readControl(info, deps);
  } catch (error) {
    if (isKluisError(error, "ObjectNotFound")) return undefined;
    throw error;
  }
}

async function readControl(info: ObjectInfo, deps: StepDeps): Promise<ObjectBody> {
  const { name, sizeBytes } = info;
  if (sizeBytes > objectBytesMax) {
    throw new KluisError("ObjectCorrupt", `Cannot read "${name}": it has ${sizeBytes} bytes`, {
      details: { object: name },
    });
  }
  const bytes = await deps.store.get(name, { offsetBytes: 0, lengthBytes: sizeBytes }, deps.signal);
  const { content } = openContainer(deps.keys, { name, bytes, type: "control" });
  return parseControlRecord(content, name);
}

async function listNames(prefix: string, deps: StepDeps): Promise<readonly ListedName[]> {
  const names: ListedName[] = [];
  if (prefix.startsWith(deletedPrefix)) return await listMarks(prefix, deps);
  const mayHoldTombstones = prefix.startsWith(pointPrefix) || prefix === decisionPrefix;
  for await (const info of deps.store.list(prefix, deps.signal)) {
    const { name, sizeBytes } = info;
    if (!mayHoldTombstones || info.sizeBytes !== tombstoneBytes) {
      names.push({ name, sizeBytes, isTombstone: false });
      continue;
    }
    try {
      names.push({ name, sizeBytes, isTombstone: await isTombstone(info, deps) });
    } catch (error) {
      if (!isKluisError(error, "ObjectNotFound")) throw error;
    }
  }
  return names;
}

/** Deletion marks below a prefix. */
async function listMarks(prefix: string, deps: StepDeps): Promise<readonly ListedName[]> {
  const listed: ObjectInfo[] = [];
  for await (const info of deps.store.list(prefix, deps.signal)) listed.push(info);
  const marks = new Map<string, ObjectBody>();
  await forEachBounded(listed, controlRequestsInFlight, async (info) => {
    const mark = await readMark(info, deps);
    if (mark !== undefined) marks.set(info.name, mark);
  });
  return listed.flatMap(({ name, sizeBytes }) => {
    const mark = marks.get(name);
    if (mark === undefined) return [];
    const isDamaged = mark.kind === "damaged";
    return [{ name, sizeBytes, isTombstone: false, ...(isDamaged && { isDamaged }) }];
  });
}

async function readMark(info: ObjectInfo, deps: StepDeps): Promise<ObjectBody | undefined> {
  try {
    return await readControl(info, deps);
  } catch (error) {
    if (isKluisError(error, "ObjectNotFound")) return undefined;
    if (isKluisError(error, "ObjectCorrupt")) return { kind: "damaged" };
    throw error;
  }
}
