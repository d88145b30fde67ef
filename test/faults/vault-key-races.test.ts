// Goal: hosts that change the keys of one vault at once, one of them stopped or killed anywhere, lose no
// acknowledged change: added keys open, removed ones do not, every key that is left opens one ring, and
// that ring has an epoch for each rotation that was acknowledged.
// Method: several parties on one store whose every call waits until a seeded scheduler lets it go on; some
// are killed (their calls never return), some sleep until all others have ended.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import type { ByteRange, ObjectInfo, ObjectStore, PutOutcome } from "#ports/object-store.ts";
import { createSeededRandom, type SeededRandom } from "#testing/seeded-random.ts";
import { takesAll } from "#testing/slice.ts";
import { addVaultKey, removeVaultKeys, rotateVaultKeys } from "#vault/key-changes.ts";
import { createKeyFileSecret, createRecoveryKey, type HeldSecret } from "#vault/key-secret.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { createVaultFiles, openVaultFiles } from "#vault/vault-files.ts";

const isLong = process.env["KLUIS_LONG"] === "1";
const schedules = isLong ? 20_000 : takesAll ? 300 : 120;
const random = createSeededRandom("key races");

/** A call that waits for its turn. */
interface Waiting {
  readonly party: number;
  go(): void;
}

/** Lets calls of the store go on one by one, in an order that follows from the seed. */
class Scheduler {
  readonly #random: SeededRandom;
  #waiting: Waiting[] = [];
  /** Calls after which a party is killed, and parties that sleep until nobody else has anything to do. */
  readonly killedAfter = new Map<number, number>();
  readonly sleepers = new Set<number>();
  readonly #calls = new Map<number, number>();

  constructor(random: SeededRandom) {
    this.#random = random;
  }

  /** Waits for a turn; of a party that was killed for ever. */
  turn(party: number): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.push({ party, go: resolve });
    });
  }

  /** Runs until all that can end has ended. */
  async run(parties: readonly Promise<unknown>[]): Promise<void> {
    let ended = 0;
    for (const party of parties) void party.finally(() => ended++);
    for (;;) {
      // All that follows from the last call happens before the next one: no other waiting is real.
      for (let turns = 0; turns < 12; turns++) await new Promise(setImmediate);
      const able = this.#waiting.filter(({ party }) => !this.#isDead(party));
      const awake = able.filter(({ party }) => !this.sleepers.has(party));
      const pool = awake.length > 0 ? awake : able;
      const next = pool[this.#random.integer(0, Math.max(0, pool.length - 1))];
      if (next === undefined) {
        const dead = new Set(this.#waiting.map(({ party }) => party)).size;
        if (ended + dead >= parties.length) return;
        continue;
      }
      this.#waiting = this.#waiting.filter((one) => one !== next);
      this.#calls.set(next.party, (this.#calls.get(next.party) ?? 0) + 1);
      next.go();
    }
  }

  #isDead(party: number): boolean {
    return (
      (this.#calls.get(party) ?? 0) >= (this.killedAfter.get(party) ?? Number.POSITIVE_INFINITY)
    );
  }
}

/** One party's view of the store: its work is done before or after the party is told, by chance. */
class PartyStore implements ObjectStore {
  readonly location = "memory";
  readonly #inner: ObjectStore;
  readonly #scheduler: Scheduler;
  readonly #party: number;

  constructor(inner: ObjectStore, scheduler: Scheduler, party: number) {
    this.#inner = inner;
    this.#scheduler = scheduler;
    this.#party = party;
  }

  put(name: string, parts: readonly Uint8Array[]): Promise<PutOutcome> {
    return this.#run(() => this.#inner.put(name, parts));
  }

  get(name: string, range?: ByteRange): Promise<Uint8Array> {
    return this.#run(() => this.#inner.get(name, range));
  }

  stat(name: string): Promise<ObjectInfo | undefined> {
    return this.#run(() => this.#inner.stat(name));
  }

  remove(name: string): Promise<void> {
    return this.#run(() => this.#inner.remove(name));
  }

  probe(): Promise<void> {
    return Promise.resolve();
  }

  /** A listing in two pages, between which others may write. */
  async *list(prefix: string): AsyncGenerator<ObjectInfo> {
    for await (const info of this.#inner.list(prefix)) {
      if (info.name.endsWith("0") || info.name.endsWith("8"))
        await this.#scheduler.turn(this.#party);
      yield info;
    }
    await this.#scheduler.turn(this.#party);
  }

  async #run<T>(work: () => Promise<T>): Promise<T> {
    await this.#scheduler.turn(this.#party);
    const result = await work();
    // A kill may come between the work and its answer.
    await this.#scheduler.turn(this.#party);
    return result;
  }
}

