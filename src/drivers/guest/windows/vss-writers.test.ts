/**
 * Goal: the writers of a Windows guest are read in any language, and a list from which success cannot be
 * shown never shows success. Method: lists in several languages, some cut, some made at random.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { createPrng, testSeed } from "#testing/seed.ts";
import { createWindowsState, listWriters } from "#testing/windows-state.ts";
import { judgeVssWriters, parseVssWriters } from "./vss-writers.ts";

const languages = ["en", "de"] as const;
const chinese = `vssadmin 1.1 - 卷影复制服务管理命令行工具

编写器名称: “Task Scheduler Writer”
   编写器 ID: {d61d61c8-d73a-4eee-8cdd-f6f9786b7124}
   编写器实例 ID: {1bddd48e-5052-49db-9b07-b96f96727e6b}
   状态: [1] 稳定
   上次错误: 无错误

编写器名称：“SqlServerWriter”
   编写器 ID：{A65FAA63-5EA8-4EBC-9DBD-A0C4DB26912A}
   编写器实例 ID：{1bddd48e-5052-49db-9b07-b96f96727e6c}
   状态：[5] 等待完成
   上次错误：无错误
`;

test("vss writers: a list is read by its form, in any language", () => {
  const read = languages.map((language) => {
    const writers = parseVssWriters(listWriters({ ...createWindowsState(), language }));
    return writers?.map(({ id, name, state }) => ({ id, name, state }));
  });
  const expected = createWindowsState().writers.map(({ id, name, state }) => ({ id, name, state }));
  assert.deepEqual(read, [expected, expected]);
  const other = parseVssWriters(chinese);
  assert.deepEqual(other?.[1], {
    id: "a65faa63-5ea8-4ebc-9dbd-a0c4db26912a",
    name: "SqlServerWriter",
    state: 5,
    lastError: "无错误",
  });
  // Its words for "no error" are not known here.
  assert.equal(judgeVssWriters(other).kind, "unknown");
});

test("vss writers: a list of another form is no list", () => {
  assert.equal(parseVssWriters(""), undefined);
  assert.equal(parseVssWriters("Error: the service could not be started"), undefined);
  const whole = listWriters(createWindowsState());
  const lines = whole.split("\r\n");
  for (const [at, line] of lines.entries()) {
    if (!line.startsWith("   ")) continue;
    const cut = parseVssWriters(lines.filter((_, index) => index !== at).join("\r\n"));
    assert.equal(cut, undefined, `without "${line}"`);
  }
});

test("vss writers: every state that is not done is a failure or not over", () => {
  for (const language of languages) {
    for (let state = 0; state <= 15; state++) {
      const guest = { ...createWindowsState(), language };
      const last = guest.writers.at(-1);
      assert.ok(last !== undefined);
      last.state = state;
      const { kind } = judgeVssWriters(parseVssWriters(listWriters(guest)));
      const isDone = state === 1 || state === 5;
      const isBusy = state >= 2 && state <= 4;
      assert.equal(kind, isDone ? "succeeded" : isBusy ? "busy" : "failed", `state ${state}`);
    }
  }
});

test("vss writers: a stable writer with an error has failed, in any language", () => {
  for (const language of languages) {
    const guest = { ...createWindowsState(), language };
    const database = guest.writers.find(({ name }) => name === "SqlServerWriter");
    assert.ok(database !== undefined);
    database.lastError = "retryable";
    const verdict = judgeVssWriters(parseVssWriters(listWriters(guest)));
    assert.equal(verdict.kind, "failed");
    assert.deepEqual(verdict.kind === "failed" ? verdict.failed.map(({ name }) => name) : [], [
      "SqlServerWriter",
    ]);
  }
});

test("vss writers: words that are not known never are success, though all writers say them", () => {
  const writer = { id: "a", name: "A", state: 1 };
  const judge = (...errors: readonly string[]): string =>
    judgeVssWriters(errors.map((lastError) => ({ ...writer, lastError }))).kind;
  for (const words of ["No error", "Kein Fehler", "Aucune erreur"]) {
    assert.equal(judge(words), "succeeded");
    assert.equal(judge(words, words), "succeeded");
    assert.equal(judge(words, words, "Une erreur"), "failed");
  }
  for (const words of [
    "Timed out",
    "Zeit\u00fcberschreitung",
    "D\u00e9lai d\u00e9pass\u00e9",
    "\u65e0\u9519\u8bef",
  ]) {
    assert.equal(judge(words, words, words), "unknown", words);
  }
  assert.equal(judgeVssWriters(undefined).kind, "unknown");
});

test("vss writers: random guests succeed exactly where every writer did", () => {
  const seed = testSeed();
  const prng = createPrng(seed);
  const errors = ["none", "retryable", "nonRetryable", "timedOut"] as const;
  for (let round = 0; round < 500; round++) {
    const guest = createWindowsState();
    guest.language = languages[prng.below(2)] ?? "en";
    let failures = 0;
    for (const writer of guest.writers) {
      // Most are well in every guest; where they are not nothing is application-consistent.
      if (prng.below(4) > 0) continue;
      writer.lastError = errors[prng.below(errors.length)] ?? "none";
      writer.state = prng.below(3) === 0 ? 9 : 1;
      if (writer.state === 9 || writer.lastError !== "none") failures++;
    }
    const verdict = judgeVssWriters(parseVssWriters(listWriters(guest)));
    assert.equal(verdict.kind === "succeeded", failures === 0, `round ${round}: ${verdict.kind}`);
  }
});
