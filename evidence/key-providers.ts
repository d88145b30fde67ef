/** Keys in folders and in an emulated key vault, up to the command line. */
import type { Evidence } from "../tools/evidence/evidence.ts";
import { runTestFiles, toOutcome } from "../tools/evidence/test-run.ts";

const files = [
  "src/drivers/key-local/local-key-provider.test.ts",
  "test/integration/key-vault.test.ts",
  "test/e2e/cli-keys.test.ts",
];

/** No real Azure Key Vault is reached: what answers is an emulator of its protocol with real RSA. */
export const evidence: Evidence = {
  name: "key-providers",
  claim:
    "a key of a provider opens a vault until its owner disables it, and the recovery kit needs neither of them",
  bar: "every case passes",
  run: async (context) => {
    const run = await runTestFiles(files, context);
    return toOutcome(run, "local RSA and AES keys, a key vault emulated over TLS, the real CLI");
  },
};
