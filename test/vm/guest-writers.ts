/** Guest processes that write all the time, and what they say afterwards. */
import assert from "node:assert/strict";
import type { TestContext } from "node:test";

import { systemClock } from "#base/clock.ts";
import { GuestAgent } from "#drivers/guest/guest-agent.ts";
import { readGuestFile } from "#drivers/guest/guest-commands.ts";
import {
  Acknowledgements,
  checkAcknowledgedRecords,
  startAcknowledgedWriter,
} from "../../lab/acknowledged-writer.ts";
import { killInGuest, runInGuest, startInGuest } from "../../lab/guest.ts";
import type { DrivenVm } from "./driven-vm.ts";

/** Acknowledgements that must have come before a test does harm. */
const firstRecords = 3;
const ackTimeoutMs = 60_000;
/** What a guest may wait at most, by its own clock. */
const gapSecondsMax = 10;

/** The acknowledged writer on one file of a VM, and the host's side of it. */
export class AcknowledgedWriter implements Disposable {
  readonly #vm: DrivenVm;
  readonly #acks: Acknowledgements;
  readonly #seed: number;
  readonly #pid: number;

  private constructor(vm: DrivenVm, run: { acks: Acknowledgements; seed: number; pid: number }) {
    this.#vm = vm;
    this.#acks = run.acks;
    this.#seed = run.seed;
    this.#pid = run.pid;
  }

  /** Starts it on a file named after `seed` and waits for its first records. */
  static async start(vm: DrivenVm, seed: number): Promise<AcknowledgedWriter> {
    const acks = await Acknowledgements.open(vm.paths.ackSocket, seed);
    const pid = await startAcknowledgedWriter(vm.exec, pathOf(seed), seed);
    await acks.waitFor(firstRecords, ackTimeoutMs);
    return new AcknowledgedWriter(vm, { acks, seed, pid });
  }

  get lastNumber(): number {
    return this.#acks.lastNumber;
  }

  /** Resolves when records are acknowledged that were not yet when this was called. */
  async waitForMore(): Promise<void> {
    await this.#acks.waitFor(this.#acks.lastNumber + firstRecords, ackTimeoutMs);
  }

  /** Ends the writer in a guest that lives. */
  async stop(): Promise<void> {
    await killInGuest(this.#vm.exec, this.#pid);
  }

  /** Throws unless every record that was acknowledged is in the file as the running guest reads it. */
  async assertNothingLost(): Promise<void> {
    await using agent = await GuestAgent.open(this.#vm.paths.agentSocket, { timeoutMs: 60_000 });
    const content = await readGuestFile(agent, pathOf(this.#seed));
    const expected = { seed: this.#seed, lastNumber: this.#acks.lastNumber };
    checkAcknowledgedRecords(content, expected);
  }

  [Symbol.dispose](): void {
    this.#acks[Symbol.dispose]();
  }
}

function pathOf(seed: number): string {
  return `/data/vdb/records-${String(seed)}`;
}

/**
 * A guest process that writes and syncs a file again and again and notes, by the guest's monotonic
 * clock, when each write was done. It rests in between, because an emulated CPU that is always busy
 * takes a whole core from what is tested.
 */
export async function startGapMeter(vm: DrivenVm): Promise<void> {
  // systemd ends all of the agent's service with the agent.
  const loop = `[ -w /sys/fs/cgroup/cgroup.procs ] && echo $$ >/sys/fs/cgroup/cgroup.procs
  while :; do
    echo x >/data/vdc/gap && sync /data/vdc/gap
    read -r up rest </proc/uptime
    echo "$up" >>/run/gap-log
    sleep 0.05
  done`;
  await startInGuest(vm.exec, ["/bin/sh", "-c", loop]);
  await runInGuest(vm.exec, "until [ -s /run/gap-log ]; do sleep 0.05; done");
}

/** The longest time in seconds between two writes that were done, up to now. */
async function readLongestGap(vm: DrivenVm): Promise<number> {
  const script = `
    lines=$(wc -l </run/gap-log)
    tries=0
    until [ "$(wc -l </run/gap-log)" -gt "$lines" ] || [ "$tries" -gt 400 ]; do
      sleep 0.05; tries=$((tries + 1))
    done
    read -r now rest </proc/uptime
    awk -v now="$now" 'NR > 1 && $1 - last > most { most = $1 - last } { last = $1 } END { if (now - last > most) most = now - last; print most + 0 }' /run/gap-log`;
  const gap = Number(await runInGuest(vm.exec, script));
  assert.ok(Number.isFinite(gap), "the guest measured gaps");
  return gap;
}

/** The guest never waited longer than it may for whatever died; `when` says after what. */
export async function assertShortGap(vm: DrivenVm, t: TestContext, when: string): Promise<void> {
  const gap = await readLongestGap(vm);
  t.diagnostic(`${when}: longest gap so far ${gap.toFixed(2)} s`);
  assert.ok(gap <= gapSecondsMax, `${when}: the guest waited ${String(gap)} s`);
}

/** Waits on the host's clock; for letting time pass that is itself the subject of a test. */
export async function letPass(ms: number): Promise<void> {
  await systemClock.sleep(ms);
}
