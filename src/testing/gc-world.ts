/**
 * A world of parties that run the locking protocol on one store: any order of their requests, pages of
 * listings between which others go on, requests carried out twice, parties that stop for days or die.
 *
 * Everything follows from the seed. A rule of the protocol can be broken by its name.
 */
import { createPrng, type Prng } from "#testing/seed.ts";
import type { ListedName, ObjectBody, Rule, Step } from "#vault/gc/steps.ts";

/** A pack of the simulation: the blocks it holds. */
export interface SimPack {
  readonly pack: readonly number[];
}

/** An index segment: packs with their blocks. */
export interface SimSegment {
  readonly packs: readonly { readonly name: string; readonly blocks: readonly number[] }[];
}

/** A manifest: the blocks that the point refers to. */
export interface SimManifest {
  readonly blocks: readonly number[];
}

/** What an object of the simulated vault may be. */
export type SimContent = SimPack & SimSegment & SimManifest;

/** Somebody who works on the store. */
export interface Party {
  readonly steps: Generator<Step, unknown, unknown>;
  /** Micro steps of the world before it begins. */
  readonly startsAt: number;
  /** It neither stops nor dies. */
  readonly isSteady?: true;
}

interface Running {
  readonly steps: Generator<Step, unknown, unknown>;
  step: Step | undefined;
  /** Names of a listing so far, and the last one. */
  page: ListedName[];
  cursor: string;
  /** The put was carried out once, and its answer was lost. */
  isRepeated: boolean;
  taken: number;
  stopsAt: number;
  /** It stops before the first step of this rule as well. */
  stopsBefore: Rule | undefined;
  wakesAt: number;
  diesAt: number;
  readonly fencedInVain: Set<string>;
}

/** Steps before which a stop is worst. */
const stops: readonly Rule[] = [
  "decide-if-absent",
  "remove-in-order",
  "owner-removes-record",
  "commit-if-absent",
  "fence",
  "base-exists",
];
const pageNames = 3;
const repeatChance = 15;
const microStepsMax = 20_000;

/** A loss, as the world found it. */
export class LossFound extends Error {}

/** See the file's head. */
export class SimWorld {
  readonly random: Prng;
  readonly objects = new Map<string, ObjectBody>();
  /** Every pack there ever was; for a broken rule. */
  readonly packsEver = new Set<string>();
  /** Manifests whose commit was acknowledged, and those that somebody deleted. */
  readonly acknowledged = new Set<string>();
  readonly deleted = new Set<string>();
  readonly #broken: Rule | undefined;
  #parties: Running[] = [];
  #now = 0;
  /** All names in order. */
  readonly #sorted: string[] = [];

  constructor(seed: number, broken?: Rule) {
    this.random = createPrng(seed);
    this.#broken = broken;
  }

  /** Whether to, with one chance in `of`. */
  oneIn(of: number): boolean {
    return this.random.below(of) === 0;
  }

  /** Runs parties until all have ended, died or stopped for ever. */
  run(parties: readonly Party[]): void {
    this.#parties = parties.map((party) => this.#start(party));
    for (let micro = 0; micro < microStepsMax; micro++) {
      this.#now++;
      if (this.#parties.length === 0) return;
      const party = this.#pickReady();
      if (party !== undefined) this.#advance(party);
      // Days go by until the next one wakes.
      else this.#now = Math.min(...this.#parties.map(({ wakesAt }) => wakesAt)) - 1;
    }
    throw new Error("the parties of a schedule do not come to an end");
  }

  /** Every existing point restores: throws {@link LossFound}. */
  assertNothingLost(): void {
    // Blocks are small numbers: one bit each.
    let found = 0;
    for (const [name, body] of this.objects) {
      if (!name.startsWith("index/")) continue;
      for (const pack of contentOf(body).packs) {
        const held = this.objects.get(pack.name);
        if (held === undefined) continue;
        for (const block of contentOf(held).pack) found |= 1 << block;
      }
    }
    for (const [name, body] of this.objects) {
      if (body.kind !== "content" || !name.startsWith("points/")) continue;
      const lost = contentOf(body).blocks.find((block) => (found & (1 << block)) === 0);
      if (lost === undefined || this.objects.has(`deleted/${name.slice("points/".length)}`))
        continue;
      throw new LossFound(`block ${lost} of ${name} is lost`);
    }
    for (const name of this.acknowledged) {
      if (this.deleted.has(name) || this.objects.get(name)?.kind === "content") continue;
      throw new LossFound(`${name} was acknowledged and is gone`);
    }
  }

  /** Any party that neither sleeps nor waits for its time, counted from a random one. */
  #pickReady(): Running | undefined {
    const count = this.#parties.length;
    const start = this.random.below(count);
    for (let at = 0; at < count; at++) {
      const party = this.#parties[(start + at) % count];
      if (party !== undefined && party.wakesAt <= this.#now) return party;
    }
    return undefined;
  }

  #start({ steps, startsAt, isSteady }: Party): Running {
    const often = isSteady === true ? 2 : this.random.below(3);
    const stopsAt = often === 0 ? this.random.below(120) : Infinity;
    const diesAt = often === 1 ? this.random.below(200) : Infinity;
    return {
      steps,
      step: undefined,
      page: [],
      cursor: "",
      isRepeated: false,
      taken: 0,
      stopsAt,
      stopsBefore: often === 0 ? stops[this.random.below(stops.length)] : undefined,
      wakesAt: this.#now + startsAt,
      diesAt,
      fencedInVain: new Set(),
    };
  }

