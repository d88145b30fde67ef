/** Values of libvirt's secrets, which open encrypted disks. */
import { KluisError } from "#base/kluis-error.ts";
import { isVirshRefusal, type Virsh } from "./virsh.ts";

/**
 * The passphrase that a secret holds. It comes by a pipe and goes nowhere else. Errors: DiskKeyUnusable
 * (after-change) with what to do, QmpFailed.
 */
export async function readSecret(
  virsh: Virsh,
  secretId: string,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  let answer: string;
  try {
    answer = await virsh.run(["secret-get-value", `--secret=${secretId}`], { signal });
  } catch (error) {
    if (!isVirshRefusal(error)) throw error;
    throw unusable(secretId, whyRefused(error.message), error);
  }
  const passphrase = Buffer.from(answer.trim(), "base64");
  if (passphrase.byteLength > 0) return passphrase;
  throw unusable(secretId, "its value is empty");
}

function whyRefused(said: string): string {
  if (/private/i.test(said)) {
    return (
      "it is private, so that libvirt tells its value to nobody; define it without private='yes' " +
      "and set its value again"
    );
  }
  if (/does not have a value|no value/i.test(said)) {
    return `it has no value; give it the passphrase by \`virsh secret-set-value\``;
  }
  if (/not found/i.test(said)) {
    return "libvirt has no such secret; define it and give it the passphrase by `virsh secret-set-value`";
  }
  return said;
}

function unusable(secretId: string, reason: string, cause?: unknown): KluisError {
  return new KluisError(
    "DiskKeyUnusable",
    `Cannot read secret "${secretId}", which opens an encrypted disk: ${reason}`,
    { details: { secret: secretId }, cause },
  );
}
