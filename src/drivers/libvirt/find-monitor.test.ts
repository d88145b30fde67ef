/** Proves which socket of a process counts as QEMU's monitor, and that an unknown VM has none. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { test } from "node:test";

import { findMonitor, parseMonitorPath } from "./find-monitor.ts";

const path = "/var/lib/libvirt/qemu/domain-1-a b/monitor.sock";
const table = `Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000003 00000000 00000000 0001 03    41 ${path}
0000000000000000: 00000002 00000000 00010000 0001 01    42 ${path}
0000000000000000: 00000002 00000000 00010000 0001 01    43 /var/lib/libvirt/qemu/domain-2-b/monitor.sock
0000000000000000: 00000002 00000000 00010000 0001 01    44 /run/agent.sock
0000000000000000: 00000003 00000000 00000000 0001 03    45
`;

test("find-monitor: the socket listens, belongs to the process and is named like a monitor", () => {
  assert.equal(parseMonitorPath(table, new Set([41n, 42n, 44n, 45n])), path);
  assert.equal(parseMonitorPath(table, new Set([41n, 44n, 45n])), undefined);
});

test("find-monitor: no process runs a VM of that UUID", async () => {
  const image = fileURLToPath(import.meta.url);
  assert.equal(await findMonitor("00000000-0000-4000-8000-000000000000", image), undefined);
});
