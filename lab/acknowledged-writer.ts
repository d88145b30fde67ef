/**
 * The acknowledged writer: a guest process that makes numbered records durable and tells the host
 * each number afterwards. Whatever dies, a record whose number the host heard must still be there.
 */
import { connect, type Socket } from "node:net";
import { systemClock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import { startInGuest } from "./guest.ts";
import type { GuestExec } from "./guest-exec.ts";

const recordBytes = 4096;
const sectorBytes = 512;
/** An acknowledgement is a short line; more without a line break is not from the writer. */
const lineLimitBytes = 256;
const waitPollMs = 10;

/** Starts the writer on `path` in the guest; returns its pid for `killInGuest`. */
export function startAcknowledgedWriter(
  exec: GuestExec,
  path: string,
  seed: number,
): Promise<number> {
  return startInGuest(exec, ["lab-acknowledged-writer", path, String(seed)]);
}

/** The record of a number, as the writer wrote it. */
export function acknowledgedRecord(seed: number, number: number): Uint8Array {
  const line = `kluis-ack ${String(seed)} ${String(number)}`;
  return Buffer.from(`${line.padEnd(sectorBytes - 1)}\n`.repeat(recordBytes / sectorBytes));
}

/**
 * Compares the file with what was acknowledged and returns how many records are intact. Errors:
 * ImageInvalid names the first acknowledged record that is missing, torn or stale.
 */
export function checkAcknowledgedRecords(
  content: Uint8Array,
  expected: { readonly seed: number; readonly lastNumber: number },
): number {
  let intact = 0;
  for (;;) {
    const stored = content.subarray(intact * recordBytes, (intact + 1) * recordBytes);
    const record = acknowledgedRecord(expected.seed, intact);
    if (Buffer.compare(stored, record) !== 0) break;
    intact += 1;
  }
  if (intact > expected.lastNumber) return intact;
  throw new KluisError(
    "ImageInvalid",
    `Cannot find record ${String(intact)} of seed ${String(expected.seed)}: ` +
      `it was acknowledged, as were all up to ${String(expected.lastNumber)}`,
  );
}

/** Listens to the port `kluis.lab.ack` of one VM; open a new one after the VM was started again. */
export class Acknowledgements implements Disposable {
  readonly #socket: Socket;
  readonly #seed: number;
  #rest = "";
  #lastNumber = -1;
  #failure: Error | undefined;
  #isClosed = false;

  private constructor(socket: Socket, seed: number) {
    this.#socket = socket;
    this.#seed = seed;
    socket.setEncoding("utf8");
    socket.on("data", (text: string) => {
      this.#take(text);
    });
    socket.on("error", (error) => {
      this.#failure ??= error;
    });
    socket.on("close", () => {
      this.#isClosed = true;
    });
  }

  /** Connects to the port's socket. The writer goes on only while somebody listens. */
  static open(path: string, seed: number): Promise<Acknowledgements> {
    return new Promise((resolve, reject) => {
      const socket = connect(path);
      socket.once("error", reject);
      socket.once("connect", () => {
        socket.off("error", reject);
        resolve(new Acknowledgements(socket, seed));
      });
    });
  }

  /** The highest acknowledged number; -1 before the first. All lower ones were acknowledged too. */
  get lastNumber(): number {
    return this.#lastNumber;
  }

  /** Resolves once `number` was acknowledged. Errors: DiskReadFailed where it is not in time. */
  async waitFor(number: number, timeoutMs: number): Promise<void> {
    const deadlineMs = systemClock.monotonicMs() + timeoutMs;
    while (this.#lastNumber < number) {
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#isClosed || systemClock.monotonicMs() > deadlineMs) {
        throw new KluisError(
          "DiskReadFailed",
          `Cannot hear acknowledgement ${String(number)}: the last one was ${String(this.#lastNumber)}`,
        );
      }
      await systemClock.sleep(waitPollMs);
    }
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }

  #take(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    for (const line of lines) this.#accept(line);
    if (this.#rest.length > lineLimitBytes) this.#fail(`"${this.#rest}" is no acknowledgement`);
  }

  #accept(line: string): void {
    // The rest of a line that an earlier listener heard in part does not match, and is no loss.
    const match = /^ack (\d+) (\d+)$/u.exec(line);
    if (match === null || Number(match[1]) !== this.#seed) return;
    const number = Number(match[2]);
    const isNext = number === this.#lastNumber + 1 || this.#lastNumber === -1;
    if (isNext) this.#lastNumber = number;
    else this.#fail(`number ${String(number)} follows ${String(this.#lastNumber)}`);
  }

  #fail(reason: string): void {
    this.#failure ??= new KluisError("DiskReadFailed", `Cannot trust the writer: ${reason}`);
    this.#socket.destroy();
  }
}
