// Goal: QEMU's locks for writing are told from those for reading, and from those of other files.
import assert from "node:assert/strict";
import { test } from "node:test";

import { deviceOfLocks, holdsWriteLock } from "./image-lock.ts";

const file = { device: "254:0", inode: 2326529n };

test("image lock: knows writers by the locks that QEMU 7.2 shows", () => {
  const writer = "1: OFDLCK ADVISORY  READ -1 fe:00:2326529 100 101";
  const resizer = "2: OFDLCK ADVISORY  READ -1 fe:00:2326529 103 103";
  const everything = "3: POSIX  ADVISORY  WRITE 4711 fe:00:2326529 0 EOF";
  const reader = "4: OFDLCK ADVISORY  READ -1 fe:00:2326529 100 100";
  const unsharing = "5: OFDLCK ADVISORY  READ -1 fe:00:2326529 201 201";
  const waiting = "6: -> OFDLCK ADVISORY  READ -1 fe:00:2326529 100 101";
  const otherFile = "7: OFDLCK ADVISORY  READ -1 fe:00:2326528 100 101";
  const otherDevice = "8: OFDLCK ADVISORY  READ -1 fe:01:2326529 100 101";
  for (const line of [writer, resizer, everything]) {
    assert.ok(holdsWriteLock(`${reader}\n${line}\n`, file), line);
  }
  const others = [reader, unsharing, waiting, otherFile, otherDevice, ""];
  assert.equal(holdsWriteLock(others.join("\n"), file), false);
});

test("image lock: a file's device is that of its mount, and stat's where the mount is not listed", () => {
  const mounts = "21 1 0:5 / /proc rw - proc proc rw\n29 1 0:31 / /srv rw - btrfs /dev/vdb rw\n";
  const fdinfo = "pos:\t0\nflags:\t0100000\nmnt_id:\t29\n";
  assert.equal(deviceOfLocks({ fdinfo, mounts, dev: 40n }), "0:31");
  // In a chroot to a folder that is no mount, the mount below it is not listed.
  assert.equal(deviceOfLocks({ fdinfo, mounts: "", dev: 0xfe00n }), "254:0");
  assert.equal(deviceOfLocks({ fdinfo, mounts: "", dev: 0x10_fe01n }), "254:257");
});
