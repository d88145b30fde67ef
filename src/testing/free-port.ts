/** A TCP port that nobody uses just now. */
import { once } from "node:events";
import { createServer, type AddressInfo } from "node:net";

/** A free port of 127.0.0.1; another process may take it before its server does, so start again then. */
export async function findFreePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}
