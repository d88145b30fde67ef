/** The body of a vault worker thread. */
import { parentPort, workerData } from "node:worker_threads";

import { present } from "#base/assert.ts";
import { resolveSourcesByName } from "#base/resolve-sources.ts";
import type { WorkerStart, WorkerTask } from "#vault/workers/messages.ts";

resolveSourcesByName();
const { SealWorker } = await import("#vault/workers/seal-worker.ts");
const port = present(parentPort, "this module is the body of a worker thread");
const worker = new SealWorker(workerData as WorkerStart, ({ answer, transfer }) => {
  port.postMessage(answer, transfer as ArrayBuffer[]);
});
port.on("message", (task: WorkerTask) => worker.handle(task));
