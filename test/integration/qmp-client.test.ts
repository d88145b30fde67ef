/**
 * Goal: the monitor's client says what happened, what was refused, and what is not known. Method: a
 * real QEMU without a guest, which is also stopped and killed.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { isKluisError } from "#base/kluis-error.ts";
import { spawnDaemon, type Daemon } from "#drivers/process/daemon.ts";
import { planLayerNodes } from "#drivers/qemu/arguments.ts";
import { isQmpRefusal, QmpClient } from "#drivers/qmp/qmp-client.ts";
import { cancelJob, dismissJob, findJob, waitForJob } from "#drivers/qmp/qmp-jobs.ts";
import { createTempFolder, type TempFolder } from "#testing/temp-folder.ts";

interface BareMachine extends AsyncDisposable {
  readonly folder: TempFolder;
  readonly daemon: Daemon;
  readonly socket: string;
}

async function startBareMachine(): Promise<BareMachine> {
  const folder = await createTempFolder();
  const socket = join(folder.path, "qmp.sock");
  const monitor = ["-qmp", `unix:${socket},server=on,wait=off`];
  const args = ["-nodefaults", "-display", "none", "-machine", "none", "-S", ...monitor];
  const daemon = await spawnDaemon("qemu-system-x86_64", args, {
    isReady: () =>
      stat(socket).then(
        () => true,
        () => false,
      ),
    readyTimeoutMs: 30_000,
  });
  return {
    folder,
    daemon,
    socket,
    [Symbol.asyncDispose]: async () => {
      await daemon.stop();
      await folder[Symbol.asyncDispose]();
    },
  };
}

/** A disk of three layers in QEMU, so that there is something to commit. */
async function addLayers(machine: BareMachine, qmp: QmpClient): Promise<void> {
  const layers = [0, 1, 2].map((number) => ({
    number,
    path: join(machine.folder.path, `l${String(number)}.qcow2`),
    format: "qcow2" as const,
  }));
  for (const [at, { path }] of layers.entries()) {
    const below = layers[at - 1];
    const backing = below === undefined ? [] : ["-b", below.path, "-F", "qcow2"];
    execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", ...backing, path, "16M"]);
    if (at > 0) execFileSync("qemu-io", ["-c", "write -P 3 0 8M", path]);
  }
  for (const [at, layer] of layers.entries()) {
    const backing = at === 0 ? {} : { backing: `disk-vda-${String(at - 1)}` };
    for (const node of planLayerNodes("vda", layer, { isReadOnly: at < 2, ...backing })) {
      await qmp.execute("blockdev-add", node);
    }
  }
}

test("QMP client: tells the version and answers of overlapping commands apart", async () => {
  await using machine = await startBareMachine();
  await using qmp = await QmpClient.open(machine.socket);
  assert.match(qmp.version, /^\d+\.\d+\.\d+$/);
  const names = ["query-version", "query-status", "query-jobs", "query-name"];
  const answers = await Promise.all(names.map((name) => qmp.execute(name)));
  for (const [at, name] of names.entries()) assert.deepEqual(answers[at], await qmp.execute(name));
});

test("QMP client: a refusal carries QEMU's class and words", async () => {
  await using machine = await startBareMachine();
  await using qmp = await QmpClient.open(machine.socket);
  for (const [command, pattern] of [
    ["no-such-command", "CommandNotFound"],
    ["blockdev-del", "GenericError"],
  ] as const) {
    await assert.rejects(
      qmp.execute(command, command === "blockdev-del" ? { "node-name": "x" } : {}),
      (error) => {
        assert.ok(isKluisError(error, "QmpFailed") && isQmpRefusal(error));
        assert.equal(error.details["class"], pattern);
        assert.match(error.message, new RegExp(command));
        return true;
      },
    );
  }
});

test("QMP client: a transaction happens whole or not at all", async () => {
  await using machine = await startBareMachine();
  await using qmp = await QmpClient.open(machine.socket);
  await addLayers(machine, qmp);
  const bitmap = (node: string): { type: string; data: Record<string, string> } => ({
    type: "block-dirty-bitmap-add",
    data: { node, name: "b" },
  });
  const failing = qmp.transaction([bitmap("disk-vda-2"), bitmap("no-such-node")]);
  await assert.rejects(failing, (error) => isQmpRefusal(error));
  await qmp.transaction([bitmap("disk-vda-2")]);
});

