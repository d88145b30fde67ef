/**
 * Goal: a command that libvirt may have passed on is never taken for one that it has not had, or it would
 * be sent twice. Method: what virsh was seen to print.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { readVirshOutcome } from "./virsh-agent-channel.ts";

const history = "error: Failed to create '/dev/null/libvirt/virsh': Not a directory\n";
const prompt = `virsh # \r<1 '{"execute":"guest-ping"}'\n`;

function kindOf(stderr: string): string {
  return readVirshOutcome({ stdout: prompt, stderr: stderr + history }).kind;
}

test("virsh agent: libvirt that was not there is told from one that was lost with the command", () => {
  const refused = "Failed to connect socket to '/run/libvirt-sock': Connection refused";
  const unreached = `error: failed to connect to the hypervisor\nerror: ${refused}\n`;
  const ended = "error: Disconnected from qemu:///system due to end of file\n";
  const readFailed = "error: End of file while reading data: Input/output error\n";
  assert.equal(kindOf(unreached), "unreached");
  assert.equal(kindOf(ended + readFailed), "lost");
  assert.equal(kindOf(ended + readFailed + unreached), "lost");
  assert.equal(kindOf("error: Cannot recv data: Connection reset by peer\n"), "lost");
  assert.equal(kindOf(""), "silent");
});

test("virsh agent: silence has libvirt's reason, a refusal is an answer", () => {
  const gone = "Guest agent is not responding: QEMU guest agent is not connected";
  const silent = readVirshOutcome({ stdout: prompt, stderr: `error: ${gone}\n${history}` });
  assert.deepEqual(silent, { kind: "silent", reason: gone });
  const words = "internal error: unable to execute QEMU agent command 'guest-exec-status':";
  const unknown = { stdout: prompt, stderr: `error: ${words} Invalid parameter 'pid'\n` };
  const error = { class: "GenericError", desc: "Invalid parameter 'pid'" };
  assert.deepEqual(readVirshOutcome(unknown), { kind: "answered", answer: { error } });
  const stdout = `${prompt}{"return":{}}\nvirsh # \n`;
  const answer = { return: {} };
  assert.deepEqual(readVirshOutcome({ stdout, stderr: history }), { kind: "answered", answer });
});
