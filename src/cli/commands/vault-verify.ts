import { KluisError } from "#base/kluis-error.ts";
import { outputFormat, type StoreVerifyOutput } from "#contract/cli-output.ts";
import { readVaultHeader } from "#vault/vault-files.ts";
import { type StoreReport, verifyStore } from "#vault/verify-store.ts";
import type { CommandInput, CommandSpec } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { formatBytes, formatDuration, printable } from "#cli/format.ts";
import { vaultExits } from "#cli/exit-codes.ts";
import { outputOption, storeOption } from "#cli/options.ts";
import { outputFormOf, printResult } from "#cli/output.ts";
import { ProgressDisplay } from "#cli/progress-display.ts";
import { depthOf, depthOption } from "#cli/verify-depth.ts";
import { checkMemory, warnOnFailure } from "#cli/vault-memory.ts";
import { exitOfVerdict } from "#cli/verify-points.ts";

/** Objects that a table shows. */
const objectsShown = 20;

/** `kluis vault verify`. */
export const vaultVerify: CommandSpec = {
  words: ["vault", "verify"],
  summary: "check the objects of a vault without a key",
  description:
    "Compares the objects of the store with the inventory of the vault and, unless --depth structure is given, " +
    "reads each and compares its content with its name. It needs no key, so that any machine may do it; which " +
    "recovery points are touched is told by `kluis image verify`, which has a key. " +
    "Exit code 0: sound; 14: damaged or missing; 12: something could not be read just now.",
  arguments: [],
  options: [storeOption, depthOption, outputOption],
  examples: [
    { line: "kluis vault verify --store /srv/vault", text: "Reads every object." },
    {
      line: "kluis vault verify --store /srv/vault --depth structure",
      text: "Missing objects and wrong sizes only; takes seconds.",
    },
  ],
  exits: vaultExits,
  outputKind: "store-verify",
  run: runVaultVerify,
};

async function runVaultVerify(input: CommandInput, environment: CliEnvironment): Promise<number> {
  const { clock, signal } = environment;
  const depth = depthOf(input) ?? "objects";
  if (depth === "full") {
    throw new KluisError(
      "ArgumentInvalid",
      "Cannot verify in full without a key: use `kluis image verify`",
    );
  }
  const form = outputFormOf(input);
  const store = await environment.drivers.openStore(input.requiredText("store"), { create: false });
  const { vaultId } = await readVaultHeader(store, signal);
  const remembered = { store, vaultId, keys: undefined };
  const known = (await warnOnFailure(checkMemory(remembered, environment), environment)) ?? [];
  await using display = new ProgressDisplay({ ...environment, form });
  const report = await verifyStore({
    store,
    vaultId,
    depth,
    known,
    clock,
    signal,
    onProgress: (doneBytes, totalBytes) =>
      display.update({ disk: "vault", doing: "verifying", doneBytes, totalBytes }),
  });
  await display[Symbol.asyncDispose]();
  const document: StoreVerifyOutput = {
    format: outputFormat,
    kind: "store-verify",
    depth,
    ...report,
    durationMs: Math.round(report.durationMs),
  };
  printResult(environment, form, { document, lines: toLines(report) });
  return exitOfVerdict[report.verdict];
}

const verdictTexts: Readonly<Record<StoreReport["verdict"], string>> = {
  sound:
    "Sound: nothing is missing that the inventory names, and all that was read is as it was put.",
  damaged: "Damaged: `kluis image verify` shows which recovery points are affected.",
  unknown: "Unknown: what is named above could not be read just now; run the command again.",
};

function toLines(report: StoreReport): readonly string[] {
  const { badObjects, badObjectsOmitted, objectsListed, objectsExpected, objectsUnnamed } = report;
  const shown = badObjects.slice(0, objectsShown);
  const more = badObjects.length - shown.length + badObjectsOmitted;
  const { objectsChecked, bytesRead, durationMs } = report;
  return [
    ...shown.map(
      ({ name, verdict, reason }) => `${verdict} object ${printable(name)}: ${printable(reason)}`,
    ),
    ...(more === 0 ? [] : [`and ${more} more objects`]),
    `${objectsListed} objects in the store, ${objectsExpected} in the inventory, ${objectsUnnamed} not yet in it`,
    `${objectsChecked} objects checked, ${formatBytes(bytesRead)} read in ${formatDuration(durationMs)}`,
    verdictTexts[report.verdict],
  ];
}
