/**
 * Kluis' part in a Windows guest: one PowerShell program, put there by the agent, checked by its hash
 * at each use. Its form and its rules: docs/design/windows.md.
 */
import { KluisError } from "#base/kluis-error.ts";
import type { ExtensionAction, ExtensionState } from "#ports/hypervisor.ts";
import { isObject, type JsonObject } from "#formats/qmp-wire.ts";
import type { AgentOptions, GuestAgent } from "../guest-agent.ts";
import {
  assertProgramDone,
  loadExtensionProgram,
  NOT_CURRENT_EXIT,
  runCurrentProgram,
  SAID_CHARACTERS_MAX,
} from "../extension-program.ts";
import { runGuestProgram, writeGuestFile, type GuestProgramResult } from "../guest-commands.ts";

/** Starting PowerShell takes seconds; listing the writers, half a minute at most. */
const PROGRAM_TIMEOUT_MS = 30_000;
/** Exit code of the scripts below: a policy forbids them to run the program. */
const forbiddenExit = 91;
/** An argument of the extension: nothing that PowerShell would read as more than a word. */
const wordPattern = /^[A-Za-z0-9+/=-]+$/;

/** What every script begins with. Where the guest is Windows its file names are written so. */
const preamble = String.raw`
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$folder = Join-Path $env:ProgramFiles 'Kluis\VMSnapshot'
$program = Join-Path $folder 'extension.ps1'
$part = Join-Path $folder 'extension.part'
function Get-Sum([string]$Path) {
    $hasher = New-Object Security.Cryptography.SHA256CryptoServiceProvider
    $sum = $hasher.ComputeHash([IO.File]::ReadAllBytes($Path))
    return [BitConverter]::ToString($sum).Replace('-', '').ToLowerInvariant()
}
function Send-Base64([string]$Text) {
    [Console]::Out.Write([Convert]::ToBase64String([Text.Encoding]::UTF8.GetBytes($Text)))
}
`;

/** Runs a verb of the program where it is the one with that hash. */
function callScript(hash: string, words: readonly string[]): string {
  return `if (-not (Test-Path -LiteralPath $program)) { exit ${String(NOT_CURRENT_EXIT)} }
if ((Get-Sum $program) -ne '${hash}') { exit ${String(NOT_CURRENT_EXIT)} }
& $program ${words.map((word) => `'${word}'`).join(" ")}
exit 0`;
}

/** Makes the folder and says where it is. */
const folderScript = `if ($PSVersionTable.PSVersion.Major -lt 3) { throw 'its PowerShell is older than 3.0' }
New-Item -ItemType Directory -Path $folder -Force | Out-Null
Send-Base64 $folder`;

/** The program appears whole or not at all. */
function commitScript(hash: string): string {
  return `if ((Get-Sum $part) -ne '${hash}') { throw 'the program arrived damaged' }
Move-Item -LiteralPath $part -Destination $program -Force`;
}

/** Nothing where there is no program; else its hash, its version and what it keeps, in lines. */
const stateScript = String.raw`if (-not (Test-Path -LiteralPath $program)) { exit 0 }
$line = Select-String -LiteralPath $program -Pattern '^\$version = ''([^'']*)''' | Select-Object -First 1
$version = ''
if ($line) { $version = $line.Matches[0].Groups[1].Value }
$kept = Join-Path $folder 'state.json'
$state = ''
if (Test-Path -LiteralPath $kept) { $state = Get-Content -LiteralPath $kept -Raw -Encoding UTF8 }
Send-Base64 ((Get-Sum $program), $version, $folder, $state -join [string][char]10)`;

const deleteScript = `if (Test-Path -LiteralPath $folder) { Remove-Item -LiteralPath $folder -Recurse -Force }
$parent = Split-Path -Parent $folder
if ((Test-Path -LiteralPath $parent) -and -not (Get-ChildItem -LiteralPath $parent -Force)) {
    Remove-Item -LiteralPath $parent -Force
}`;

/** The program that this Kluis brings. */
const ownProgram = loadExtensionProgram(new URL("extension.ps1", import.meta.url));

/**
 * Runs a verb of the extension and returns what it printed; puts the program into the guest, or
 * replaces another one, where that is needed. `words` are of {@link wordPattern}. Errors: Agent*
 * where the guest cannot have it, or with the program's words where it fails or does not end in time.
 */
export async function callWindowsExtension(
  agent: GuestAgent,
  words: readonly string[],
  options: AgentOptions = {},
): Promise<string> {
  const { hash } = await ownProgram();
  if (!words.every((word) => wordPattern.test(word))) {
    throw new KluisError("Internal", "An argument of the backup extension is no word");
  }
  const script = callScript(hash, words);
  const result = await runCurrentProgram(
    () => runPowerShell(agent, script, options),
    () => install(agent, options),
  );
  assertDone(result, `run "${words[0] ?? ""}" of the backup extension in the guest`);
  return result.stdout;
}

