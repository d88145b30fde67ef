/**
 * Kluis' part in a Linux guest: one shell program, put there by the agent, checked by its hash at each
 * use. Its form and its rules: docs/design/extension.md.
 */
import type { ExtensionAction, ExtensionState } from "#ports/hypervisor.ts";
import type { AgentOptions, GuestAgent } from "../guest-agent.ts";
import {
  assertProgramDone,
  loadExtensionProgram,
  NOT_CURRENT_EXIT,
  runCurrentProgram,
  SAID_CHARACTERS_MAX,
} from "../extension-program.ts";
import { runGuestProgram } from "../guest-commands.ts";

/** Where it lies in the guest. */
export const EXTENSION_HOME = "/var/lib/kluis/VMSnapshotLinux";
const programPath = `${EXTENSION_HOME}/extension.sh`;

/** How long one call may take unless the caller says otherwise. */
export const EXTENSION_TIMEOUT_MS = 15_000;
/** Taking it out: it has scripts of the last backup run to their end, and waits 10 s for that. */
const REMOVE_TIMEOUT_MS = 30_000;

/** $1 the program's hash, $2 its path, then what is asked of it. */
const callScript = `
sum=$(sha256sum <"$2" 2>/dev/null)
[ "\${sum%% *}" = "$1" ] || exit ${String(NOT_CURRENT_EXIT)}
shift
exec /bin/sh "$@"
`;

/** $1 its folder; the program comes by standard input and appears whole or not at all. */
const installScript = `
for tool in setsid stat sha256sum base64 grep; do
  command -v "$tool" >/dev/null || { echo "the guest has no $tool"; exit 3; }
done
umask 077
mkdir -p "$1" && cat >"$1/extension.part" && chmod 700 "$1/extension.part" &&
  sync && mv "$1/extension.part" "$1/extension.sh"
`;

/** $1 the program. Its version, or nothing where there is none; then what it says of the last backup. */
const stateScript = `
[ -e "$1" ] || exit 0
sha256sum <"$1"
grep -m 1 '^version=' "$1" || echo version=
cat "\${1%/*}/status" 2>/dev/null
exit 0
`;

/** The program that this Kluis brings. */
const ownProgram = loadExtensionProgram(new URL("extension.sh", import.meta.url));

/**
 * Runs a verb of the extension and returns what it printed; puts the program into the guest, or
 * replaces an older one, where that is needed. Errors: Agent* where the guest cannot have it, or
 * with the program's words where it fails or does not end in time.
 */
export async function callExtension(
  agent: GuestAgent,
  args: readonly string[],
  options: AgentOptions = {},
): Promise<string> {
  const { hash } = await ownProgram();
  const call = ["-c", callScript, "kluis-extension", hash, programPath, ...args];
  const run = { timeoutMs: EXTENSION_TIMEOUT_MS, ...options };
  const result = await runCurrentProgram(
    () => runGuestProgram(agent, { path: "/bin/sh", args: call }, run),
    () => installExtension(agent, options),
  );
  assertProgramDone(result, `run "${args[0] ?? ""}" of the backup extension in the guest`);
  return result.stdout;
}

/** Shows, puts in, or takes out the extension of a running guest; returns what is there then. */
export async function manageExtension(
  agent: GuestAgent,
  action: ExtensionAction,
  options: AgentOptions = {},
): Promise<ExtensionState> {
  if (action === "install") await installExtension(agent, options);
  const state = await readState(agent, options);
  if (action !== "remove" || !state.isInstalled) return state;
  await callExtension(agent, ["remove"], { timeoutMs: REMOVE_TIMEOUT_MS, ...options });
  return await readState(agent, options);
}

async function readState(agent: GuestAgent, options: AgentOptions): Promise<ExtensionState> {
  const args = ["-c", stateScript, "kluis-state", programPath];
  const result = await runGuestProgram(agent, { path: "/bin/sh", args }, options);
  assertProgramDone(result, "read the state of the backup extension");
  return parseExtensionState(result.stdout, (await ownProgram()).hash);
}

/** Reads what the guest says of its extension; `hash` is that of the program which Kluis brings. */
export function parseExtensionState(text: string, hash: string): ExtensionState {
  const [sum = "", ...lines] = text.split("\n");
  if (sum === "") return { isInstalled: false, changes: [] };
  const said = new Map(
    lines.map((line) => {
      const at = line.indexOf("=");
      return [line.slice(0, at), line.slice(at + 1).slice(0, SAID_CHARACTERS_MAX)] as const;
    }),
  );
  const pick = (key: string): string | undefined =>
    said.get(key) === "" ? undefined : said.get(key);
  const [version, lastStatus, lastError, lastAt] = ["version", "status", "error", "at"].map(pick);
  return {
    isInstalled: true,
    isCurrent: sum.startsWith(`${hash} `),
    changes: [
      `file ${programPath}`,
      ...(lastStatus === undefined ? [] : [`file ${EXTENSION_HOME}/status`]),
    ],
    ...(version === undefined ? {} : { version }),
    ...(lastStatus === undefined ? {} : { lastStatus }),
    ...(lastError === undefined ? {} : { lastError }),
    ...(lastAt === undefined ? {} : { lastAt }),
  };
}

async function installExtension(agent: GuestAgent, options: AgentOptions): Promise<void> {
  const { bytes } = await ownProgram();
  const args = ["-c", installScript, "kluis-install", EXTENSION_HOME];
  const run = { timeoutMs: EXTENSION_TIMEOUT_MS, ...options };
  const result = await runGuestProgram(agent, { path: "/bin/sh", args, stdin: bytes }, run);
  assertProgramDone(result, "install the backup extension in the guest");
}
