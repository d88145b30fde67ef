/**
 * One operation at a time per VM, between processes of one host. A lock is a file that appears with
 * its content by link(2). Whoever finds its holder gone takes it away under a second lock named
 * after that very holding, so that nobody takes away the lock of a third.
 */
import { link, readFile, rm, writeFile } from "node:fs/promises";

import { toHex } from "#base/bytes.ts";
import type { Clock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import { present } from "#base/assert.ts";
import { systemRandom } from "#base/random.ts";
import {
  isProcessAlive,
  readProcessIdentity,
  type ProcessIdentity,
} from "#drivers/process/process-identity.ts";
import { isObject } from "#formats/qmp-wire.ts";

/** What a holder does; decides who may ask it to stop. */
export type OperationKind =
  | "start"
  | "stop"
  | "snapshot"
  | "merge"
  | "detach"
  | "read"
  | "transfer"
  | "guest";

/** Who holds a lock. */
export interface LockHolder {
  readonly owner: ProcessIdentity;
  readonly kind: OperationKind;
  /** Names this very holding. */
  readonly token: string;
}

/** Locks on the breaking of locks; each level is somebody who died while breaking the one below. */
const BREAK_DEPTH_MAX = 8;
/** A lock that changes hands under our eyes so often is contended beyond reason. */
const ATTEMPTS_MAX = 64;
const TOKEN_BYTES = 8;
const LOCK_POLL_MS = 20;

/** A held lock; disposing gives it back. */
export class VmLock implements AsyncDisposable {
  readonly #path: string;
  readonly holder: LockHolder;

  constructor(path: string, holder: LockHolder) {
    this.#path = path;
    this.holder = holder;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#path, { force: true });
  }
}

/** How long is waited for a lock, and for whom. */
export interface LockWait {
  readonly timeoutMs: number;
  readonly clock: Clock;
  readonly signal?: AbortSignal | undefined;
  /** Asked again and again while another holds it: whether to wait for that one. */
  readonly mayWaitFor: (holder: LockHolder) => boolean | Promise<boolean>;
}

/** Takes the lock. Errors: Busy (backoff) where a living process holds it, naming what it does. */
export async function acquireVmLock(
  path: string,
  kind: OperationKind,
  wait: LockWait,
): Promise<VmLock> {
  const deadlineMs = wait.clock.monotonicMs() + wait.timeoutMs;
  for (;;) {
    wait.signal?.throwIfAborted();
    const taken = await tryAcquire(path, kind, 0);
    if (taken instanceof VmLock) return taken;
    if (!(await wait.mayWaitFor(taken))) throw busy(path, taken);
    if (wait.clock.monotonicMs() >= deadlineMs) throw busy(path, taken);
    await wait.clock.sleep(LOCK_POLL_MS, wait.signal);
  }
}

/** The lock, or the living process that holds it. */
async function tryAcquire(
  path: string,
  kind: OperationKind,
  depth: number,
): Promise<VmLock | LockHolder> {
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt += 1) {
    const lock = await createLock(path, kind);
    if (lock !== undefined) return lock;
    const holder = await readHolder(path);
    if (holder === undefined) continue;
    if (depth >= BREAK_DEPTH_MAX || (await isProcessAlive(holder.owner))) return holder;
    await breakLock(path, holder, { kind, depth });
  }
  throw new KluisError("Busy", `Cannot take the lock "${path}": it changes hands too often`);
}

async function createLock(path: string, kind: OperationKind): Promise<VmLock | undefined> {
  const owner = present(await readProcessIdentity(process.pid), "this process has an identity");
  const holder: LockHolder = { owner, kind, token: toHex(systemRandom.bytes(TOKEN_BYTES)) };
  const draft = `${path}.${holder.token}.new`;
  await writeFile(draft, JSON.stringify(holder), { mode: 0o600 });
  try {
    await link(draft, path);
    return new VmLock(path, holder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return undefined;
    throw error;
  } finally {
    await rm(draft, { force: true });
  }
}

/** Takes the dead holder's lock away, unless somebody else did or does. */
async function breakLock(
  path: string,
  dead: LockHolder,
  context: { readonly kind: OperationKind; readonly depth: number },
): Promise<void> {
  const breaker = await tryAcquire(`${path}.${dead.token}`, context.kind, context.depth + 1);
  if (!(breaker instanceof VmLock)) return;
  await using _ = breaker;
  const now = await readHolder(path);
  if (now?.token === dead.token) await rm(path, { force: true });
}

async function readHolder(path: string): Promise<LockHolder | undefined> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  const value: unknown = JSON.parse(text);
  if (isObject(value) && isObject(value["owner"]) && typeof value["token"] === "string") {
    return value as unknown as LockHolder;
  }
  throw new KluisError("Busy", `Cannot take the lock "${path}": somebody else wrote that file`);
}

const doings: Readonly<Record<OperationKind, string>> = {
  start: "starts this VM",
  stop: "stops this VM",
  snapshot: "takes a snapshot of this VM",
  merge: "merges old snapshots of this VM",
  detach: "detaches this VM",
  read: "opens a snapshot of this VM",
  transfer: "transfers a snapshot of this VM",
  guest: "works on the guest's backup extension",
};

function busy(path: string, holder: LockHolder): KluisError {
  const pid = String(holder.owner.pid);
  return new KluisError("Busy", `Cannot work on the VM: process ${pid} ${doings[holder.kind]}`, {
    details: { lock: path, pid: holder.owner.pid, kind: holder.kind },
  });
}
