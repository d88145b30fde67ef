// Goal: the NBD client reads from every server of the field what QEMU's own tools read, and stands
// what they can be made to do: errors, delays, odd blocks, death.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { bytesEqual } from "#base/bytes.ts";
import { systemClock } from "#base/clock.ts";
import type { ErrorCode } from "#base/error-codes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import {
  listNbdExports,
  listNbdMetaContexts,
  openNbdClient,
  type NbdClient,
} from "#drivers/nbd/nbd-client.ts";
import { spawnDaemon } from "#drivers/process/daemon.ts";
import { openNbdDisk } from "#drivers/disk/open-disk-image.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import { assertWholeExtents, collect } from "#testing/suites/disk-reader-suite.ts";
import { findFreePort } from "#testing/free-port.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { mustRun, readByQemuImg, runQemuIo, writeRawImage } from "./disk-images.ts";
import { startNbdkit, startNbdServer, startQemuNbdServer } from "./nbd-servers.ts";

const MIB = 1024 * 1024;

function hasCode(code: ErrorCode): (error: unknown) => boolean {
  return (error) => {
    assert.ok(isKluisError(error), String(error));
    assert.equal(error.code, code, error.message);
    return true;
  };
}

function randomDisk(sizeBytes: number): MemoryDisk {
  const disk = new MemoryDisk(sizeBytes);
  const prng = createPrng(testSeed());
  const block = prng.bytes(MIB);
  for (let at = 0; at + 2 * MIB <= sizeBytes; at += 2 * MIB) {
    block.set(prng.bytes(4096));
    disk.write(at, block);
  }
  return disk;
}

async function readAll(client: NbdClient): Promise<Uint8Array> {
  const whole = new Uint8Array(client.info.sizeBytes);
  await client.read(0, whole);
  return whole;
}

test("qemu-nbd: a raw and a compressed qcow2 image read as qemu-img converts them", async () => {
  await using folder = await createTempFolder();
  const raw = join(folder.path, "disk.raw");
  const qcow2 = join(folder.path, "disk.qcow2");
  const socketPath = join(folder.path, "s");
  await writeRawImage(raw, randomDisk(64 * MIB));
  await mustRun("qemu-img", ["convert", "-c", "-f", "raw", "-O", "qcow2", raw, qcow2]);
  const expected = await readByQemuImg(qcow2, "qcow2");
  for (const [format, path] of [
    ["raw", raw],
    ["qcow2", qcow2],
  ] as const) {
    await using server = await startQemuNbdServer(socketPath, ["-r", "-f", format, path]);
    await using client = await openNbdClient(`nbd+unix:///?socket=${socketPath}`);
    assert.ok(client.info.readOnly && client.info.structuredReplies);
    assert.ok(bytesEqual(await readAll(client), expected), format);
    assert.equal(server.exitStatus, undefined);
  }
});

test("nbdkit: a sparse random disk reads as qemu-img copies it", async () => {
  await using folder = await createTempFolder();
  const socketPath = join(folder.path, "s");
  const seed = String(testSeed());
  const plugin = ["sparse-random", "size=512M", `seed=${seed}`, "percent=10"];
  await using server = await startNbdkit(socketPath, plugin);
  const copy = join(folder.path, "copy");
  const uri = `nbd+unix:///?socket=${socketPath}`;
  await mustRun("qemu-img", ["convert", "-f", "raw", "-O", "raw", uri, copy]);
  const expected = await readFile(copy);
  await using reader = await openNbdDisk(uri);
  const extents = await collect(reader);
  assertWholeExtents(extents, reader.sizeBytes);
  assert.ok(extents.length > 2);
  const whole = new Uint8Array(reader.sizeBytes);
  for (const { kind, lengthBytes, offsetBytes } of extents) {
    if (kind === "zero") continue;
    await reader.read(offsetBytes, whole.subarray(offsetBytes, offsetBytes + lengthBytes));
  }
  assert.ok(bytesEqual(whole, expected), "data extents hold all that is not zero");
  assert.equal(server.exitStatus, undefined);
});

test("nbdkit: serves over TCP by host and port", async () => {
  await using folder = await createTempFolder();
  const port = String(await findFreePort());
  const args = ["--foreground", "--ipaddr=127.0.0.1", `--port=${port}`, "pattern", "size=8M"];
  const uri = `nbd://127.0.0.1:${port}`;
  await using server = await spawnDaemon("nbdkit", args, {
    cwd: folder.path,
    readyTimeoutMs: 30_000,
    isReady: async () => {
      try {
        await using client = await openNbdClient(uri);
        return client.info.sizeBytes > 0;
      } catch (error) {
        if (isKluisError(error, "NbdUnavailable")) return false;
        throw error;
      }
    },
  });
  await using client = await openNbdClient(uri);
  const bytes = Buffer.from(await readAll(client));
  for (const at of [0, 8, 4096, 8 * MIB - 8]) assert.equal(Number(bytes.readBigUInt64BE(at)), at);
  assert.equal(server.exitStatus, undefined);
});

