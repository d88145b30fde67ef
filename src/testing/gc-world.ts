/**
 * A world of parties that run the locking protocol on one store: any order of their requests, pages of
 * listings between which others go on, requests carried out twice, parties that stop for days or die.
 *
 * Everything follows from the seed.
 */
import type { Rule, Step } from "#vault/gc/steps.ts";
import { Caller, SimStore } from "./gc-store.ts";
import { createPrng, type Prng } from "./seed.ts";

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
  readonly caller: Caller;
  step: Step | undefined;
  /** The request was carried out once, and its answer was lost. */
  isRepeated: boolean;
  /** Names that the request has still to remove, as far as the party knows. */
  left: string[];
  taken: number;
  stopsAt: number;
  /** It stops before the first step of this rule as well. */
  stopsBefore: Rule | undefined;
  wakesAt: number;
  diesAt: number;
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
const repeatChance = 15;
const microStepsMax = 20_000;

/** See the file's head. */
export class SimWorld {
  readonly random: Prng;
  readonly store: SimStore;
  #parties: Running[] = [];
  #now = 0;

  constructor(seed: number, broken?: Rule) {
    this.random = createPrng(seed);
    this.store = new SimStore(broken);
  }

  /** Whether to, with one chance in `of`. */
  oneIn(of: number): boolean {
    return this.random.below(of) === 0;
  }

  /** Runs parties until all have ended, died or stopped for ever. Throws LossFound. */
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
      caller: new Caller(),
      step: undefined,
      isRepeated: false,
      left: [],
      taken: 0,
      stopsAt,
      stopsBefore: often === 0 ? stops[this.random.below(stops.length)] : undefined,
      wakesAt: this.#now + startsAt,
      diesAt,
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
    const { step } = party;
    if (step === undefined) return this.#resume(party, undefined);
    if (step.why === party.stopsBefore) {
      party.stopsBefore = undefined;
      party.wakesAt = this.#now + 20 + this.random.below(1500);
      return undefined;
    }
    if (step.op === "remove") return this.#removeOne(party, step);
    const answer = this.store.carryOut(party.caller, step);
    if (answer === "under way") return undefined;
    const mayRepeat = step.op === "put" && !party.isRepeated;
    if (mayRepeat && this.oneIn(repeatChance)) party.isRepeated = true;
    else this.#resume(party, answer.value);
    return undefined;
  }

  /** Removes any of the names; where the answer is lost it is removed once more, some time later. */
  #removeOne(party: Running, step: Step & { readonly op: "remove" }): void {
    const [name] = party.left.splice(this.random.below(party.left.length), 1);
    if (name !== undefined) this.store.carryOut(party.caller, { ...step, names: [name] });
    if (name !== undefined && this.oneIn(repeatChance)) party.left.push(name);
    if (party.left.length === 0) this.#resume(party, undefined);
  }

  #resume(party: Running, answer: unknown): void {
    const { done, value } = party.steps.next(answer);
    party.caller.next();
    party.isRepeated = false;
    if (done === true) return this.#leave(party);
    party.step = value;
    party.left = value.op === "remove" ? [...value.names] : [];
    return undefined;
  }

  #leave(party: Running): void {
    this.#parties = this.#parties.filter((other) => other !== party);
  }
}
