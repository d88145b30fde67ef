/** The `kluis` command: process → environment → command line → exit code. */
import { enableCompileCache, flushCompileCache } from "node:module";
import { join } from "node:path";

import { resolveSourcesByName } from "#base/resolve-sources.ts";
import { readFolders } from "./folders.ts";

const folders = readFolders(process.env);
// Compiled code is kept, because reading the sources takes as long as a small backup.
enableCompileCache(join(folders.cache, "compiled"));
resolveSourcesByName();
const { runProcess } = await import("./run-process.ts");
const exitCode = await runProcess(process.argv.slice(2), folders);
flushCompileCache();
// Whatever was begun has ended. Left to itself Node takes the heap apart first: 60 ms after an increment
// until the process is gone, and 18 so.
process.exit(exitCode);
