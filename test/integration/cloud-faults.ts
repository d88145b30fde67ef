/** What a cloud store must do when requests fail; each driver runs this against its real server. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { bytesEqual } from "#base/bytes.ts";
import type { Clock } from "#base/clock.ts";
import { isKluisError } from "#base/kluis-error.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import { createFastClock } from "#testing/fast-clock.ts";
import { type FaultProxy, type ProxyFault, startFaultProxy } from "#testing/fault-proxy.ts";
import { createSeededRandom } from "#testing/seeded-random.ts";
import { listAll } from "#testing/suites/object-store-suite.ts";

/** A server and how to open an empty store on it through a proxy. */
export interface CloudServer {
  readonly port: () => number;
  /** On the place called `name`. */
  readonly open: (name: string, port: number, clock: Clock) => Promise<ObjectStore>;
}

const isLong = process.env["KLUIS_LONG"] === "1";
/** Pauses are short; 30 s without a byte are 3 s here, which no loaded machine takes for an answer. */
const clock = createFastClock(10);
/** For what waits for long: 30 s are 600 ms. */
const hastyClock = createFastClock(50);

const beforeServer: readonly ProxyFault[] = [
  { kind: "status", status: 500 },
  { kind: "status", status: 503, retryAfterS: 1 },
  { kind: "status", status: 429 },
  { kind: "drop" },
  { kind: "hang" },
];
const anyMethod: readonly ProxyFault[] = [
  ...beforeServer,
  { kind: "lost-answer" },
  { kind: "slow", delayMs: 50 },
];
const ofPut: readonly ProxyFault[] = [
  ...anyMethod,
  { kind: "cut-request" },
  { kind: "damage-request" },
];
const ofRead: readonly ProxyFault[] = [...anyMethod, { kind: "cut-answer" }];

interface World extends AsyncDisposable {
  readonly proxy: FaultProxy;
  readonly store: ObjectStore;
  /** The same store, by a clock that runs five times as fast. */
  readonly hasty: ObjectStore;
}

/** Declares the tests for the driver called `name`. */
export function testCloudFaults(name: string, server: CloudServer): void {
  let worlds = 0;
  const openWorld = async (): Promise<World> => {
    const proxy = await startFaultProxy(server.port());
    const place = `faults/${worlds++}`;
    const store = await server.open(place, proxy.port, clock);
    const hasty = await server.open(place, proxy.port, hastyClock);
    return { proxy, store, hasty, [Symbol.asyncDispose]: () => proxy[Symbol.asyncDispose]() };
  };
  declareSingleFaults(name, openWorld);
  declareLostAnswers(name, openWorld);
  declareLimits(name, openWorld);
  declarePages(name, openWorld);
  declareChance(name, openWorld);
}

