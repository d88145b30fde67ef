/** Goal: another host is never taken for this one. Method: addresses as virsh takes them. */
import assert from "node:assert/strict";
import { userInfo } from "node:os";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { assertThisHost, planConfigDirectory } from "./libvirt-place.ts";

test("libvirt place: addresses of this host are taken", async () => {
  for (const uri of [
    "qemu:///system",
    "qemu:///session",
    "qemu+unix:///system?socket=/run/x@y/z",
    "qemu+tcp://127.0.0.1:16509/system",
    "qemu+tcp://127.0.1.1/system",
    "qemu+tls://[::1]/system",
    "qemu+ssh://root@localhost/system?keyfile=/k",
  ]) {
    await assertThisHost(uri);
  }
});

test("libvirt place: addresses of other hosts are refused", async () => {
  for (const uri of [
    "qemu+tcp://192.0.2.1/system",
    "qemu+ssh://root@192.0.2.1:22/system",
    "qemu+tls://[2001:db8::1]/system",
    "qemu+ssh://no-such-host.invalid/system",
  ]) {
    const isRefused = (error: unknown): boolean =>
      isKluisError(error, "ArgumentInvalid") &&
      /Kluis runs where the disks are/.test(error.message);
    await assert.rejects(assertThisHost(uri), isRefused);
  }
});

test("libvirt place: the XML of a session is its user's", () => {
  assert.equal(planConfigDirectory("qemu:///system"), "/etc/libvirt/qemu");
  assert.equal(planConfigDirectory("qemu+unix:///system?socket=/session"), "/etc/libvirt/qemu");
  const own = `${userInfo().homedir}/.config/libvirt/qemu`;
  assert.equal(planConfigDirectory("qemu:///session"), own);
  assert.equal(planConfigDirectory("qemu+unix:///session?socket=/s"), own);
});
