/**
 * Goal: scripts/setup.sh says and does the right thing on machines that lack something. Method: the
 * real script in a copy of the repository's frame, with programs on its PATH that stand for those of
 * the machine and write down how they were called.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import {
  copyFile,
  mkdir,
  mkdtemp,
  readFile,
  rm,
  symlink,
  utimes,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";

const scripts = new URL("../../scripts/", import.meta.url);

/** What the machine looks like to the script. */
interface Machine {
  readonly user?: "root" | "sudo" | "plain";
  readonly missing?: readonly string[];
  readonly architecture?: string;
  readonly node?: string;
  /** `linked`: node_modules is a link to a folder that lacks something. */
  readonly npmInstalled?: boolean | "linked";
}

interface Outcome {
  readonly exitCode: number;
  readonly output: string;
  /** One line for each call of apt-get and npm. */
  readonly calls: string;
}

async function createProgram(folder: string, name: string, body: string): Promise<void> {
  await writeFile(join(folder, name), `#!/bin/sh\n${body}\n`, { mode: 0o755 });
}

/** Everything the script calls that would tell of, or change, the real machine. */
async function createPrograms(root: string, machine: Machine): Promise<string> {
  const folder = join(root, "programs");
  await mkdir(folder);
  const missing = (machine.missing ?? []).map((name) => `[ "$n" = ${name} ] && continue;`).join("");
  const user = machine.user ?? "root";
  await Promise.all([
    createProgram(folder, "dpkg", `echo ${machine.architecture ?? "amd64"}`),
    createProgram(
      folder,
      "dpkg-query",
      `shift 2; for n in "$@"; do ${missing} printf '%s=installed ' "$n"; done`,
    ),
    createProgram(folder, "id", `echo ${user === "root" ? 0 : 1000}`),
    createProgram(folder, "sudo", `[ "$1" = -n ] && shift\n${user === "sudo" ? '"$@"' : "exit 1"}`),
    createProgram(folder, "apt-get", `echo "apt-get $*" >>"${root}/calls"`),
    createProgram(
      folder,
      "npm",
      `echo "npm $*" >>"${root}/calls"; mkdir -p node_modules/.bin; : >node_modules/.package-lock.json`,
    ),
    createProgram(folder, "node", `echo ${machine.node ?? "v24.21.0"}`),
  ]);
  for (const name of [
    "bash",
    "dirname",
    "sed",
    "tr",
    "sort",
    "grep",
    "paste",
    "ln",
    "mkdir",
    "env",
  ]) {
    await symlink(`/usr/bin/${name}`, join(folder, name));
  }
  return folder;
}

async function runSetup(t: TestContext, machine: Machine, purpose = "demo"): Promise<Outcome> {
  const root = await mkdtemp(join(tmpdir(), "kluis-setup-"));
  t.after(() => rm(root, { recursive: true }));
  await mkdir(join(root, "scripts"));
  for (const name of [
    "setup.sh",
    "packages-base.txt",
    "packages-lab.txt",
    "packages-stores.txt",
    "packages-bench.txt",
  ]) {
    await copyFile(new URL(name, scripts), join(root, "scripts", name));
  }
  await writeFile(join(root, "package-lock.json"), "{}");
  if (machine.npmInstalled === "linked") {
    await mkdir(join(root, "elsewhere"));
    await symlink(join(root, "elsewhere"), join(root, "node_modules"));
  } else if (machine.npmInstalled !== false) {
    await mkdir(join(root, "node_modules/.bin"), { recursive: true });
    await writeFile(join(root, "node_modules/.package-lock.json"), "{}");
    await utimes(join(root, "package-lock.json"), 1, 1);
  }
  await writeFile(join(root, "calls"), "");
  const PATH = await createPrograms(root, machine);
  return new Promise((resolve) => {
    const child = execFile(
      "/bin/bash",
      [join(root, "scripts/setup.sh"), purpose],
      { env: { PATH }, encoding: "utf8" },
      (_error, stdout, stderr) => {
        void readFile(join(root, "calls"), "utf8").then((calls) => {
          resolve({ exitCode: child.exitCode ?? -1, output: stdout + stderr, calls });
        });
      },
    );
  });
}

test("setup: does and says nothing when nothing is missing", async (t) => {
  assert.deepEqual(await runSetup(t, {}), { exitCode: 0, output: "", calls: "" });
});

test("setup: installs what is missing as root, and only that", async (t) => {
  const { exitCode, output, calls } = await runSetup(t, { missing: ["fio", "qemu-utils"] });
  assert.equal(exitCode, 0);
  assert.match(output, /^setup: installing system packages: fio qemu-utils/m);
  assert.match(calls, /^apt-get update -q\napt-get install .* fio qemu-utils\n$/);
});

test("setup: uses sudo where it asks for no password", async (t) => {
  const { exitCode, calls } = await runSetup(t, { user: "sudo", missing: ["fio"] });
  assert.equal(exitCode, 0);
  assert.match(calls, /^apt-get update -q\napt-get install .* fio\n$/);
});

test("setup: prints the one line to run where it may not install", async (t) => {
  const { exitCode, output, calls } = await runSetup(t, { user: "plain", missing: ["fio"] });
  assert.equal(exitCode, 1);
  assert.match(output, /^setup: {3}sudo apt-get update && sudo apt-get install -y .* fio $/m);
  assert.equal(calls, "");
});

test("setup: asks for the peers of the benchmarks only where they are wanted", async (t) => {
  const missing = ["restic"];
  assert.equal((await runSetup(t, { missing }, "test")).calls, "");
  assert.match((await runSetup(t, { missing }, "bench")).calls, /restic/);
});

test("setup: does not let npm ci empty a folder that others use too", async (t) => {
  const { exitCode, output, calls } = await runSetup(t, { npmInstalled: "linked" });
  assert.equal(exitCode, 1);
  assert.match(output, /node_modules is a link/);
  assert.equal(calls, "");
});

test("setup: runs npm ci when node_modules is missing", async (t) => {
  const { exitCode, calls } = await runSetup(t, { npmInstalled: false });
  assert.equal(exitCode, 0);
  assert.match(calls, /^npm ci /);
});

test("setup: says which Node is wanted where there is only an old one", async (t) => {
  for (const node of ["v18.20.4", "v24.11.9"]) {
    const { exitCode, output } = await runSetup(t, { node });
    assert.equal(exitCode, 1);
    assert.match(output, new RegExp(`needs Node 24\\.12 or later; this machine has ${node}`));
  }
  assert.equal((await runSetup(t, { node: "v26.1.0" })).exitCode, 0);
});

test("setup: says what works on another architecture", async (t) => {
  const { exitCode, output } = await runSetup(t, { architecture: "arm64" });
  assert.equal(exitCode, 1);
  assert.match(output, /are for amd64, this machine is arm64/);
  assert.match(output, /npm run test:unit/);
});
