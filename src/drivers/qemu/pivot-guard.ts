/**
 * The guard of the moment in which a disk changes over to its original image and the guest's
 * requests wait: a process and session of its own that ends the wait when Kluis dies or stops. It
 * kills a Kluis that stands still first, which could otherwise write the record after all.
 */
import { readFile } from "node:fs/promises";

import { present } from "#base/assert.ts";
import { systemClock, type Clock } from "#base/clock.ts";
import {
  KILL_WAIT_MS,
  signalProcess,
  waitForProcessEnd,
} from "#drivers/process/process-identity.ts";
import { runGuard, type GuardAlarm, type GuardDuty } from "#drivers/guest/guard-server.ts";
import { parseGuardConfig, type GuardConfig, type GuardResult } from "#drivers/guest/guard-wire.ts";
import { QmpClient } from "#drivers/qmp/qmp-client.ts";
import { settlePivots } from "./settle-pivot.ts";
import { parseVmRecord } from "#drivers/layers/vm-record.ts";

class PivotDuty implements GuardDuty {
  readonly silenceMsMax = 3_000;
  readonly extraLifetimeMs = 0;
  readonly #config: GuardConfig;
  readonly #clock: Clock;
  #isSettled = false;

  constructor(config: GuardConfig, clock: Clock) {
    this.#config = config;
    this.#clock = clock;
  }

  perform(): Promise<GuardResult> {
    return Promise.resolve({});
  }

  async patrol(alarm: GuardAlarm | undefined): Promise<void> {
    if (alarm === undefined || this.#isSettled) return;
    this.#isSettled = true;
    const kluis = present(this.#config.kluis, "the guard of a pivot knows who writes the record");
    const recordPath = present(this.#config.recordPath, "the guard of a pivot knows the record");
    await signalProcess(kluis, "SIGKILL");
    await waitForProcessEnd(kluis, { timeoutMs: KILL_WAIT_MS, clock: this.#clock });
    const record = parseVmRecord(await readFile(recordPath), recordPath);
    await using qmp = await QmpClient.open(this.#config.targetSocket, { clock: this.#clock });
    await settlePivots(qmp, record);
  }

  leave(): Promise<void> {
    return Promise.resolve();
  }
}

if (import.meta.main) {
  const config = parseGuardConfig(process.argv[2] ?? "");
  await runGuard(config, new PivotDuty(config, systemClock), systemClock);
}
