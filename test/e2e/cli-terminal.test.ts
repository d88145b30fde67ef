// Goal: a passphrase that is typed on a terminal is not shown, and the terminal is as it was afterwards, also
// after Ctrl-C and SIGTERM. Method: the command on a pseudo-terminal of `script`; what the terminal shows is read,
// and its settings are asked for when the command has ended.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { once } from "node:events";
import { test } from "node:test";

import { type CliWorld, createWorld } from "./cli.ts";

const launcher = new URL("../../bin/kluis.mjs", import.meta.url).pathname;
const passphrase = "correct horse battery staple ö";
const waitLimitMs = 120_000;

interface Shown {
  readonly text: string;
  /** Settings of the terminal when the command had ended. */
  readonly settings: string;
}

/** Runs a command on a terminal, and types `typed` once it asks; what the terminal showed. */
async function onTerminal(
  world: CliWorld,
  words: readonly string[],
  typed: string | ((pid: number) => void),
): Promise<Shown> {
  const command = [process.execPath, launcher, ...words].map((word) => `'${word}'`).join(" ");
  const line = `sh -c 'echo pid=$$ >&2; exec "$@"' sh ${command}; echo code=$?; stty -a`;
  const child = spawn("script", ["--quiet", "--flush", "--command", line, "/dev/null"], {
    cwd: world.path,
    env: { PATH: process.env["PATH"], HOME: world.path, LANG: "C" },
  });
  let text = "";
  let hasTyped = false;
  child.stdout.setEncoding("utf8").on("data", (piece: string) => {
    text += piece;
    if (hasTyped || !text.includes("passphrase: ")) return;
    hasTyped = true;
    if (typeof typed === "string") child.stdin.write(typed);
    else typed(Number(/pid=(\d+)/.exec(text)?.[1]));
  });
  const limit = setTimeout(() => child.kill("SIGKILL"), waitLimitMs);
  await once(child, "close");
  clearTimeout(limit);
  assert.ok(hasTyped, `it asked for the passphrase: ${text}`);
  const [before = "", settings = ""] = text.split(/(?=speed \d+ baud)/);
  return { text: before, settings };
}

function assertRestored({ settings }: Shown): void {
  assert.match(settings, /(^|\s)icanon/);
  assert.match(settings, /(^|\s)isig/);
  assert.match(settings, /(^|\s)echo(\s|$)/m);
}

test("cli terminal: a typed passphrase opens the vault and is not shown", async () => {
  await using world = await createWorld({ withVault: false });
  await writeFile(world.at("passphrase"), passphrase, { mode: 0o600 });
  const store = ["--store", world.at("vault")];
  const recovery = ["--recovery-key-file", world.at("recovery")];
  await world.ok([
    "vault",
    "create",
    ...store,
    "--passphrase-file",
    world.at("passphrase"),
    ...recovery,
  ]);
  const list = ["image", "list", ...store, "--passphrase-file", "-"];

  const opened = await onTerminal(world, list, `wrong\u0015${passphrase}x\u007f\r`);
  assert.match(opened.text, /code=0/, opened.text);
  assert.doesNotMatch(opened.text, /correct|wrong|staple/);
  assertRestored(opened);

  const interrupted = await onTerminal(world, list, "correct ho\u0003");
  assert.match(interrupted.text, /cancelled by Ctrl-C[^]*code=130/, interrupted.text);
  assert.doesNotMatch(interrupted.text, /correct/);
  assertRestored(interrupted);

  const ended = await onTerminal(world, list, (pid) => process.kill(pid, "SIGTERM"));
  assert.match(ended.text, /cancelled by SIGTERM[^]*code=130/, ended.text);
  assertRestored(ended);
});
