/**
 * Goal: bin/kluis.mjs starts Kluis under a Node that can run it, whatever Node it was called by.
 * Method: the real launcher beside a main file that tells what it got, under a Node that says it is
 * old. (That old versions can read the launcher is shown by `npm run evidence -- two-commands`.)
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { copyFile, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test, type TestContext } from "node:test";

const launcher = new URL("../../bin/kluis.mjs", import.meta.url);
const tell = `
  console.log(JSON.stringify({ args: process.argv.slice(2), by: process.env.STARTED_BY }));
  process.exitCode = 23;
`;
const pretendOld =
  'data:text/javascript,Object.defineProperty(process.versions,"node",{value:"18.20.4"})';

interface Outcome {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function createCheckout(t: TestContext): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), "kluis-launcher-"));
  t.after(() => rm(root, { recursive: true }));
  await mkdir(join(root, "bin"));
  await mkdir(join(root, "src/bin"), { recursive: true });
  await copyFile(launcher, join(root, "bin/kluis.mjs"));
  await writeFile(join(root, "src/bin/kluis.ts"), tell);
  await writeFile(join(root, "package.json"), '{ "type": "module" }');
  return root;
}

function launch(root: string, flags: readonly string[]): Promise<Outcome> {
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      [...flags, join(root, "bin/kluis.mjs"), "vm", "list", "--store=a b"],
      { encoding: "utf8" },
      (_error, stdout, stderr) => {
        resolve({ exitCode: child.exitCode ?? -1, stdout, stderr });
      },
    );
  });
}

test("launcher: runs Kluis in the same process where Node is new enough", async (t) => {
  const { exitCode, stdout } = await launch(await createCheckout(t), []);
  assert.equal(exitCode, 23);
  assert.deepEqual(JSON.parse(stdout), { args: ["vm", "list", "--store=a b"] });
});

test("launcher: hands over to the installed Node where it is too old", async (t) => {
  const root = await createCheckout(t);
  const installed = join(root, `node_modules/node-linux-${process.arch}/bin/node`);
  await mkdir(dirname(installed), { recursive: true });
  await writeFile(installed, `#!/bin/sh\nSTARTED_BY=installed exec "${process.execPath}" "$@"\n`, {
    mode: 0o755,
  });
  const { exitCode, stdout } = await launch(root, [`--import=${pretendOld}`]);
  assert.equal(exitCode, 23);
  assert.deepEqual(JSON.parse(stdout), { args: ["vm", "list", "--store=a b"], by: "installed" });
});

test("launcher: says what to do where there is no Node that is new enough", async (t) => {
  const root = await createCheckout(t);
  const { exitCode, stdout, stderr } = await launch(root, [`--import=${pretendOld}`]);
  assert.equal(exitCode, 3);
  assert.equal(stdout, "");
  assert.match(
    stderr,
    /^Cannot start Kluis: it needs Node 24\.12 or later, this is Node 18\.20\.4\n/,
  );
  assert.match(stderr, /npm ci/);
});
