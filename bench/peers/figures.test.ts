/** Goal: ratios and medians are those of the bars. Method: figures by hand. */
import assert from "node:assert/strict";
import { test } from "node:test";

import type { Cost } from "../measured-process.ts";
import { type PeerFigures, type PeerRuns, ratiosOf, summarize } from "./figures.ts";
import { describePeers } from "./report.ts";

function cost(wallMs: number): Cost {
  return { wallMs, cpuMs: wallMs * 2, peakBytes: wallMs * 1024 };
}

function runs(full: number, increment?: number): PeerRuns {
  return {
    full: cost(full),
    restore: cost(full / 2),
    storedBytes: full * 10,
    ...(increment === undefined ? {} : { increment: cost(increment), grownBytes: increment * 100 }),
  };
}

const figures: PeerFigures = {
  scale: 1,
  rounds: 3,
  versions: { kluis: "kluis 1" },
  disks: [
    {
      name: "P",
      sizeBytes: 4e9,
      dataBytes: 1e9,
      changedBytes: 1000,
      peers: {
        kluis: summarize([runs(30, 11), runs(10, 10), runs(20, 90)]),
        restic: summarize([runs(100, 110), runs(300, 110), runs(100, 110)]),
        "qemu-img": summarize([runs(40), runs(40), runs(40)]),
      },
    },
  ],
};

test("peer figures: ratios are of medians", () => {
  assert.deepEqual(ratiosOf(figures), {
    "full wall kluis / restic, P": 0.2,
    "full wall kluis / qemu-img, P": 0.5,
    "stored bytes kluis / restic, P": 0.2,
    "restore wall kluis / restic, P": 0.2,
    "increment wall kluis / restic, P": 0.1,
    "increment growth / changed, P": 1.1,
  });
});

test("peer report: shows each program, a dash for what it cannot do, and that a try is one", () => {
  const stamp = {
    measuredAtMs: 0,
    commit: "0123456789abcdef",
    sourceSha256: "",
    host: "",
    machine: "a machine",
    cores: 2,
  };
  const text = describePeers({ stamp, figures });
  assert.match(text, /^Measured 1970-01-01 at commit 0123456789ab on a machine; median of 3\.$/m);
  assert.match(text, /^\| qemu-img \| 0\.04 .*\| – \| – \|$/m);
  assert.ok(!text.includes("NOT the workloads"));
  assert.ok(
    describePeers({ stamp, figures: { ...figures, scale: 0.1 } }).includes("NOT the workloads"),
  );
});
