// Goal: whatever is wrong with an image or a target gets its own clear error, nothing is torn
// silently, and nothing is left behind.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import {
  chmod,
  link,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  stat,
  symlink,
  truncate,
  writeFile,
} from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { bytesEqual } from "#base/bytes.ts";
import { systemClock } from "#base/clock.ts";
import type { ErrorCode } from "#base/error-codes.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { imageAccess } from "#drivers/disk/image-access.ts";
import { openDiskImage } from "#drivers/disk/open-disk-image.ts";
import { runTool } from "#drivers/process/run-tool.ts";
import type { DiskWriter } from "#ports/disk.ts";
import { MemoryDisk } from "#testing/memory-disk.ts";
import { createPrng, testSeed } from "#testing/seed.ts";
import { testDiskReader } from "#testing/suites/disk-reader-suite.ts";
import { createTempFolder, type TempFolder } from "#testing/temp-folder.ts";
import { mustRun, runQemuIo, startImageWriter, writeImage, writeRawImage } from "./disk-images.ts";
import { startQemuNbdServer } from "./nbd-servers.ts";

const MIB = 1024 * 1024;

function rejectsWith(code: ErrorCode, text: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(isKluisError(error), String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, text);
    assert.doesNotMatch(error.message, /\n|\bat \S+ \(/, "one line, no stack");
    return true;
  };
}

function smallDisk(): MemoryDisk {
  const disk = new MemoryDisk(4 * MIB);
  disk.write(0, createPrng(testSeed()).bytes(MIB));
  return disk;
}

test("images: what is none is refused with a reason", async () => {
  await using folder = await createTempFolder();
  const at = (name: string): string => join(folder.path, name);
  await writeFile(at("junk"), createPrng(1).bytes(100_000));
  await writeFile(at("empty"), "");
  await mkdir(at("folder"));
  await symlink(at("nowhere"), at("dangling"));
  await writeImage(at("base"), "raw", smallDisk());
  const backed = ["-b", at("base"), "-F", "raw", at("orphan.qcow2")];
  await mustRun("qemu-img", ["create", "-q", "-f", "qcow2", ...backed]);
  await rename(at("base"), at("moved"));
  await writeFile(at("cut.qcow2"), (await readFile(at("orphan.qcow2"))).subarray(0, 60));
  // AES and not LUKS, which measures the machine and gives up where that is busy.
  const secret = [
    "--object",
    "secret,id=s,data=pw",
    "-o",
    "encrypt.format=aes,encrypt.key-secret=s",
  ];
  await mustRun("qemu-img", ["create", "-q", "-f", "qcow2", ...secret, at("locked.qcow2"), "8M"]);
  const cases: readonly (readonly [string, string | undefined, ErrorCode, RegExp])[] = [
    ["nowhere", undefined, "ImageNotFound", /there is no such file/],
    ["junk/below", undefined, "ImageNotFound", /there is no such file/],
    ["dangling", undefined, "ImageNotFound", /there is no such file/],
    ["folder", undefined, "ImageInvalid", /neither a file nor a block device/],
    ["empty", undefined, "ImageInvalid", /it is empty/],
    ["junk", "qcow2", "ImageInvalid", /not in qcow2 format/],
    ["junk", "nonsense", "ImageInvalid", /Unknown driver 'nonsense'/],
    ["cut.qcow2", "qcow2", "ImageInvalid", /qcow2/],
    ["orphan.qcow2", undefined, "ImageInvalid", /Could not open backing file|No such file/],
    ["locked.qcow2", undefined, "ImageInvalid", /encrypt\.key-secret/],
  ];
  for (const [name, format, code, text] of cases) {
    await assert.rejects(openDiskImage(at(name), { format }), rejectsWith(code, text), name);
  }
});