  #advance(party: Running): void {
    party.taken++;
    if (party.taken >= party.diesAt) return this.#leave(party);
    if (party.taken >= party.stopsAt) {
      party.stopsAt = Infinity;
      party.wakesAt = this.#now + 20 + this.random.below(1000);
      return undefined;
    }
    if (party.step === undefined) return this.#resume(party, undefined);
    if (party.step.why === party.stopsBefore) {
      party.stopsBefore = undefined;
      party.wakesAt = this.#now + 20 + this.random.below(1500);
      return undefined;
    }
    const answer = this.#carryOut(party, party.step);
    if (answer !== "under way") this.#resume(party, answer.value);
    return undefined;
  }

  #resume(party: Running, answer: unknown): void {
    const { done, value } = party.steps.next(answer);
    party.page = [];
    party.cursor = "";
    party.isRepeated = false;
    if (done === true) this.#leave(party);
    else party.step = value;
  }

  #leave(party: Running): void {
    this.#parties = this.#parties.filter((other) => other !== party);
  }

  #carryOut(party: Running, step: Step): { readonly value: unknown } | "under way" {
    if (step.op === "put") return this.#put(party, step);
    if (step.op === "list") return this.#list(party, step);
    if (step.op === "get") return { value: this.#get(party, step) };
    if (step.op === "remove") this.#remove(step);
    return { value: undefined };
  }

  #put(party: Running, step: Step & { readonly op: "put" }): { value: unknown } | "under way" {
    const { why, name, body } = step;
    if (why === this.#broken) {
      if (why === "lease-first" || why === "condemn-first" || why === "copy-out") {
        return { value: "created" };
      }
      if (why === "fence") {
        party.fencedInVain.add(name);
        return { value: "created" };
      }
      if (why === "delete-by-mark") {
        this.deleted.add(`points/${name.slice("deleted/".length)}`);
        this.#drop(`points/${name.slice("deleted/".length)}`);
        return { value: "created" };
      }
      const isOverwritten = why === "commit-if-absent" || why === "decide-if-absent";
      if (isOverwritten && this.objects.get(name)?.kind === "tombstone") this.#drop(name);
    }
    const outcome = this.objects.has(name) ? "exists" : "created";
    if (outcome === "created") this.#create(name, body);
    if (!party.isRepeated && this.oneIn(repeatChance)) {
      party.isRepeated = true;
      return "under way";
    }
    return { value: outcome };
  }

  #create(name: string, body: ObjectBody): void {
    this.objects.set(name, body);
    this.#sorted.splice(firstAfter(this.#sorted, name), 0, name);
    if (name.startsWith("packs/")) this.packsEver.add(name);
    if (name.startsWith("deleted/")) this.deleted.add(`points/${name.slice("deleted/".length)}`);
    if (name.startsWith("points/")) this.assertNothingLost();
  }

  #get(party: Running, { why, name }: Step & { readonly op: "get" }): ObjectBody | undefined {
    if (why === this.#broken) {
      if (why === "base-exists") {
        return name.startsWith("deleted/") ? undefined : { kind: "content", content: undefined };
      }
      if (why === "fence" && party.fencedInVain.has(name)) return { kind: "tombstone" };
      if (why === "adopt-records" && name.startsWith("decisions/")) return { kind: "tombstone" };
    }
    if (this.#broken === "owner-removes-record" && why === "adopt-records") {
      if (name.startsWith("decisions/")) return { kind: "tombstone" };
    }
    return this.objects.get(name);
  }

  #list(party: Running, step: Step & { readonly op: "list" }): { value: unknown } | "under way" {
    const { why, prefix } = step;
    if (why === this.#broken && this.#isHidden(why, prefix)) return { value: [] };
    if (why === this.#broken && why === "trust-listed-packs") {
      return {
        value: [...this.packsEver].map((name) => ({ name, sizeBytes: 1, isTombstone: false })),
      };
    }
    const sorted = this.#sorted;
    let at = firstAfter(sorted, party.cursor === "" ? prefix : party.cursor);
    const end = at + pageNames;
    let name = sorted[at];
    for (; at < end && name?.startsWith(prefix) === true; name = sorted[++at]) {
      const isTombstone = this.objects.get(name)?.kind === "tombstone";
      party.cursor = name;
      const isMissed = this.#broken === "marks-before-leases" && why === "roots-again";
      if (!isMissed || !this.deleted.has(name))
        party.page.push({ name, sizeBytes: 1, isTombstone });
    }
    const isLast = name?.startsWith(prefix) !== true;
    return isLast ? { value: party.page } : "under way";
  }

  #isHidden(why: Rule, prefix: string): boolean {
    if (why === "roots-again") return prefix === "points/";
    return (
      why === "condemned-is-absent" ||
      why === "records-again" ||
      why === "adopt-records" ||
      (why === "wait-for-leases" && prefix === "leases/")
    );
  }

  #drop(name: string): boolean {
    if (!this.objects.delete(name)) return false;
    this.#sorted.splice(firstAfter(this.#sorted, name) - 1, 1);
    return true;
  }

  #remove({ name }: Step & { readonly op: "remove" }): void {
    if (!this.#drop(name)) return;
    if (this.#broken === "mark-stays" && name.startsWith("points/")) {
      this.#drop(`deleted/${name.slice("points/".length)}`);
    }
    const isData = /^(?:packs|index|deleted|points)\//.test(name);
    if (isData) this.assertNothingLost();
  }
}

/** Where the first name lies that comes after `text`. */
function firstAfter(sorted: readonly string[], text: string): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((sorted[middle] as string) <= text) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The content of an object that is none of the protocol; the caller knows by its name what it is. */
export function contentOf(body: ObjectBody): SimContent {
  if (body.kind !== "content") throw new Error(`a ${body.kind} is no content`);
  return body.content as SimContent;
}
