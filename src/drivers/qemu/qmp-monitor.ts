/** The monitor of a QEMU of Kluis, for fleecing. */
import { KluisError } from "#base/kluis-error.ts";
import type { Monitor } from "#drivers/fleecing/monitor.ts";
import { isQmpRefusal, type QmpClient } from "#drivers/qmp/qmp-client.ts";
import type { JsonObject } from "#formats/qmp-wire.ts";
import { deviceId } from "./arguments.ts";
import type { VmContext } from "./vm-context.ts";

/** A switch of the graph waits for requests that are under way; on a slow disk that takes its time. */
const COMMAND_TIMEOUT_MS = 60_000;

/** See above; owns its session. */
export class QmpMonitor implements Monitor {
  readonly deviceIds: ReadonlyMap<string, string>;
  readonly socketFolder: Monitor["socketFolder"];
  readonly notes: readonly string[] = [];
  readonly #qmp: QmpClient;

  constructor(context: VmContext, qmp: QmpClient) {
    const { disks } = context.description;
    this.deviceIds = new Map(disks.map(({ name }) => [name, deviceId(name)]));
    const { runDirectory } = context.directory;
    this.socketFolder = { inQemu: runDirectory, here: runDirectory };
    this.#qmp = qmp;
  }

  async execute(command: string, args?: JsonObject, signal?: AbortSignal): Promise<unknown> {
    try {
      return await this.#qmp.execute(command, args, { timeoutMs: COMMAND_TIMEOUT_MS, signal });
    } catch (error) {
      if (!isQmpRefusal(error)) throw error;
      const { code, details, message } = error;
      throw new KluisError(code, message, { details: { ...details, refused: true }, cause: error });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#qmp[Symbol.asyncDispose]();
  }
}
