/** All commands. Each is loaded when it is asked for, so that a short run stays short. */
import type { CommandSpec } from "#cli/command.ts";

/** A command that is not loaded yet. */
export interface CommandEntry {
  /** As in {@link CommandSpec.words}, with blanks. */
  readonly words: string;
  load(): Promise<CommandSpec>;
}

const keyChangeEntries: readonly CommandEntry[] = (
  ["create", "rotate", "disable", "enable", "delete", "recover"] as const
).map((what) => ({
  words: `key ${what}`,
  load: async () => (await import("#cli/commands/key-change.ts")).createKeyChange(what),
}));

const extensionEntries: readonly CommandEntry[] = (["status", "install", "remove"] as const).map(
  (action) => ({
    words: `vm extension ${action}`,
    load: async () => (await import("#cli/commands/vm-extension.ts")).createVmExtension(action),
  }),
);

/** In the order in which the help shows them. */
export const commandTable: readonly CommandEntry[] = [
  {
    words: "vault create",
    load: async () => (await import("#cli/commands/vault-create.ts")).vaultCreate,
  },
  {
    words: "vault key list",
    load: async () => (await import("#cli/commands/vault-key-list.ts")).vaultKeyList,
  },
  {
    words: "vault key add",
    load: async () => (await import("#cli/commands/vault-key-add.ts")).vaultKeyAdd,
  },
  {
    words: "vault replicate",
    load: async () => (await import("#cli/commands/vault-replicate.ts")).vaultReplicate,
  },
  { words: "vault lag", load: async () => (await import("#cli/commands/vault-lag.ts")).vaultLag },
  {
    words: "vault heal",
    load: async () => (await import("#cli/commands/vault-heal.ts")).vaultHeal,
  },
  {
    words: "vault promote",
    load: async () => (await import("#cli/commands/vault-promote.ts")).vaultPromote,
  },
  {
    words: "vault accept",
    load: async () => (await import("#cli/commands/vault-accept.ts")).vaultAccept,
  },
  {
    words: "vault prune",
    load: async () => (await import("#cli/commands/vault-prune.ts")).vaultPrune,
  },
  {
    words: "vault collect",
    load: async () => (await import("#cli/commands/vault-collect.ts")).vaultCollect,
  },
  {
    words: "vault verify",
    load: async () => (await import("#cli/commands/vault-verify.ts")).vaultVerify,
  },
  {
    words: "vault repair",
    load: async () => (await import("#cli/commands/vault-repair.ts")).vaultRepair,
  },
  {
    words: "vault scrub",
    load: async () => (await import("#cli/commands/vault-scrub.ts")).vaultScrub,
  },
  {
    words: "vault key remove",
    load: async () => (await import("#cli/commands/vault-key-remove.ts")).vaultKeyRemove,
  },
  {
    words: "vault key rotate",
    load: async () => (await import("#cli/commands/vault-key-rotate.ts")).vaultKeyRotate,
  },
  {
    words: "vault key proof",
    load: async () => (await import("#cli/commands/vault-key-proof.ts")).vaultKeyProof,
  },
  { words: "key list", load: async () => (await import("#cli/commands/key-list.ts")).keyList },
  ...keyChangeEntries,
  {
    words: "image backup",
    load: async () => (await import("#cli/commands/image-backup.ts")).imageBackup,
  },
  {
    words: "image list",
    load: async () => (await import("#cli/commands/image-list.ts")).imageList,
  },
  {
    words: "image restore",
    load: async () => (await import("#cli/commands/image-restore.ts")).imageRestore,
  },
  {
    words: "image verify",
    load: async () => (await import("#cli/commands/image-verify.ts")).imageVerify,
  },
  {
    words: "image delete",
    load: async () => (await import("#cli/commands/image-delete.ts")).imageDelete,
  },
  { words: "vm list", load: async () => (await import("#cli/commands/vm-list.ts")).vmList },
  { words: "vm start", load: async () => (await import("#cli/commands/vm-start.ts")).vmStart },
  { words: "vm backup", load: async () => (await import("#cli/commands/vm-backup.ts")).vmBackup },
  {
    words: "vm transfer",
    load: async () => (await import("#cli/commands/vm-transfer.ts")).vmTransfer,
  },
  { words: "vm points", load: async () => (await import("#cli/commands/vm-points.ts")).vmPoints },
  { words: "vm expire", load: async () => (await import("#cli/commands/vm-expire.ts")).vmExpire },
  {
    words: "vm restore",
    load: async () => (await import("#cli/commands/vm-restore.ts")).vmRestore,
  },
  ...extensionEntries,
  { words: "vm detach", load: async () => (await import("#cli/commands/vm-detach.ts")).vmDetach },
  {
    words: "rescue check",
    load: async () => (await import("#cli/commands/rescue-check.ts")).rescueCheck,
  },
  {
    words: "rescue list",
    load: async () => (await import("#cli/commands/rescue-list.ts")).rescueList,
  },
  {
    words: "rescue restore",
    load: async () => (await import("#cli/commands/rescue-restore.ts")).rescueRestore,
  },
  {
    words: "rescue copy",
    load: async () => (await import("#cli/commands/rescue-copy.ts")).rescueCopy,
  },
  {
    words: "rescue verify",
    load: async () => (await import("#cli/commands/rescue-verify.ts")).rescueVerify,
  },
];

/** The commands that a command line may mean: the one it starts with, else all. */
export function selectEntries(line: readonly string[]): readonly CommandEntry[] {
  const chosen = commandTable.find(({ words }) =>
    words.split(" ").every((word, at) => line[at] === word),
  );
  return chosen === undefined ? commandTable : [chosen];
}

/** Every command, for help and reference. */
export async function loadAllCommands(): Promise<readonly CommandSpec[]> {
  return await Promise.all(commandTable.map((entry) => entry.load()));
}
