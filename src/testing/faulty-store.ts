/**
 * A store on which calls fail as the test wants: errors, delays, lost answers and a full disk, each
 * for the next call, for a number of calls, or by seeded chance.
 */
import { assert } from "#base/assert.ts";
import type { Clock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { ByteRange, ObjectInfo, ObjectStore, PutOutcome } from "#ports/object-store.ts";
import type { SeededRandom } from "./seeded-random.ts";

/** A method of the port. */
export type StoreMethod = "put" | "get" | "stat" | "list" | "remove" | "probe";

/** What happens to a call. */
export type Fault =
  /** The call throws and has done nothing. */
  | { readonly kind: "error"; readonly error: unknown }
  /** The call does its work and throws all the same, as when the connection breaks after it. */
  | { readonly kind: "lost-answer"; readonly error: unknown }
  /** The call starts after `delayMs` of the clock given. */
  | { readonly kind: "delay"; readonly delayMs: number; readonly clock: Clock };

/** Which calls meet a fault. */
export interface FaultPlan {
  readonly method: StoreMethod | "any";
  readonly fault: Fault;
  /** Calls that meet it; 1 unless said otherwise. */
  readonly times?: number;
  /** Calls that pass before; 0 unless said otherwise. */
  readonly after?: number;
  /** Only calls for names that match count. */
  readonly name?: RegExp;
}

/** Faults by chance, for stress tests. */
export interface ChanceOptions {
  readonly random: SeededRandom;
  /** Of each call; half of the faults of `put` and `remove` are lost answers. */
  readonly probability: number;
  /** Most faults in all, so that a caller that retries comes to an end. */
  readonly faultsMax: number;
}

interface ArmedPlan {
  readonly plan: FaultPlan;
  passesLeft: number;
  faultsLeft: number;
}

/** A StoreUnavailable (backoff) error that says it was injected. */
export function injectedError(): KluisError {
  return new KluisError("StoreUnavailable", "Cannot reach the store: the test broke it");
}

/** Passes calls on to `inner` and injects faults; without any it is as good as `inner`. */
export class FaultyStore implements ObjectStore {
  readonly #inner: ObjectStore;
  #plans: ArmedPlan[] = [];
  #chance: (ChanceOptions & { left: number }) | undefined;
  #spaceLeftBytes = Number.POSITIVE_INFINITY;
  #injected = 0;

  constructor(inner: ObjectStore) {
    this.#inner = inner;
  }

  get location(): string {
    return this.#inner.location;
  }

  /** Faults that calls have met so far, delays not counted. */
  get injected(): number {
    return this.#injected;
  }

  /** Whether faults are still to come, but for those by chance. */
  get isArmed(): boolean {
    return this.#plans.length > 0;
  }

  /** Arms a fault; of several that fit a call the one armed first applies. */
  inject(plan: FaultPlan): void {
    this.#plans.push({
      plan,
      passesLeft: plan.after ?? 0,
      faultsLeft: plan.times ?? 1,
    });
  }

  /** The next call of `method` throws `error` and does nothing. */
  failNext(method: StoreMethod | "any", error: unknown = injectedError()): void {
    this.inject({ method, fault: { kind: "error", error } });
  }

  /** The next call of `method` works but throws `error`. */
  loseNextAnswer(method: "put" | "remove", error: unknown = injectedError()): void {
    this.inject({ method, fault: { kind: "lost-answer", error } });
  }

  /** From now on every call fails with a chance; `undefined` ends that. */
  failByChance(options: ChanceOptions | undefined): void {
    this.#chance = options === undefined ? undefined : { ...options, left: options.faultsMax };
  }

  /** Puts fail with StoreNoSpace once `bytes` more have been written; infinity ends that. */
  limitSpace(bytes: number): void {
    this.#spaceLeftBytes = bytes;
  }

  /** Disarms everything. */
  heal(): void {
    this.#plans = [];
    this.#chance = undefined;
    this.#spaceLeftBytes = Number.POSITIVE_INFINITY;
  }

  put(name: string, parts: readonly Uint8Array[], signal?: AbortSignal): Promise<PutOutcome> {
    return this.#run("put", name, async () => {
      const sizeBytes = parts.reduce((sum, part) => sum + part.byteLength, 0);
      if (sizeBytes > this.#spaceLeftBytes) {
        this.#injected++;
        throw new KluisError(
          "StoreNoSpace",
          `Cannot write object "${name}": the test's disk is full`,
        );
      }
      this.#spaceLeftBytes -= sizeBytes;
      return this.#inner.put(name, parts, signal);
    });
  }

  get(name: string, range?: ByteRange, signal?: AbortSignal): Promise<Uint8Array> {
    return this.#run("get", name, () => this.#inner.get(name, range, signal));
  }

  stat(name: string, signal?: AbortSignal): Promise<ObjectInfo | undefined> {
    return this.#run("stat", name, () => this.#inner.stat(name, signal));
  }

  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<ObjectInfo> {
    await this.#run("list", prefix, () => Promise.resolve());
    yield* this.#inner.list(prefix, signal);
  }

  remove(name: string, signal?: AbortSignal): Promise<void> {
    return this.#run("remove", name, () => this.#inner.remove(name, signal));
  }

  probe(signal?: AbortSignal): Promise<void> {
    return this.#run("probe", "", () => this.#inner.probe(signal));
  }

  async #run<T>(method: StoreMethod, name: string, work: () => Promise<T>): Promise<T> {
    const fault = this.#takePlanned(method, name) ?? this.#takeChance(method);
    if (fault === undefined) return work();
    if (fault.kind === "delay") {
      await fault.clock.sleep(fault.delayMs);
      return work();
    }
    this.#injected++;
    if (fault.kind === "lost-answer") await work();
    throw fault.error;
  }

  #takePlanned(method: StoreMethod, name: string): Fault | undefined {
    for (const armed of this.#plans) {
      const { plan } = armed;
      if (plan.method !== "any" && plan.method !== method) continue;
      if (plan.name !== undefined && !plan.name.test(name)) continue;
      if (armed.passesLeft > 0) {
        armed.passesLeft--;
        continue;
      }
      armed.faultsLeft--;
      if (armed.faultsLeft === 0) this.#plans = this.#plans.filter((other) => other !== armed);
      return plan.fault;
    }
    return undefined;
  }

  #takeChance(method: StoreMethod): Fault | undefined {
    const chance = this.#chance;
    if (chance === undefined || chance.left === 0) return undefined;
    assert(chance.probability >= 0 && chance.probability <= 1, "a probability");
    if (!chance.random.chance(chance.probability)) return undefined;
    chance.left--;
    const canLose = method === "put" || method === "remove";
    const kind = canLose && chance.random.chance(0.5) ? "lost-answer" : "error";
    return { kind, error: injectedError() };
  }
}
