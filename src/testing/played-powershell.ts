/** What becomes of Kluis' PowerShell in a played Windows guest: each script does what it says there. */
import { createHash } from "node:crypto";

import { listWriters, programFiles, type WindowsState } from "./windows-state.ts";

const folder = String.raw`${programFiles}\Kluis\VMSnapshot`;
const programPath = String.raw`${folder}\extension.ps1`;
const partPath = String.raw`${folder}\extension.part`;
const statePath = String.raw`${folder}\state.json`;

/** A program that was run. `exitCode` is absent where it does not end. */
export interface PlayedProgram {
  readonly name: string;
  readonly exitCode: number | undefined;
  readonly stdout: string;
  readonly stderr: string;
}

interface KeptState {
  start: { before: number; after: number } | null;
  option: { before: number | null; after: number } | null;
  status: string | null;
  error: string | null;
  at: string | null;
}

/** Runs a program in the guest. */
export function runInWindows(
  guest: WindowsState,
  path: string,
  args: readonly string[],
): PlayedProgram {
  if (path === "reg.exe") return queryRegistry(guest);
  const at = args.indexOf("-EncodedCommand");
  if (path !== "powershell.exe" || at < 0) return failed(path, "unknown program");
  const script = Buffer.from(args[at + 1] ?? "", "base64").toString("utf16le");
  const call = /^& \$program (.*)$/m.exec(script);
  if (call !== null) return callProgram(guest, script, call[1] ?? "");
  if (script.includes("New-Item -ItemType Directory")) return done("folder", encode(folder));
  const commit = /\(Get-Sum \$part\) -ne '([0-9a-f]{64})'/.exec(script);
  if (commit !== null) return commitProgram(guest, commit[1] ?? "");
  if (script.includes("Select-String")) return done("state", tellState(guest));
  if (script.includes("Remove-Item -LiteralPath $folder -Recurse")) {
    for (const file of guest.files.keys()) if (file.startsWith(folder)) guest.files.delete(file);
    return done("delete", "");
  }
  return failed("unknown", "unknown script");
}

function queryRegistry(guest: WindowsState): PlayedProgram {
  const { copyFlag } = guest.registry;
  if (copyFlag === undefined) return failed("reg", "ERROR: not found");
  const key = String.raw`HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\BcdrAgent`;
  return done("reg", `\r\n${key}\r\n    USEVSSCOPYBACKUP    REG_SZ    ${copyFlag}\r\n\r\n`);
}

function commitProgram(guest: WindowsState, hash: string): PlayedProgram {
  const part = guest.files.get(partPath);
  if (part === undefined || sumOf(part) !== hash) return failed("commit", "damaged");
  guest.files.delete(partPath);
  guest.files.set(programPath, part);
  return done("commit", "");
}

function tellState(guest: WindowsState): string {
  const program = guest.files.get(programPath);
  if (program === undefined) return "";
  const version = /^\$version = '([^']*)'/m.exec(program.toString("utf8"))?.[1] ?? "";
  const kept = guest.files.get(statePath)?.toString("utf8") ?? "";
  return encode([sumOf(program), version, folder, kept].join("\n"));
}

/** The exit codes are those that the script itself names. */
function callProgram(guest: WindowsState, script: string, line: string): PlayedProgram {
  const words = [...line.matchAll(/'([^']*)'/g)].map((match) => match[1] ?? "");
  const [verb = ""] = words;
  const notCurrent = Number(/exit (\d+) \}\nif/.exec(script)?.[1]);
  const forbidden = Number(/PSSecurityException\] \{\s+exit (\d+)/.exec(script)?.[1]);
  const program = guest.files.get(programPath);
  const hash = /\(Get-Sum \$program\) -ne '([0-9a-f]{64})'/.exec(script)?.[1];
  const ended = (exitCode: number | undefined): PlayedProgram => ({
    name: verb,
    exitCode,
    stdout: "",
    stderr: "",
  });
  if (program === undefined || sumOf(program) !== hash) return ended(notCurrent);
  if (guest.faults.isPolicyAgainst === true) return ended(forbidden);
  if (guest.faults.hangingVerb === verb) return ended(undefined);
  return done(verb, performVerb(guest, words));
}

function performVerb(guest: WindowsState, words: readonly string[]): string {
  const [verb, first = "", second = ""] = words;
  if (verb === "writers") {
    const answer = { exit: guest.faults.vssadminExit ?? 0, text: listWriters(guest) };
    return encode(JSON.stringify(answer));
  }
  const state = readState(guest);
  if (verb === "apply") apply(guest, state, { start: first, option: second });
  if (verb === "undo") undo(guest, state);
  if (verb === "note") {
    state.status = first;
    state.error = second === "-" ? null : Buffer.from(second, "base64").toString("utf8");
    state.at = "2026-01-02T03:04:05Z";
    writeState(guest, state);
  }
  return verb === "apply" || verb === "inspect" ? inspect(guest) : "";
}

function apply(
  guest: WindowsState,
  state: KeptState,
  wish: { readonly start: string; readonly option: string },
): void {
  const { registry } = guest;
  if (wish.start !== "keep") {
    state.start ??= { before: registry.vssStart, after: Number(wish.start) };
    registry.vssStart = Number(wish.start);
  }
  if (wish.option === "restore") restoreOption(guest, state);
  else if (wish.option !== "keep") {
    state.option ??= { before: registry.vssOption ?? null, after: Number(wish.option) };
    registry.vssOption = Number(wish.option);
  }
  writeState(guest, state);
}

function undo(guest: WindowsState, state: KeptState): void {
  const { registry } = guest;
  restoreOption(guest, state);
  if (state.start !== null && registry.vssStart === state.start.after) {
    registry.vssStart = state.start.before;
  }
  state.start = null;
  writeState(guest, state);
}

function inspect(guest: WindowsState): string {
  const { registry } = guest;
  const found = {
    provider: registry.isProviderRegistered,
    start: registry.vssStart,
    option: registry.vssOption ?? null,
    own: readState(guest).option,
    copy: registry.copyFlag ?? null,
  };
  return encode(JSON.stringify(found));
}

function restoreOption(guest: WindowsState, state: KeptState): void {
  if (state.option !== null && guest.registry.vssOption === state.option.after) {
    guest.registry.vssOption = state.option.before ?? undefined;
  }
  state.option = null;
}

function readState(guest: WindowsState): KeptState {
  const text = guest.files.get(statePath)?.toString("utf8");
  if (text !== undefined) return JSON.parse(text) as KeptState;
  return { start: null, option: null, status: null, error: null, at: null };
}

function writeState(guest: WindowsState, state: KeptState): void {
  guest.files.set(statePath, Buffer.from(JSON.stringify(state)));
}

function done(name: string, stdout: string): PlayedProgram {
  return { name, exitCode: 0, stdout, stderr: "" };
}

function failed(name: string, stderr: string): PlayedProgram {
  return { name, exitCode: 1, stdout: "", stderr };
}

function encode(text: string): string {
  return Buffer.from(text, "utf8").toString("base64");
}

function sumOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
