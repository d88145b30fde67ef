/**
 * Processes that put and remove objects on a simulated file system, one of them perhaps killed, and
 * what a power failure at a moment of their log has to leave.
 */
import { createHash } from "node:crypto";

import { allocateAligned } from "#base/aligned-memory.ts";
import { bytesEqual, toHex } from "#base/bytes.ts";
import { isKluisError, type KluisError } from "#base/kluis-error.ts";
import { openFileStore } from "#drivers/store/file-store.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import type { SeededRandom } from "#testing/seeded-random.ts";
import { SimulatedFiles, type SimulatedProcess } from "#testing/simulated-files.ts";

/** Where the store lies: its folder and the one above are made by the first who opens it. */
export const storeRoot = "/srv/backup/store";

/** A call whose end somebody was told. */
export interface Promised {
  readonly kind: "put" | "remove";
  readonly name: string;
  /** Moments of the log. */
  readonly beganAt: number;
  /** `undefined` while it is under way, and for ever where its process was killed or it failed. */
  endedAt: number | undefined;
}

/** What happened on one simulated file system. */
export interface Scenario {
  readonly files: SimulatedFiles;
  readonly contents: ReadonlyMap<string, Uint8Array>;
  readonly promises: readonly Promised[];
  /** Errors that processes ended with. */
  readonly errors: readonly KluisError[];
}

/** Opens the store as a process of its own. */
export async function openSimulatedStore(process: SimulatedProcess): Promise<ObjectStore> {
  return openFileStore(storeRoot, { create: true, files: process });
}

/** Sizes around 512 bytes, some above, and a few that are written past the page cache. */
function makeContent(random: SeededRandom): Uint8Array {
  if (random.chance(0.01)) {
    const content = allocateAligned(1024 * 1024 + random.integer(0, 5000), "shared");
    content.set(random.bytes(content.byteLength));
    return content;
  }
  return random.bytes(random.chance(0.2) ? random.integer(2000, 9000) : random.integer(0, 1600));
}

/** Objects of several folders, named by their content. */
function makeContents(random: SeededRandom, count: number): Map<string, Uint8Array> {
  const contents = new Map<string, Uint8Array>();
  for (let at = 0; at < count; at++) {
    const content = makeContent(random);
    const digest = toHex(createHash("sha256").update(content).digest());
    const folder = random.pick(["", "index/", `packs/${random.integer(0, 2)}/`, "points/vm/"]);
    contents.set(`${folder}${digest}`, content);
  }
  return contents;
}

/**
 * Lets processes work side by side until each has done its part. Typed errors are noted, any other
 * is thrown.
 *
 * @param rules.prepare Sets faults before the first call.
 */
export async function runScenario(
  random: SeededRandom,
  rules: {
    readonly processesMax: number;
    readonly prepare?: (files: SimulatedFiles) => void;
  },
): Promise<Scenario> {
  const files = new SimulatedFiles(random);
  rules.prepare?.(files);
  const contents = makeContents(random, random.integer(3, 9));
  const promises: Promised[] = [];
  const errors: KluisError[] = [];
  const processes = Array.from({ length: random.integer(1, rules.processesMax) }, () =>
    files.startProcess(),
  );
  const isKilled = random.chance(0.3) && processes.length > 1;
  const works = processes.map(async (process, at) => {
    const work = new Work({ files, contents, promises, random });
    const end = work.run(process).catch((error: unknown) => {
      if (!isKluisError(error)) throw error;
      errors.push(error);
    });
    if (isKilled && at === 0) await Promise.race([end, killLater(process, random)]);
    else await end;
  });
  await Promise.all(works);
  return { files, contents, promises, errors };
}

async function killLater(process: SimulatedProcess, random: SeededRandom): Promise<void> {
  for (let turns = random.integer(10, 250); turns > 0; turns--) await new Promise(setImmediate);
  process.kill();
}

interface Scene {
  readonly files: SimulatedFiles;
  readonly contents: ReadonlyMap<string, Uint8Array>;
  readonly promises: Promised[];
  readonly random: SeededRandom;
}

/** What one process does. */
class Work {
  readonly #scene: Scene;

  constructor(scene: Scene) {
    this.#scene = scene;
  }

  /** Puts most of the objects, two at a time, and removes some. */
  async run(process: SimulatedProcess): Promise<void> {
    const { contents, random } = this.#scene;
    const store = await openSimulatedStore(process);
    const names = random.shuffle([...contents.keys()]).slice(0, random.integer(2, contents.size));
    const half = names.length >> 1;
    const results = await Promise.allSettled(
      [names.slice(0, half), names.slice(half)].map((part) => this.#putAll(store, part)),
    );
    for (const result of results) if (result.status === "rejected") throw result.reason;
  }

  async #putAll(store: ObjectStore, names: readonly string[]): Promise<void> {
    const { contents, random } = this.#scene;
    for (const name of names) {
      const content = contents.get(name) ?? new Uint8Array(0);
      const cut = random.integer(0, content.byteLength);
      const inTwo = [content.subarray(0, cut), content.subarray(cut)];
      const parts = random.chance(0.5) ? [content] : inTwo;
      await this.#promise("put", name, () => store.put(name, parts));
      if (random.chance(0.15)) await this.#promise("remove", name, () => store.remove(name));
    }
  }

  async #promise(
    kind: Promised["kind"],
    name: string,
    call: () => Promise<unknown>,
  ): Promise<void> {
    const { files, promises } = this.#scene;
    const promised: Promised = { kind, name, beganAt: files.moment, endedAt: undefined };
    promises.push(promised);
    await call();
    promised.endedAt = files.moment;
  }
}

/**
 * What is wrong with a store that a power failure at `moment` left: promised objects that are gone
 * or removed ones that are back, and names that stand for anything but their content.
 */
export async function findViolations(
  left: ObjectStore,
  scenario: Scenario,
  moment: number,
): Promise<readonly string[]> {
  const violations: string[] = [];
  const found = new Set<string>();
  for await (const { name } of left.list("")) {
    found.add(name);
    const content = scenario.contents.get(name);
    if (content === undefined) violations.push(`"${name}" was never put`);
    else if (!bytesEqual(content, await left.get(name))) violations.push(`"${name}" is not whole`);
  }
  for (const name of scenario.contents.keys()) {
    const expected = presenceAt(scenario, name, moment);
    if (expected !== undefined && expected !== found.has(name)) {
      violations.push(`"${name}" is ${expected ? "lost" : "back"}`);
    }
  }
  return violations;
}

/** Whether an object must be there, or must not; `undefined` where calls were under way. */
function presenceAt(scenario: Scenario, name: string, moment: number): boolean | undefined {
  const calls = scenario.promises.filter((call) => call.name === name && call.beganAt <= moment);
  const ended = calls.filter(({ endedAt = Infinity }) => endedAt <= moment);
  const last = ended.reduce<Promised | undefined>(
    (latest, call) =>
      latest === undefined || (call.endedAt ?? 0) > (latest.endedAt ?? 0) ? call : latest,
    undefined,
  );
  if (last === undefined) return undefined;
  // A call of the other kind that ran beside it or after it may have come last.
  const others = calls.filter(
    (call) => call.kind !== last.kind && (call.endedAt ?? Infinity) >= last.beganAt,
  );
  return others.length === 0 ? last.kind === "put" : undefined;
}
