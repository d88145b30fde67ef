/**
 * Copies of disks at the instant of a backup without a snapshot tier, by a program that is not ours and
 * while the machine goes on: of disks that only a frozen file system writes, before the guest is thawed.
 */
import { join } from "node:path";

import type { Hypervisor } from "#ports/hypervisor.ts";
import { copyDisk } from "../device-fixture.ts";
import type { ExactVm } from "./exact-vm.ts";

/** What is done at the next instant. */
interface Expected {
  readonly disks: readonly string[];
  readonly beforeInstant: () => Promise<void>;
}

const nothing: Expected = { disks: [], beforeInstant: () => Promise.resolve() };

/** See above. */
export class InstantCopies {
  /** The driver that copies; for one backup at a time. */
  readonly hypervisor: Hypervisor;
  readonly #state: { expected: Expected; taken: ReadonlySet<string> };
  readonly #pathOf: (disk: string) => string;

  private constructor(
    hypervisor: Hypervisor,
    state: { expected: Expected; taken: ReadonlySet<string> },
    pathOf: (disk: string) => string,
  ) {
    this.hypervisor = hypervisor;
    this.#state = state;
    this.#pathOf = pathOf;
  }

  /** Copies go to raw files in `folder`. */
  static async open(vm: ExactVm, folder: string): Promise<InstantCopies> {
    const state = { expected: nothing, taken: new Set<string>() };
    const pathOf = (disk: string): string => join(folder, `${disk}.instant`);
    const hypervisor = await vm.reopen(async (step) => {
      // The guest's agent is nobody's yet.
      if (step === "fleece-attached") await state.expected.beforeInstant();
      if (step === "fleece-taken") {
        for (const disk of state.expected.disks) {
          const image = { path: vm.imagePath(disk), format: "qcow2", isOpen: true };
          copyDisk(image, pathOf(disk));
        }
        state.taken = new Set(state.expected.disks);
      }
    });
    return new InstantCopies(hypervisor, state, pathOf);
  }

  /**
   * Forgets older copies. At the next instant these qcow2 images are copied; shortly before, with the
   * guest's agent free, `beforeInstant` is called.
   */
  expect(disks: readonly string[], beforeInstant = nothing.beforeInstant): void {
    this.#state.expected = { disks, beforeInstant };
    this.#state.taken = new Set();
  }

  /** The raw copy of a disk; `undefined` where there was no instant, or it was not wanted. */
  find(disk: string): string | undefined {
    return this.#state.taken.has(disk) ? this.#pathOf(disk) : undefined;
  }
}
