// Goal: every error of the file system becomes the store error that tells the user what to do.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { toStoreError, translated } from "./file-errors.ts";

function systemError(code: string, syscall: string): Error {
  return Object.assign(new Error(`${code}: x, ${syscall} '/a/b'`), { code, syscall, errno: -1 });
}

test("file errors: have the codes of the registry", () => {
  const cases: [string, string, string][] = [
    ["ENOSPC", "write", "StoreNoSpace"],
    ["ENOSPC", "link", "StoreNoSpace"],
    ["EDQUOT", "fsync", "StoreNoSpace"],
    ["EFBIG", "write", "StoreNoSpace"],
    ["EACCES", "open", "StoreDenied"],
    ["EROFS", "mkdir", "StoreDenied"],
    ["EPERM", "unlink", "StoreDenied"],
    ["EPERM", "link", "StoreUnsuitable"],
    ["EOPNOTSUPP", "link", "StoreUnsuitable"],
    ["EXDEV", "link", "StoreUnsuitable"],
    ["EINVAL", "fsync", "StoreUnsuitable"],
    ["EINVAL", "read", "StoreUnavailable"],
    ["EIO", "fsync", "StoreUnavailable"],
    ["ESTALE", "open", "StoreUnavailable"],
    ["ENOENT", "open", "StoreUnavailable"],
    ["ENOTDIR", "mkdir", "StoreForeign"],
    ["EMFILE", "open", "StoreUnavailable"],
  ];
  for (const [errno, syscall, code] of cases) {
    const error = toStoreError(systemError(errno, syscall), 'write object "x"');
    assert.ok(isKluisError(error), errno);
    assert.equal(error.code, code, `${errno} from ${syscall}`);
    assert.match(error.message, /^Cannot write object "x": .*[^.]$/);
    assert.ok(error.message.includes(errno));
  }
});

test("file errors: what is none passes as it is", async () => {
  const others = [new KluisError("Busy", "x"), new Error("x"), new DOMException("x", "AbortError")];
  for (const other of others) {
    assert.equal(toStoreError(other, "x"), other);
    await assert.rejects(
      translated("x", () => Promise.reject(other)),
      (error) => error === other,
    );
  }
});