test("nbdkit: an error of the server is an error of that read alone", async () => {
  await using folder = await createTempFolder();
  const socketPath = join(folder.path, "s");
  await using server = await startNbdkit(socketPath, [
    "--filter=error",
    "pattern",
    "size=64M",
    "error-pread=EIO",
    "error-pread-rate=20%",
  ]);
  await using client = await openNbdClient(`nbd+unix:///?socket=${socketPath}`);
  let failures = 0;
  await Promise.all(
    Array.from({ length: 200 }, async (_, index) => {
      const target = new Uint8Array(4096);
      try {
        await client.read(index * 65_536, target);
      } catch (error) {
        hasCode("DiskReadFailed")(error);
        failures += 1;
        return;
      }
      assert.equal(Number(Buffer.from(target).readBigUInt64BE(0)), index * 65_536);
    }),
  );
  assert.ok(failures > 0 && failures < 200, String(failures));
  assert.equal(server.exitStatus, undefined);
});

test("nbdkit: slow replies overlap, and one that is too slow is given up", async () => {
  await using folder = await createTempFolder();
  const socketPath = join(folder.path, "s");
  await using server = await startNbdkit(socketPath, [
    "--threads=32",
    "--filter=delay",
    "pattern",
    "size=64M",
    "delay-read=100ms",
  ]);
  const uri = `nbd+unix:///?socket=${socketPath}`;
  {
    await using client = await openNbdClient(uri);
    const startMs = systemClock.monotonicMs();
    const reads = Array.from({ length: 16 }, (_, index) =>
      client.read(index * 4096, new Uint8Array(4096)),
    );
    await Promise.all(reads);
    const tookMs = systemClock.monotonicMs() - startMs;
    assert.ok(tookMs < 16 * 100 * 0.75, `16 reads of 100 ms took ${String(tookMs)} ms`);
  }
  await using hasty = await openNbdClient(uri, { requestTimeoutMs: 20, reconnectAttemptsMax: 2 });
  await assert.rejects(hasty.read(0, new Uint8Array(4096)), hasCode("NbdUnavailable"));
  assert.equal(server.exitStatus, undefined);
});

test("nbdkit: a server that insists on its block sizes is obeyed", async () => {
  await using folder = await createTempFolder();
  const socketPath = join(folder.path, "s");
  await using server = await startNbdkit(socketPath, [
    "--filter=blocksize-policy",
    "pattern",
    "size=8M",
    "blocksize-minimum=4096",
    "blocksize-preferred=65536",
    "blocksize-maximum=65536",
    "blocksize-error-policy=error",
  ]);
  await using client = await openNbdClient(`nbd+unix:///?socket=${socketPath}`);
  assert.equal(client.info.blockSizes.minBytes, 4096);
  const target = new Uint8Array(200_000);
  await client.read(1000, target);
  assert.equal(Number(Buffer.from(target).readBigUInt64BE(8 * 500)), 1000 + 8 * 500);
  assert.equal(server.exitStatus, undefined);
});

test("qemu-nbd: killed and started again in the middle, the right bytes still arrive", async () => {
  await using folder = await createTempFolder();
  const path = join(folder.path, "disk.raw");
  const socketPath = join(folder.path, "s");
  const disk = randomDisk(256 * MIB);
  await writeRawImage(path, disk);
  const args = ["-r", "-f", "raw", path];
  let server = await startQemuNbdServer(socketPath, args);
  try {
    await using client = await openNbdClient(`nbd+unix:///?socket=${socketPath}`);
    const expected = await readFile(path);
    const progress = { isReading: true };
    const reading = (async () => {
      for (let round = 0; round < 3; round++) {
        const whole = new Uint8Array(client.info.sizeBytes);
        await client.read(0, whole);
        assert.ok(bytesEqual(whole, expected), `round ${String(round)}`);
      }
    })().finally(() => (progress.isReading = false));
    let kills = 0;
    const killing = (async () => {
      const prng = createPrng(testSeed());
      while (progress.isReading && kills < 3) {
        await systemClock.sleep(20 + prng.below(60));
        await killServer(server);
        server = await startQemuNbdServer(socketPath, args);
        kills += 1;
      }
    })();
    await Promise.all([reading, killing]);
    assert.ok(kills > 0);
  } finally {
    await server.stop();
  }
});

