/** Goal: a record that was read is the one that was written, or an error. Method: round trips, and every byte damaged. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { encodeVmRecord, parseVmRecord, type VmRecord } from "./vm-record.ts";

const record: VmRecord = {
  vmId: "mail-1",
  nextLayer: 3,
  hasStarted: true,
  disks: [
    {
      name: "vda",
      describedPath: "/srv/ä, b.qcow2",
      layers: [
        {
          number: 0,
          path: "/srv/ä, b.qcow2",
          format: "qcow2",
          frozen: {
            device: "64768",
            inode: "9007199254740993",
            sizeBytes: 12,
            mtimeNs: "1763830000000000001",
            ctimeNs: "1763830000000000002",
            sampleHash: "00",
          },
        },
        { number: 2, path: "/srv/ä, b.qcow2.kluis-2.qcow2", format: "qcow2" },
      ],
    },
  ],
  snapshots: [
    {
      id: "20261122t175118-02adf6cc",
      takenAtMs: 1_795_369_878_043,
      consistency: { consistency: "crash", reason: 'he said "no"\nand went' },
      disks: [{ name: "vda", sizeBytes: 4096, layer: 0 }],
    },
  ],
  work: { kind: "snapshot", layer: 2 },
  garbage: ["/srv/old"],
};

test("VM record: is read as it was written", () => {
  assert.deepEqual(parseVmRecord(encodeVmRecord(record), "/r"), record);
});

test("VM record: is refused when any byte of it is wrong or missing", () => {
  const bytes = encodeVmRecord(record);
  const isRefused = (damaged: Uint8Array): boolean => {
    try {
      // A blank in the first line is no damage: the same values are read.
      return JSON.stringify(parseVmRecord(damaged, "/r")) === JSON.stringify(record);
    } catch (error) {
      return isKluisError(error, "ConfigInvalid");
    }
  };
  for (let at = 0; at < bytes.byteLength; at += 1) {
    const damaged = Buffer.from(bytes);
    damaged[at] = (damaged[at] ?? 0) ^ 1;
    assert.ok(isRefused(damaged), `byte ${String(at)}`);
    if (at < bytes.byteLength - 1)
      assert.ok(isRefused(bytes.subarray(0, at)), `cut at ${String(at)}`);
  }
});

test("VM record: a newer version is named", () => {
  const text = Buffer.from(encodeVmRecord(record)).toString().replace('"version":1', '"version":2');
  assert.throws(
    () => parseVmRecord(Buffer.from(text), "/r"),
    (error) => isKluisError(error, "ConfigInvalid") && /version 2/.test(error.message),
  );
});
