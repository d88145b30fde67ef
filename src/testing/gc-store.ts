/**
 * The store of a simulated vault: what it answers to requests of the locking protocol, and whether
 * anything is lost. A rule of the protocol can be broken by its name.
 */
import type { ListedName, ObjectBody, Rule, Step, Why } from "#vault/gc/steps.ts";

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

/** A loss, as the store found it. */
export class LossFound extends Error {}

/** What of one party's requests is to be known when the next one comes. */
export class Caller {
  /** Names of a listing so far, and the last one. */
  page: ListedName[] = [];
  cursor = "";
  /** Commit keys that it only believes to have fenced, for a broken rule. */
  readonly fencedInVain = new Set<string>();
  /** Manifests whose removal it puts off, for a broken rule. */
  readonly heldBack: string[] = [];

  /** The next request begins. */
  next(): void {
    this.page = [];
    this.cursor = "";
  }
}

/** The answer to a request; a listing is under way until its last page was read. */
export type Answer = { readonly value: unknown } | "under way";

const pageNames = 3;
const created: Answer = { value: "created" };

/** See the file's head. */
export class SimStore {
  readonly objects = new Map<string, ObjectBody>();
  /** Manifests whose commit was acknowledged, and those that somebody deleted. */
  readonly acknowledged = new Set<string>();
  readonly deleted = new Set<string>();
  readonly #broken: Rule | undefined;
  /** All names in order. */
  readonly #sorted: string[] = [];
  /** Every pack there ever was; for a broken rule. */
  readonly #packsEver = new Set<string>();

  constructor(broken?: Rule) {
    this.#broken = broken;
  }