test("images: odd names and odd sizes are read as a VM would see them", async () => {
  await using folder = await createTempFolder();
  const bytes = createPrng(3).bytes(10_000);
  for (const name of ["json:{}", "nbd:localhost:1", "-f", "a b'c\"d,e=f", "ü\u{1F600}"]) {
    await writeFile(join(folder.path, name), bytes);
    await using reader = await openDiskImage(join(folder.path, name), { format: "raw" });
    assert.equal(reader.sizeBytes, 10_240);
    const whole = new Uint8Array(reader.sizeBytes).fill(0xa5);
    await reader.read(0, whole);
    assert.ok(bytesEqual(whole.subarray(0, 10_000), bytes));
    assert.ok(whole.subarray(10_000).every((byte) => byte === 0));
  }
});

for (const format of ["raw", "qcow2"]) {
  test(`${format} image: one that a VM writes is refused, and free again after it`, async () => {
    await using folder = await createTempFolder();
    const path = join(folder.path, "disk");
    await writeImage(path, format, smallDisk());
    {
      await using writer = await startImageWriter(path, format);
      await assert.rejects(
        openDiskImage(path, { format }),
        rejectsWith("ImageInUse", /another program has it open for writing/),
      );
      assert.equal(writer.exitStatus, undefined);
    }
    {
      await using reader = await openDiskImage(path, { format });
      await reader.read(0, new Uint8Array(512));
    }
    await runQemuIo(path, format, ["write -P 1 0 512"]);
  });
}

test("raw image: every kind of change behind our back is noticed", async () => {
  const kinds: Readonly<Record<string, (path: string) => Promise<void>>> = {
    "a write at once": async (path) => {
      const handle = await open(path, "r+");
      await handle.write(new Uint8Array(512), 0, 512, 0);
      await handle.close();
    },
    "a shorter file": (path) => truncate(path, 512),
    "another file of the same name": async (path) => {
      await writeFile(`${path}.new`, await readFile(path));
      await rename(`${path}.new`, path);
    },
    "no file": (path) => rename(path, `${path}.gone`),
    "a second name and mode": async (path) => {
      await link(path, `${path}.link`);
      await chmod(path, 0o600);
    },
  };
  for (const [name, change] of Object.entries(kinds)) {
    for (let round = 0; round < 5; round++) {
      await using folder = await createTempFolder();
      const path = join(folder.path, "disk");
      await writeRawImage(path, smallDisk());
      await using reader = await openDiskImage(path, { format: "raw" });
      await reader.assertUnchanged();
      await change(path);
      await assert.rejects(
        reader.assertUnchanged(),
        rejectsWith("ImageChangedDuringRead", /disk/),
        name,
      );
    }
  }
});

test("raw image: one that is being written this moment is refused or found out", async () => {
  await using folder = await createTempFolder();
  const path = join(folder.path, "disk");
  await writeRawImage(path, smallDisk());
  const state = { isWriting: true };
  const writing = (async () => {
    const handle = await open(path, "r+");
    while (state.isWriting) await handle.write(new Uint8Array(512), 0, 512, 0);
    await handle.close();
  })();
  await assert.rejects(
    (async () => {
      await using reader = await openDiskImage(path, { format: "raw" });
      await reader.read(0, new Uint8Array(MIB));
      await reader.assertUnchanged();
    })(),
    rejectsWith("ImageChangedDuringRead", /written/),
  );
  state.isWriting = false;
  await writing;
});

test("qcow2 image: a dead qemu-nbd fails reads by name of the image", async () => {
  await using folder = await createTempFolder();
  const path = join(folder.path, "disk.qcow2");
  await writeImage(path, "qcow2", smallDisk());
  await using reader = await openDiskImage(path, { format: "qcow2" });
  await reader.read(0, new Uint8Array(512));
  const [pid] = await findQemuNbd(path);
  assert.ok(pid !== undefined);
  process.kill(pid, "SIGKILL");
  await assert.rejects(
    reader.read(0, new Uint8Array(512)),
    rejectsWith("DiskReadFailed", /Cannot read image ".*disk\.qcow2": .*SIGKILL/),
  );
});

