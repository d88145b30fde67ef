/**
 * A lasting way to one export: sends requests over a connection, and where that is lost opens the
 * next one and sends again what was not answered.
 */
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { nbdCommand, type NbdCommand } from "#formats/nbd-wire.ts";
import { AbortListeners } from "./abort-listeners.ts";
import { nbdUnavailable, toFlightError } from "./errors.ts";
import { Flight, type FlightRequest } from "./flight.ts";
import { NBD_RECONNECT_DELAY_MS, NBD_RECONNECT_DELAY_MS_MAX, NBD_RESUBMITS_MAX } from "./limits.ts";
import { formatNbdUri, type NbdAddress } from "./nbd-address.ts";
import { NbdConnection, type NbdTimeouts } from "./nbd-connection.ts";
import { negotiateExport, type NbdExport } from "./negotiation.ts";

/** How a link is opened. */
export interface NbdLinkOptions extends NbdTimeouts {
  readonly metaContexts: readonly string[];
  readonly reconnectAttemptsMax: number;
  /** Ends the first attempt; not looked at later. */
  readonly signal?: AbortSignal | undefined;
}

type State =
  | { readonly kind: "up"; readonly connection: NbdConnection }
  | { readonly kind: "reconnecting" }
  | { readonly kind: "down"; readonly error: Error };

/** See above. Requests in flight are bounded by the caller. */
export class NbdLink {
  readonly address: NbdAddress;
  readonly info: NbdExport;
  readonly #options: NbdLinkOptions;
  readonly #closed = new AbortController();
  readonly #aborts = new AbortListeners();
  /** Everything sent or waiting, until it has settled. */
  readonly #flights = new Set<Flight>();
  #state: State;
  /** Attempts since a request was last answered. */
  #attempts = 0;
  /** Requests that change the disk: how many were sent, answered, and made durable by a flush. */
  #changesSent = 0;
  #changesAnswered = 0;
  #changesDurable = 0;
  #reconnecting: Promise<void> = Promise.resolve();

  private constructor(address: NbdAddress, options: NbdLinkOptions, connection: NbdConnection) {
    this.address = address;
    this.#options = options;
    this.info = connection.info;
    this.#state = { kind: "up", connection };
  }

  /** Opens the first connection; it is not tried again. */
  static async open(address: NbdAddress, options: NbdLinkOptions): Promise<NbdLink> {
    const connection = await connect(address, options, options.signal);
    const link = new NbdLink(address, options, connection);
    link.#takeOver(connection);
    return link;
  }

