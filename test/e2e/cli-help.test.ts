/** Goal: every command explains itself, and the reference pages say what the program says. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { errorRegistry } from "#base/error-codes.ts";
import { loadAllCommands } from "#cli/command-table.ts";
import { createWorld } from "./cli.ts";

test("cli help: each command shows options, examples that parse, and its exit codes", async () => {
  await using world = await createWorld({ withVault: false });
  const all = await world.ok(["--help"]);
  for (const noun of ["vault", "image", "vm", "rescue"]) {
    assert.match(all.stdout, new RegExp(`^  ${noun} `, "m"));
  }
  for (const { words, options, examples } of await loadAllCommands()) {
    const { stdout } = await world.ok(["help", ...words]);
    for (const { flags } of options)
      assert.ok(stdout.includes(flags), `${words.join(" ")} ${flags}`);
    assert.ok(stdout.includes("Exit codes:") && stdout.includes("70, 130"));
    for (const { line } of examples) {
      assert.ok(line.startsWith(`kluis ${words.join(" ")}`), line);
      assert.ok(stdout.includes(line), line);
    }
  }
});

test("cli help: no words at all show the help, --version the version", async () => {
  await using world = await createWorld({ withVault: false });
  assert.match((await world.ok([])).stdout, /^Usage: kluis/);
  assert.match((await world.ok(["--version"])).stdout, /^\d+\.\d+\.\d+\n$/);
});

test("cli help: every exit code that a command names is one of the registry", async () => {
  const known = new Set<number>(Object.values(errorRegistry).map(({ exit }) => exit));
  for (const { exits, words } of await loadAllCommands()) {
    for (const exit of exits) assert.ok(known.has(exit), `${words.join(" ")} ${exit}`);
  }
});
