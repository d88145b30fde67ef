/** Runs qemu-nbd on one image for one client: us. */
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { systemClock } from "#base/clock.ts";
import { isKluisError, KluisError } from "#base/kluis-error.ts";
import { NBD_IN_FLIGHT_MAX } from "#drivers/nbd/limits.ts";
import { openNbdClient, type NbdClient } from "#drivers/nbd/nbd-client.ts";
import type { ExitStatus } from "#drivers/process/child.ts";
import { spawnDaemon, type Daemon } from "#drivers/process/daemon.ts";
import { lastLine } from "#drivers/process/run-tool.ts";
import { toImageError } from "./image-info.ts";
import { type ImageKeyInput, withImageKey } from "./image-key.ts";

/** How long qemu-nbd may take to open an image. */
const QEMU_NBD_READY_TIMEOUT_MS = 60_000;
/** How long where layers are encrypted: the passphrase is worked out anew for each, some 2 s. */
const QEMU_NBD_UNLOCK_TIMEOUT_MS = 300_000;
/** How long a reader's qemu-nbd may take to end after we hung up, before it is told to. */
const QEMU_NBD_READER_END_MS = 5_000;
/** How long a writer's may: it writes back what it has cached. */
const QEMU_NBD_WRITER_END_MS = 600_000;
/** How long the end of a process may come after the end of its connection. */
const QEMU_NBD_LAST_WORDS_MS = 500;
/** Longest temporary folder below which the path of a socket (107 bytes) still fits. */
const TEMP_FOLDER_CHARS_MAX = 80;

/** How an image is served. */
export interface QemuNbdOptions {
  readonly path: string;
  readonly format: string;
  /** What QEMU is given instead of path and format: see `toImageNode`. */
  readonly node?: string | undefined;
  readonly writable?: boolean;
  /** What opens the encrypted images that `node` names. */
  readonly passphrase?: Uint8Array | undefined;
  /** Contexts beside `base:allocation`. */
  readonly metaContexts?: readonly string[];
  readonly signal?: AbortSignal | undefined;
}

/** A qemu-nbd and our connection to it. */
export interface QemuNbd extends AsyncDisposable {
  readonly client: NbdClient;
  /** Why it has ended, where it has or does so at once; else `undefined`. */
  failure(): Promise<string | undefined>;
  /**
   * Hangs up and waits until qemu-nbd has closed the image. After a writer's end all is in the
   * file. Throws TargetWriteFailed where qemu-nbd did not end well.
   */
  finish(): Promise<void>;
}

/**
 * Starts qemu-nbd on a socket that only we can reach, and connects.
 *
 * It holds QEMU's locks on the image. It ends when we disconnect, and the kernel kills it if we die.
 *
 * Errors: ImageNotFound, ImageInvalid, ImageInUse (after-change), ToolMissing, DiskReadFailed.
 */
export async function startQemuNbd(options: QemuNbdOptions): Promise<QemuNbd> {
  const parent = tmpdir().length > TEMP_FOLDER_CHARS_MAX ? "/tmp" : tmpdir();
  const folder = await mkdtemp(join(parent, "kluis-"));
  let daemon: Daemon | undefined;
  try {
    daemon = await spawn(options, folder);
    const client = await openNbdClient(
      { transport: "unix", socketPath: join(folder, "nbd"), exportName: "" },
      {
        metaContexts: ["base:allocation", ...(options.metaContexts ?? [])],
        // It ends with its connection.
        reconnectAttemptsMax: 0,
        // It works on 16 at once, and must not wait for us in between.
        ...(options.writable === true ? {} : { requestsInFlight: NBD_IN_FLIGHT_MAX }),
        ...(options.signal === undefined ? {} : { signal: options.signal }),
      },
    );
    return new RunningQemuNbd(client, daemon, folder, options);
  } catch (error) {
    await daemon?.stop();
    await rm(folder, { recursive: true, force: true });
    throw error;
  }
}

async function spawn(options: QemuNbdOptions, folder: string): Promise<Daemon> {
  return await withImageKey(options.passphrase, (key) => spawnWithKey(options, folder, key));
}

async function spawnWithKey(
  options: QemuNbdOptions,
  folder: string,
  key: ImageKeyInput,
): Promise<Daemon> {
  const { format, node, path, passphrase, signal } = options;
  const pidPath = join(folder, "pid");
  const args = [
    ...key.args,
    ...(options.writable === true ? ["--discard=unmap"] : ["--read-only"]),
    ...(options.metaContexts?.includes("qemu:allocation-depth") === true
      ? ["--allocation-depth"]
      : []),
    ...(node === undefined ? [`--format=${format}`] : []),
    `--socket=${join(folder, "nbd")}`,
    // Written when the socket listens.
    `--pid-file=${pidPath}`,
    "--",
    node ?? path,
  ];
  try {
    return await spawnDaemon("qemu-nbd", args, {
      isReady: () => exists(pidPath),
      readyTimeoutMs:
        passphrase === undefined ? QEMU_NBD_READY_TIMEOUT_MS : QEMU_NBD_UNLOCK_TIMEOUT_MS,
      ...key.options,
      ...(signal === undefined ? {} : { signal }),
    });
  } catch (error) {
    const said = isKluisError(error, "ToolFailed") ? error.details["said"] : undefined;
    throw typeof said === "string" ? toImageError(path, said) : error;
  }
}

class RunningQemuNbd implements QemuNbd {
  readonly client: NbdClient;
  readonly #daemon: Daemon;
  readonly #folder: string;
  readonly #options: QemuNbdOptions;
  #isOver = false;

  constructor(client: NbdClient, daemon: Daemon, folder: string, options: QemuNbdOptions) {
    this.client = client;
    this.#daemon = daemon;
    this.#folder = folder;
    this.#options = options;
  }

  async failure(): Promise<string | undefined> {
    // A lost connection shows a little before the end of the process.
    await settledWithin(this.#daemon.exited, QEMU_NBD_LAST_WORDS_MS);
    const { exitStatus } = this.#daemon;
    if (exitStatus === undefined) return undefined;
    const said = lastLine(this.#daemon.stderrTail());
    return said ?? `qemu-nbd ended (${describeExit(exitStatus)})`;
  }

  async finish(): Promise<void> {
    const limitMs =
      this.#options.writable === true ? QEMU_NBD_WRITER_END_MS : QEMU_NBD_READER_END_MS;
    const status = await this.#end(limitMs);
    if (status.code === 0) return;
    throw new KluisError(
      "TargetWriteFailed",
      `Cannot write "${this.#options.path}": ${(await this.failure()) ?? "qemu-nbd was ended"}`,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#end(QEMU_NBD_READER_END_MS);
  }

  async #end(limitMs: number): Promise<ExitStatus> {
    if (this.#isOver) return this.#daemon.exited;
    this.#isOver = true;
    await this.client[Symbol.asyncDispose]();
    const hasEnded = await settledWithin(this.#daemon.exited, limitMs);
    const status = hasEnded ? await this.#daemon.exited : await this.#daemon.stop();
    await rm(this.#folder, { recursive: true, force: true });
    return status;
  }
}

/** Whether `work` settles within `limitMs`. */
async function settledWithin(work: Promise<unknown>, limitMs: number): Promise<boolean> {
  const patience = new AbortController();
  const late = systemClock.sleep(limitMs, patience.signal).then(
    () => false,
    // Settled in time.
    () => true,
  );
  const isSettled = await Promise.race([work.then(() => true), late]);
  patience.abort();
  return isSettled;
}

function describeExit(status: ExitStatus): string {
  return status.signal ?? `exit code ${String(status.code)}`;
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw error;
  }
}
