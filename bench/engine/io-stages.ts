/** Stages that read and write files, in the page cache or made durable. */
import { createHash } from "node:crypto";
import { open, rm, stat } from "node:fs/promises";
import { join } from "node:path";

import { systemRandom } from "#base/random.ts";
import { imageAccess } from "#drivers/disk/image-access.ts";
import { spawnDaemon } from "#drivers/process/daemon.ts";
import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";
import { openFileStore } from "#drivers/store/file-store.ts";
import { packName } from "#formats/store-names.ts";
import type { DiskReader } from "#ports/disk.ts";

import { isErrnoException } from "../errno.ts";
import type { StageWork } from "./rate.ts";

const segmentBytes = 4 * 1024 * 1024;
const packBytes = 32 * 1024 * 1024;
const packs = 8;
const readyTimeoutMs = 30_000;
const toolTimeoutMs = 10 * 60_000;
/** Requests of 1 MiB in flight in QEMU's own client. */
const qemuDepth = 16;
const qemuRequestBytes = 1024 * 1024;

/** What the stages work on. */
export interface IoPlace {
  /** A raw image whose first `dataBytes` hold data, a multiple of 4 MiB. */
  readonly image: string;
  readonly dataBytes: number;
  /** An empty folder. */
  readonly folder: string;
  readonly signal: AbortSignal;
}

/** Stages that are to be measured, and what they hold open. */
export interface OpenStages extends AsyncDisposable {
  readonly stages: readonly StageWork[];
}

/** Opens every stage that reads or writes. */
export async function openIoStages(place: IoPlace): Promise<OpenStages> {
  await using opened = new AsyncDisposableStack();
  const { image, dataBytes, folder, signal } = place;
  const source = opened.use(await imageAccess.openSource(image, { format: "raw" }, signal));
  const server = opened.use(await serveByNbd(image, folder, signal));
  const export_ = opened.use(await imageAccess.openSource(server.uri, {}, signal));
  const file = await open(image, "r");
  opened.defer(() => file.close());
  const stages: StageWork[] = [
    {
      name: "read a raw image (page cache)",
      bytes: dataBytes,
      work: () => readAll(source.reader, dataBytes, signal),
      limitName: "pread of 4 MiB, one after the other",
      limitWork: async () => {
        const buffer = new Uint8Array(segmentBytes);
        for (let at = 0; at < dataBytes; at += segmentBytes) {
          await file.read(buffer, 0, segmentBytes, at);
        }
      },
    },
    {
      name: "read an NBD export (qemu-nbd)",
      bytes: dataBytes,
      work: () => readAll(export_.reader, dataBytes, signal),
      limitName: "qemu-img bench on the same export",
      limitWork: () => readByQemu(server.uri, dataBytes, signal),
    },
    await createStoreStage(folder, signal),
    createTargetStage(place, source.reader),
  ];
  const held = opened.move();
  return { stages, [Symbol.asyncDispose]: () => held[Symbol.asyncDispose]() };
}

async function readAll(reader: DiskReader, bytes: number, signal: AbortSignal): Promise<void> {
  const count = Math.min(reader.readsInFlight, 4);
  let next = 0;
  const readOn = async (): Promise<void> => {
    const buffer = new Uint8Array(segmentBytes);
    while (next < bytes) {
      const at = next;
      next += segmentBytes;
      await reader.read(at, buffer, signal);
    }
  };
  await Promise.all(Array.from({ length: count }, readOn));
}

async function serveByNbd(
  image: string,
  folder: string,
  signal: AbortSignal,
): Promise<AsyncDisposable & { readonly uri: string }> {
  const socket = join(folder, "nbd");
  const args = ["--read-only", "--persistent", "--shared=4", "--format=raw", `--socket=${socket}`];
  const daemon = await spawnDaemon("qemu-nbd", [...args, image], {
    isReady: () => exists(socket),
    readyTimeoutMs,
    signal,
  });
  return {
    uri: `nbd+unix:///?socket=${encodeURIComponent(socket)}`,
    [Symbol.asyncDispose]: () => daemon[Symbol.asyncDispose](),
  };
}

async function readByQemu(uri: string, bytes: number, signal: AbortSignal): Promise<void> {
  const requests = ["-c", String(bytes / qemuRequestBytes), "-d", String(qemuDepth)];
  const sizes = ["-s", String(qemuRequestBytes), "-S", String(qemuRequestBytes)];
  const args = ["bench", "-f", "raw", ...requests, ...sizes, uri];
  const result = await runTool("qemu-img", args, { timeoutMs: toolTimeoutMs, signal });
  assertToolSucceeded("qemu-img", result);
}

/** Durable packs: a new name each time, since a store keeps what it has. */
async function createStoreStage(folder: string, signal: AbortSignal): Promise<StageWork> {
  const store = await openFileStore(join(folder, "store"), { create: true });
  const pack = systemRandom.bytes(packBytes);
  const putOne = async (): Promise<void> => {
    const name = packName(createHash("sha256").update(systemRandom.bytes(32)).digest());
    await store.put(name, [pack], signal);
    await store.remove(name, signal);
  };
  return {
    name: "put packs of 32 MiB durably",
    bytes: packs * packBytes,
    work: async () => {
      for (let at = 0; at < packs; at += 2) await Promise.all([putOne(), putOne()]);
    },
    limitName: "write and fsync of 32 MiB files, two at once",
    limitWork: async () => {
      const writeOne = (name: string): Promise<void> => writeDurably(join(folder, name), pack);
      for (let at = 0; at < packs; at += 2) await Promise.all([writeOne("a"), writeOne("b")]);
    },
  };
}

function createTargetStage(place: IoPlace, reader: DiskReader): StageWork {
  const { dataBytes, folder, signal } = place;
  const target = join(folder, "target.raw");
  const bytes = Math.min(dataBytes, packs * packBytes);
  const segment = new Uint8Array(segmentBytes);
  return {
    name: "write a raw target durably",
    bytes,
    work: async () => {
      await reader.read(0, segment, signal);
      const request = { place: target, format: "raw", sizeBytes: bytes, overwrite: true } as const;
      await using writer = await imageAccess.createTarget(request, signal);
      for (let at = 0; at < bytes; at += 4 * segmentBytes) {
        const parts = [0, 1, 2, 3].map((part) => at + part * segmentBytes);
        await Promise.all(
          parts.filter((part) => part < bytes).map((part) => writer.write(part, segment, signal)),
        );
      }
      await writer.commit(signal);
    },
    limitName: "write and fsync of one file",
    limitWork: () => writeDurably(join(folder, "plain.raw"), segment, bytes),
  };
}

async function writeDurably(
  path: string,
  part: Uint8Array,
  bytes = part.byteLength,
): Promise<void> {
  await rm(path, { force: true });
  const file = await open(path, "wx");
  try {
    for (let at = 0; at < bytes; at += part.byteLength) {
      await file.write(part, 0, part.byteLength, at);
    }
    await file.sync();
  } finally {
    await file.close();
  }
  await rm(path);
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return false;
    throw error;
  }
}