  /** Carries a request out, or one page of it. Throws {@link LossFound}. */
  carryOut(caller: Caller, step: Step): Answer {
    if (step.op === "put") return this.#put(caller, step);
    if (step.op === "list") return this.#list(caller, step);
    if (step.op === "get") return { value: this.#get(caller, step) };
    if (step.op === "remove") for (const name of step.names) this.#remove(caller, step.why, name);
    return { value: undefined };
  }

  /** Every existing point restores, and none that was acknowledged is gone: throws {@link LossFound}. */
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
      if (lost === undefined || this.objects.has(markOf(name))) continue;
      throw new LossFound(`block ${lost} of ${name} is lost`);
    }
    for (const name of this.acknowledged) {
      if (this.deleted.has(name) || this.objects.get(name)?.kind === "content") continue;
      throw new LossFound(`${name} was acknowledged and is gone`);
    }
  }

  /** Packs that stay for ever: with blocks that nobody needs, or that nobody will build on again. */
  findGarbage(): readonly string[] {
    const needed = new Set<number>();
    const condemned = new Set<string>();
    for (const [name, body] of this.objects) {
      if (body.kind === "condemned") for (const pack of body.packs) condemned.add(pack);
      const isPoint = body.kind === "content" && name.startsWith("points/");
      if (!isPoint || this.objects.has(markOf(name))) continue;
      for (const block of contentOf(body).blocks) needed.add(block);
    }
    return this.#sorted.filter((name) => {
      const body = name.startsWith("packs/") ? this.objects.get(name) : undefined;
      if (body === undefined) return false;
      return condemned.has(name) || contentOf(body).pack.some((block) => !needed.has(block));
    });
  }

  #put(caller: Caller, { why, name, body }: Step & { readonly op: "put" }): Answer {
    if (this.#broken !== undefined && this.#isPutBroken(caller, { why, name })) return created;
    if (this.objects.has(name)) return { value: "exists" };
    this.objects.set(name, body);
    this.#sorted.splice(firstAfter(this.#sorted, name), 0, name);
    if (name.startsWith("packs/")) this.#packsEver.add(name);
    if (name.startsWith("deleted/")) this.deleted.add(pointOf(name));
    if (name.startsWith("points/")) this.assertNothingLost();
    return created;
  }

  /** What is done in place of a put where its rule is broken; whether nothing else is done. */
  #isPutBroken(caller: Caller, { why, name }: { why: string; name: string }): boolean {
    if (this.#broken === "end-session" && name.startsWith("packs/")) {
      // Its owner takes the lease away as soon as there is something to protect.
      this.#drop(`leases/${name.slice(name.lastIndexOf("-") + 1)}`);
      return false;
    }
    if (why !== this.#broken) return false;
    if (why === "lease-first" || why === "condemn-first" || why === "copy-out") return true;
    if (why === "fence") {
      caller.fencedInVain.add(name);
      return true;
    }
    if (why === "delete-by-mark") {
      this.deleted.add(pointOf(name));
      this.#drop(pointOf(name));
      return true;
    }
    const isOverwritten = why === "commit-if-absent" || why === "decide-if-absent";
    if (isOverwritten && this.objects.get(name)?.kind === "tombstone") this.#drop(name);
    return false;
  }

  #get(caller: Caller, { why, name }: Step & { readonly op: "get" }): ObjectBody | undefined {
    if (why === this.#broken) {
      if (why === "base-exists") {
        return name.startsWith("deleted/") ? undefined : { kind: "content", content: undefined };
      }
      if (why === "fence" && caller.fencedInVain.has(name)) return { kind: "tombstone" };
    }
    // Every record of others is taken for that of a fenced collection.
    const isTakenForFenced = this.#broken === "owner-removes-record" && why === "adopt-records";
    if (isTakenForFenced && name.startsWith("decisions/")) return { kind: "tombstone" };
    return this.objects.get(name);
  }

  #list(caller: Caller, { why, prefix }: Step & { readonly op: "list" }): Answer {
    if (why === this.#broken && isHidden(why, prefix)) return { value: [] };
    if (why === this.#broken && why === "trust-listed-packs") {
      return {
        value: [...this.#packsEver].map((name) => ({ name, sizeBytes: 1, isTombstone: false })),
      };
    }
    const sorted = this.#sorted;
    const isMissed = this.#broken === "marks-before-leases" && why === "roots-again";
    let at = firstAfter(sorted, caller.cursor === "" ? prefix : caller.cursor);
    const end = at + pageNames;
    let name = sorted[at];
    for (; at < end && name?.startsWith(prefix) === true; name = sorted[++at]) {
      const isTombstone = this.objects.get(name)?.kind === "tombstone";
      caller.cursor = name;
      if (isMissed && this.deleted.has(name)) continue;
      caller.page.push({ name, sizeBytes: 1, isTombstone });
    }
    return name?.startsWith(prefix) === true ? "under way" : { value: caller.page };
  }

  #remove(caller: Caller, why: Why, name: string): void {
    if (this.#broken === "remove-in-order") {
      if (why === "remove-in-order" && name.startsWith("points/")) {
        caller.heldBack.push(name);
        return;
      }
      if (why === "owner-removes-record") for (const held of caller.heldBack) this.#drop(held);
    }
    if (!this.#drop(name)) return;
    if (this.#broken === "mark-stays" && name.startsWith("points/")) this.#drop(markOf(name));
    const isData = /^(?:packs|index|deleted|points)\//.test(name);
    if (isData) this.assertNothingLost();
  }

  #drop(name: string): boolean {
    if (!this.objects.delete(name)) return false;
    this.#sorted.splice(firstAfter(this.#sorted, name) - 1, 1);
    return true;
  }
}

/** Whether a listing shows nothing where its rule is broken. */
function isHidden(why: Rule, prefix: string): boolean {
  if (why === "roots-again") return prefix === "points/";
  return (
    why === "condemned-is-absent" ||
    why === "records-again" ||
    why === "adopt-records" ||
    (why === "wait-for-leases" && prefix === "leases/")
  );
}

function markOf(manifest: string): string {
  return `deleted/${manifest.slice("points/".length)}`;
}

function pointOf(mark: string): string {
  return `points/${mark.slice("deleted/".length)}`;
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