test("qcow2 image: our qemu-nbd ends when we are killed, and the image is free", async () => {
  await using folder = await createTempFolder();
  const path = join(folder.path, "disk.qcow2");
  await writeImage(path, "qcow2", smallDisk());
  const module = JSON.stringify(import.meta.resolve("#drivers/disk/open-disk-image.ts"));
  const program = `
    const { openDiskImage } = await import(${module});
    await openDiskImage(${JSON.stringify(path)}, { format: "qcow2" });
    console.log("open");`;
  // What a killed process leaves in the temporary folder goes with ours.
  const env = { ...process.env, TMPDIR: folder.path };
  const child = spawn(process.execPath, ["--input-type=module", "-e", program], { env });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  await new Promise((resolve) => child.stdout.once("data", resolve));
  const served = await findQemuNbd(path);
  child.kill("SIGKILL");
  await ended;
  assert.equal(served.length, 1);
  const deadlineMs = systemClock.monotonicMs() + 10_000;
  while ((await findQemuNbd(path)).length > 0) {
    assert.ok(systemClock.monotonicMs() < deadlineMs, "qemu-nbd has ended");
    await systemClock.sleep(10);
  }
  await runQemuIo(path, "qcow2", ["write 0 512"]);
});

/** Processes of qemu-nbd that serve the image at `path`. */
async function findQemuNbd(path: string): Promise<readonly number[]> {
  const pids: number[] = [];
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const line = await readFile(`/proc/${name}/cmdline`, "utf8").catch(() => "");
    const words = line.split("\0");
    const servesIt = words.slice(1).some((word) => word.includes(path));
    if (words[0]?.endsWith("qemu-nbd") === true && servesIt) pids.push(Number(name));
  }
  return pids;
}

async function createTarget(
  folder: TempFolder,
  options: {
    readonly name?: string;
    readonly overwrite?: boolean;
    readonly format?: "raw" | "qcow2";
  },
): Promise<{ readonly place: string; readonly writer: DiskWriter }> {
  const place = join(folder.path, options.name ?? "target");
  const { format = "raw", overwrite = false } = options;
  const writer = await imageAccess.createTarget({ place, format, overwrite, sizeBytes: MIB });
  return { place, writer };
}

