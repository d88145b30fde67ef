/**
 * One run of a copy from store to store: rounds of listing, comparing and copying, until a round ends
 * in which nothing was removed meanwhile; docs/design/redundancy.md says why that is safe.
 */
import { assert } from "#base/assert.ts";
import { bytesEqual } from "#base/bytes.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { SecondaryRole } from "#formats/secondary-marker.ts";
import { parseStoreName, vaultHeaderName } from "#formats/store-names.ts";
import { parseVaultHeader } from "#formats/vault-header.ts";
import type { ObjectInfo } from "#ports/object-store.ts";
import type { PointName } from "#vault/vault.ts";
import { ChosenPoints } from "./chosen-points.ts";
import type { CopyReport, CopyRunOptions } from "#vault/copy-report.ts";
import { CopyInventory } from "./copy-inventory.ts";
import { CopyRound } from "./copy-round.ts";
import { lagOf, listForCopy, planCopy, readHidden } from "./plan-copy.ts";
import { claimSecondary, putVaultHeader } from "./secondary.ts";

/** Rounds of one run; each further one means that a collector removed objects during the last. */
export const copyRoundsMax = 8;

/** See the file's head. */
export class CopyRun {
  readonly #options: CopyRunOptions;
  readonly #role: SecondaryRole;
  readonly #points: readonly PointName[] | undefined;
  #copied = { objects: 0, bytes: 0, points: 0 };

  /** @param work.points Only these and what they need; by default all. */
  constructor(
    options: CopyRunOptions,
    work: { readonly role: SecondaryRole; readonly points?: readonly PointName[] | undefined },
  ) {
    this.#options = options;
    this.#role = work.role;
    this.#points = work.points;
  }

  /** Runs to the end. Busy (backoff) where a collector is at work all the time; errors of stores. */
  async run(): Promise<CopyReport> {
    const { primary, secondary, keys, signal } = this.#options;
    const header = await primary.get(vaultHeaderName, undefined, signal);
    assert(
      bytesEqual(parseVaultHeader(header).vaultId, keys.vaultId),
      "the keys are those of the vault that is copied",
    );
    await claimSecondary(secondary, { role: this.#role, vaultId: keys.vaultId }, signal);
    const inventory = await CopyInventory.open({ store: secondary, keys, signal });
    for (let round = 0; round < copyRoundsMax; round++) {
      const report = await this.#round(header, { number: round, inventory });
      if (report !== undefined) return report;
    }
    throw new KluisError(
      "Busy",
      `Cannot copy the vault in "${primary.location}": objects are being removed from it all the time`,
    );
  }

  /** `undefined` where something that was listed is gone. */
  async #round(
    header: Uint8Array,
    { number, inventory }: { readonly number: number; readonly inventory: CopyInventory },
  ): Promise<CopyReport | undefined> {
    const { primary, secondary, clock, signal } = this.#options;
    const measuredAtMs = clock.nowMs();
    const isHidden = await readHidden({ ...this.#options, store: primary });
    const listing = await listForCopy(primary, isHidden, signal);
    await using chosen =
      this.#points === undefined ? undefined : await ChosenPoints.open(this.#options, this.#points);
    const heldBack = chosen?.heldBack ?? [];
    // What breaks off a walk may be a collector's doing; with a new index and new listings it is not.
    if (heldBack.length > 0 && number === 0) return undefined;
    const there = await listForCopy(secondary, () => false, signal);
    const plan = planCopy(chosen?.narrow(listing) ?? listing, there);
    const round = new CopyRound(this.#options, { plan, there, inventory }, (object) => {
      this.#count(object, plan.missingBytes);
    });
    await round.copyKeys();
    await putVaultHeader(secondary, header, signal);
    await round.copyPacks();
    if (round.isGone) return undefined;
    await (chosen === undefined ? round.copySegments() : round.writeSegments(chosen.packs()));
    if (round.isGone) return undefined;
    heldBack.push(...(await round.copyManifests()));
    await round.finishInventory();
    const { damaged, left } = round;
    return { ...this.#copied, heldBack, damaged, lag: lagOf(left, measuredAtMs) };
  }

  #count({ name, sizeBytes }: ObjectInfo, missingBytes: number): void {
    const copied = this.#copied;
    copied.objects++;
    copied.bytes += sizeBytes;
    if (parseStoreName(name)?.kind === "manifest") copied.points++;
    this.#options.onProgress?.(copied.bytes, Math.max(copied.bytes, missingBytes));
  }
}
