/** Goal: the device layout is pinned and layers form one chain. Method: look at the planned arguments. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { planQemuArguments, planRuntimePaths, type QemuRuntime } from "#drivers/qemu/arguments.ts";
import { parseVmDescription } from "#drivers/qemu/description.ts";

const description = parseVmDescription(
  JSON.stringify({
    name: "mail-1",
    memoryMiB: 256,
    cpus: 1,
    disks: [
      { name: "vda", path: "/srv/a,b.qcow2", format: "qcow2" },
      { name: "vdb", path: "/srv/b.raw", format: "raw" },
    ],
  }),
  "/d.json",
);
const runtime: QemuRuntime = {
  paths: planRuntimePaths("/run/k"),
  accelerator: "tcg",
  daemonize: true,
};

function values(argumentList: readonly string[], option: string): string[] {
  return argumentList.filter((_, at) => argumentList[at - 1] === option);
}

test("arguments: the guest sees the same devices whatever layers lie below", () => {
  const plain = planQemuArguments(description, runtime);
  const layered = planQemuArguments(description, {
    ...runtime,
    layers: new Map([
      [
        "vdb",
        [
          { number: 0, path: "/srv/b.raw", format: "raw" as const },
          { number: 3, path: "/srv/layers/b-3.qcow2", format: "qcow2" as const },
        ],
      ],
    ]),
  });
  const devices = (list: readonly string[]): string[] =>
    values(list, "-device").map((device) => device.replace(/drive=[^,]*/, ""));
  assert.deepEqual(devices(layered), devices(plain));
  assert.ok(values(layered, "-device").some((device) => device.includes("drive=disk-vdb-3")));
});

test("arguments: layers below the top are read-only and named as backing", () => {
  const list = planQemuArguments(description, {
    ...runtime,
    layers: new Map([
      [
        "vdb",
        [
          { number: 0, path: "/srv/b.raw", format: "raw" as const },
          { number: 3, path: "/srv/l3.qcow2", format: "qcow2" as const },
          { number: 4, path: "/srv/l4.qcow2", format: "qcow2" as const },
        ],
      ],
    ]),
  });
  const nodes = values(list, "-blockdev").map(
    (text) => JSON.parse(text) as Record<string, unknown>,
  );
  const named = (name: string): Record<string, unknown> | undefined =>
    nodes.find((node) => node["node-name"] === name);
  assert.equal(named("disk-vdb-0")?.["read-only"], true);
  assert.equal("backing" in (named("disk-vdb-0") ?? {}), false);
  assert.equal(named("disk-vdb-3")?.["backing"], "disk-vdb-0");
  assert.equal(named("disk-vdb-4")?.["backing"], "disk-vdb-3");
  assert.equal(named("disk-vdb-4")?.["read-only"], false);
  assert.equal(named("file-vda-0")?.["filename"], "/srv/a,b.qcow2");
  for (const node of nodes) {
    assert.deepEqual(node["cache"], { direct: false, "no-flush": false });
    assert.equal(node["discard"], "unmap");
  }
});

test("arguments: commas in socket paths are doubled and long paths refused", () => {
  const list = planQemuArguments(description, { ...runtime, paths: planRuntimePaths("/run/a,b") });
  assert.ok(values(list, "-chardev").some((text) => text.includes("path=/run/a,,b/qmp.sock,")));
  assert.throws(
    () =>
      planQemuArguments(description, {
        ...runtime,
        paths: planRuntimePaths(`/${"x".repeat(120)}`),
      }),
    (error) => isKluisError(error, "ConfigInvalid"),
  );
});

test("arguments: the acknowledgement channel comes only when it is asked for", () => {
  const with_ = planQemuArguments({ ...description, ackChannel: true }, runtime).join(" ");
  assert.ok(with_.includes("kluis.lab.ack"));
  assert.ok(!planQemuArguments(description, runtime).join(" ").includes("kluis.lab.ack"));
});
