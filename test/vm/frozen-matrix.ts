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

/** What is in the guest. `scripted`: an application with pre and post scripts; `plain`: one without. */
export type FrozenGuestKind = "scripted" | "plain";

/** One case. */
export interface FrozenCell {
  readonly driver: FrozenDriver;
  readonly guest: FrozenGuestKind;
  readonly party: Party;
  readonly step: FrozenStep;
  readonly signal: "SIGKILL" | "SIGSTOP";
}

/**
 * Without scripts nobody runs a supervisor, so that the watchdog alone stands behind the host: the steps
 * at which the guest is frozen are played once more in such a guest.
 */
const plainSteps: readonly FrozenStep[] = ["freeze", "transaction"];

/** Every case of a driver. */
export function planCells(driver: FrozenDriver): readonly FrozenCell[] {
  return [
    ...planGuestCells(driver, "scripted", frozenSteps),
    ...planGuestCells(driver, "plain", plainSteps),
  ];
}

function planGuestCells(
  driver: FrozenDriver,
  guest: FrozenGuestKind,
  steps: readonly FrozenStep[],
): readonly FrozenCell[] {
  return parties.flatMap((party) =>
    steps
      .filter((step) => isThere(party, step, driver))
      .flatMap((step) =>
        (["SIGKILL", "SIGSTOP"] as const).map((signal) => ({ driver, guest, party, step, signal })),
      ),
  );
}

/** The name of a case, for people. */
export function nameOf({ driver, guest, party, step, signal }: FrozenCell): string {
  const which = guest === "plain" ? ", no scripts" : "";
  return `${driver}${which}: ${party} ${signal === "SIGKILL" ? "killed" : "stopped"} at ${step}`;
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
