/** What a played Windows guest has, and what goes wrong in it. */

/** A VSS writer as vssadmin would list it. */
export interface PlayedWriter {
  readonly id: string;
  readonly name: string;
  state: number;
  /** A key of the words of each language. */
  lastError: "none" | "retryable" | "nonRetryable" | "timedOut";
}

/** What can go wrong; all absent in a guest that is well. */
export interface WindowsFaults {
  /** From before guest-exec and guest-get-osinfo. */
  isAgentOld?: boolean;
  /** The agent's configuration forbids guest-exec. */
  isExecForbidden?: boolean;
  /** The agent was installed without VSS: it cannot freeze. */
  isVssMissing?: boolean;
  /** A group policy forbids PowerShell to run programs that are files. */
  isPolicyAgainst?: boolean;
  /** The extension's verb that never ends. */
  hangingVerb?: string;
  /** vssadmin ends with this code. */
  vssadminExit?: number;
  /** What a freeze is refused with. */
  freezeError?: string;
  /** How long a freeze takes until VSS holds writes, and a thaw until all writers have ended. */
  freezeMs?: number;
  thawMs?: number;
  /** How long VSS holds writes. */
  holdMs?: number;
}

/** The guest. */
export interface WindowsState {
  readonly volumes: string[];
  readonly files: Map<string, Buffer>;
  readonly registry: {
    isProviderRegistered: boolean;
    vssStart: number;
    vssOption: number | undefined;
    copyFlag: string | undefined;
  };
  readonly writers: PlayedWriter[];
  language: "en" | "de";
  faults: WindowsFaults;
  /** The kind of each backup that VSS was asked for. */
  readonly backups: number[];
}

/** Where Windows keeps programs. */
export const programFiles = String.raw`C:\Program Files`;

/** A guest that is well, with the writers of an ordinary server and a database. */
export function createWindowsState(): WindowsState {
  const names: readonly (readonly [name: string, id: string])[] = [
    ["Task Scheduler Writer", "d61d61c8-d73a-4eee-8cdd-f6f9786b7124"],
    ["VSS Metadata Store Writer", "75dfb225-e2e4-4d39-9ac9-ffaff65ddf06"],
    ["Performance Counters Writer", "0bada1de-01a9-4625-8278-69e735f39dd2"],
    ["System Writer", "e8132975-6f93-4464-a53e-1050253ae220"],
    ["SqlServerWriter", "a65faa63-5ea8-4ebc-9dbd-a0c4db26912a"],
    ["Registry Writer", "afbab4a2-367d-4d15-a586-71dbb18f8485"],
  ];
  return {
    volumes: ["C:\\", "D:\\"],
    files: new Map(),
    registry: {
      isProviderRegistered: true,
      vssStart: 3,
      vssOption: undefined,
      copyFlag: undefined,
    },
    writers: names.map(([name, id]) => ({ name, id, state: 1, lastError: "none" })),
    language: "en",
    faults: {},
    backups: [],
  };
}

const words = {
  en: {
    head: "vssadmin 1.1 - Volume Shadow Copy Service administrative command-line tool\r\n(C) Copyright 2001-2013 Microsoft Corp.\r\n",
    name: (name: string) => `Writer name: '${name}'`,
    id: "Writer Id",
    instance: "Writer Instance Id",
    state: "State",
    stable: "Stable",
    failed: "Failed",
    waiting: "Waiting for completion",
    lastError: "Last error",
    none: "No error",
    retryable: "Retryable error",
    nonRetryable: "Non-retryable error",
    timedOut: "Timed out",
  },
  de: {
    head: "vssadmin 1.1 - Verwaltungsbefehlszeilenprogramm des Volumeschattenkopie-Dienstes\r\n(C) Copyright 2001-2013 Microsoft Corp.\r\n",
    name: (name: string) => `Verfassername: "${name}"`,
    id: "Verfasserkennung",
    instance: "Verfasserinstanzkennung",
    state: "Status",
    stable: "Stabil",
    failed: "Fehlgeschlagen",
    waiting: "Warten auf Abschluss",
    lastError: "Letzter Fehler",
    none: "Kein Fehler",
    retryable: "Wiederholbarer Fehler",
    nonRetryable: "Nicht wiederholbarer Fehler",
    timedOut: "Zeit\u00fcberschreitung",
  },
} as const;

/** What `vssadmin list writers` prints in the guest's language. */
export function listWriters(guest: Pick<WindowsState, "writers" | "language">): string {
  const said = words[guest.language];
  const blocks = guest.writers.map(({ name, id, state, lastError }, at) => {
    const stateWord = state === 1 ? said.stable : state > 5 ? said.failed : said.waiting;
    return [
      said.name(name),
      `   ${said.id}: {${id}}`,
      `   ${said.instance}: {00000000-0000-0000-0000-${String(at).padStart(12, "0")}}`,
      `   ${said.state}: [${String(state)}] ${stateWord}`,
      `   ${said.lastError}: ${said[lastError]}`,
      "",
    ].join("\r\n");
  });
  return `${said.head}\r\n${blocks.join("\r\n")}`;
}