for (const format of ["raw", "qcow2"] as const) {
  test(`${format} target: what is there stays unless it may go, and until it is replaced`, async () => {
    await using folder = await createTempFolder();
    await writeFile(join(folder.path, "target"), "precious");
    await assert.rejects(
      createTarget(folder, { format }),
      rejectsWith("TargetExists", /it exists/),
    );
    {
      const { place, writer } = await createTarget(folder, { format, overwrite: true });
      await using _ = writer;
      await writer.write(0, new Uint8Array(512).fill(1));
      assert.equal(await readFile(place, "utf8"), "precious");
    }
    assert.equal(await readFile(join(folder.path, "target"), "utf8"), "precious");
    const { place, writer } = await createTarget(folder, { format, overwrite: true });
    await using _ = writer;
    await writer.commit();
    assert.notEqual(await readFile(place, "latin1"), "precious");
    assert.equal((await stat(place)).mode & 0o777, 0o644);
    assert.deepEqual(await readdir(folder.path), ["target"]);
  });

  test(`${format} target: a disk that a VM writes is not replaced, a linked one keeps its owner`, async () => {
    await using folder = await createTempFolder();
    const disk = join(folder.path, "disk");
    await writeRawImage(disk, smallDisk());
    await chmod(disk, 0o640);
    await symlink(disk, join(folder.path, "target"));
    {
      await using vm = await startImageWriter(disk, "raw");
      await assert.rejects(
        createTarget(folder, { format, overwrite: true }),
        rejectsWith("ImageInUse", /Cannot replace ".*disk"/),
      );
      assert.equal(vm.exitStatus, undefined);
    }
    const { writer } = await createTarget(folder, { format, overwrite: true });
    await using _ = writer;
    await writer.commit();
    await using reader = await openDiskImage(disk, { format });
    assert.equal(reader.sizeBytes, MIB);
    assert.equal((await stat(disk)).mode & 0o777, 0o640);
    assert.deepEqual((await readdir(folder.path)).toSorted(), ["disk", "target"]);
  });

  test(`${format} target: a name that is taken meanwhile is not overwritten`, async () => {
    await using folder = await createTempFolder();
    const { place, writer } = await createTarget(folder, { format });
    await using _ = writer;
    await writeFile(place, "precious");
    await assert.rejects(writer.commit(), rejectsWith("TargetExists", /it exists/));
    await writer[Symbol.asyncDispose]();
    assert.equal(await readFile(place, "utf8"), "precious");
    assert.deepEqual(await readdir(folder.path), ["target"]);
  });

  test(`${format} target: a folder that is not there is named`, async () => {
    await using folder = await createTempFolder();
    await assert.rejects(
      createTarget(folder, { name: "nowhere/target", format }),
      rejectsWith("TargetWriteFailed", /nowhere\/target.*[Nn]o such file or directory/),
    );
    assert.deepEqual(await readdir(folder.path), []);
  });

  test(`${format} target: zeros stay holes, in a terabyte too`, async () => {
    await using folder = await createTempFolder();
    const place = join(folder.path, "target");
    const sizeBytes = 2 ** 40;
    const request = { place, format, overwrite: false, sizeBytes };
    await using writer = await imageAccess.createTarget(request);
    await writer.zero(0, sizeBytes);
    await writer.write(2 ** 39, new Uint8Array(4096).fill(1));
    await writer.zero(0, sizeBytes);
    await writer.write(2 ** 39 + 8192, new Uint8Array(4096).fill(2));
    await writer.commit();
    const { blocks, mode } = await stat(place);
    assert.ok(blocks * 512 < 4 * MIB);
    assert.equal(mode & 0o777, 0o600);
    await using reader = await openDiskImage(place, { format });
    const bytes = new Uint8Array(12_288);
    await reader.read(2 ** 39, bytes);
    assert.ok(bytes.subarray(0, 8192).every((byte) => byte === 0));
    assert.ok(bytes.subarray(8192).every((byte) => byte === 2));
  });
}

test("export target: written in place, too small and read-only ones refused", async () => {
  await using folder = await createTempFolder();
  const path = join(folder.path, "disk.raw");
  const socketPath = join(folder.path, "s");
  const place = `nbd+unix:///?socket=${socketPath}`;
  const disk = smallDisk();
  await writeRawImage(path, disk);
  const request = { place, format: "raw" as const, overwrite: true, sizeBytes: 2 * MIB };
  {
    await using server = await startQemuNbdServer(socketPath, ["-f", "raw", path]);
    assert.deepEqual(await imageAccess.inspectTarget(place), {
      kind: "export",
      sizeBytes: disk.sizeBytes,
    });
    await assert.rejects(
      imageAccess.createTarget({ ...request, overwrite: false }),
      rejectsWith("TargetExists", /exists/),
    );
    await assert.rejects(
      imageAccess.createTarget({ ...request, sizeBytes: 8 * MIB }),
      rejectsWith("TargetTooSmall", /it has 4194304 bytes, the disk 8388608/),
    );
    await assert.rejects(
      imageAccess.createTarget({ ...request, format: "qcow2" }),
      rejectsWith("ArgumentInvalid", /raw/),
    );
    await using writer = await imageAccess.createTarget(request);
    await writer.write(8192, new Uint8Array(4096).fill(7));
    await writer.commit();
    assert.equal(server.exitStatus, undefined);
  }
  const model = disk.snapshot();
  model.zero(0, 2 * MIB);
  model.write(8192, new Uint8Array(4096).fill(7));
  assert.ok(bytesEqual(await readFile(path), model.bytes()));
  await using server = await startQemuNbdServer(socketPath, ["-r", "-f", "raw", path]);
  await assert.rejects(
    imageAccess.createTarget(request),
    rejectsWith("NbdUnsupported", /permission to write/),
  );
  assert.equal(server.exitStatus, undefined);
});

