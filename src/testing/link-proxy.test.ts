// Goal: the link keeps bytes and their order, and is neither nearer nor wider than it was told.
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer, type AddressInfo } from "node:net";
import { test } from "node:test";

import { bytesEqual, concatBytes } from "#base/bytes.ts";
import { startLinkProxy } from "./link-proxy.ts";
import { createSeededRandom } from "./seeded-random.ts";

test("link proxy: an echo comes back whole, after the round trip and at the bandwidth", async (t) => {
  const isHalf = { allowHalfOpen: true };
  const server = createServer(isHalf, (socket) => socket.pipe(socket)).listen(0, "127.0.0.1");
  t.after(() => server.close());
  await once(server, "listening");
  const { port: targetPort } = server.address() as AddressInfo;
  const link = { targetPort, roundTripMs: 30, bytesPerSecond: 20_000_000 };
  await using proxy = await startLinkProxy(link);
  const contents = [1, 2, 3].map((at) => createSeededRandom(`link ${at}`).bytes(1_000_000));
  const startMs = performance.now();
  await Promise.all(
    contents.map(async (content) => {
      const socket = connect({ host: "127.0.0.1", port: proxy.port, ...isHalf });
      socket.end(content);
      const chunks: Uint8Array[] = [];
      for await (const chunk of socket) chunks.push(chunk as Uint8Array);
      assert.ok(bytesEqual(concatBytes(chunks), content));
    }),
  );
  // 3 MB at 20 MB/s one after the other, and there and back again.
  assert.ok(performance.now() - startMs >= 150 + 29, "the link is as slow as it was told");
  assert.equal(proxy.receivedBytes, 3_000_000);
});
