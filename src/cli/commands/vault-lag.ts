import { outputFormat, type VaultLagOutput } from "#contract/cli-output.ts";
import { measureLag } from "#vault/replicate.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import { lagLine, toLagOutput } from "#cli/copy-vault.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { vaultExits } from "#cli/exit-codes.ts";
import { outputOption, secondaryOption, storeOption } from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";

/** `kluis vault lag`. */
export const vaultLag: CommandSpec = {
  words: ["vault", "lag"],
  summary: "tell how far a secondary is behind the vault",
  description:
    "Compares names and sizes of objects; needs no key and changes nothing. The time is the age of the oldest " +
    "recovery point that the secondary lacks.",
  arguments: [],
  options: [storeOption, { ...secondaryOption, required: true }, outputOption],
  examples: [
    {
      line: "kluis vault lag --store /srv/vault --secondary /mnt/second --output json",
      text: "For a monitor.",
    },
  ],
  exits: vaultExits,
  outputKind: "vault-lag",
  run: runVaultLag,
};

async function runVaultLag(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const { clock, signal, drivers } = environment;
  const primary = await drivers.openStore(input.requiredText("store"), { create: false });
  const secondary = await drivers.openStore(input.requiredText("secondary"), { create: false });
  const lag = toLagOutput(await measureLag({ primary, secondary, clock, signal }));
  const document: VaultLagOutput = {
    format: outputFormat,
    kind: "vault-lag",
    primary: primary.location,
    secondary: secondary.location,
    lag,
  };
  printResult(environment, outputFormOf(input), { document, lines: [lagLine(lag)] });
  return 0;
}