function declareSingleFaults(name: string, openWorld: () => Promise<World>): void {
  test(`${name}: each call gets over each fault, once and twice`, async () => {
    await using world = await openWorld();
    const { store, hasty, proxy } = world;
    const content = createSeededRandom(`${name} faults`).bytes(300_000);
    await store.put("a/there", [content]);
    let cases = 0;
    const check = async (
      fault: ProxyFault,
      method: string,
      call: (store: ObjectStore) => Promise<void>,
    ) => {
      // Each hanging request takes its 30 s.
      for (const times of fault.kind === "hang" && !isLong ? [1] : [1, 2]) {
        const injected = proxy.injected;
        proxy.inject({ fault, method, times });
        await call(fault.kind === "hang" ? hasty : store);
        // A put that finds an object when it reads back needs no second attempt.
        assert.ok(proxy.injected > injected, `${method} ${JSON.stringify(fault)}`);
        proxy.heal();
        cases++;
      }
    };
    for (const [at, fault] of ofPut.entries()) {
      let count = 0;
      await check(fault, "PUT", async (store) => {
        const target = `p/${at}/${count++}`;
        assert.equal(await store.put(target, [content]), "created");
        assert.ok(bytesEqual(await store.get(target), content));
      });
      await check(fault, "PUT", async (store) => {
        assert.equal(await store.put("a/there", [content.subarray(1)]), "exists");
        assert.equal((await store.stat("a/there"))?.sizeBytes, content.byteLength);
      });
    }
    for (const fault of ofRead) {
      await check(fault, "GET", async (store) => {
        assert.ok(bytesEqual(await store.get("a/there"), content));
      });
      await check(fault, "GET", async (store) => {
        const range = { offsetBytes: 5, lengthBytes: 70_000 };
        assert.ok(bytesEqual(await store.get("a/there", range), content.subarray(5, 70_005)));
      });
      await check(fault, "GET", async (store) => {
        assert.deepEqual(await listAll(store, "a/"), new Map([["a/there", content.byteLength]]));
      });
    }
    for (const fault of anyMethod) {
      await check(fault, "HEAD", async (store) => {
        assert.equal((await store.stat("a/there"))?.sizeBytes, content.byteLength);
        assert.equal(await store.stat("a/nowhere"), undefined);
      });
      await check(fault, "DELETE", async (store) => {
        await store.put("d/x", [content.subarray(0, 9)]);
        await store.remove("d/x");
        assert.equal(await store.stat("d/x"), undefined);
      });
    }
    console.log(`${name}: ${cases} calls got over their fault`);
  });
}

function declareLostAnswers(name: string, openWorld: () => Promise<World>): void {
  test(`${name}: of racing puts one is told that it created the object, though answers are lost`, async () => {
    await using world = await openWorld();
    const { store, proxy } = world;
    const random = createSeededRandom(`${name} lost answers`);
    const rounds = isLong ? 200 : 15;
    for (let round = 0; round < rounds; round++) {
      const isEqual = round % 2 === 0;
      const same = random.bytes(2000);
      const contents = Array.from({ length: 6 }, () => (isEqual ? same : random.bytes(2000)));
      const target = `race/${round}`;
      proxy.inject({
        fault: { kind: "lost-answer" },
        method: "PUT",
        times: random.integer(1, contents.length),
      });
      const outcomes = await Promise.all(contents.map((one) => store.put(target, [one])));
      proxy.heal();
      const created = outcomes.filter((outcome) => outcome === "created");
      assert.equal(created.length, 1, `round ${round}: ${outcomes.join()}`);
      const winner = contents[outcomes.indexOf("created")] ?? assert.fail();
      assert.ok(bytesEqual(await store.get(target), winner));
    }
    console.log(`${name}: ${rounds} races of 6 writers with lost answers`);
  });

  test(`${name}: a put that was broken off leaves nothing or the whole object`, async () => {
    await using world = await openWorld();
    const { store, proxy } = world;
    const content = createSeededRandom(`${name} broken puts`).bytes(2_500_000);
    for (const kind of ["cut-request", "lost-answer"] as const) {
      proxy.inject({ fault: { kind }, method: "PUT", times: 1 });
      proxy.inject({ fault: { kind: "status", status: 403 }, method: "PUT", times: 1 });
      proxy.inject({ fault: { kind: "status", status: 403 }, method: "HEAD", times: 1 });
      const target = `broken/${kind}`;
      await assert.rejects(store.put(target, [content]), (error) =>
        isKluisError(error, "StoreDenied"),
      );
      proxy.heal();
      const info = await store.stat(target);
      if (kind === "lost-answer") assert.ok(info !== undefined);
      if (info !== undefined) assert.ok(bytesEqual(await store.get(target), content));
    }
  });
}

