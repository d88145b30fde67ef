/** Goal: what ldd and apt-cache print is read right, on Debian and on Ubuntu. Method: their output. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseLibraries } from "./guest-tree.ts";
import { parseImagePackage } from "./kernel.ts";

test("guest libraries: reads the paths that ldd prints, the loader included", () => {
  const listed =
    "\tlinux-vdso.so.1 (0x00007ffe9d3f2000)\n" +
    "\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007fab6683e000)\n" +
    "\tlibgone.so.1 => not found\n" +
    "\t/lib64/ld-linux-x86-64.so.2 (0x00007fab66932000)\n";
  assert.deepEqual(parseLibraries(listed), [
    "/lib/x86_64-linux-gnu/libm.so.6",
    "/lib64/ld-linux-x86-64.so.2",
  ]);
  assert.deepEqual(parseLibraries("\tnot a dynamic executable\n"), []);
});

test("kernel package: is the versioned one that the meta package depends on", () => {
  const debian = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-9-cloud-amd64\n";
  const ubuntu =
    "linux-image-virtual\n  Depends: linux-image-5.15.0-25-generic\n  Depends: linux-firmware\n";
  assert.equal(parseImagePackage(debian), "linux-image-6.1.0-9-cloud-amd64");
  assert.equal(parseImagePackage(ubuntu), "linux-image-5.15.0-25-generic");
  assert.equal(parseImagePackage(""), undefined);
});
