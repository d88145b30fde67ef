/** Checks a store with sha256sum, as somebody without a key would. */
import { join } from "node:path";

import { assertToolSucceeded, runTool } from "#drivers/process/run-tool.ts";

import { openWorkloadP } from "../bench/workloads/workload-p.ts";
import { createWorld } from "../test/e2e/cli.ts";
import type { Evidence } from "../tools/evidence/evidence.ts";

const toolTimeoutMs = 10 * 60_000;
const named = ["packs", "maps", "index", "keys"];

/** Through the CLI, on a part of workload P. */
export const evidence: Evidence = {
  name: "keyless-check",
  claim: "a store can be checked and copied without a key: names of objects are their SHA-256",
  bar: "every pack, map pack, index segment and key slot",
  run: async ({ signal }) => {
    const { before, overlay } = await openWorkloadP({ scale: 0.125 }, signal);
    await using world = await createWorld();
    await world.backup(before, ["--item", "disk"]);
    await world.backup(overlay, ["--item", "disk"]);
    const folders = named.map((name) => join(world.at("vault"), name));
    const args = [...folders, "-type", "f", "-exec", "sha256sum", "{}", "+"];
    const result = await runTool("find", args, { timeoutMs: toolTimeoutMs, signal });
    assertToolSucceeded("find", result);
    const lines = result.stdout.trim().split("\n");
    const wrong = lines.filter((line) => {
      const [sum = "?", path = ""] = line.split(/\s+/);
      return !path.endsWith(`/${sum}`);
    });
    return {
      figure: `${lines.length} objects, ${wrong.length} of them misnamed`,
      holds: lines.length >= named.length && wrong.length === 0,
    };
  },
};
