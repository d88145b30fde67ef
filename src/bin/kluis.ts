/** The `kluis` command: process → environment → command line → exit code. */
import { enableCompileCache } from "node:module";
import { join } from "node:path";

import { resolveSourcesByName } from "#base/resolve-sources.ts";
import { readFolders } from "./folders.ts";

const folders = readFolders(process.env);
// Compiled code is kept, because reading the sources takes as long as a small backup.
enableCompileCache(join(folders.cache, "compiled"));
resolveSourcesByName();
const { runProcess } = await import("./run-process.ts");
process.exitCode = await runProcess(process.argv.slice(2), folders);
