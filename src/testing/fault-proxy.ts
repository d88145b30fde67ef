/**
 * An HTTP proxy in front of a real object store, on which requests fail as the test wants: refused,
 * broken off at any point, answered too late, not at all or with what was true some time ago.
 *
 * Requests are forwarded as they are, so that signatures stay valid.
 */
import { once } from "node:events";
import {
  Agent,
  createServer,
  request,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from "node:http";
import type { AddressInfo } from "node:net";

import { concatBytes } from "#base/bytes.ts";
import type { SeededRandom } from "./seeded-random.ts";

/** What happens to a request. */
export type ProxyFault =
  /** Answered with this status; the store does not see it. */
  | { readonly kind: "status"; readonly status: number; readonly retryAfterS?: number }
  /** The connection breaks before the store sees it. */
  | { readonly kind: "drop" }
  /** Half of its content reaches the store, then both connections break. */
  | { readonly kind: "cut-request" }
  /** One bit of its content is flipped on the way. */
  | { readonly kind: "damage-request" }
  /** The store carries it out, then the connection breaks instead of an answer. */
  | { readonly kind: "lost-answer" }
  /** Half of the answer's content comes back, then the connection breaks. */
  | { readonly kind: "cut-answer" }
  /** Nothing ever happens. */
  | { readonly kind: "hang" }
  /** The answer comes after a while. */
  | { readonly kind: "slow"; readonly delayMs: number }
  /** The answer is that to the first request of the same path and query. */
  | { readonly kind: "stale" };

/** Which requests meet a fault. */
export interface ProxyPlan {
  readonly fault: ProxyFault;
  /** `PUT`; any without it. */
  readonly method?: string;
  /** Of the path and query as sent. */
  readonly url?: RegExp;
  /** Requests that meet it; 1 unless said otherwise. */
  readonly times?: number;
}

/** Faults by chance. */
export interface ProxyChance {
  readonly random: SeededRandom;
  /** Of each request. */
  readonly probability: number;
  readonly faults: readonly ProxyFault[];
}

interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Uint8Array;
}

/** Starts a proxy to the server on `port` of 127.0.0.1. */
export async function startFaultProxy(port: number): Promise<FaultProxy> {
  const proxy = new FaultProxy(port);
  await proxy.listen();
  return proxy;
}

/** See the file's head. */
export class FaultProxy implements AsyncDisposable {
  readonly #targetPort: number;
  readonly #agent = new Agent({ keepAlive: true });
  readonly #server: Server;
  readonly #answers = new Map<string, Answer>();
  #plans: { readonly plan: ProxyPlan; left: number }[] = [];
  #chance: ProxyChance | undefined;
  #requests = 0;
  #injected = 0;

