/** Starts `kluis-child.ts` and follows it. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import type { LibvirtHypervisorOptions } from "#drivers/libvirt/libvirt-hypervisor.ts";
import type { VmStep } from "#drivers/layers/layered-vm.ts";
import type { QemuHypervisorOptions } from "#drivers/qemu/qemu-hypervisor.ts";
import type { ConsistencyRecord, FleeceRequest, SnapshotRequest } from "#ports/hypervisor.ts";

const program = fileURLToPath(new URL("kluis-child.ts", import.meta.url));
const stepTimeoutMs = 120_000;

/** What the child does; the options say with which driver. */
export interface ChildPlan {
  readonly options: QemuHypervisorOptions | LibvirtHypervisorOptions;
  readonly vmId: string;
  readonly operation:
    | { readonly kind: "snapshot"; readonly request: SnapshotRequest }
    | { readonly kind: "release"; readonly keepId: string }
    /** Takes an instant that is kept aside, reads a disk of it, and makes it a base. */
    | { readonly kind: "fleece"; readonly request: FleeceRequest; readonly disk: string }
    | { readonly kind: "detach" };
  /** The first time at this step it waits for {@link ChildRun.goOn}. */
  readonly waitAt?: VmStep;
  /** So long it stays at `frozen`. */
  readonly holdMs?: number;
}

/** What the child tells. */
export type ChildMessage =
  | { readonly kind: "step"; readonly step: VmStep; readonly atMs: number }
  | {
      readonly kind: "done";
      readonly snapshot?: { readonly id: string; readonly consistency: ConsistencyRecord };
    }
  | { readonly kind: "failed"; readonly code: string; readonly message: string };

/** A running child; it leads a process group of its own. Disposing kills the group. */
export class ChildRun implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #messages: ChildMessage[] = [];
  readonly #exited: Promise<unknown>;
  #wake: () => void = () => undefined;

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.#exited = once(child, "exit");
    if (child.stdout === null) throw new Error("the child has an output");
    // One that was killed is not told anything.
    child.stdin?.on("error", () => undefined);
    createInterface(child.stdout).on("line", (line) => {
      this.#messages.push(JSON.parse(line) as ChildMessage);
      this.#wake();
    });
  }

  /** `prefix` is a command that runs the child, for example as another user. */
  static start(plan: ChildPlan, prefix: readonly string[] = []): ChildRun {
    const command = [...prefix, process.execPath, program, JSON.stringify(plan)];
    const child = spawn(command[0] ?? "", command.slice(1), {
      detached: true,
      stdio: ["pipe", "pipe", "inherit"],
    });
    return new ChildRun(child);
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Resolves when the child has told that it is at `step`. */
  async waitForStep(step: VmStep): Promise<void> {
    await this.#waitFor((message) => message.kind === "step" && message.step === step);
  }

  /** When, on the wall clock, the child was at `step`; `undefined` where it has not told. */
  toldAtMs(step: VmStep): number | undefined {
    const message = this.#messages.find((each) => each.kind === "step" && each.step === step);
    return message?.kind === "step" ? message.atMs : undefined;
  }

  /** Lets a waiting child go on. */
  goOn(): void {
    this.#child.stdin?.write("go\n");
  }

  /** Sends a signal to the child and all of its process group; false where nobody was there to get it. */
  signalGroup(signal: NodeJS.Signals): boolean {
    try {
      return process.kill(-this.pid, signal);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
      return false;
    }
  }

  /** Kills the group, where it has not ended, and waits for the child's end. */
  async kill(): Promise<void> {
    this.signalGroup("SIGKILL");
    await this.#exited;
  }

  /** What the operation came to. */
  async outcome(): Promise<Exclude<ChildMessage, { kind: "step" }>> {
    const message = await this.#waitFor((each) => each.kind !== "step");
    if (message.kind === "step") throw new Error("a step is no outcome");
    return message;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) await this.kill();
  }

  async #waitFor(isIt: (message: ChildMessage) => boolean): Promise<ChildMessage> {
    const deadline = AbortSignal.timeout(stepTimeoutMs);
    for (;;) {
      const message = this.#messages.find(isIt);
      if (message !== undefined) return message;
      await new Promise<void>((resolve, reject) => {
        this.#wake = resolve;
        deadline.onabort = (): void => {
          reject(new Error(`the child told only ${JSON.stringify(this.#messages)}`));
        };
        void this.#exited.then(() => {
          if (this.#messages.find(isIt) === undefined) {
            reject(new Error(`the child ended after ${JSON.stringify(this.#messages)}`));
          }
        });
      });
    }
  }
}
