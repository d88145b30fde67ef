/** Questions to QEMU itself, past libvirt. Internal to this folder. */
import { KluisError } from "#base/kluis-error.ts";
import { isObject, type JsonObject } from "#formats/qmp-wire.ts";
import type { Virsh } from "./virsh.ts";

/** A command of QEMU's monitor. */
export interface MonitorCommand {
  readonly execute: string;
  readonly arguments?: JsonObject;
}

/**
 * Runs a command in QEMU's monitor and returns its value. libvirt marks the domain as tainted by that
 * (custom-monitor) until it stops. Errors: QmpFailed, with `refused` in the details where QEMU or
 * libvirt said no.
 */
export async function runMonitorCommand(
  virsh: Virsh,
  uuid: string,
  command: MonitorCommand,
): Promise<unknown> {
  const text = await virsh.run(["qemu-monitor-command", uuid, JSON.stringify(command)]);
  const answer: unknown = JSON.parse(text);
  if (isObject(answer) && answer["return"] !== undefined) return answer["return"];
  const error = isObject(answer) && isObject(answer["error"]) ? answer["error"] : {};
  const { desc } = error;
  const reason = typeof desc === "string" ? desc : "its answer has no known form";
  throw new KluisError("QmpFailed", `Cannot run "${command.execute}" in QEMU: ${reason}`, {
    details: { command: command.execute, refused: true },
  });
}
