import { KluisError } from "#base/kluis-error.ts";
import { checkPointId } from "#vault/recovery-point.ts";
import { copyVault } from "#vault/replicate.ts";
import type { PointName, Vault } from "#vault/vault.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import { runCopy } from "#cli/copy-vault.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { pointExits, vaultExits } from "#cli/exit-codes.ts";
import { findItemId } from "#cli/item-id.ts";
import { openVaultSession, unlockStore, type UnlockedStore } from "#cli/open-vault.ts";
import { itemOption, outputOption, recoveryKeyOption, storeOption } from "#cli/options.ts";

/** `kluis rescue copy`. */
export const rescueCopy: CommandSpec = {
  words: ["rescue", "copy"],
  summary:
    "copy a vault, or some recovery points, to another store with nothing but the recovery key",
  description:
    "Copies all recovery points, or those chosen and what they need, to an empty place, checked on the way. The " +
    "copy is a vault of its own, with the same keys, once everything is there; a run that broke off is gone on with " +
    "by the same command. Exit code 14: something is damaged, and what needs it was left out.",
  arguments: [],
  options: [
    storeOption,
    { flags: "--to <place>", text: "empty folder for the copy", required: true },
    recoveryKeyOption,
    itemOption,
    { flags: "--point <id>", text: "only this recovery point; may be repeated", repeated: true },
    outputOption,
  ],
  examples: [
    {
      line: "kluis rescue copy --store /mnt/vault --to /mnt/disk/vault --recovery-key-file -",
      text: "Everything. Type the recovery key, then Enter.",
    },
    {
      line: "kluis rescue copy --store /mnt/vault --to /mnt/disk/web --item vm:web --recovery-key-file -",
      text: "The recovery points of one VM.",
    },
  ],
  exits: [...vaultExits, ...pointExits, 34],
  outputKind: "copy",
  run: runRescueCopy,
};

async function runRescueCopy(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const { unlocked, points } = await unlockAndChoose(input, environment);
  const { store: primary, files } = unlocked;
  const place = input.requiredText("to");
  const secondary = await environment.drivers.openStore(place, { create: true, isCopy: true });
  return await runCopy(input, environment, {
    stores: { primary, secondary, keys: files.keys },
    copy: async (options) => {
      const report = await copyVault(options, points);
      return { ...report, isSecondary: !report.isComplete };
    },
  });
}

/** The index is opened only where points are chosen. */
async function unlockAndChoose(
  input: CommandInput,
  environment: CliEnvironment,
): Promise<{ readonly unlocked: UnlockedStore; readonly points?: readonly PointName[] }> {
  const isChosen = input.text("item") !== undefined || input.texts("point").length > 0;
  if (!isChosen) return { unlocked: await unlockStore(input, environment, { intent: "rescue" }) };
  await using session = await openVaultSession(input, environment, { intent: "rescue" });
  const { store, files, vault } = session;
  return {
    unlocked: { store, files, setBack: [] },
    points: await choosePoints(vault, input, environment),
  };
}

async function choosePoints(
  vault: Vault,
  input: CommandInput,
  environment: CliEnvironment,
): Promise<readonly PointName[]> {
  const item = input.text("item");
  const itemId = item === undefined ? undefined : await findItemId(vault, item, environment);
  const names = await vault.listPoints(itemId, environment.signal);
  const ids = input.texts("point").map(checkPointId);
  const unknown = ids.find((id) => names.every(({ pointId }) => pointId !== id));
  const chosen = ids.length === 0 ? names : names.filter(({ pointId }) => ids.includes(pointId));
  if (unknown === undefined && chosen.length > 0) return chosen;
  const what = unknown === undefined ? `points of "${item ?? ""}"` : `point "${unknown}"`;
  throw new KluisError("RecoveryPointNotFound", `Cannot copy ${what}: the vault has none`);
}
