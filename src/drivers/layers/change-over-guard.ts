/**
 * The guard of a moment in which a guest waits while a disk changes over to its original image: a
 * process and session of its own that ends the wait when Kluis dies or stops. It kills a Kluis that
 * stands still first, which could otherwise write the record after all.
 */
import { readFile } from "node:fs/promises";

import { present } from "#base/assert.ts";
import { systemClock, type Clock } from "#base/clock.ts";
import { runGuard, type GuardAlarm, type GuardDuty } from "#drivers/guest/guard-server.ts";
import { parseGuardConfig, type GuardConfig, type GuardResult } from "#drivers/guest/guard-wire.ts";
import {
  KILL_WAIT_MS,
  signalProcess,
  waitForProcessEnd,
} from "#drivers/process/process-identity.ts";
import { parseVmRecord, type VmRecord } from "./vm-record.ts";

/** What a driver does for its own guests. */
export interface ChangeOver {
  /** Brings the disks to the side that the record names, and lets the guest go on. */
  settle(record: VmRecord): Promise<void>;
  /** Called every 50 ms while the guest may wait; nothing where absent. */
  watch?(): Promise<void>;
}

class ChangeOverDuty implements GuardDuty {
  readonly silenceMsMax = 3_000;
  readonly extraLifetimeMs = 0;
  readonly #config: GuardConfig;
  readonly #changeOver: ChangeOver;
  #isSettled = false;

  constructor(config: GuardConfig, changeOver: ChangeOver) {
    this.#config = config;
    this.#changeOver = changeOver;
  }

  perform(): Promise<GuardResult> {
    return Promise.resolve({});
  }

  async patrol(alarm: GuardAlarm | undefined): Promise<void> {
    if (this.#isSettled) return;
    if (alarm === undefined) {
      await this.#changeOver.watch?.();
      return;
    }
    this.#isSettled = true;
    const kluis = present(this.#config.kluis, "this guard knows who writes the record");
    const recordPath = present(this.#config.recordPath, "this guard knows the record");
    await signalProcess(kluis, "SIGKILL");
    await waitForProcessEnd(kluis, { timeoutMs: KILL_WAIT_MS, clock: systemClock });
    await this.#changeOver.settle(parseVmRecord(await readFile(recordPath), recordPath));
  }

  leave(): Promise<void> {
    return Promise.resolve();
  }
}

/** Runs a guard to its end. `argument` is that of its process; `target` is the targetSocket in it. */
export async function runChangeOverGuard(
  argument: string,
  plan: (target: string, clock: Clock) => ChangeOver,
): Promise<void> {
  const config = parseGuardConfig(argument);
  const changeOver = plan(config.targetSocket, systemClock);
  await runGuard(config, new ChangeOverDuty(config, changeOver), systemClock);
}
