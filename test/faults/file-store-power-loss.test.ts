// Goal: when put() returns, a power failure can take neither the object's content nor its name, and
// at no moment does a name stand for content that could still be lost.
// Method: strace a process that puts objects and says so on its standard output, and follow the
// trace with a model in which only what an fsync covered survives. Then take single fsyncs out of
// the trace and see that the model notices.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFile, realpath } from "node:fs/promises";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

import { createTempFolder } from "#testing/temp-folder.ts";
import { checkDurability } from "./durability-model.ts";
import { descriptorPath, parseTrace, straceArgs, type TracedCall } from "./system-trace.ts";

const writer = join(import.meta.dirname, "store-writer.ts");
const objects = 60;

/** Runs the writer on `root` under strace. */
async function traceWriter(root: string, traceFile: string, count: number): Promise<TracedCall[]> {
  const command = [process.execPath, writer, "named", root, String(count), "300000"];
  await promisify(execFile)("strace", [...straceArgs, "-o", traceFile, ...command]);
  return parseTrace(await readFile(traceFile, "utf8"));
}

test("file store: everything is durable before it is promised, and content before its name", async () => {
  await using folder = await createTempFolder();
  const root = join(await realpath(folder.path), "store");
  const calls = await traceWriter(root, `${folder.path}/trace`, objects);
  const report = checkDurability(root, calls);
  assert.deepEqual(report.violations, []);
  assert.equal(report.acknowledged.length, objects);
  assert.equal(report.fileSyncs, objects, "one fsync for the content of each object");
  // One for the entry of each object, and one for each directory that is new; some are shared.
  assert.ok(report.directorySyncs <= 2 * objects + 8, `${report.directorySyncs} directory fsyncs`);

  // A second process cannot know that the directories it finds are durable, and syncs their parents.
  const more = await traceWriter(root, `${folder.path}/trace-2`, 5);
  const second = checkDurability(root, more);
  assert.deepEqual(second.violations, []);
  assert.equal(second.acknowledged.length, 5);

  const syncs = calls.filter((call) => call.call === "fsync");
  const isFile = (call: TracedCall): boolean =>
    descriptorPath(call.args).startsWith(`${root}/tmp/`);
  const without = (left: (call: TracedCall) => boolean): number =>
    checkDurability(
      root,
      calls.filter((call) => !left(call)),
    ).violations.length;
  assert.ok(without((call) => call === syncs.find(isFile)) >= 1, "a missing fsync of content");
  const isOf = (path: string) => (call: TracedCall) =>
    call.call === "fsync" && descriptorPath(call.args) === path;
  // All of a folder's, not one: a sync that was asked for in vain may cover what another had covered
  // in the kernel before the process could know it.
  const [named = ""] = report.acknowledged;
  assert.ok(without(isOf(join(root, dirname(named)))) >= 1, "of a name");
  assert.equal(without(isOf(root)), objects, "of the root");
  assert.ok(without(isOf(`${root}/packs`)) >= objects, "of a parent");
});
