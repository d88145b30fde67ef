import { type DeletedOutput, outputFormat } from "#contract/cli-output.ts";
import { readChosenPoint } from "#protect/points.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { lockExits, pointExits, vaultExits } from "#cli/exit-codes.ts";
import { formatTime, printable } from "#cli/format.ts";
import { findItemId } from "#cli/item-id.ts";
import { openVaultSession } from "#cli/open-vault.ts";
import { keyOptions, outputOption, storeOption, workOptions } from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";

/** `kluis image delete`. */
export const imageDelete: CommandSpec = {
  words: ["image", "delete"],
  summary: "delete one recovery point",
  description:
    "Deletes a recovery point of an image or a VM. It is gone at once; the space that it alone needed is freed " +
    "by `kluis vault collect`. All other points stay as they are.",
  arguments: [],
  options: [
    storeOption,
    ...keyOptions,
    {
      flags: "--item <id>",
      text: "the protected item: its id, or the path of its image",
      required: true,
    },
    { flags: "--point <id>", text: "id of the recovery point", required: true },
    ...workOptions,
    outputOption,
  ],
  examples: [
    {
      line: "kluis image delete --store /srv/vault --key-file /etc/kluis/key --item vm:web --point 019aa0b1c2d3-0123456789abcdef",
      text: "One point of a VM.",
    },
  ],
  exits: [...vaultExits, ...pointExits, ...lockExits, 34],
  outputKind: "deleted",
  run: runImageDelete,
};

async function runImageDelete(input: CommandInput, environment: CliEnvironment): Promise<number> {
  await using session = await openVaultSession(input, environment, {
    intent: "remove",
    withoutIndex: true,
  });
  const { vault } = session;
  const itemId = await findItemId(vault, input.requiredText("item"), environment);
  const pointId = input.requiredText("point");
  const point = await readChosenPoint(vault, { itemId, pointId }, environment.signal);
  const name = (await vault.listPoints(itemId, environment.signal)).find(
    (one) => one.pointId === point.pointId,
  );
  if (name !== undefined) await vault.deletePoint(name, environment.signal);
  const document: DeletedOutput = {
    format: outputFormat,
    kind: "deleted",
    itemId: point.itemId,
    id: point.pointId,
    takenAt: new Date(point.takenAtMs).toISOString(),
  };
  printResult(environment, outputFormOf(input), {
    document,
    lines: [
      `Deleted recovery point ${point.pointId} of ${printable(point.itemId)}, taken ${formatTime(point.takenAtMs)}.`,
    ],
  });
  return 0;
}
