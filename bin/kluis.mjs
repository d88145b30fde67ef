#!/usr/bin/env node
// Starts Kluis by a Node that can run it: this one, or else the one that npm installed with Kluis.
// Written so that old versions of Node can read it, which cannot read what it starts.
import { spawn } from "child_process";
import { existsSync } from "fs";
import { homedir, tmpdir } from "os";
import { isAbsolute, join } from "path";
import { fileURLToPath } from "url";

const leastMajor = 24;
const leastMinor = 12;
const main = new URL("../src/bin/kluis.ts", import.meta.url);

const [major, minor] = process.versions.node.split(".").map(Number);
if (major > leastMajor || (major === leastMajor && minor >= leastMinor)) {
  void startHere();
} else {
  startByInstalledNode();
}

async function startHere() {
  const { enableCompileCache } = await import("module");
  // Before the first source is read: compiling takes as long as a small backup, so it is done once.
  enableCompileCache(compiledFolder());
  await import(main.href);
}

/** As `src/bin/folders.ts` has it, which is compiled itself. */
function compiledFolder() {
  const { HOME, XDG_CACHE_HOME } = process.env;
  const isNamed = XDG_CACHE_HOME !== undefined && isAbsolute(XDG_CACHE_HOME);
  const cache = isNamed ? XDG_CACHE_HOME : join(HOME || homedir(), ".cache");
  return join(isAbsolute(cache) ? cache : tmpdir(), "kluis/compiled");
}

function startByInstalledNode() {
  const node = installedNode();
  if (node === undefined) {
    process.stderr.write(
      `Cannot start Kluis: it needs Node ${leastMajor}.${leastMinor} or later, this is Node ${process.versions.node}\n` +
        "Run `npm ci` in the folder of Kluis, which brings one, or install it from https://nodejs.org\n",
    );
    process.exitCode = 3;
    return;
  }
  const child = spawn(node, [fileURLToPath(main), ...process.argv.slice(2)], { stdio: "inherit" });
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    // A terminal sends SIGINT to both; a second one would mean something else to the child.
    process.on(signal, () => (signal === "SIGINT" && process.stdin.isTTY) || child.kill(signal));
  }
  child.on("exit", (code, signal) => {
    process.exitCode = code === null ? 128 + (signal === "SIGINT" ? 2 : 15) : code;
  });
}

function installedNode() {
  // Below this folder where it is checked out, beside it where it is installed as a package.
  return ["../node_modules/", "../../"]
    .map((place) => `${place}node-linux-${process.arch}/bin/node`)
    .map((place) => fileURLToPath(new URL(place, import.meta.url)))
    .find((path) => existsSync(path));
}
