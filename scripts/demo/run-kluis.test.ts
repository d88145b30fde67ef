// Goal: the demo leaves nothing on the host that it ran on: what a host remembers of vaults lies in the demo's
// own folder. Method: a vault is made and listed in a folder of its own, which must have the memory then.
import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { createTempFolder } from "#testing/temp-folder.ts";
import { readPoints, runKluis } from "./run-kluis.ts";
import { Story } from "./story.ts";

test("demo: commands remember vaults in the demo's own state folder", async () => {
  await using folder = await createTempFolder();
  const at = (name: string): string => join(folder.path, name);
  const vault = ["--store", at("vault"), "--key-file", at("key")];
  const create = ["vault", "create", ...vault, "--recovery-key-file", at("recovery-key")];
  await runKluis(new Story(), folder.path, create, new AbortController().signal);
  assert.deepEqual(await readPoints(folder.path, vault), []);
  assert.equal((await readdir(at("state/vaults"))).length, 1);
});
