// Goal: what cannot be done with an immutable place is refused before anything is asked of it, and the
// refusal says what to do. Method: locations alone; no server is there to answer.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { openStore, type StoreWish } from "./open-store.ts";

const worm = "s3://locked/vault?control=s3://plain/vault";
const host = { workingFolder: "/", variables: {}, signal: new AbortController().signal };

async function refusal(place: string, wish: StoreWish): Promise<string> {
  let message = "";
  await assert.rejects(openStore(place, { ...host, ...wish }), (error) => {
    assert.ok(isKluisError(error));
    message = `${error.code} ${error.message}`;
    return true;
  });
  return message;
}

test("open store: a copy to an immutable place is refused, and told where to put it", async () => {
  const message = await refusal(worm, { create: true, isCopy: true });
  assert.match(message, /^ArgumentInvalid Cannot copy a vault to an immutable place: /);
  assert.match(message, /name a place without "control="/);
  assert.match(message, /kluis vault create --immutability-days/);
});

test("open store: an immutable vault takes a period and a control place, both or none", async () => {
  const both = /^ArgumentInvalid Cannot create an immutable vault: it takes both/;
  assert.match(await refusal(worm, { create: true }), both);
  assert.match(await refusal("s3://plain/vault", { create: true, immutabilityDays: 30 }), both);
  const folder = await refusal("/srv/vault", { create: true, immutabilityDays: 30 });
  assert.match(folder, /^StoreUnsuitable Cannot create an immutable vault in a folder/);
});
