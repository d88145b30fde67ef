// Goal: what is printed can be typed back with human variations, and typing errors are told.
import assert from "node:assert/strict";
import { test } from "node:test";

import * as fc from "fast-check";

import { isKluisError } from "#base/kluis-error.ts";
import { testSeed } from "#testing/seed.ts";
import { formatRecoveryKey, parseRecoveryKey } from "./recovery-key.ts";

const secrets = fc.uint8Array({ minLength: 20, maxLength: 20 });
const letters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

function reasonOf(typed: string): string {
  try {
    parseRecoveryKey(typed);
    return "none";
  } catch (error) {
    assert.ok(isKluisError(error, "ArgumentInvalid"), String(error));
    if (typed.length > 3) assert.ok(!error.message.includes(typed), "no secret in the message");
    return error.message;
  }
}

test("recovery key: has 9 groups of 4 letters and can be typed back in any case", () => {
  fc.assert(
    fc.property(secrets, (secret) => {
      const printed = formatRecoveryKey(secret);
      assert.match(printed, /^([0-9A-HJKMNP-TV-Z]{4}-){8}[0-9A-HJKMNP-TV-Z]{4}$/);
      assert.deepEqual(parseRecoveryKey(printed), secret);
      const sloppy = ` ${printed.toLowerCase().replaceAll("-", " ").replaceAll("0", "o")}\n`;
      assert.deepEqual(parseRecoveryKey(sloppy.replaceAll("1", "l")), secret);
    }),
    { seed: testSeed() },
  );
});

test("recovery key: is the known text for a known secret", () => {
  const secret = Uint8Array.from({ length: 20 }, (_, at) => at);
  assert.match(formatRecoveryKey(secret), /^000G-40R4-0M30-E209-185G-R38E-1W81-24GK-/);
});

test("recovery key: every wrong letter and every swap of neighbours is found", () => {
  const printed = formatRecoveryKey(Uint8Array.from({ length: 20 }, (_, at) => at * 11));
  for (let at = 0; at < printed.length; at++) {
    const right = printed[at] ?? "";
    if (right === "-") continue;
    for (const wrong of letters) {
      if (wrong === right) continue;
      const typed = printed.slice(0, at) + wrong + printed.slice(at + 1);
      assert.match(reasonOf(typed), /check group does not match/);
    }
    const next = printed[at + 1] ?? right;
    if (next === right || next === "-") continue;
    const swapped = printed.slice(0, at) + next + right + printed.slice(at + 2);
    assert.match(reasonOf(swapped), /check group does not match/);
  }
});

test("recovery key: says what is wrong with the form", () => {
  const printed = formatRecoveryKey(new Uint8Array(20));
  assert.match(reasonOf(printed.slice(0, -1)), /it has 35 letters, not 36/);
  assert.match(reasonOf(""), /it has 0 letters/);
  assert.match(reasonOf(`${printed.slice(0, 10)}U${printed.slice(11)}`), /group 3 holds a letter/);
  assert.match(reasonOf("x".repeat(1000)), /too long/);
  fc.assert(
    fc.property(fc.string({ maxLength: 300 }), (text) => {
      assert.notEqual(reasonOf(text), "none");
    }),
    { seed: testSeed() },
  );
});