  constructor(targetPort: number) {
    this.#targetPort = targetPort;
    this.#server = createServer((incoming, response) => {
      this.#handle(incoming, response).catch(() => response.destroy());
    });
  }

  async listen(): Promise<void> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Requests that have come so far. */
  get requests(): number {
    return this.#requests;
  }

  /** Faults that requests have met so far. */
  get injected(): number {
    return this.#injected;
  }

  /** Whether faults are still to come, but for those by chance. */
  get isArmed(): boolean {
    return this.#plans.length > 0;
  }

  inject(plan: ProxyPlan): void {
    this.#plans.push({ plan, left: plan.times ?? 1 });
  }

  /** From now on every request fails with a chance. */
  failByChance(chance: ProxyChance): void {
    this.#chance = chance;
  }

  /** Disarms everything. */
  heal(): void {
    this.#plans = [];
    this.#chance = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#agent.destroy();
    this.#server.close();
    this.#server.closeAllConnections();
    await once(this.#server, "close");
  }

  async #handle(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    this.#requests++;
    const fault = this.#take(incoming);
    if (fault !== undefined) this.#injected++;
    if (fault?.kind === "drop") {
      incoming.socket.destroy();
      return;
    }
    const body = await readAll(incoming);
    if (fault === undefined) {
      send(response, await this.#forward(incoming, body));
      return;
    }
    await this.#fail(fault, { incoming, body, response });
  }

  #take(incoming: IncomingMessage): ProxyFault | undefined {
    const { method, url = "" } = incoming;
    for (const armed of this.#plans) {
      const { plan } = armed;
      if (plan.method !== undefined && plan.method !== method) continue;
      if (plan.url !== undefined && !plan.url.test(url)) continue;
      armed.left--;
      if (armed.left === 0) this.#plans = this.#plans.filter((other) => other !== armed);
      return plan.fault;
    }
    const chance = this.#chance;
    if (chance === undefined || !chance.random.chance(chance.probability)) return undefined;
    return chance.random.pick(chance.faults);
  }

  async #fail(
    fault: Exclude<ProxyFault, { kind: "drop" }>,
    exchange: {
      readonly incoming: IncomingMessage;
      readonly body: Uint8Array;
      readonly response: ServerResponse;
    },
  ): Promise<void> {
    const { incoming, body, response } = exchange;
    const forward = (): Promise<Answer> => this.#forward(incoming, body);
    switch (fault.kind) {
      case "status":
        if (fault.retryAfterS !== undefined) response.setHeader("Retry-After", fault.retryAfterS);
        response.writeHead(fault.status).end();
        return;
      case "hang":
        return;
      case "slow":
        await new Promise((resolve) => setTimeout(resolve, fault.delayMs));
        send(response, await forward());
        return;
      case "lost-answer":
        await forward();
        incoming.socket.destroy();
        return;
      case "cut-answer": {
        const answer = await forward();
        response.writeHead(answer.status, plainHeaders(answer.headers));
        response.write(answer.body.subarray(0, answer.body.byteLength >> 1));
        response.destroy();
        return;
      }
      case "cut-request":
        await this.#forwardHalf(incoming, body);
        incoming.socket.destroy();
        return;
      case "damage-request": {
        const damaged = body.slice();
        const at = damaged.byteLength >> 1;
        if (at < damaged.byteLength) damaged[at] = (damaged[at] ?? 0) ^ 1;
        send(response, await this.#forward(incoming, damaged));
        return;
      }
      case "stale":
        send(response, this.#answers.get(incoming.url ?? "") ?? (await forward()));
        return;
    }
  }

  async #forward(incoming: IncomingMessage, body: Uint8Array): Promise<Answer> {
    const outgoing = this.#open(incoming);
    outgoing.end(body);
    const [answer] = (await once(outgoing, "response")) as [IncomingMessage];
    const received = {
      status: answer.statusCode ?? 500,
      headers: answer.headers,
      body: await readAll(answer),
    };
    const { method, url = "" } = incoming;
    if (method === "GET" && !this.#answers.has(url)) this.#answers.set(url, received);
    return received;
  }

  async #forwardHalf(incoming: IncomingMessage, body: Uint8Array): Promise<void> {
    const outgoing = this.#open(incoming);
    outgoing.on("error", () => undefined);
    await new Promise<void>((resolve) => {
      outgoing.write(body.subarray(0, body.byteLength >> 1), () => resolve());
    });
    outgoing.destroy();
  }

  #open(incoming: IncomingMessage): ReturnType<typeof request> {
    return request({
      host: "127.0.0.1",
      port: this.#targetPort,
      method: incoming.method,
      path: incoming.url,
      headers: plainHeaders(incoming.headers),
      agent: this.#agent,
    });
  }
}

async function readAll(message: IncomingMessage): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of message) chunks.push(chunk as Uint8Array);
  return concatBytes(chunks);
}

function send(response: ServerResponse, answer: Answer): void {
  response.writeHead(answer.status, plainHeaders(answer.headers));
  response.end(answer.body);
}

/** Without those that are for one connection only. */
function plainHeaders(headers: IncomingHttpHeaders): IncomingHttpHeaders {
  const { connection: _, expect: __, "transfer-encoding": ___, ...plain } = headers;
  return plain;
}
