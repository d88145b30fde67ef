/** Requests with a JSON answer: bounded in time, size and tries; internal to this folder. */
import type { Clock } from "#base/clock.ts";
import { KluisError } from "#base/kluis-error.ts";
import type { RandomSource } from "#base/random.ts";

/** A request. Headers and body may hold secrets; neither goes into an error. */
export interface JsonRequest {
  readonly method: "GET" | "POST";
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  /** Who is asked, for messages. */
  readonly server: string;
}

/** An answer that is not one of those that are tried again. */
export interface JsonAnswer {
  readonly status: number;
  readonly challenge: string | undefined;
  /** Parsed; `undefined` where it is no JSON. */
  readonly body: unknown;
}

/** What requests need. */
export interface HttpDeps {
  readonly clock: Clock;
  readonly random: RandomSource;
}

/** Tries of one request. */
export const triesMax = 4;
/** Time for one try. */
export const tryMs = 15_000;
/** Waits between tries double from here, less a random part; what the server asks for counts up to the end. */
export const backoffMs = 500;
export const backoffMaxMs = 10_000;
/** Most bytes of an answer. */
export const answerBytesMax = 64 * 1024;

const again: ReadonlySet<number> = new Set([408, 429, 500, 502, 503, 504]);

/**
 * Sends a request until it is answered. Redirections are errors: tokens stay with whom they are for.
 *
 * Errors: KeyUnavailable (backoff); the reason of the signal.
 */
export async function requestJson(
  request: JsonRequest,
  deps: HttpDeps,
  signal?: AbortSignal,
): Promise<JsonAnswer> {
  for (let tries = 1; ; tries++) {
    signal?.throwIfAborted();
    const outcome = await tryOnce(request, deps, signal);
    if ("answer" in outcome) return outcome.answer;
    if (tries === triesMax) throw unavailable(request, outcome);
    const [jitter = 0] = deps.random.bytes(1);
    const wait = Math.min(backoffMaxMs, backoffMs * 2 ** (tries - 1)) * (0.5 + jitter / 512);
    await deps.clock.sleep(Math.min(backoffMaxMs, outcome.retryAfterMs ?? wait), signal);
  }
}

interface Failure {
  readonly reason: string;
  readonly retryAfterMs?: number;
  readonly cause?: unknown;
}

async function tryOnce(
  request: JsonRequest,
  deps: HttpDeps,
  signal: AbortSignal | undefined,
): Promise<{ readonly answer: JsonAnswer } | Failure> {
  const end = new AbortController();
  const ended = new AbortController();
  const all = signal === undefined ? end.signal : AbortSignal.any([signal, end.signal]);
  void deps.clock.sleep(tryMs, ended.signal).then(
    () => end.abort(new Error("time is up")),
    () => undefined,
  );
  try {
    const { method, url, headers, body } = request;
    const response = await fetch(url, {
      method,
      headers,
      redirect: "error",
      signal: all,
      ...(body === undefined ? {} : { body }),
    });
    const text = await readText(response);
    if (again.has(response.status)) {
      const retryAfterMs = parseRetryAfter(response.headers.get("retry-after"));
      const reason = `it answered with status ${response.status}`;
      return { reason, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) };
    }
    const challenge = response.headers.get("www-authenticate") ?? undefined;
    return { answer: { status: response.status, challenge, body: parseJson(text) } };
  } catch (error) {
    signal?.throwIfAborted();
    const cause = error instanceof Error ? (error.cause ?? error) : error;
    const code = cause instanceof Error && "code" in cause ? ` (${String(cause.code)})` : "";
    const reason = end.signal.aborted ? `no answer in ${tryMs} ms` : `it cannot be reached${code}`;
    return { reason, cause: error };
  } finally {
    ended.abort();
  }
}

async function readText(response: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const chunk of response.body ?? []) {
    sizeBytes += chunk.byteLength;
    if (sizeBytes > answerBytesMax) throw new Error("the answer is too long");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // What a proxy says in HTML is no answer of a key vault.
    return undefined;
  }
}

/** Whole seconds; dates are not honoured. */
function parseRetryAfter(text: string | null): number | undefined {
  return text !== null && /^\d{1,6}$/.test(text) ? Number(text) * 1000 : undefined;
}

function unavailable({ server }: JsonRequest, { reason, cause }: Failure): KluisError {
  return new KluisError("KeyUnavailable", `Cannot ask "${server}": ${reason}`, { cause });
}
