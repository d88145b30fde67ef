/** `vault key proof` and `rescue check`: opens the vault with the key, proves it, says what came of it. */
import { toHex } from "#base/bytes.ts";
import { type KeyProofOutput, outputFormat } from "#contract/cli-output.ts";
import { proveVaultKey } from "#vault/key-proof.ts";
import { survivesHost } from "#vault/surviving-keys.ts";
import type { CommandInput } from "#cli/command.ts";
import type { CliEnvironment } from "#cli/environment.ts";
import { unlockStore } from "#cli/open-vault.ts";
import { outputFormOf, printResult } from "#cli/output.ts";

/** The exit code of a proof that failed: something in the vault is missing or damaged. */
const failedExit = 14;

/** Runs the proof with the key that the command line names. */
export async function runKeyProof(
  input: CommandInput,
  environment: CliEnvironment,
  intent: "rescue" | "read",
): Promise<number> {
  const { store, files } = await unlockStore(input, environment, { intent });
  const proof = await proveVaultKey(store, files, environment.signal);
  const { slot } = files.opened.slot;
  const document: KeyProofOutput = {
    format: outputFormat,
    kind: "key-proof",
    vaultId: toHex(files.header.vaultId),
    type: slot.type,
    survivesHost: survivesHost(slot),
    ...proof,
  };
  printResult(environment, outputFormOf(input), {
    document,
    lines: proofLines(document, store.location),
  });
  return proof.failed.length === 0 ? 0 : failedExit;
}

function proofLines(proof: KeyProofOutput, location: string): readonly string[] {
  const { type, slot, epochs, failed, record } = proof;
  return [
    `Its ${type} slot opens vault ${proof.vaultId} in ${location} (${slot})`,
    ...epochs.map(({ epoch, object }) =>
      object === undefined
        ? `Key epoch ${epoch}: held; nothing found that was sealed under it`
        : `Key epoch ${epoch}: proven, decrypted ${object}`,
    ),
    ...(record === 0 ? ["No key record can be read: keys cannot be changed"] : []),
    ...failed.map((name) => `Failed: ${name} is damaged, missing or not decrypted`),
    ...(proof.survivesHost
      ? []
      : ["This key lies on the host: with it alone the vault dies with the host"]),
    failed.length === 0 ? "The proof holds" : "The proof does not hold",
  ];
}
