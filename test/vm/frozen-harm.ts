/** The harm of a case of never-frozen: who gets the signal, how many processes that were, and its end. */
import { readFile } from "node:fs/promises";

import {
  isProcessAlive,
  signalProcess,
  type ProcessIdentity,
} from "#drivers/process/process-identity.ts";
import type { ChildRun } from "./child-run.ts";
import type { FrozenCell, Party } from "./frozen-matrix.ts";
import type { FrozenVm } from "./frozen-vm.ts";

/** Signals what lives of the processes with such a name, and prints how many those were. */
function signalNamed(grepOptions: string): string {
  return `n=0; for entry in $(grep ${grepOptions} /proc/[0-9]*/comm); do pid=\${entry#/proc/}; pid=\${pid%/comm}; grep -qs ') Z' /proc/$pid/stat || { kill -SIGNAL $pid 2>/dev/null && n=$((n+1)); }; done; echo $n`;
}

const inGuest = {
  agent: signalNamed("-slx qemu-ga"),
  watch: signalNamed("-slE '^k[st]-'"),
  script: "kill -SIGNAL -$(cat /run/script-pid) 2>/dev/null && echo 1 || echo 0",
} as const;

/** How many processes a case harms at least: where all of the host are meant, nobody may be missing. */
export function harmedLeast({ driver, party, step }: FrozenCell): number {
  if (party !== "host") return 1;
  // The guard may have done its last work by then, and Kluis too.
  if (step === "disarm") return driver === "libvirt" ? 2 : 1;
  return driver === "libvirt" ? 3 : 2;
}

/** The guard of the round under way; `undefined` where none lives. */
export async function readGuard(vm: FrozenVm): Promise<ProcessIdentity | undefined> {
  try {
    const identity = JSON.parse(await readFile(vm.guardPath, "utf8")) as ProcessIdentity;
    return (await isProcessAlive(identity)) ? identity : undefined;
  } catch (error) {
    const isAbsent = (error as NodeJS.ErrnoException).code === "ENOENT";
    if (isAbsent) return undefined;
    throw error;
  }
}

/** See above. */
export class Harm {
  readonly #cell: FrozenCell;
  readonly #vm: FrozenVm;
  readonly #child: ChildRun;
  #guard: ProcessIdentity | undefined;

  constructor(cell: FrozenCell, vm: FrozenVm, child: ChildRun) {
    this.#cell = cell;
    this.#vm = vm;
    this.#child = child;
  }

  /** Returns how many processes got the signal; a process group counts as one. */
  async apply(): Promise<number> {
    this.#guard = await readGuard(this.#vm);
    return this.#send(this.#cell.signal);
  }

  /** Ends what can end: who was stopped goes on, a libvirtd that was killed is started. */
  async undo(): Promise<void> {
    const { party, signal } = this.#cell;
    const { host } = this.#vm;
    if (signal === "SIGSTOP") await this.#send("SIGCONT");
    else if (host !== undefined && (party === "libvirtd" || party === "host")) {
      await host.kill();
      await host.restart();
    }
  }

  async #send(signal: NodeJS.Signals): Promise<number> {
    const { party } = this.#cell;
    if (party === "agent" || party === "watch" || party === "script") {
      const name = signal.slice("SIG".length);
      return Number(await this.#vm.guest.console.run(inGuest[party].replace("SIGNAL", name)));
    }
    const isKluis = party === "kluis" || party === "host";
    let harmed = isKluis && this.#child.signalGroup(signal) ? 1 : 0;
    for (const other of this.#othersOf(party)) {
      if (await signalProcess(other, signal)) harmed += 1;
    }
    return harmed;
  }

  #othersOf(party: Party): readonly ProcessIdentity[] {
    const isAll = party === "host";
    const guard = party === "guard" || isAll ? this.#guard : undefined;
    const daemon = party === "libvirtd" || isAll ? this.#vm.host?.daemon.identity : undefined;
    return [guard, daemon].filter((each) => each !== undefined);
  }
}
