/**
 * The guard of a change-over in a domain of libvirt, whose guest stands still meanwhile; see
 * change-over-guard.ts. Where libvirt is dead QEMU itself is told, and libvirt as soon as it is back.
 * A libvirt that somebody stopped holds QEMU's monitor, so it is told to go on.
 */
import type { Clock } from "#base/clock.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { withDeadline } from "#drivers/guest/deadline.ts";
import { runChangeOverGuard, type ChangeOver } from "#drivers/layers/change-over-guard.ts";
import type { VmRecord } from "#drivers/layers/vm-record.ts";
import { continueIfStopped } from "#drivers/process/process-identity.ts";
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

class Pause implements ChangeOver {
  readonly #paused: PausedDomain;
  readonly #clock: Clock;

  constructor(paused: PausedDomain, clock: Clock) {
    this.#paused = paused;
    this.#clock = clock;
  }

  async watch(): Promise<void> {
    const { daemon } = this.#paused;
    if (daemon !== undefined) await continueIfStopped(daemon);
  }

  async settle(record: VmRecord): Promise<void> {
    const deadlineMs = this.#clock.monotonicMs() + TRIES_MS_MAX;
    let timeoutMs = LIBVIRT_FIRST_MS_MAX;
    let isGoingOn = false;
    for (;;) {
      await this.watch();
      try {
        await this.#settleByLibvirt(record, timeoutMs);
        return;
      } catch (error) {
        if (!isKluisError(error) || this.#clock.monotonicMs() > deadlineMs) throw error;
      }
      isGoingOn ||= await this.#tryMonitor(record);
      timeoutMs = Math.min(2 * timeoutMs, LIBVIRT_MS_MAX);
      await this.#clock.sleep(RETRY_MS);
    }
  }

  async #settleByLibvirt(record: VmRecord, timeoutMs: number): Promise<void> {
    const { uri, uuid, stateDirectory, configDirectory } = this.#paused;
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
  async #tryMonitor(record: VmRecord): Promise<boolean> {
    try {
      await settleByMonitor(this.#paused.monitorPath, record, this.#clock);
      return true;
    } catch (error) {
      if (!isKluisError(error)) throw error;
      // Also where a job has not changed over: then libvirt must say what became of it.
      return false;
    }
  }
}

/** `target` is what flattenDomainDisk of the process that started us wrote. */
function planPause(target: string, clock: Clock): ChangeOver {
  return new Pause(JSON.parse(target) as PausedDomain, clock);
}

if (import.meta.main) await runChangeOverGuard(process.argv[2] ?? "", planPause);
