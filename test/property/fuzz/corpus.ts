/** Valid inputs of the parsers: what a small vault really holds, opened with its keys. */
import { createMemoryStore } from "#drivers/store/memory-store.ts";
import { fromIndexColumns, parsePackFooter } from "#formats/index-segment.ts";
import { parseStoreName } from "#formats/store-names.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { openTestVault } from "#testing/memory-vault.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { backUp } from "#testing/vault-points.ts";
import { openContainer } from "#vault/container/container-reader.ts";
import { createKeyFileSecret } from "#vault/key-secret.ts";
import type { ContainerType, VaultKeys } from "#vault/keys/vault-keys.ts";
import { createVaultFiles } from "#vault/vault-files.ts";

/** One container of the vault, and what is in it. */
export interface CorpusContainer {
  readonly type: ContainerType;
  readonly bytes: Uint8Array;
  readonly content: Uint8Array;
  readonly footer: Uint8Array;
}

/** What the fuzzers start from. */
export interface Corpus {
  readonly keys: VaultKeys;
  readonly names: readonly string[];
  /** Objects that are plaintext. */
  readonly plain: ReadonlyMap<string, Uint8Array>;
  readonly containers: readonly CorpusContainer[];
  readonly leaves: readonly Uint8Array[];
  readonly inner: readonly Uint8Array[];
}

const typeOf = {
  pack: "pack",
  "map-pack": "mapPack",
  "index-segment": "indexSegment",
  manifest: "manifest",
} as const;

/** Backs two disks up twice and takes the vault apart. */
export async function readCorpus(): Promise<Corpus> {
  const random = createSeededRandom("fuzz corpus");
  const store = createMemoryStore();
  const { keys } = await createVaultFiles(store, {
    secrets: [createKeyFileSecret(random).secret],
    random,
    withRecoveryKey: false,
  });
  await using vault = await openTestVault({ store, keys });
  const disks = [new MemoryDisk(5 * 1024 * 1024), new MemoryDisk(20_480 + 512)];
  for (const disk of disks) disk.write(4096, random.bytes(3000));
  disks[0]?.write(3_000_000, random.bytes(9000));
  const base = await backUp(vault, { itemId: "vm", number: 1, disks });
  for (const disk of disks) disk.write(8192, random.bytes(1500));
  await backUp(vault, { itemId: "vm", number: 2, disks, base });
  const names: string[] = [];
  const plain = new Map<string, Uint8Array>();
  const containers: CorpusContainer[] = [];
  const nodes: Uint8Array[] = [];
  for await (const { name } of store.list("")) {
    names.push(name);
    const bytes = await store.get(name);
    const kind = parseStoreName(name)?.kind ?? "vault-header";
    const type = kind in typeOf ? typeOf[kind as keyof typeof typeOf] : undefined;
    if (type === undefined) {
      plain.set(name, bytes);
      continue;
    }
    const { content, footer } = openContainer(keys, { name, bytes, type });
    containers.push({ type, bytes, content, footer });
    if (type === "mapPack") nodes.push(...nodesOf(content, footer));
  }
  const leaves = nodes.filter(([tag]) => tag === 1);
  return { keys, names, plain, containers, leaves, inner: nodes.filter(([tag]) => tag === 2) };
}

function nodesOf(content: Uint8Array, footer: Uint8Array): readonly Uint8Array[] {
  const pack = fromIndexColumns(parsePackFooter(footer, new Uint8Array(32)));
  const starts: number[] = [];
  let end = 0;
  for (const { plainBytes } of pack.frames) {
    starts.push(end);
    end += plainBytes;
  }
  return pack.entries.map(({ frame, offsetBytes, lengthBytes }) => {
    const start = (starts[frame] ?? 0) + offsetBytes;
    return content.slice(start, start + lengthBytes);
  });
}
