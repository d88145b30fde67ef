// Goal: QEMU's locks for writing are told from those for reading, and from those of other files.
import assert from "node:assert/strict";
import { test } from "node:test";

import { holdsWriteLock } from "./image-lock.ts";

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
