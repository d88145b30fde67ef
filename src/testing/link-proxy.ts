/**
 * A TCP proxy that is a long link: whatever passes arrives later by half the round trip, and each
 * direction carries a bounded number of bytes a second, over all connections together.
 */
import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";

/** How far away the server seems to be. */
export interface LinkOptions {
  /** On 127.0.0.1. */
  readonly targetPort: number;
  readonly roundTripMs: number;
  readonly bytesPerSecond: number;
}

/** Bytes of one connection on their way: more than any bandwidth-delay product that is tested. */
const windowBytes = 16 * 1024 * 1024;

/** Starts the link. Disposing it breaks its connections. */
export async function startLinkProxy(options: LinkOptions): Promise<LinkProxy> {
  const proxy = new LinkProxy(options);
  await proxy.listen();
  return proxy;
}

/** See the file's head. */
export class LinkProxy implements AsyncDisposable {
  readonly #options: LinkOptions;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #toServer: Direction;
  readonly #toClient: Direction;

  constructor(options: LinkOptions) {
    this.#options = options;
    this.#toServer = new Direction(options);
    this.#toClient = new Direction(options);
    this.#server = createServer({ allowHalfOpen: true }, (client) => this.#join(client));
  }

  async listen(): Promise<void> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Bytes that have come back so far. */
  get receivedBytes(): number {
    return this.#toClient.carriedBytes;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, "close");
  }

  #join(client: Socket): void {
    const { targetPort: port } = this.#options;
    const server = connect({ host: "127.0.0.1", port, allowHalfOpen: true });
    for (const [from, to, direction] of [
      [client, server, this.#toServer],
      [server, client, this.#toClient],
    ] as const) {
      from.setNoDelay();
      this.#sockets.add(from);
      from.on("error", () => to.destroy());
      from.on("close", () => this.#sockets.delete(from));
      direction.carry(from, to);
    }
  }
}

/** One direction of the link. */
class Direction {
  readonly #options: LinkOptions;
  #freeAtMs = 0;
  carriedBytes = 0;

  constructor(options: LinkOptions) {
    this.#options = options;
  }

  carry(from: Socket, to: Socket): void {
    // First in, first out: timers that are due in the same millisecond have no order.
    const onWay: { readonly arrivalMs: number; readonly work: () => void }[] = [];
    let onWayBytes = 0;
    const deliver = (): void => {
      const now = performance.now();
      while ((onWay[0]?.arrivalMs ?? Number.POSITIVE_INFINITY) <= now) onWay.shift()?.work();
      const [next] = onWay;
      if (next !== undefined) setTimeout(deliver, next.arrivalMs - now);
    };
    const later = (arrivalMs: number, work: () => void): void => {
      onWay.push({ arrivalMs, work });
      if (onWay.length === 1) setTimeout(deliver, arrivalMs - performance.now());
    };
    from.on("data", (chunk) => {
      onWayBytes += chunk.byteLength;
      if (onWayBytes > windowBytes) from.pause();
      later(this.#send(chunk.byteLength), () => {
        onWayBytes -= chunk.byteLength;
        if (onWayBytes <= windowBytes) from.resume();
        if (!to.destroyed) to.write(chunk);
      });
    });
    from.on("end", () => later(this.#send(0), () => to.end()));
  }

  /** Puts bytes on the line; returns when they are through. */
  #send(sizeBytes: number): number {
    const { roundTripMs, bytesPerSecond } = this.#options;
    const startMs = Math.max(performance.now(), this.#freeAtMs);
    this.#freeAtMs = startMs + (sizeBytes * 1000) / bytesPerSecond;
    this.carriedBytes += sizeBytes;
    return this.#freeAtMs + roundTripMs / 2;
  }
}
