/** What both services' clients let through of HTTP and of sockets; internal to this folder. */
import { type FailureKind, RequestFailure } from "./blob-service.ts";

const reasons: Readonly<Record<string, string>> = {
  ECONNREFUSED: "the connection was refused",
  ECONNRESET: "the connection broke",
  EPIPE: "the connection broke",
  ECONNABORTED: "the connection broke",
  ETIMEDOUT: "the connection timed out",
  EHOSTUNREACH: "the host cannot be reached",
  ENETUNREACH: "the network cannot be reached",
  EADDRNOTAVAIL: "no local port was free",
  ENOTFOUND: "the host name is not known",
  EAI_AGAIN: "the host name could not be looked up",
  ERR_STREAM_PREMATURE_CLOSE: "the answer broke off",
  HPE_INVALID_CONSTANT: "the answer is no HTTP",
  REQUEST_SEND_ERROR: "the request could not be sent",
  PARSE_ERROR: "the answer could not be read",
};

/** Names of errors that have no code. */
const namedReasons: Readonly<Record<string, string>> = {
  TimeoutError: "the connection timed out",
  AbortError: "the connection was given up",
  IncompleteBodyError: "the answer broke off",
};

const causesMax = 5;

/**
 * Why a request got no answer, in words; `undefined` for an error that is no matter of the
 * connection.
 */
export function connectionReason(error: Error): string | undefined {
  let at: unknown = error;
  for (let depth = 0; depth < causesMax && at instanceof Error; depth++) {
    const { code } = at as NodeJS.ErrnoException;
    if (typeof code === "string") {
      const known = reasons[code];
      if (known !== undefined) return `${known} (${code})`;
      if (/^(CERT|ERR_TLS|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO|EPROTO|ERR_SSL)/.test(code)) {
        return `the server's certificate was not accepted (${code})`;
      }
      if (/^(HPE_|E[A-Z]+$)/.test(code)) return `the connection failed (${code})`;
    }
    const named = namedReasons[at.name];
    if (named !== undefined) return named;
    if (at.message === "aborted" || at.message === "socket hang up") return "the connection broke";
    at = at.cause;
  }
  return undefined;
}

/** The pause that a `Retry-After` header in seconds asks for. */
export function parseRetryAfterMs(header: string | undefined): number | undefined {
  if (header === undefined || !/^\d{1,6}$/.test(header.trim())) return undefined;
  return Number(header) * 1000;
}

/** An answer that says no more than its status and the service's word for it. */
export interface StatusAnswer {
  readonly status: number;
  /** Shown only where it is a word: a server may call its error anything. */
  readonly code: string;
  readonly retryAfterMs: number | undefined;
}

/** The failure for an answer whose error code says nothing particular. */
export function failureOfStatus(answer: StatusAnswer): RequestFailure {
  const { status, code, retryAfterMs } = answer;
  const word = /^[A-Za-z]{1,60}$/.test(code) ? ` ${code}` : "";
  const kind =
    statusKinds[status] ?? (status >= 500 || status < 300 ? "unavailable" : "unsupported");
  return new RequestFailure(kind, `the store answered ${status}${word}`, retryAfterMs);
}

const statusKinds: Readonly<Record<number, FailureKind>> = {
  301: "argument",
  401: "denied",
  403: "denied",
  408: "unavailable",
  429: "unavailable",
  501: "unsupported",
  507: "no-space",
};
