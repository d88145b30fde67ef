// Goal: a restore that cannot end well is refused before anything is touched.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import type { ErrorCode } from "#base/error-codes.ts";
import type { TargetInfo } from "#ports/source-image.ts";
import type { RecoveryPoint, RecoveryPointDisk } from "#vault/recovery-point.ts";
import {
  chooseDisks,
  planRestore,
  type RestoreRequest,
  type WantedTarget,
} from "./plan-restore.ts";

function diskOf(name: string, sizeBytes: number): RecoveryPointDisk {
  const figures = { mappedBytes: 0, examinedBytes: 0, changedBytes: 0, newBytes: 0 };
  return {
    name,
    sizeBytes,
    root: undefined,
    level: 0,
    tracking: "full",
    storedBytes: 0,
    ...figures,
  };
}

const point: RecoveryPoint = {
  pointId: "019ab3c0f8d2-7c1f0a9b3d5e4f60",
  itemId: "vm:web",
  itemName: "web",
  takenAtMs: 0,
  committedAtMs: 0,
  consistency: "crash",
  disks: [diskOf("vda", 8192), diskOf("vdb", 4096)],
};
const vda: WantedTarget = { diskName: "vda", place: "/out/vda.raw", format: "raw" };
const vdb: WantedTarget = { diskName: "vdb", place: "/out/vdb.qcow2", format: "qcow2" };

function plan(request: Partial<RestoreRequest>, found: readonly [string, TargetInfo][] = []) {
  return planRestore(point, { targets: [vda], overwrite: false, ...request }, new Map(found));
}

function refuses(run: () => unknown, code: ErrorCode, reason: RegExp): void {
  assert.throws(run, (error) => isKluisError(error, code) && reason.test(error.message));
}

test("restore plan: pairs each target with its disk", () => {
  const { disks } = plan({ targets: [vdb, vda] });
  assert.deepEqual(
    disks.map(({ disk, place }) => [disk.name, disk.sizeBytes, place]),
    [
      ["vdb", 4096, "/out/vdb.qcow2"],
      ["vda", 8192, "/out/vda.raw"],
    ],
  );
});

test("restore plan: refuses disks that are not there, and anything named twice", () => {
  refuses(() => plan({ targets: [{ ...vda, diskName: "vdz" }] }), "ArgumentInvalid", /vda, vdb/);
  const twice = [vda, { ...vda, place: "/out/two" }];
  refuses(() => plan({ targets: twice }), "ArgumentInvalid", /disk "vda" is named twice/);
  const same = [vda, { ...vdb, place: vda.place }];
  refuses(
    () => plan({ targets: same }),
    "ArgumentInvalid",
    /target "\/out\/vda.raw" is named twice/,
  );
  refuses(() => plan({ targets: [] }), "ArgumentInvalid", /no disk/);
});

test("restore plan: replaces nothing without --overwrite", () => {
  refuses(() => plan({}, [[vda.place, { kind: "file" }]]), "TargetExists", /it exists/);
  const device: TargetInfo = { kind: "device", sizeBytes: 1 << 20 };
  refuses(() => plan({}, [[vda.place, device]]), "TargetExists", /it exists/);
  assert.equal(plan({ overwrite: true }, [[vda.place, { kind: "file" }]]).disks.length, 1);
  assert.equal(plan({}, [[vda.place, { kind: "absent" }]]).disks.length, 1);
});

test("restore plan: a device or export must hold the whole disk, raw", () => {
  const fits: TargetInfo = { kind: "export", sizeBytes: 8192 };
  assert.equal(plan({ overwrite: true }, [[vda.place, fits]]).disks.length, 1);
  const small: TargetInfo = { kind: "device", sizeBytes: 8191 };
  refuses(() => plan({ overwrite: true }, [[vda.place, small]]), "TargetTooSmall", /8191 bytes/);
  const qcow2 = { targets: [{ ...vda, format: "qcow2" as const }], overwrite: true };
  refuses(() => plan(qcow2, [[vda.place, fits]]), "ArgumentInvalid", /raw only/);
});

test("restore plan: names choose disks, no name chooses all", () => {
  assert.equal(chooseDisks(point, []).length, 2);
  assert.deepEqual(
    chooseDisks(point, ["vdb"]).map(({ name }) => name),
    ["vdb"],
  );
  refuses(() => chooseDisks(point, ["x"]), "ArgumentInvalid", /disks vda, vdb/);
});

test("restore plan: a disk that was encrypted lies in the clear only where that is meant", () => {
  const sealed = { ...point, disks: [{ ...diskOf("vda", 8192), isEncrypted: true }] };
  const request = { targets: [vda], overwrite: false };
  refuses(() => planRestore(sealed, request, new Map()), "ArgumentInvalid", /--plaintext/);
  const passphrase = new Uint8Array(1);
  const targets = [{ ...vda, passphrase }];
  const kept = planRestore(sealed, { ...request, targets }, new Map());
  assert.equal(kept.disks[0]?.passphrase, passphrase);
  const meant = planRestore(sealed, { ...request, isPlaintextMeant: true }, new Map());
  assert.equal(meant.disks[0]?.passphrase, undefined);
});
