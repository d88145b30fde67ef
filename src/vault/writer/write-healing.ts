/**
 * Writes a point that heals what its base lost, also where the loss shows only while it is written;
 * docs/design/verify-and-heal.md.
 */
import { createHash } from "node:crypto";

import { bytesEqual } from "#base/bytes.ts";
import { isKluisError, type KluisError } from "#base/kluis-error.ts";
import { parseStoreName } from "#formats/store-names.ts";
import type { VaultHealth } from "#vault/health/examine.ts";
import { putFindings } from "#vault/inventory/findings.ts";
import type { LedgerDeps } from "#vault/inventory/ledger.ts";
import { type HealingDeps, planHealing } from "#vault/writer/plan-healing.ts";
import { isVaultLoss } from "#vault/vault-loss.ts";
import type { PointInput, WrittenPoint } from "#vault/writer/point-writer.ts";

/** Times that a point is begun anew because its base turned out damaged; the last one is in full. */
const attemptsMax = 3;

/** What writing takes of the vault. */
export interface HealingWrite extends LedgerDeps, Omit<HealingDeps, "health"> {
  readonly examine: () => Promise<VaultHealth>;
  readonly write: (input: PointInput) => Promise<WrittenPoint>;
}

/**
 * Writes `input`. Where its base cannot be read, what the bytes prove is noted for all hosts, and the
 * point is begun anew on what is left; nothing was committed by then. Errors: those of `write`.
 */
export async function writeHealing(input: PointInput, deps: HealingWrite): Promise<WrittenPoint> {
  for (let attempt = 1; ; attempt++) {
    const health = await deps.examine();
    const planned = await planHealing(input, { ...deps, health });
    const isIncrement = planned.disks.some(({ increment }) => increment !== undefined);
    try {
      return await deps.write(planned);
    } catch (error) {
      deps.signal?.throwIfAborted();
      if (!isIncrement || attempt > attemptsMax || !isVaultLoss(error)) throw error;
      const isProved = await noteDamage(error, deps);
      if (!isProved || attempt === attemptsMax) input = withoutBase(input, error);
    }
  }
}

/** Whether the object that an error names is damaged indeed; if so it is put into the findings. */
async function noteDamage(error: KluisError, deps: HealingWrite): Promise<boolean> {
  const name = String(error.details["object"] ?? "");
  const parsed = parseStoreName(name);
  if (parsed?.kind !== "pack" && parsed?.kind !== "map-pack") return false;
  const { store, keys, signal } = deps;
  try {
    const bytes = await store.get(name, undefined, signal);
    const sha256 = createHash("sha256").update(bytes).digest();
    if (bytesEqual(sha256, parsed.sha256)) return false;
  } catch (failure) {
    signal?.throwIfAborted();
    // It shows in the next listing; there is nothing to note.
    if (isKluisError(failure, "ObjectNotFound")) return true;
    throw failure;
  }
  await putFindings({ store, keys, signal }, { damaged: [name] });
  return true;
}

/** The same point, read in full: nothing of the base is needed. */
function withoutBase(input: PointInput, error: KluisError): PointInput {
  const { basePointId: _, ...point } = input.point;
  const disks = input.disks.map(({ increment, ...disk }) =>
    increment === undefined
      ? disk
      : {
          ...disk,
          tracking: "full" as const,
          trackingReason: `the last recovery point is damaged: ${error.message}`.slice(0, 1000),
        },
  );
  return { point, disks };
}
