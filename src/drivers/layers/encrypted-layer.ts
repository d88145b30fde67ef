/** New layers of an encrypted disk: under the same passphrase, and as hard to guess as the original. */
import { isObject } from "#formats/qmp-wire.ts";
import { imageKeyId, withImageKey } from "#drivers/disk/image-key.ts";
import { toImageError } from "#drivers/disk/image-info.ts";
import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";
import { qemuFormat, type DiskLayer } from "./disk-layer.ts";
import { toLayerNode, type OpenedLayer } from "./layer-node.ts";

const OPEN_TIMEOUT_MS = 60_000;
/** QEMU's own default; each start of the VM, and a snapshot while the guest is frozen, takes that long. */
const UNLOCK_MS_MAX = 2_000;
/** What is tried first. */
const UNLOCK_MS_MIN = 10;
/** Two measurements of one host differ. */
const ITERATIONS_SHARE_MIN = 0.75;
const PROBE_BYTES = 512;

/**
 * Makes a layer by `create`, which is given options of its key slot: with as many iterations as the
 * original has. QEMU counts them by time, so that the second try knows what a millisecond is worth.
 */
export async function createSealed(
  layer: OpenedLayer,
  original: OpenedLayer,
  create: (options: readonly string[]) => Promise<void>,
): Promise<void> {
  const seal = (unlockMs: number): readonly string[] => [
    "encrypt.format=luks",
    `encrypt.key-secret=${imageKeyId}`,
    `encrypt.iter-time=${String(unlockMs)}`,
  ];
  await create(seal(UNLOCK_MS_MIN));
  const wanted = await readIterations(original);
  const have = await readIterations(layer);
  if (have >= ITERATIONS_SHARE_MIN * wanted) return;
  const unlockMs = Math.ceil((UNLOCK_MS_MIN * wanted) / have);
  await create(seal(Math.min(UNLOCK_MS_MAX, unlockMs)));
}

/**
 * Checks that a passphrase opens a layer, which somebody may write meanwhile. Errors: DiskKeyUnusable
 * (after-change), those of toImageError.
 */
export async function assertKeyOpens(layer: DiskLayer, passphrase: Uint8Array): Promise<void> {
  const result = await withImageKey(passphrase, async (key) => {
    const probe = ["map", "-U", `--max-length=${String(PROBE_BYTES)}`, "--output=json"];
    const args = [...probe, ...key.args, "--", toLayerNode(layer)];
    return await runTool("qemu-img", args, { timeoutMs: OPEN_TIMEOUT_MS, ...key.options });
  });
  if (result.exitCode !== 0) throw toImageError(layer.path, result.stderr);
}

/** Iterations of the weakest key slot in use. Errors: ToolFailed. */
async function readIterations(layer: OpenedLayer): Promise<number> {
  const args = ["info", "-U", "--output=json", "-f", qemuFormat(layer), "--", layer.path];
  const result = await runTool("qemu-img", args, { timeoutMs: OPEN_TIMEOUT_MS });
  assertToolSucceeded("qemu-img", result);
  const counts = findSlots(JSON.parse(result.stdout)).flatMap(({ active, iters }) =>
    active === true && typeof iters === "number" ? [iters] : [],
  );
  return Math.max(1, Math.min(...counts));
}

/** Key slots as qemu-img tells them: of a LUKS image, or of the encryption inside a qcow2 image. */
function findSlots(info: unknown): readonly Record<string, unknown>[] {
  const specific = isObject(info) ? info["format-specific"] : undefined;
  const data = isObject(specific) ? specific["data"] : undefined;
  const inner = isObject(data) ? data["encrypt"] : undefined;
  const luks = isObject(inner) ? inner : data;
  const slots = isObject(luks) ? luks["slots"] : undefined;
  return Array.isArray(slots) ? slots.filter(isObject) : [];
}
