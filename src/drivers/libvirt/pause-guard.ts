/**
 * The guard of the moment in which a guest stands still while a disk changes over to its original
 * image: a process and session of its own that finishes the change-over, or takes it back, and lets
 * the guest go on when Kluis dies or stops. It kills a Kluis that stands still first.
 */
import { readFile } from "node:fs/promises";

import { present } from "#base/assert.ts";
import { systemClock, type Clock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import { runGuard, type GuardAlarm, type GuardDuty } from "#drivers/guest/guard-server.ts";
import { parseGuardConfig, type GuardConfig, type GuardResult } from "#drivers/guest/guard-wire.ts";
import { parseVmRecord } from "#drivers/layers/vm-record.ts";
import {
  KILL_WAIT_MS,
  signalProcess,
  waitForProcessEnd,
} from "#drivers/process/process-identity.ts";
import { settleFlattening, type PausedDomain } from "./flatten-domain-disk.ts";
import { findLibvirtVm } from "./libvirt-vm.ts";
import { Virsh } from "./virsh.ts";

/** A libvirt that died is tried again for so long: without it nobody can let the guest go on. */
const TRIES_MS_MAX = 4 * 60_000;
const RETRY_MS = 200;

class PauseDuty implements GuardDuty {
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
    const kluis = present(this.#config.kluis, "the guard of a pause knows who writes the record");
    await signalProcess(kluis, "SIGKILL");
    await waitForProcessEnd(kluis, { timeoutMs: KILL_WAIT_MS, clock: this.#clock });
    const startMs = this.#clock.monotonicMs();
    for (;;) {
      try {
        await this.#settle();
        return;
      } catch (error) {
        const isOver = this.#clock.monotonicMs() - startMs > TRIES_MS_MAX;
        if (isOver || !isKluisError(error)) throw error;
      }
      await this.#clock.sleep(RETRY_MS);
    }
  }

  leave(): Promise<void> {
    return Promise.resolve();
  }

  async #settle(): Promise<void> {
    const recordPath = present(this.#config.recordPath, "the guard of a pause knows the record");
    const record = parseVmRecord(await readFile(recordPath), recordPath);
    // flattenDomainDisk of the process that started us wrote it.
    const paused = JSON.parse(this.#config.targetSocket) as PausedDomain;
    const { uri, uuid, stateDirectory, configDirectory } = paused;
    const onStep = (): Promise<void> => Promise.resolve();
    const host = {
      virsh: new Virsh(uri),
      stateDirectory,
      configDirectory,
      clock: this.#clock,
      onStep,
    };
    await settleFlattening(await findLibvirtVm(host, uuid, undefined), record);
  }
}

if (import.meta.main) {
  const config = parseGuardConfig(process.argv[2] ?? "");
  await runGuard(config, new PauseDuty(config, systemClock), systemClock);
}
