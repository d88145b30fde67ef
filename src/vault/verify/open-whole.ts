/** Opens everything in one object whose bytes are known to be those of its name. */
import { isKluisError, toKluisError } from "#base/kluis-error.ts";
import {
  fromIndexColumns,
  type IndexPack,
  parseIndexSegment,
  parsePackFooter,
} from "#formats/index-segment.ts";
import { parseStoreName, type StoreName } from "#formats/store-names.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { openContainer } from "#vault/container/container-reader.ts";
import type { VaultKeys } from "#vault/keys/vault-keys.ts";
import { openManifest } from "#vault/open-manifest.ts";
import { Damage, verdictOf } from "#vault/verify/damage.ts";
import { ObjectChecker } from "#vault/verify/pack-check.ts";
import type { WorkerPool } from "#vault/workers/worker-pool.ts";

/** What opening an object has shown; `undefined` where all of it opens and has its id. */
export interface OpenProblem {
  readonly verdict: "damaged" | "unknown";
  readonly reason: string;
}

/** What opening needs. */
export interface OpenDeps {
  readonly store: ObjectStore;
  readonly keys: VaultKeys;
  readonly pool: WorkerPool;
  readonly signal: AbortSignal | undefined;
  /** Told the blocks and nodes whose ids were checked. */
  readonly onChecked: (blocks: number) => void;
}

/**
 * Opens every frame of `bytes` and compares every block and node with its id; of packs by their own
 * tables, so that no index is needed. What was sealed under a key that is not at hand is unknown.
 */
export async function openWhole(
  deps: OpenDeps,
  name: string,
  bytes: Uint8Array,
): Promise<OpenProblem | undefined> {
  const parsed = parseStoreName(name);
  if (parsed === undefined) return undefined;
  try {
    return await openParsed(deps, { name, bytes, parsed });
  } catch (error) {
    deps.signal?.throwIfAborted();
    const known = toKluisError(error);
    if (known.code === "Internal") throw error;
    const verdict = isKluisError(known, "KeyWrong") ? "unknown" : verdictOf(known);
    return { verdict, reason: known.message };
  }
}

async function openParsed(
  deps: OpenDeps,
  object: { readonly name: string; readonly bytes: Uint8Array; readonly parsed: StoreName },
): Promise<OpenProblem | undefined> {
  const { keys } = deps;
  const { name, bytes, parsed } = object;
  if (parsed.kind === "index-segment") {
    parseIndexSegment(openContainer(keys, { name, bytes, type: "indexSegment" }).content);
  } else if (parsed.kind === "manifest") {
    openManifest(keys, bytes, { item: parsed.item, pointId: parsed.point });
  } else if (parsed.kind === "pack" || parsed.kind === "map-pack") {
    const type = parsed.kind === "pack" ? ("pack" as const) : ("mapPack" as const);
    const { footer } = openContainer(keys, { name, bytes, type }, { footerOnly: true });
    return await openFrames(deps, fromIndexColumns(parsePackFooter(footer, parsed.sha256)), bytes);
  }
  return undefined;
}

async function openFrames(
  deps: OpenDeps,
  table: IndexPack,
  bytes: Uint8Array,
): Promise<OpenProblem | undefined> {
  const damage = new Damage();
  const checker = new ObjectChecker({
    ...deps,
    damage,
    wasRemoved: () => Promise.resolve(false),
    onChecked: (_, blocks) => deps.onChecked(blocks),
  });
  await checker.checkFrames(table, bytes);
  const [bad] = damage.objects;
  return bad === undefined ? undefined : { verdict: bad.verdict, reason: bad.reason };
}
