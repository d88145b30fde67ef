import { errorRegistry } from "#base/error-codes.ts";
import { outputFormat, type VaultHealedOutput } from "#contract/cli-output.ts";
import { healVault } from "#vault/heal.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { vaultExits } from "#cli/exit-codes.ts";
import { formatBytes, formatDuration } from "#cli/format.ts";
import { unlockPlace } from "#cli/open-vault.ts";
import { keyOptions, outputOption, storeOption } from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";
import { ProgressDisplay } from "#cli/progress-display.ts";

/** `kluis vault heal`. */
export const vaultHeal: CommandSpec = {
  words: ["vault", "heal"],
  summary: "bring what is damaged or missing from another store of the same vault",
  description:
    "Reads every object of the vault and compares it with its name. What is damaged is replaced, and what recovery " +
    "points miss is put, from the other store, whose bytes are checked first. Heals a primary from its secondary, or " +
    "a secondary from its primary. Key records and the slots that they list are healed too. Manifests are never " +
    "replaced. Exit code 14: something could not be healed; of a key the report says which way in is lost.",
  arguments: [],
  options: [
    storeOption,
    {
      flags: "--copy <place>",
      text: "another store of the same vault, which is only read",
      required: true,
    },
    ...keyOptions,
    outputOption,
  ],
  examples: [
    {
      line: "kluis vault heal --store /srv/vault --copy /mnt/second --key-file /etc/kluis/key",
      text: "Heal the primary from the secondary.",
    },
  ],
  exits: vaultExits,
  outputKind: "vault-healed",
  run: runVaultHeal,
};

async function runVaultHeal(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const { clock, random, signal, drivers } = environment;
  const form = outputFormOf(input);
  const startMs = clock.monotonicMs();
  // The keys come from the other store: those of the damaged one may be what is damaged.
  const { store: copy, files } = await unlockPlace(input, environment, {
    place: input.requiredText("copy"),
  });
  const store = await drivers.openStore(input.requiredText("store"), { create: false });
  await using display = new ProgressDisplay({ ...environment, form });
  const report = await healVault({
    store,
    copy,
    keys: files.keys,
    clock,
    random,
    signal,
    onProgress: (doneBytes, totalBytes) =>
      display.update({ disk: "vault", doing: "checking", doneBytes, totalBytes }),
  });
  await display[Symbol.asyncDispose]();
  const document: VaultHealedOutput = {
    format: outputFormat,
    kind: "vault-healed",
    store: store.location,
    copy: copy.location,
    objectsChecked: report.objectsChecked,
    bytesRead: report.bytesRead,
    healed: report.healed,
    unhealed: report.unhealed.map((object) => ({ ...object, verdict: "damaged" })),
    durationMs: Math.round(clock.monotonicMs() - startMs),
  };
  printResult(environment, form, { document, lines: healedLines(document) });
  return document.unhealed.length === 0 ? 0 : errorRegistry.ObjectCorrupt.exit;
}

function healedLines(document: VaultHealedOutput): readonly string[] {
  const { objectsChecked, bytesRead, durationMs, healed, unhealed } = document;
  const read = `Read ${objectsChecked} objects, ${formatBytes(bytesRead)}, in ${formatDuration(durationMs)}`;
  return [
    `${read}; healed ${healed.length}`,
    ...healed.map(({ name, was }) => `Healed: ${name} was ${was}`),
    ...unhealed.map(({ name, reason }) => `Not healed: ${name}: ${reason}`),
  ];
}
