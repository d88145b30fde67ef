/** A backup's lease on its store: taken before it reads what it builds on, kept until its end is known. */
import type { Clock } from "#base/clock.ts";
import { fromHex, toHex } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";
import { mapPackName, packName, parseStoreName } from "#formats/store-names.ts";
import { PackListing } from "#vault/health/pack-listing.ts";
import type { BlockIndex } from "#vault/index/block-index.ts";
import { sayFarewell } from "./farewell.ts";
import { Heartbeat } from "./heartbeat.ts";
import { runSteps, type StepDeps } from "./run-steps.ts";
import { endSession, openBackup, type Session, type TrustView } from "./session-protocol.ts";

/** Bytes of a session id. */
export const sessionIdBytes = 8;

/** A fresh session id. */
export function createSessionId(random: RandomSource): string {
  return toHex(random.bytes(sessionIdBytes));
}

/**
 * Randomness for the salts of a session's containers: each draw of 32 bytes begins with the session's
 * id, so that a collection tells what a live session has just put. 192 random bits stay.
 */
export function createSaltSource(random: RandomSource, session: string): RandomSource {
  const prefix = fromHex(session) ?? new Uint8Array();
  return {
    bytes(lengthBytes: number): Uint8Array {
      const bytes = random.bytes(lengthBytes);
      if (lengthBytes > 2 * prefix.byteLength) bytes.set(prefix);
      return bytes;
    },
  };
}

/** What a backup session is opened with. */
export interface BackupSessionDeps extends StepDeps {
  readonly index: BlockIndex;
  readonly clock: Clock;
}

/** See the file's head. Dispose it on every path; it leaves the lease where the end is not known. */
export class BackupSession implements AsyncDisposable {
  readonly session: Session;
  readonly #deps: BackupSessionDeps;
  readonly #heartbeat: Heartbeat;
  #listing: PackListing | undefined;
  #isEndKnown = true;

  private constructor(session: Session, deps: BackupSessionDeps) {
    this.session = session;
    this.#deps = deps;
    this.#heartbeat = new Heartbeat(session.id, deps);
  }

  /**
   * Takes the lease, then reads what may be built on and tells the index. BackupFenced (backoff)
   * where a manifest of `bases` is gone.
   *
   * Of several sessions on one index each is opened after the one before: what a later one may build
   * on earlier ones may too, because whoever condemns it afterwards waits for their older leases.
   *
   * @param commitKey Name of the manifest that the backup will put.
   */
  static async open(
    commitKey: string,
    bases: readonly string[],
    deps: BackupSessionDeps,
  ): Promise<BackupSession> {
    const id = createSessionId(deps.random);
    const session = new BackupSession({ id, purpose: "backup", commitKey }, deps);
    const before = deps.index.segmentCount;
    try {
      const view = await runSteps(openBackup(session.session, bases), deps);
      if (view === undefined) throw fenced("the recovery point it builds on was deleted");
      session.#listing = await trust(view, before, deps);
      return session;
    } catch (error) {
      await session[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Where the salts of everything this session puts come from. */
  get salts(): RandomSource {
    return createSaltSource(this.#deps.random, this.session.id);
  }

  /**
   * The packs that were listed under the lease, after the segments that the index holds; once, since
   * the caller takes packs from it.
   */
  takeListing(): PackListing | undefined {
    const listing = this.#listing;
    this.#listing = undefined;
    return listing;
  }

  /** Runs the put of the manifest; while its outcome is not known the lease stays. */
  async commit<T>(put: () => Promise<T>): Promise<T> {
    this.#isEndKnown = false;
    const outcome = await put();
    this.#isEndKnown = true;
    return outcome;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#heartbeat[Symbol.asyncDispose]();
    if (!this.#isEndKnown) return;
    // A lease that stays is ended by a collection; that must not hide what became of the backup.
    await sayFarewell(endSession(this.session.id), this.#deps);
  }
}

/** The error of a backup that a collection or a deletion has overtaken. */
export function fenced(reason: string): KluisError {
  return new KluisError("BackupFenced", `Cannot commit the backup: ${reason}`);
}

/** Tells the index what may be built on: listed segments and packs that nobody condemns. */
async function trust(
  view: TrustView,
  before: number,
  deps: BackupSessionDeps,
): Promise<PackListing> {
  const { index, signal } = deps;
  const condemned = new Set(view.records.flatMap(({ body }) => body.segments));
  const segments = view.segments.filter((name) => !condemned.has(name)).flatMap(toSha256);
  // What comes in counts only once it is known which packs do: another backup may be at work.
  index.trustUntilNow();
  await index.refresh(segments, signal);
  index.retire(segments, before);
  const listing = new PackListing();
  for (const { name, sizeBytes } of view.packs) {
    for (const sha256 of toSha256(name)) listing.add(sha256, sizeBytes);
  }
  const condemnedPacks = new Set(view.records.flatMap(({ body }) => body.packs));
  const distrusted: Uint8Array[] = [];
  for await (const { head } of index.packExtents()) {
    const name = head.type === "pack" ? packName(head.name) : mapPackName(head.name);
    if (!listing.has(head.name) || condemnedPacks.has(name)) distrusted.push(head.name);
  }
  await index.setDistrusted("condemned", distrusted);
  index.trustListed(segments);
  return listing;
}

/** The hash that an object is named by; nothing where the name is of another kind. */
export function toSha256(name: string): readonly Uint8Array[] {
  const parsed = parseStoreName(name);
  return parsed !== undefined && "sha256" in parsed ? [parsed.sha256] : [];
}
