/** What `image list` and `rescue list` do. */
import { listRecoveryPoints } from "#protect/points.ts";
import type { CommandInput } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { errorRegistry } from "#base/error-codes.ts";
import { findItemId } from "#cli/item-id.ts";
import { openVaultSession, type VaultSessionOptions } from "#cli/open-vault.ts";
import { outputFormOf, printResult } from "#cli/output.ts";
import { pointsLines, toPointsOutput } from "#cli/render-points.ts";

/** Lists the recovery points that a command line asks for; not 0 where some cannot be read. */
export async function runList(
  input: CommandInput,
  environment: CliEnvironment,
  options: VaultSessionOptions,
): Promise<number> {
  await using session = await openVaultSession(input, environment, {
    ...options,
    withoutIndex: true,
  });
  const item = input.text("item");
  const listing = await listRecoveryPoints(session.vault, {
    signal: environment.signal,
    ...(item === undefined ? {} : { itemId: await findItemId(session.vault, item, environment) }),
  });
  printResult(environment, outputFormOf(input), {
    document: toPointsOutput(listing),
    lines: pointsLines(listing),
  });
  return listing.unreadable.length === 0 ? 0 : errorRegistry.ObjectCorrupt.exit;
}