async function killServer(server: Awaited<ReturnType<typeof startQemuNbdServer>>): Promise<void> {
  process.kill(server.identity.pid, "SIGKILL");
  await server.exited;
}

test("qemu-nbd: writes, zeros and flushes arrive in the image", async () => {
  await using folder = await createTempFolder();
  const path = join(folder.path, "disk.qcow2");
  const socketPath = join(folder.path, "s");
  await mustRun("qemu-img", ["create", "-q", "-f", "qcow2", path, "64M"]);
  const model = new MemoryDisk(64 * MIB);
  const prng = createPrng(testSeed());
  {
    await using server = await startQemuNbdServer(socketPath, ["-f", "qcow2", path]);
    await using client = await openNbdClient(`nbd+unix:///?socket=${socketPath}`);
    for (let step = 0; step < 40; step++) {
      const lengthBytes = 512 * (1 + prng.below(4096));
      const offsetBytes = 512 * prng.below((model.sizeBytes - lengthBytes) / 512);
      if (step % 3 === 0) {
        await client.writeZeroes({ offsetBytes, lengthBytes });
        model.zero(offsetBytes, lengthBytes);
      } else {
        const bytes = prng.bytes(lengthBytes);
        await client.write(offsetBytes, bytes);
        model.write(offsetBytes, bytes);
      }
    }
    await client.flush();
    assert.equal(server.exitStatus, undefined);
  }
  assert.ok(bytesEqual(await readByQemuImg(path, "qcow2"), model.bytes()));
});

test("QEMU's own export: several contexts at 4 KiB, by name and listed", async () => {
  await using folder = await createTempFolder();
  const base = join(folder.path, "base.qcow2");
  const top = join(folder.path, "top.qcow2");
  const socketPath = join(folder.path, "s");
  await mustRun("qemu-img", ["create", "-q", "-f", "qcow2", base, "64M"]);
  await runQemuIo(base, "qcow2", ["write -P 1 0 1M"]);
  const options = "extended_l2=on,cluster_size=128k";
  const create = ["create", "-q", "-f", "qcow2", "-o", options, "-b", base, "-F", "qcow2", top];
  await mustRun("qemu-img", create);
  await mustRun("qemu-img", ["bitmap", "--add", "-g", "4096", top, "changes"]);
  await runQemuIo(top, "qcow2", ["write -P 2 8k 4k", "write -P 3 10M 12k", "write -z 512k 8k"]);
  const node = JSON.stringify({
    driver: "qcow2",
    "node-name": "disk",
    "read-only": true,
    file: { driver: "file", filename: top, "read-only": true },
  });
  const exported = JSON.stringify({
    type: "nbd",
    id: "export",
    "node-name": "disk",
    name: "vda",
    bitmaps: ["changes"],
    "allocation-depth": true,
  });
  const server = ["--blockdev", node, "--nbd-server", `addr.type=unix,addr.path=${socketPath}`];
  await using daemon = await startNbdServer(
    "qemu-storage-daemon",
    [...server, "--export", exported],
    { socketPath, exportName: "vda" },
  );
  const uri = `nbd+unix:///vda?socket=${socketPath}`;
  assert.deepEqual(await listNbdExports(uri), ["vda"]);
  const metaContexts = ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:changes"];
  assert.deepEqual(
    new Set(await listNbdMetaContexts(uri, ["base:allocation", "qemu:"])),
    new Set(metaContexts),
  );
  assert.deepEqual(await listNbdMetaContexts(uri, ["qemu:dirty-bitmap:"]), metaContexts.slice(2));
  await assert.rejects(
    openNbdClient(`nbd+unix:///vdb?socket=${socketPath}`),
    hasCode("ImageNotFound"),
  );

  await using client = await openNbdClient(uri, { metaContexts });
  const seen = [];
  let atBytes = 0;
  while (atBytes < client.info.sizeBytes) {
    const lengthBytes = client.info.sizeBytes - atBytes;
    for (const run of await client.blockStatus({ offsetBytes: atBytes, lengthBytes })) {
      assert.equal(run.offsetBytes, atBytes);
      atBytes += run.lengthBytes;
      if (run.flags[2] === 1) seen.push([run.offsetBytes, run.lengthBytes, run.flags]);
    }
  }
  assert.deepEqual(seen, [
    [8192, 4096, [0, 1, 1]],
    [512 * 1024, 8192, [3, 1, 1]],
    [10 * MIB, 12_288, [0, 1, 1]],
  ]);
  assert.equal(daemon.exitStatus, undefined);
});