/** A vault that all schedules start from: two keys of hosts, one to be removed, a recovery key. */
const hosts = [createKeyFileSecret(random).secret, createKeyFileSecret(random).secret] as const;
const doomed = createKeyFileSecret(random).secret;
const start = await createStart();

async function createStart(): Promise<{ objects: Map<string, Uint8Array>; doomedSlot: string }> {
  const store = createMemoryStore();
  const secrets = [...hosts, doomed, createRecoveryKey(random).secret];
  await createVaultFiles(store, { secrets, random, withRecoveryKey: false });
  const { opened } = await openVaultFiles(store, doomed);
  const objects = new Map<string, Uint8Array>();
  for await (const { name } of store.list("")) objects.set(name, await store.get(name));
  return { objects, doomedSlot: opened.slot.name };
}

interface Outcome {
  readonly added: HeldSecret[];
  epochs: number;
  isRemoved: boolean;
  isRemovalBegun: boolean;
}

/** What one party does: some changes in a row, each noted when it was acknowledged. */
async function runParty(store: ObjectStore, what: string, outcome: Outcome): Promise<void> {
  const deps = { store, random };
  const opener = hosts[what.length % 2] ?? hosts[0];
  for (const change of what) {
    const vault = await openVaultFiles(store, opener);
    if (change === "a") {
      const { secret } = createKeyFileSecret(random);
      await addVaultKey(deps, vault, secret);
      outcome.added.push(secret);
    } else if (change === "r") {
      const { epoch } = await rotateVaultKeys(deps, vault, { dataKey: true, wrapping: [] });
      outcome.epochs = Math.max(outcome.epochs, epoch);
    } else {
      outcome.isRemovalBegun = true;
      await removeVaultKeys(deps, vault, [start.doomedSlot], { newEpoch: true });
      outcome.isRemoved = true;
    }
  }
}

async function opens(store: ObjectStore, secret: HeldSecret): Promise<VaultKeys | undefined> {
  try {
    return (await openVaultFiles(store, secret)).keys;
  } catch (error) {
    assert.ok(isKluisError(error, "KeyWrong"), String(error));
    return undefined;
  }
}

async function runSchedule(seeded: SeededRandom): Promise<{ readonly killed: number }> {
  const inner = createMemoryStore(start.objects);
  const scheduler = new Scheduler(seeded);
  const outcome: Outcome = { added: [], epochs: 1, isRemoved: false, isRemovalBegun: false };
  const plans = ["a", "ar", "ra", "d", "dr", "rr", "aa"];
  const chosen = Array.from({ length: 3 }, () => plans[seeded.integer(0, plans.length - 1)] ?? "a");
  if (seeded.chance(0.5)) scheduler.killedAfter.set(0, seeded.integer(1, 40));
  if (seeded.chance(0.3)) scheduler.sleepers.add(1);
  const parties = chosen.map((what, party) =>
    runParty(new PartyStore(inner, scheduler, party), what, outcome),
  );
  await scheduler.run(parties.map((party) => party.catch(assertIsBusy)));
  await assertOutcome(inner, outcome);
  return { killed: scheduler.killedAfter.size };
}

/** The only error that may come of racing. */
function assertIsBusy(error: unknown): void {
  assert.ok(isKluisError(error, "Busy"), String(error));
}

async function assertOutcome(store: ObjectStore, outcome: Outcome): Promise<void> {
  const ring = await opens(store, hosts[0]);
  assert.ok(ring);
  assert.ok((ring.epochs.at(-1)?.epoch ?? 0) >= outcome.epochs, "acknowledged epochs are there");
  for (const secret of [hosts[1], ...outcome.added]) {
    assert.deepEqual(await opens(store, secret), ring, "every acknowledged key opens the one ring");
  }
  const left = await opens(store, doomed);
  if (outcome.isRemoved) assert.equal(left, undefined, "a removed key opens no more");
  if (!outcome.isRemovalBegun) assert.deepEqual(left, ring, "nobody removed it");
  // Whoever comes next finds a vault whose keys can be changed, and tidies up.
  await rotateVaultKeys({ store, random }, await openVaultFiles(store, hosts[0]), {
    dataKey: true,
    wrapping: [],
  });
  const next = await opens(store, hosts[1]);
  assert.equal(next?.epochs.length, ring.epochs.length + 1);
  let slots = 0;
  for await (const { name } of store.list("keys/")) slots += Number(name.startsWith("keys/"));
  assert.ok(slots <= 4 + outcome.added.length + 1, "what nobody needs is swept");
}

test("key races: no acknowledged change of keys is lost, whoever is stopped or killed", async () => {
  let killed = 0;
  for (let at = 0; at < schedules; at++) {
    killed += (await runSchedule(createSeededRandom(`key race ${at}`))).killed;
  }
  console.log(`${schedules} schedules of 3 parties, one killed in ${killed} of them`);
});
