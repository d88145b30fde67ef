/** A folder of its own for a test. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** An absolute path that is removed with all below it when it is disposed. */
export interface TempFolder extends AsyncDisposable {
  readonly path: string;
}

/** Makes an empty folder below the system's temporary folder. */
export async function createTempFolder(): Promise<TempFolder> {
  const path = await mkdtemp(join(tmpdir(), "kluis-test-"));
  return {
    path,
    async [Symbol.asyncDispose]() {
      await rm(path, { recursive: true, force: true });
    },
  };
}
