/** A peer on a socket that plays what guest agents were seen to do, one answer at a time. */
import { createServer, type Socket } from "node:net";
import { join } from "node:path";

import { createTempFolder } from "./temp-folder.ts";

/** What it is asked. */
export interface PeerRequest {
  readonly execute: string;
  readonly arguments?: { readonly id?: number; readonly arg?: readonly string[] };
}

/** What it does then. */
export type PeerAnswer = (request: PeerRequest, socket: Socket) => void;

/** A peer that listens at a path, and which commands it was asked. */
export interface AgentPeer extends AsyncDisposable {
  readonly path: string;
  readonly requests: readonly string[];
}

/** A peer that answers by `answer`, from one request to the next. */
export async function startPeer(answer: PeerAnswer): Promise<AgentPeer> {
  const folder = await createTempFolder();
  const path = join(folder.path, "agent.sock");
  const requests: string[] = [];
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => undefined);
    let rest = "";
    socket.setEncoding("latin1").on("data", (text: string) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        const request = JSON.parse(line.replaceAll("\xff", "")) as PeerRequest;
        requests.push(request.execute);
        answer(request, socket);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return {
    path,
    requests,
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await folder[Symbol.asyncDispose]();
    },
  };
}

/** Sends a value as a line. */
export function reply(socket: Socket, value: unknown): void {
  socket.write(`${JSON.stringify(value)}\n`);
}

/** What an agent in order answers: to a sync first a complaint about the delimiter before it. */
export function answerWell(request: PeerRequest, socket: Socket): void {
  if (request.execute === "guest-sync-delimited") {
    reply(socket, { error: { class: "GenericError", desc: "JSON parse error, stray" } });
    socket.write(Buffer.from([0xff]));
    reply(socket, { return: request.arguments?.id });
  } else if (request.execute === "guest-fsfreeze-status") {
    reply(socket, { return: "thawed" });
  } else {
    reply(socket, { return: request.execute });
  }
}
