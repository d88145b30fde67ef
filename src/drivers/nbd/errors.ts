/** Translates what goes wrong with NBD into the errors of the registry. */
import { assert } from "#base/assert.ts";
import type { ErrorCode } from "#base/error-codes.ts";
import { KluisError } from "#base/kluis-error.ts";
import { nbdCommand, nbdErrno, nbdErrnoName } from "#formats/nbd-wire.ts";
import type { Flight } from "./flight.ts";
import { formatNbdUri, type NbdAddress } from "./nbd-address.ts";

/** The error of a request that the server answered with one. */
export function toFlightError(flight: Flight, address: NbdAddress): KluisError {
  const { error, request } = flight;
  assert(error !== undefined, "the server answered with an error");
  const { errno, message } = error;
  const reason = message === "" ? nbdErrnoName(errno) : `${message} (${nbdErrnoName(errno)})`;
  const { code, verb } = classify(request.command, errno);
  const place = `${String(request.lengthBytes)} bytes at ${String(request.offsetBytes)}`;
  return new KluisError(
    code,
    `Cannot ${verb} ${place} of "${formatNbdUri(address)}": the NBD server says ${reason}`,
    { details: { offsetBytes: request.offsetBytes, lengthBytes: request.lengthBytes, reason } },
  );
}

function classify(command: number, errno: number): { code: ErrorCode; verb: string } {
  switch (command) {
    case nbdCommand.read:
      return { code: "DiskReadFailed", verb: "read" };
    case nbdCommand.blockStatus:
      return { code: "DiskReadFailed", verb: "ask the status of" };
    default: {
      const isFull = errno === nbdErrno.ENOSPC;
      return { code: isFull ? "TargetNoSpace" : "TargetWriteFailed", verb: "write" };
    }
  }
}

/** The error of a server that cannot be reached or has gone. */
export function nbdUnavailable(address: NbdAddress, reason: string, cause?: Error): KluisError {
  return new KluisError(
    "NbdUnavailable",
    `Cannot use the NBD server at "${formatNbdUri(address)}": ${reason}`,
    cause === undefined ? {} : { cause },
  );
}

/** The error of a server that lacks `what`. */
export function nbdUnsupported(address: NbdAddress, what: string): KluisError {
  return new KluisError(
    "NbdUnsupported",
    `Cannot use the NBD server at "${formatNbdUri(address)}": it lacks ${what}`,
  );
}
