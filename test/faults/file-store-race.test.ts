// Goal: put-if-absent holds between processes: of all that put one name exactly one is told that it
// created the object, and what is stored is that one's.
// Method: processes that are all given one name after the other, each with content of its own.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";

import { openFileStore } from "#drivers/store/file-store.ts";
import { listAll } from "#testing/suites/object-store-suite.ts";
import { createTempFolder } from "#testing/temp-folder.ts";

const script = join(import.meta.dirname, "store-writer.ts");
const writers = ["a", "b", "c", "d"];
const names = 150;

/** Starts a writer that puts what it is told to and answers with the outcome. */
function startWriter(root: string, writer: string) {
  const args = [script, "race", root, writer];
  const child = spawn(process.execPath, args, { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const answer = async (): Promise<unknown> => (await lines.next()).value;
  return {
    answer,
    put: (name: string) => {
      child.stdin.write(`${name}\n`);
      return answer();
    },
    kill: () => child.kill("SIGKILL"),
  };
}

test("file store: of processes that race for a name one creates it", async () => {
  await using folder = await createTempFolder();
  const running = writers.map((writer) => startWriter(folder.path, writer));
  try {
    for (const { answer } of running) assert.equal(await answer(), "ready");
    const store = await openFileStore(folder.path);
    const winners = new Set<string>();
    for (let at = 0; at < names; at++) {
      const name = `points/${at % 5}/${at}`;
      const outcomes = await Promise.all(running.map((one) => one.put(name)));
      const count = (wanted: string): number => outcomes.filter((one) => one === wanted).length;
      assert.equal(count("created"), 1);
      assert.equal(count("exists"), writers.length - 1);
      const stored = Buffer.from(await store.get(name));
      const winner = writers[outcomes.indexOf("created")] ?? "";
      assert.equal(stored.toString("latin1", 0, stored.indexOf("\n")), winner);
      winners.add(winner);
    }
    assert.equal((await listAll(store)).size, names);
    assert.ok(winners.size > 1, "more than one process won something, so there was a race");
  } finally {
    for (const { kill } of running) kill();
  }
});
