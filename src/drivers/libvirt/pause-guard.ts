/**
 * The guard of the moment in which a guest stands still while a disk changes over to its original
 * image: a process and session of its own that finishes the change-over, or takes it back, and lets
 * the guest go on when Kluis dies or stops. It kills a Kluis that stands still first. Where libvirt
 * does not answer either, QEMU itself is told, and libvirt as soon as it is back.
 */
import { readFile } from "node:fs/promises";

import { present } from "#base/assert.ts";
import { systemClock, type Clock } from "#base/clock.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { withDeadline } from "#drivers/guest/deadline.ts";
import { runGuard, type GuardAlarm, type GuardDuty } from "#drivers/guest/guard-server.ts";
import { parseGuardConfig, type GuardConfig, type GuardResult } from "#drivers/guest/guard-wire.ts";
import { parseVmRecord, type VmRecord } from "#drivers/layers/vm-record.ts";
import {
  KILL_WAIT_MS,
  signalProcess,
  waitForProcessEnd,
} from "#drivers/process/process-identity.ts";
import { settleFlattening, type PausedDomain } from "./flatten-domain-disk.ts";
import { findLibvirtVm } from "./libvirt-vm.ts";
import { settleByMonitor } from "./settle-by-monitor.ts";
import { Virsh } from "./virsh.ts";

/** How long libvirt may take before QEMU is told: the guest is to go on within 10 s. */
const LIBVIRT_FIRST_MS_MAX = 2_500;
/** A libvirt that is only slow holds the monitor, so it gets twice the time with each try, up to this. */
const LIBVIRT_MS_MAX = 60_000;
/** A libvirt that died is tried again for so long; then the next operation of Kluis settles. */
const TRIES_MS_MAX = 60 * 60_000;
const RETRY_MS = 500;

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
    await this.#settle();
  }

  leave(): Promise<void> {
    return Promise.resolve();
  }

  async #settle(): Promise<void> {
    const recordPath = present(this.#config.recordPath, "the guard of a pause knows the record");
    const record = parseVmRecord(await readFile(recordPath), recordPath);
    // flattenDomainDisk of the process that started us wrote it.
    const paused = JSON.parse(this.#config.targetSocket) as PausedDomain;
    const deadlineMs = this.#clock.monotonicMs() + TRIES_MS_MAX;
    let timeoutMs = LIBVIRT_FIRST_MS_MAX;
    let isGoingOn = false;
    for (;;) {
      try {
        await this.#settleByLibvirt(paused, record, timeoutMs);
        return;
      } catch (error) {
        if (!isKluisError(error) || this.#clock.monotonicMs() > deadlineMs) throw error;
      }
      isGoingOn ||= await this.#tryMonitor(paused, record);
      timeoutMs = Math.min(2 * timeoutMs, LIBVIRT_MS_MAX);
      await this.#clock.sleep(RETRY_MS);
    }
  }

  async #settleByLibvirt(paused: PausedDomain, record: VmRecord, timeoutMs: number): Promise<void> {
    const { uri, uuid, stateDirectory, configDirectory } = paused;
    const clock = this.#clock;
    const ending = new AbortController();
    const virsh = new Virsh(uri, ending.signal);
    const onStep = (): Promise<void> => Promise.resolve();
    const host = { virsh, stateDirectory, configDirectory, clock, onStep };
    const settling = findLibvirtVm(host, uuid, undefined).then((vm) =>
      settleFlattening(vm, record),
    );
    const onTimeout = (): KluisError =>
      new KluisError("QmpFailed", `Cannot reach libvirt within ${String(timeoutMs)} ms`);
    try {
      await withDeadline(settling, { timeoutMs, clock }, onTimeout);
    } finally {
      ending.abort();
    }
  }

  /** False where it must be tried again, as where libvirt holds the monitor. */
  async #tryMonitor(paused: PausedDomain, record: VmRecord): Promise<boolean> {
    try {
      await settleByMonitor(paused.monitorPath, record, this.#clock);
      return true;
    } catch (error) {
      if (!isKluisError(error)) throw error;
      // Also where a job has not changed over: then libvirt must say what became of it.
      return false;
    }
  }
}

if (import.meta.main) {
  const config = parseGuardConfig(process.argv[2] ?? "");
  await runGuard(config, new PauseDuty(config, systemClock), systemClock);
}
