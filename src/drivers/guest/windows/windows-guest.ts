/** A guest that VSS brings to rest: writers for its applications, a hold of writes that VSS bounds. */
import { isKluisError } from "#base/kluis-error.ts";
import type { SnapshotRequest } from "#ports/hypervisor.ts";
import type { FreezeRound } from "../freeze-round.ts";
import { GuestAgent } from "../guest-agent.ts";
import { listGuestFileSystems } from "../guest-commands.ts";
import type {
  BackupNote,
  FreezeWish,
  GuestPlace,
  GuestSystem,
  GuestVerdict,
} from "../guest-system.ts";
import type { FreezeOutcome } from "../scripts/decide-consistency.ts";
import { decideVssConsistency } from "./decide-vss-consistency.ts";
import { parseAnswer } from "./plan-vss.ts";
import { prepareVss, type VssPreparation } from "./prepare-vss.ts";
import { judgeVssWriters, parseVssWriters, type WritersVerdict } from "./vss-writers.ts";
import { callWindowsExtension } from "./windows-extension.ts";

/** How often writers that are still at it are asked, and how long is waited between. */
const WRITER_TRIES = 3;
const WRITER_RETRY_MS = 2_000;

/** See above, and GuestSystem. */
export class WindowsGuest implements GuestSystem {
  readonly freeze: FreezeWish;
  readonly mounts?: readonly string[];
  readonly mountsSkipped: readonly string[];
  readonly #place: GuestPlace;
  readonly #request: SnapshotRequest;
  readonly #vss: VssPreparation;

  private constructor(
    place: GuestPlace,
    request: SnapshotRequest,
    found: { readonly vss: VssPreparation; readonly mounts: readonly string[] | undefined },
  ) {
    this.#place = place;
    this.#request = request;
    this.#vss = found.vss;
    const wished = new Set(request.mountsToSkip ?? []);
    const all = found.mounts;
    if (all !== undefined) this.mounts = all.filter((mount) => !wished.has(mount));
    this.mountsSkipped = all?.filter((mount) => wished.has(mount)) ?? [...wished];
    const { obstacle } = found.vss;
    const isPartial = this.mounts !== undefined && this.mountsSkipped.length > 0;
    this.freeze =
      obstacle === undefined
        ? {
            kind: "freeze",
            plan: {
              budgetMs: request.freezeBudgetMs,
              keeper: "vss",
              ...(isPartial && this.mounts !== undefined ? { mountPoints: this.mounts } : {}),
            },
          }
        : { kind: "not", reason: obstacle };
  }

  /** Looks at the guest and prepares it. Errors: AgentUnavailable (backoff). */
  static async open(
    agent: GuestAgent,
    asked: { readonly place: GuestPlace; readonly request: SnapshotRequest },
    signal: AbortSignal | undefined,
  ): Promise<WindowsGuest> {
    const { place, request } = asked;
    const vss = await prepareVss(agent, request, signal);
    const mounts = await listMounts(agent, signal);
    return new WindowsGuest(place, request, { vss, mounts });
  }

  /** VSS asks the applications itself, as a part of the freeze. */
  quiesce(): Promise<undefined> {
    return Promise.resolve(undefined);
  }

  async conclude(freeze: FreezeOutcome, round: FreezeRound | undefined): Promise<GuestVerdict> {
    const requested = this.#request.consistency;
    const facts = { requested, freeze, evidence: this.#vss.evidence };
    if (freeze.kind !== "counts" || requested !== "application") return decideVssConsistency(facts);
    // The guard has the agent until then.
    await round?.[Symbol.asyncDispose]();
    return decideVssConsistency({ ...facts, writers: await this.#askWriters() });
  }

  async keepNote(agent: GuestAgent, note: BackupNote): Promise<void> {
    const error = note.error === "" ? "-" : Buffer.from(note.error, "utf8").toString("base64");
    await callWindowsExtension(agent, ["note", note.status, error]);
  }

  async #askWriters(): Promise<WritersVerdict> {
    const { extensionError } = this.#vss;
    if (extensionError !== undefined) return unknown(extensionError);
    const { agentSocket, clock } = this.#place;
    try {
      await using agent = await GuestAgent.open(agentSocket, { clock });
      for (let tries = 1; ; tries++) {
        const verdict = readWriters(await callWindowsExtension(agent, ["writers"]));
        if (verdict.kind !== "busy" || tries === WRITER_TRIES) return verdict;
        await clock.sleep(WRITER_RETRY_MS);
      }
    } catch (error) {
      if (!isKluisError(error)) throw error;
      return unknown(error.message);
    }
  }
}

function readWriters(text: string): WritersVerdict {
  const { exit, text: list } = parseAnswer(text);
  if (exit !== 0) return unknown(`vssadmin ended with exit code ${String(exit)}`);
  return judgeVssWriters(parseVssWriters(typeof list === "string" ? list : ""));
}

function unknown(why: string): WritersVerdict {
  return { kind: "unknown", reason: `what the VSS writers say is not known: ${why}` };
}

async function listMounts(
  agent: GuestAgent,
  signal: AbortSignal | undefined,
): Promise<readonly string[] | undefined> {
  try {
    const systems = await listGuestFileSystems(agent, { signal });
    return systems.map((system) => system.mountPoint).sort();
  } catch (error) {
    // What an agent that refuses says is not needed; one that is gone is.
    if (!isKluisError(error, "AgentFailed")) throw error;
    return undefined;
  }
}
