// Goal: the S3 driver keeps every promise of the store port on a real gateway, Ceph's radosgw, and
// refuses a bucket that cannot commit.
import assert from "node:assert/strict";
import { after, before } from "node:test";

import { parseStoreLocation, type S3Location } from "#drivers/store/store-location.ts";
import { openS3Store } from "#drivers/store/s3-store.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { startRadosgw, type Radosgw } from "#testing/radosgw.ts";
import { testObjectStore } from "#testing/suites/object-store-suite.ts";

let gateway: Radosgw;
let prefixes = 0;

before(async () => {
  gateway = await startRadosgw();
  await gateway.createBucket("kluis-test");
});
after(() => gateway[Symbol.asyncDispose]());

function place(bucket: string, prefix: string): S3Location {
  const text = `s3://${bucket}/${prefix}?endpoint=${gateway.endpoint}`;
  const location = parseStoreLocation(text, "/");
  assert.ok(location.kind === "s3");
  return location;
}

testObjectStore("S3 store", {
  open: async () => {
    const location = place("kluis-test", `suite/${prefixes++}`);
    const openAgain = (): Promise<ObjectStore> =>
      openS3Store(location, { credentials: gateway.credentials });
    return {
      store: await openAgain(),
      openAgain,
      async [Symbol.asyncDispose]() {},
    };
  },
});
