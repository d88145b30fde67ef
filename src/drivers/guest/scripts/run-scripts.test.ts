/**
 * Goal: the guest's shell gets exactly the words of the configuration, and its answer is understood; one
 * that was lost with the agent is asked for again. Method: random words through a real shell; the form of
 * answers by a table; a peer that plays an agent.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import * as fc from "fast-check";

import { isKluisError } from "#base/kluis-error.ts";
import { answerWell, reply, startPeer } from "#testing/agent-peer.ts";
import { GuestAgent } from "../guest-agent.ts";
import { parseScriptReport, quoteCommand, runPost, runPre } from "./run-scripts.ts";

test("run scripts: words reach a shell as they are", () => {
  const word = fc.string({
    unit: fc.constantFrom("'", '"', "$", "`", "\\", " ", "\n", "*", "é", "a"),
  });
  fc.assert(
    fc.property(fc.array(word, { maxLength: 5 }), (words) => {
      const command = quoteCommand(["printf", String.raw`%s\0`, "begin", ...words]);
      const printed = execFileSync("/bin/sh", ["-c", `eval "exec $1"`, "test", command]).toString();
      assert.deepEqual(printed.split("\0").slice(1, -1), words);
    }),
    { numRuns: 50 },
  );
});

test("run scripts: what a supervisor says of a script is read or refused", () => {
  assert.deepEqual(parseScriptReport("failed 3 2 100 250 late\n"), {
    run: { outcome: "failed", exitCode: 3, tries: 2, durationMs: 1500 },
    startMs: 1000,
    endMs: 2500,
    isLate: true,
  });
  assert.deepEqual(parseScriptReport("timed-out - 1 5 6 -").run, {
    outcome: "timed-out",
    tries: 1,
    durationMs: 10,
  });
  for (const line of ["", "succeeded", "done 0 1 1 1 -", "failed 3 2 100 250 late more"]) {
    assert.throws(
      () => parseScriptReport(line),
      (error) => isKluisError(error, "AgentFailed"),
    );
  }
});

test("run scripts: an answer that was lost with the agent is asked for again, and pre is begun once", async () => {
  const verbs: (string | undefined)[] = [];
  let looks = 0;
  await using peer = await startPeer((request, socket) => {
    if (request.execute === "guest-exec") {
      verbs.push(request.arguments?.arg?.[5]);
      reply(socket, { return: { pid: 7 } });
    } else if (request.execute === "guest-exec-status") {
      looks += 1;
      const isLost = looks % 2 === 1;
      if (isLost)
        reply(socket, { error: { class: "GenericError", desc: "Invalid parameter 'pid'" } });
      else reply(socket, { return: { exited: true, exitcode: 0, "out-data": btoa("told") } });
    } else answerWell(request, socket);
  });
  await using agent = await GuestAgent.open(peer.path);
  const script = { command: "true", timeoutMs: 1_000, tries: 1 };
  const round = { token: "0123456789ab", order: { pre: script, post: script, holdMs: 1_000 } };
  assert.equal(await runPre(agent, round), "told");
  assert.equal(await runPost(agent, round), "told");
  assert.deepEqual(verbs, ["pre", "pre-result", "post", "post"]);
});