  /**
   * Sends a request and resolves with its answered flight. `onFree` is called when the request
   * takes no place in flight any more, which may be after an aborted call has rejected.
   */
  send(
    request: FlightRequest,
    onFree: () => void,
    signal: AbortSignal | undefined,
  ): Promise<Flight> {
    const isChange = isWrite(request.command);
    if (isChange) this.#changesSent += 1;
    // A flush covers the changes that were answered before it was sent.
    const durable = this.#changesSent === this.#changesAnswered ? this.#changesSent : undefined;
    return new Promise((resolve, reject) => {
      const flight = new Flight(request, (failure) => {
        if (signal !== undefined) this.#aborts.remove(signal, onAbort);
        this.#flights.delete(flight);
        onFree();
        if (failure !== undefined) {
          reject(failure);
          return;
        }
        this.#attempts = 0;
        if (isChange) this.#changesAnswered += 1;
        if (flight.error !== undefined) reject(toFlightError(flight, this.address));
        else if (signal?.aborted === true) reject(signal.reason as Error);
        else {
          const isFlush = request.command === nbdCommand.flush;
          if (isFlush && durable !== undefined) this.#changesDurable = durable;
          resolve(flight);
        }
      });
      const onAbort = (): void => {
        // What a write sends must not change before it was sent: it is waited for.
        if (isChange) return;
        flight.abandon();
        if (this.#state.kind === "up") reject(signal?.reason as Error);
        else flight.settle(signal?.reason as Error);
      };
      if (signal !== undefined) this.#aborts.add(signal, onAbort);
      this.#flights.add(flight);
      this.#submit(flight);
    });
  }

  /** Ends everything: calls under way reject with Cancelled. Never throws. */
  async close(): Promise<void> {
    const { connection } = this.#state.kind === "up" ? this.#state : { connection: undefined };
    const reason = `Cannot use "${formatNbdUri(this.address)}": it was closed`;
    this.#closed.abort();
    this.#fail(new KluisError("Cancelled", reason));
    await connection?.close();
    await this.#reconnecting;
  }

  #submit(flight: Flight): void {
    if (this.#state.kind === "up") this.#state.connection.submit(flight);
    else if (this.#state.kind === "down") flight.settle(this.#state.error);
    // Else the next connection sends all that have not settled.
  }

  #takeOver(connection: NbdConnection): void {
    this.#state = { kind: "up", connection };
    connection.takeOver((error, unanswered) => {
      this.#onLost(error, unanswered);
    });
  }

  #onLost(error: Error, unanswered: readonly Flight[]): void {
    if (this.#state.kind === "down") return;
    const isDurable = this.#changesSent === this.#changesDurable;
    const isRecoverable = isKluisError(error, "NbdUnavailable") && isDurable;
    if (!isRecoverable || this.#options.reconnectAttemptsMax === 0) {
      this.#fail(error);
      return;
    }
    this.#state = { kind: "reconnecting" };
    for (const flight of unanswered) {
      if (flight.isAbandoned || flight.attempts > NBD_RESUBMITS_MAX) flight.settle(error);
    }
    this.#reconnecting = this.#reconnect(error);
  }

  /** Opens the next connection and sends again what has not settled. */
  async #reconnect(lost: Error): Promise<void> {
    let error = lost;
    while (this.#state.kind === "reconnecting") {
      if (this.#attempts >= this.#options.reconnectAttemptsMax) {
        this.#fail(error);
        return;
      }
      this.#attempts += 1;
      try {
        await this.#options.clock.sleep(reconnectDelayMs(this.#attempts), this.#closed.signal);
        await this.#openAgain();
        return;
      } catch (failure) {
        error = failure as Error;
        if (!isWorthAnotherAttempt(error)) this.#fail(error);
      }
    }
  }

  async #openAgain(): Promise<void> {
    const connection = await connect(this.address, this.#options, this.#closed.signal);
    if (!isSameExport(connection.info, this.info)) {
      const reason = "the server came back with another export";
      connection.destroy(nbdUnavailable(this.address, reason));
      const what = `Cannot go on with "${formatNbdUri(this.address)}"`;
      throw new KluisError("ImageChangedDuringRead", `${what}: ${reason}`);
    }
    if (this.#state.kind === "down") {
      await connection.close();
      return;
    }
    const waiting = [...this.#flights];
    for (const flight of waiting) flight.restart();
    this.#takeOver(connection);
    for (const flight of waiting) this.#submit(flight);
  }

  #fail(error: Error): void {
    if (this.#state.kind !== "down") this.#state = { kind: "down", error };
    for (const flight of this.#flights) {
      flight.abandon();
      flight.settle(error);
    }
  }
}

function connect(
  address: NbdAddress,
  options: NbdLinkOptions,
  signal: AbortSignal | undefined,
): Promise<NbdConnection> {
  const { exportName } = address;
  return NbdConnection.open(address, { ...options, signal }, (channel) =>
    negotiateExport(channel, exportName, options.metaContexts),
  );
}

function isWrite(command: NbdCommand): boolean {
  const { trim, write, writeZeroes } = nbdCommand;
  return command === write || command === writeZeroes || command === trim;
}

/** A server that starts again may know its exports only a little later. */
function isWorthAnotherAttempt(error: Error): boolean {
  return isKluisError(error, "NbdUnavailable") || isKluisError(error, "ImageNotFound");
}

function reconnectDelayMs(attempt: number): number {
  return Math.min(NBD_RECONNECT_DELAY_MS * 2 ** (attempt - 1), NBD_RECONNECT_DELAY_MS_MAX);
}

/** Context ids are the connection's own; everything else must be as it was. */
function isSameExport(now: NbdExport, before: NbdExport): boolean {
  const withoutIds = (info: NbdExport): string =>
    JSON.stringify({ ...info, metaContexts: info.metaContexts.map((context) => context.name) });
  return withoutIds(now) === withoutIds(before);
}
