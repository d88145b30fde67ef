// Goal: a full disk, a read-only one and one that cannot link get their own errors, and harm nothing
// that is stored.
// Method: a process in a mount namespace of its own, on a tmpfs of 4 MiB.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { chmod, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

import { createTempFolder } from "#testing/temp-folder.ts";
import type { LimitsReport } from "./store-limits.ts";

const run = promisify(execFile);
const script = join(import.meta.dirname, "store-limits.ts");
const isRoot = process.getuid?.() === 0;

test("file store: limits of the file system have names and harm nothing", async () => {
  await using folder = await createTempFolder();
  const namespace = isRoot ? ["-m"] : ["-U", "-r", "-m"];
  const inside = 'mount -t tmpfs -o size=4m none "$1" && exec "$2" "$3" "$1"';
  const shell = ["sh", "-c", inside, "sh", folder.path, process.execPath, script];
  const { stdout } = await run("unshare", [...namespace, ...shell]);
  const report = JSON.parse(stdout) as LimitsReport;
  assert.ok(report.stored >= 2 && report.stored <= 4, `${report.stored} objects of 1 MiB fit`);
  assert.deepEqual(report, {
    stored: report.stored,
    intact: report.stored,
    full: "StoreNoSpace",
    leftInTmp: 0,
    afterRemove: "created",
    otherFileSystem: "StoreUnsuitable",
    readOnlyPut: "StoreDenied",
    readOnlyRemove: "StoreDenied",
    readOnlyCreate: "StoreDenied",
    readOnlyBytes: 1024 * 1024,
    readOnlyListed: report.stored - 1,
  } satisfies LimitsReport);
});

test("file store: a folder of another user is StoreDenied", async () => {
  await using folder = await createTempFolder();
  const root = `${folder.path}/store`;
  await mkdir(root);
  await chmod(root, 0o555);
  await chmod(folder.path, 0o755);
  const program = `
    const { openFileStore } = await import(${JSON.stringify(
      import.meta.resolve("#drivers/store/file-store.ts"),
    )});
    // Only now, so that the other user need not be able to read this checkout.
    if (process.getuid() === 0) {
      process.setgroups([]);
      process.setgid(65_534);
      process.setuid(65_534);
    }
    const store = await openFileStore(process.argv[1]);
    await store.put("a", []).catch((error) => console.log(error.code));
  `;
  const args = ["--input-type=module", "-e", program, root];
  const { stdout } = await run(process.execPath, args);
  assert.equal(stdout.trim(), "StoreDenied");
});