// What only root may set up: a full file system, and block devices.
if (process.getuid?.() === 0) {
  for (const format of ["raw", "qcow2"] as const) {
    test(`${format} target: a full file system is told, and nothing stays there`, async () => {
      await using folder = await createTempFolder();
      await mustRun("mount", ["-t", "tmpfs", "-o", "size=2M", "tmpfs", folder.path]);
      try {
        const place = join(folder.path, "target");
        const request = { place, format, overwrite: false, sizeBytes: 16 * MIB };
        await using writer = await imageAccess.createTarget(request);
        const fill = async (): Promise<void> => {
          const bytes = createPrng(5).bytes(MIB);
          for (let at = 0; at < 16; at++) await writer.write(at * MIB, bytes);
          await writer.commit();
        };
        await assert.rejects(fill(), rejectsWith("TargetNoSpace", /target": .*space/i));
        await writer[Symbol.asyncDispose]();
        assert.deepEqual(await readdir(folder.path), []);
      } finally {
        await mustRun("umount", [folder.path]);
      }
    });
  }

  const attachLoop = async (path: string): Promise<string | undefined> => {
    const result = await runTool("losetup", ["--find", "--show", path], { timeoutMs: 10_000 });
    return result.exitCode === 0 ? result.stdout.trim() : undefined;
  };

  testDiskReader("block device", {
    reportsHoles: false,
    open: async (content) => {
      const folder = await createTempFolder();
      const path = join(folder.path, "disk");
      await writeRawImage(path, content);
      const device = await attachLoop(path);
      const reader = await openDiskImage(device ?? path, { format: "raw" });
      return {
        reader,
        changeBehind: async () => {
          const handle = await open(device ?? path, "r+");
          await handle.write(new Uint8Array(512), 0, 512, 0);
          await handle.close();
        },
        async [Symbol.asyncDispose]() {
          await reader[Symbol.asyncDispose]();
          if (device !== undefined) await mustRun("losetup", ["--detach", device]);
          await folder[Symbol.asyncDispose]();
        },
      };
    },
  });

  test("device target: written in place, zeroed first, refused when too small or in use", async (context) => {
    await using folder = await createTempFolder();
    const path = join(folder.path, "disk");
    const disk = smallDisk();
    await writeRawImage(path, disk);
    const device = await attachLoop(path);
    if (device === undefined) {
      context.diagnostic("this machine has no loop devices");
      return;
    }
    try {
      const place = device;
      const request = { place, format: "raw" as const, overwrite: true, sizeBytes: 2 * MIB };
      assert.deepEqual(await imageAccess.inspectTarget(place), {
        kind: "device",
        sizeBytes: 4 * MIB,
      });
      await assert.rejects(
        imageAccess.createTarget({ ...request, overwrite: false }),
        rejectsWith("TargetExists", /exists/),
      );
      await assert.rejects(
        imageAccess.createTarget({ ...request, sizeBytes: 8 * MIB }),
        rejectsWith("TargetTooSmall", /4194304/),
      );
      {
        await using writer = await imageAccess.createTarget(request);
        await writer.write(8192, new Uint8Array(4096).fill(7));
        await assert.rejects(
          imageAccess.createTarget(request),
          rejectsWith("ImageInUse", /mounted or part of a volume|in use/),
        );
        await writer.commit();
      }
      const model = disk.snapshot();
      model.zero(0, 2 * MIB);
      model.write(8192, new Uint8Array(4096).fill(7));
      assert.ok(bytesEqual(await readFile(device), model.bytes()));
    } finally {
      await mustRun("losetup", ["--detach", device]);
    }
  });
}
