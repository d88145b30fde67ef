/** The cases of never-frozen: who is killed or stopped, and at which step of a snapshot. */
import type { Prng } from "#testing/seed.ts";

/**
 * Who takes part in a snapshot. `watch`: the watchdog and the supervisor in the guest. `host`: Kluis,
 * its guard and libvirtd, together: all on the host but QEMU, in which the guest lives.
 */
export const parties = ["kluis", "guard", "libvirtd", "host", "agent", "watch", "script"] as const;

/** See {@link parties}. */
export type Party = (typeof parties)[number];

/**
 * When it happens, in the order of a snapshot: the guard opens its session; the pre script runs; the
 * watchdog is armed; the guest is being frozen; the disks switch; the guest is being thawed; the post
 * script runs; the watchdog is disarmed.
 */
export const frozenSteps = [
  "session",
  "pre",
  "armed",
  "freeze",
  "transaction",
  "thaw",
  "post",
  "disarm",
] as const;

/** See {@link frozenSteps}. */
export type FrozenStep = (typeof frozenSteps)[number];

/** Which driver runs the VM. */
export type FrozenDriver = "qemu" | "libvirt";

/** One case. */
export interface FrozenCell {
  readonly driver: FrozenDriver;
  readonly party: Party;
  readonly step: FrozenStep;
  readonly signal: "SIGKILL" | "SIGSTOP";
}

/** Every case of a driver. */
export function planCells(driver: FrozenDriver): readonly FrozenCell[] {
  return parties.flatMap((party) =>
    frozenSteps
      .filter((step) => isThere(party, step, driver))
      .flatMap((step) =>
        (["SIGKILL", "SIGSTOP"] as const).map((signal) => ({ driver, party, step, signal })),
      ),
  );
}

/** The name of a case, for people. */
export function nameOf({ driver, party, step, signal }: FrozenCell): string {
  return `${driver}: ${party} ${signal === "SIGKILL" ? "killed" : "stopped"} at ${step}`;
}

/** The same cells in a random order. */
export function shuffle(cells: readonly FrozenCell[], prng: Prng): readonly FrozenCell[] {
  return cells
    .map((cell) => ({ cell, key: prng.uint32() }))
    .sort((a, b) => a.key - b.key)
    .map(({ cell }) => cell);
}

/** A party that is not there at a step cannot be harmed then. */
function isThere(party: Party, step: FrozenStep, driver: FrozenDriver): boolean {
  if (party === "libvirtd") return driver === "libvirt";
  if (party === "script") return step === "pre" || step === "post";
  // Nothing of this round lives in the guest before the pre script.
  return party !== "watch" || step !== "session";
}
