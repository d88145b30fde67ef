/** Log lines of a busy server, made up from a seed: the text part of workload P. */
import { createPrng, type Prng } from "#testing/seed.ts";

/** Text is encoded in parts of about this size. */
const partBytes = 256 * 1024;
const services = ["web", "api", "auth", "billing", "search", "mailer", "queue", "scheduler"];
const verbs = ["GET", "GET", "GET", "GET", "POST", "POST", "PUT", "DELETE", "HEAD"];
const folders = ["orders", "invoices", "users", "sessions", "products", "images", "reports"];
const statuses = [200, 200, 200, 200, 200, 201, 204, 301, 304, 400, 401, 404, 500, 503];
const agents = [
  "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
  "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/126.0 Safari/537.36",
  "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
  "curl/7.88.1",
  "Prometheus/2.53.0",
  "okhttp/4.12.0",
];
const warnings = [
  "slow query",
  "retrying after timeout",
  "connection reset by peer",
  "cache miss storm",
  "token about to expire",
];

/** Endless log text; the same for the same seed, however it is cut. */
export class LogText {
  readonly #random: Prng;
  #timeMs = Date.UTC(2026, 0, 5, 6, 0, 0);
  #second = -1;
  #secondText = "";
  #rest: Uint8Array = new Uint8Array(0);

  constructor(seed: number) {
    this.#random = createPrng(seed);
  }

  /** Fills all of `target` with the text that comes next. */
  writeInto(target: Uint8Array): void {
    let at = 0;
    while (at < target.byteLength) {
      if (this.#rest.byteLength === 0) this.#rest = this.#nextPart();
      const part = this.#rest.subarray(0, target.byteLength - at);
      target.set(part, at);
      this.#rest = this.#rest.subarray(part.byteLength);
      at += part.byteLength;
    }
  }

  #nextPart(): Uint8Array {
    let text = "";
    while (text.length < partBytes) text += this.#nextLine();
    return Buffer.from(text, "latin1");
  }

  /** Dates are formatted once a second, because nothing else takes as long. */
  #nextTime(): string {
    this.#timeMs += below(this.#random, 12);
    const second = Math.floor(this.#timeMs / 1000);
    if (second !== this.#second) {
      this.#second = second;
      this.#secondText = new Date(second * 1000)
        .toISOString()
        .slice(0, "YYYY-MM-DDThh:mm:ss.".length);
    }
    return `${this.#secondText}${String(this.#timeMs % 1000).padStart(3, "0")}Z`;
  }

  #nextLine(): string {
    const random = this.#random;
    const time = this.#nextTime();
    const service = pick(random, services);
    const head = `${time} node${below(random, 6)} ${service}[${2000 + below(random, 40)}]:`;
    const request = hex(random) + hex(random);
    if (below(random, 16) === 0) {
      const took = below(random, 30_000);
      return `${head} WARN ${pick(random, warnings)} request=${request} took=${took}ms shard=${below(random, 64)}\n`;
    }
    const address = `10.${below(random, 4)}.${below(random, 32)}.${below(random, 250)}`;
    const path = `/v2/${pick(random, folders)}/${below(random, 90_000)}`;
    const status = pick(random, statuses);
    return (
      `${head} INFO ${address} "${pick(random, verbs)} ${path} HTTP/1.1" ${status} ` +
      `${below(random, 40_000)} ${below(random, 900)}ms request=${request} "${pick(random, agents)}"\n`
    );
  }
}

function pick<T>(random: Prng, choices: readonly T[]): T {
  return choices[below(random, choices.length)] as T;
}

function below(random: Prng, bound: number): number {
  return random.uint32() % bound;
}

function hex(random: Prng): string {
  return random.uint32().toString(16).padStart(8, "0");
}
