// Goal: every disk driver passes the conformance suites on real files, images and devices.
// Method: content goes in and comes out by QEMU's own tools wherever it can.
import { open, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { imageAccess } from "#drivers/disk/image-access.ts";
import { openDiskImage } from "#drivers/disk/open-disk-image.ts";
import type { ImageFormat } from "#ports/source-image.ts";
import { testDiskReader } from "#testing/suites/disk-reader-suite.ts";
import { testDiskWriter } from "#testing/suites/disk-writer-suite.ts";
import { createTempFolder } from "#testing/temp-folder.ts";
import { readByQemuImg, writeImage } from "./disk-images.ts";
import { startQemuNbdServer } from "./nbd-servers.ts";

for (const format of ["raw", "qcow2", "vmdk", "vdi"]) {
  testDiskReader(`${format} image`, {
    // Grains of vmdk and blocks of vdi are read as they are allocated: 64 KiB and 1 MiB.
    reportsHoles: format !== "vdi",
    open: async (content) => {
      const folder = await createTempFolder();
      const path = join(folder.path, `disk.${format}`);
      await writeImage(path, format, content);
      const reader = await openDiskImage(path, { format });
      return {
        reader,
        changeBehind: async () => {
          // Not by QEMU: its locks would refuse. In place, with what is there.
          const handle = await open(path, "r+");
          const sector = new Uint8Array(512);
          await handle.read(sector, 0, 512, 0);
          await handle.write(sector, 0, 512, 0);
          await handle.close();
        },
        async [Symbol.asyncDispose]() {
          await reader[Symbol.asyncDispose]();
          await folder[Symbol.asyncDispose]();
        },
      };
    },
  });
}

for (const format of ["raw", "qcow2"] satisfies ImageFormat[]) {
  for (const overwrite of [false, true]) {
    testDiskWriter(`${format} file${overwrite ? " (overwrite allowed)" : ""}`, {
      open: async (sizeBytes) => {
        const folder = await createTempFolder();
        const place = join(folder.path, `disk.${format}`);
        const writer = await imageAccess.createTarget({ place, format, sizeBytes, overwrite });
        return {
          writer,
          readBack: async () => {
            const names = await readdir(folder.path);
            if (!names.includes(`disk.${format}`)) return undefined;
            return format === "raw" ? await readFile(place) : await readByQemuImg(place, format);
          },
          leftovers: async () =>
            (await readdir(folder.path)).filter((name) => name !== `disk.${format}`),
          async [Symbol.asyncDispose]() {
            await writer[Symbol.asyncDispose]();
            await folder[Symbol.asyncDispose]();
          },
        };
      },
    });
  }
}

testDiskReader("NBD export", {
  reportsHoles: true,
  open: async (content) => {
    const folder = await createTempFolder();
    const path = join(folder.path, "disk.raw");
    const socketPath = join(folder.path, "s");
    await writeImage(path, "raw", content);
    const server = await startQemuNbdServer(socketPath, ["-r", "-f", "raw", path]);
    const reader = await openDiskImage(`nbd+unix:///?socket=${socketPath}`);
    return {
      reader,
      async [Symbol.asyncDispose]() {
        await reader[Symbol.asyncDispose]();
        await server.stop();
        await folder[Symbol.asyncDispose]();
      },
    };
  },
});

testDiskWriter("NBD export", {
  inPlace: true,
  open: async (sizeBytes) => {
    const folder = await createTempFolder();
    const path = join(folder.path, "disk.raw");
    const socketPath = join(folder.path, "s");
    await writeFile(path, new Uint8Array(sizeBytes).fill(0xa5));
    const server = await startQemuNbdServer(socketPath, ["-f", "raw", path]);
    const place = `nbd+unix:///?socket=${socketPath}`;
    const request = { place, format: "raw" as const, sizeBytes, overwrite: true };
    const writer = await imageAccess.createTarget(request);
    return {
      writer,
      readBack: () => readFile(path),
      leftovers: async () => [],
      async [Symbol.asyncDispose]() {
        await writer[Symbol.asyncDispose]();
        await server.stop();
        await folder[Symbol.asyncDispose]();
      },
    };
  },
});