function declareLimits(name: string, openWorld: () => Promise<World>): void {
  test(`${name}: a store that is down costs a bounded number of requests, then StoreUnavailable`, async () => {
    await using world = await openWorld();
    const { hasty: store, proxy } = world;
    const down: ProxyFault = { kind: "status", status: 503 };
    const sent = (): number => proxy.requests;
    proxy.inject({ fault: down, times: Number.POSITIVE_INFINITY });
    const isDown = (error: unknown): boolean => isKluisError(error, "StoreUnavailable");
    await assert.rejects(store.get("x"), isDown);
    assert.equal(sent(), 10);
    await assert.rejects(store.put("x", [Uint8Array.of(1)]), isDown);
    assert.equal(sent(), 30, "each attempt to put is read back");
    await Promise.all(Array.from({ length: 100 }, () => assert.rejects(store.stat("x"), isDown)));
    // 100 calls of 10 attempts would be 1,000; the budget of all is 500.
    assert.ok(sent() <= 30 + 100 + 500, `${sent()} requests`);
    proxy.heal();
    assert.equal(await store.stat("x"), undefined);
  });

  test(`${name}: what cannot get better ends at once, and a wait ends when it is aborted`, async () => {
    await using world = await openWorld();
    const { store, proxy } = world;
    proxy.inject({ fault: { kind: "status", status: 403 } });
    const isDenied = (error: unknown): boolean => isKluisError(error, "StoreDenied");
    await assert.rejects(store.get("x"), isDenied);
    assert.equal(proxy.requests, 1);
    const reason = new Error("stopped by the test");
    for (const fault of [{ kind: "hang" }, { kind: "status", status: 503, retryAfterS: 50 }]) {
      const stop = new AbortController();
      const sent: number = proxy.requests;
      proxy.inject({ fault: fault as ProxyFault, times: 3 });
      const call = store.get("x", undefined, stop.signal);
      const ended = assert.rejects(call, (error) => error === reason);
      while (proxy.requests === sent) await new Promise(setImmediate);
      stop.abort(reason);
      await ended;
      proxy.heal();
    }
  });
}

function declarePages(name: string, openWorld: () => Promise<World>): void {
  test(`${name}: a listing of several pages is whole, though requests fail`, async () => {
    await using world = await openWorld();
    const { store, proxy } = world;
    const names = Array.from({ length: 1005 }, (_, at) => `page/${at}`);
    const left = [...names];
    const putSome = async (): Promise<void> => {
      for (let one = left.pop(); one !== undefined; one = left.pop()) await store.put(one, []);
    };
    await Promise.all(Array.from({ length: 12 }, putSome));
    const sent = proxy.requests;
    proxy.inject({ fault: { kind: "lost-answer" }, method: "GET" });
    assert.deepEqual(new Set((await listAll(store, "page/")).keys()), new Set(names));
    assert.ok(proxy.requests >= sent + 3, "two pages, one of them asked for twice");
  });
}

function declareChance(name: string, openWorld: () => Promise<World>): void {
  test(`${name}: random steps agree with a map while one request in five fails`, async () => {
    await using world = await openWorld();
    const { store, proxy } = world;
    const random = createSeededRandom(`${name} chance`);
    const faults = [...new Set([...ofPut, ...ofRead])].filter(({ kind }) => kind !== "hang");
    proxy.failByChance({ random, probability: 0.2, faults });
    const model = new Map<string, Uint8Array>();
    const steps = isLong ? 3000 : 150;
    for (let step = 0; step < steps; step++) {
      const target = `m/${random.integer(0, 5)}`;
      const known = model.get(target);
      const action = random.pick(["put", "put", "get", "remove", "list"] as const);
      if (action === "put") {
        const content = random.bytes(random.integer(0, 3000));
        const outcome = await store.put(target, [content]);
        assert.equal(outcome, known === undefined ? "created" : "exists");
        if (known === undefined) model.set(target, content);
      } else if (action === "remove") {
        await store.remove(target);
        model.delete(target);
      } else if (action === "list") {
        assert.deepEqual([...(await listAll(store)).keys()], [...model.keys()].sort());
      } else if (known === undefined) {
        await assert.rejects(store.get(target), (one) => isKluisError(one, "ObjectNotFound"));
      } else {
        assert.ok(bytesEqual(await store.get(target), known));
      }
    }
    console.log(`${name}: ${steps} steps, ${proxy.injected} of ${proxy.requests} requests failed`);
  });
}
