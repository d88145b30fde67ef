#!/usr/bin/env node
// Starts Kluis by a Node that can run it: this one, or else the one that npm installed with Kluis.
// Written so that old versions of Node can read it, which cannot read what it starts.
import { spawn } from "child_process";
import { existsSync } from "fs";
import { fileURLToPath } from "url";

const leastMajor = 24;
const leastMinor = 12;
const main = new URL("../src/bin/kluis.ts", import.meta.url);

const [major, minor] = process.versions.node.split(".").map(Number);
if (major > leastMajor || (major === leastMajor && minor >= leastMinor)) {
  void import(main.href);
} else {
  startByInstalledNode();
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