test("QMP client: events come in order to whoever watches", async () => {
  await using machine = await startBareMachine();
  await using qmp = await QmpClient.open(machine.socket);
  using events = qmp.watchEvents();
  assert.equal(await events.next(10), undefined);
  await qmp.execute("blockdev-create", {
    "job-id": "j",
    options: { driver: "file", filename: join(machine.folder.path, "new"), size: 4096 },
  });
  const seen: unknown[] = [];
  for (;;) {
    const event = await events.next(5_000);
    assert.ok(event !== undefined, `after ${JSON.stringify(seen)}`);
    seen.push(event.data["status"]);
    if (event.data["status"] === "concluded") break;
  }
  assert.deepEqual(seen.slice(0, 2), ["created", "running"]);
});

test("QMP client: jobs are followed to their end, cancelled and dismissed", async () => {
  await using machine = await startBareMachine();
  await using qmp = await QmpClient.open(machine.socket);
  await addLayers(machine, qmp);
  const commit = (speed: number): Promise<unknown> =>
    qmp.execute("block-commit", {
      "job-id": "c",
      device: "disk-vda-2",
      "top-node": "disk-vda-1",
      "base-node": "disk-vda-0",
      "auto-dismiss": false,
      speed,
    });
  await commit(65_536);
  let looks = 0;
  const wait = { isUnwanted: () => Promise.resolve((looks += 1) > 1) };
  const running = await waitForJob(qmp, "c", [], wait);
  assert.equal(running.status, "running");
  await cancelJob(qmp, "c");
  assert.equal(await findJob(qmp, "c"), undefined);
  await cancelJob(qmp, "c");
  await commit(0);
  const done = await waitForJob(qmp, "c", []);
  await dismissJob(qmp, done);
  assert.equal(done.doneUnits, done.allUnits);
  await assert.rejects(waitForJob(qmp, "c", []), (error) => isKluisError(error, "QmpFailed"));
  await qmp.execute("blockdev-create", {
    "job-id": "bad",
    options: { driver: "file", filename: "/no/such/folder/new", size: 4096 },
  });
  const failed = await waitForJob(qmp, "bad", []);
  await assert.rejects(dismissJob(qmp, failed), /No such file/);
  assert.equal(await findJob(qmp, "bad"), undefined);
});

test("QMP client: a second session waits for the first", async () => {
  await using machine = await startBareMachine();
  const first = await QmpClient.open(machine.socket);
  await assert.rejects(QmpClient.open(machine.socket, { timeoutMs: 100 }), (error) =>
    isKluisError(error, "QmpFailed"),
  );
  const second = QmpClient.open(machine.socket, { timeoutMs: 10_000 });
  await first[Symbol.asyncDispose]();
  await using qmp = await second;
  await qmp.execute("query-status");
  await assert.rejects(first.execute("query-status"), (error) => isKluisError(error, "QmpFailed"));
});

test("QMP client: does not wait for ever for a QEMU that stands still, and drops the late answer", async () => {
  await using machine = await startBareMachine();
  await using qmp = await QmpClient.open(machine.socket);
  process.kill(machine.daemon.identity.pid, "SIGSTOP");
  await assert.rejects(qmp.execute("query-name", undefined, { timeoutMs: 50 }), (error) => {
    assert.ok(isKluisError(error, "QmpFailed"));
    assert.ok(!isQmpRefusal(error), "whether it happened is not known");
    return true;
  });
  const cancel = new AbortController();
  const reason = new Error("enough");
  const waiting = qmp.execute("query-name", undefined, { signal: cancel.signal });
  cancel.abort(reason);
  await assert.rejects(waiting, reason);
  process.kill(machine.daemon.identity.pid, "SIGCONT");
  const status = (await qmp.execute("query-status")) as { readonly status: string };
  assert.equal(status.status, "prelaunch");
});

test("QMP client: what waits is told when QEMU dies, and nothing reconnects", async () => {
  await using machine = await startBareMachine();
  await using qmp = await QmpClient.open(machine.socket);
  using events = qmp.watchEvents();
  process.kill(machine.daemon.identity.pid, "SIGSTOP");
  const waiting = qmp.execute("query-name");
  const watching = events.next(30_000);
  process.kill(machine.daemon.identity.pid, "SIGKILL");
  await assert.rejects(waiting, (error) => isKluisError(error, "QmpFailed"));
  await assert.rejects(watching, (error) => isKluisError(error, "QmpFailed"));
  await assert.rejects(qmp.execute("query-name"), (error) => isKluisError(error, "QmpFailed"));
  await assert.rejects(QmpClient.open(machine.socket, { timeoutMs: 100 }), (error) =>
    isKluisError(error, "QmpFailed"),
  );
});