/** Shows, puts in, or takes out the extension of a running guest; returns what is there then. */
export async function manageWindowsExtension(
  agent: GuestAgent,
  action: ExtensionAction,
  options: AgentOptions = {},
): Promise<ExtensionState> {
  if (action === "install") await install(agent, options);
  const state = await readState(agent, options);
  if (action !== "remove" || !state.isInstalled) return state;
  await callWindowsExtension(agent, ["undo"], options);
  const result = await runPowerShell(agent, deleteScript, options);
  assertDone(result, "remove the backup extension from the guest");
  return await readState(agent, options);
}

/** Reads what the state script prints; `hash` is that of the program which Kluis brings. */
export function parseWindowsState(text: string, hash: string): ExtensionState {
  if (text === "") return { isInstalled: false, changes: [] };
  const [sum = "", version = "", folder = "", ...rest] = Buffer.from(text, "base64")
    .toString("utf8")
    .split("\n");
  const kept = parseKept(rest.join("\n"));
  const pick = (key: string): string | undefined => {
    const value = kept?.[key];
    return typeof value === "string" ? value.slice(0, SAID_CHARACTERS_MAX) : undefined;
  };
  const [lastStatus, lastError, lastAt] = ["status", "error", "at"].map(pick);
  return {
    isInstalled: true,
    isCurrent: sum === hash,
    changes: [
      `file ${folder}\\extension.ps1`,
      ...(kept === undefined ? [] : [`file ${folder}\\state.json`]),
      ...describeChange(kept?.["start"], {
        what: "start type of the service VSS",
        words: startWords,
      }),
      ...describeChange(kept?.["option"], {
        what: "VssOption of the QEMU guest agent's VSS provider",
        words: optionWords,
      }),
    ],
    ...(version === "" ? {} : { version }),
    ...(lastStatus === undefined ? {} : { lastStatus }),
    ...(lastError === undefined ? {} : { lastError }),
    ...(lastAt === undefined ? {} : { lastAt }),
  };
}

function parseKept(text: string): JsonObject | undefined {
  if (text.trim() === "") return undefined;
  try {
    const value: unknown = JSON.parse(text.replace(/^\uFEFF/, ""));
    if (isObject(value)) return value;
  } catch {
    // The guest's own file; what it does not say is not shown, and the next note writes it anew.
  }
  return {};
}

const startWords: Readonly<Record<number, string>> = { 2: "automatic", 3: "manual", 4: "disabled" };
const optionWords: Readonly<Record<number, string>> = { 1: "full", 5: "copy" };

function describeChange(
  change: unknown,
  names: { readonly what: string; readonly words: Readonly<Record<number, string>> },
): readonly string[] {
  if (!isObject(change)) return [];
  const describe = (value: unknown): string => {
    if (typeof value !== "number") return "not set";
    const word = names.words[value];
    return word === undefined ? String(value) : `${String(value)} (${word})`;
  };
  return [`${names.what}: ${describe(change["after"])}, was ${describe(change["before"])}`];
}

async function readState(agent: GuestAgent, options: AgentOptions): Promise<ExtensionState> {
  const result = await runPowerShell(agent, stateScript, options);
  assertDone(result, "read the state of the backup extension");
  return parseWindowsState(result.stdout, (await ownProgram()).hash);
}

async function install(agent: GuestAgent, options: AgentOptions): Promise<void> {
  const what = "install the backup extension in the guest";
  const { bytes, hash } = await ownProgram();
  const made = await runPowerShell(agent, folderScript, options);
  assertDone(made, what);
  const folder = Buffer.from(made.stdout, "base64").toString("utf8");
  await writeGuestFile(agent, `${folder}\\extension.part`, { bytes, ...options });
  assertDone(await runPowerShell(agent, commitScript(hash), options), what);
}

/** Runs a script from the command line, which needs no file; programs on disk obey the guest's policy. */
async function runPowerShell(
  agent: GuestAgent,
  script: string,
  options: AgentOptions,
): Promise<GuestProgramResult> {
  const text = `${preamble}try {
${script}
} catch [System.Management.Automation.PSSecurityException] {
    exit ${String(forbiddenExit)}
} catch {
    [Console]::Error.Write($_.Exception.Message)
    exit 1
}
`;
  const usual = ["-NoLogo", "-NoProfile", "-NonInteractive", "-ExecutionPolicy", "RemoteSigned"];
  const encoded = Buffer.from(text, "utf16le").toString("base64");
  const args = [...usual, "-EncodedCommand", encoded];
  const run = { timeoutMs: PROGRAM_TIMEOUT_MS, ...options };
  return await runGuestProgram(agent, { path: "powershell.exe", args }, run);
}

function assertDone(result: GuestProgramResult, what: string): void {
  const isForbidden = result.exitCode === forbiddenExit;
  const words = isForbidden
    ? "a policy of the guest forbids its PowerShell to run the program"
    : undefined;
  assertProgramDone(result, what, words);
}
