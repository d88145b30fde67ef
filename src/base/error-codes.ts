/**
 * The one registry of operating errors: everything a user, a script or another layer may meet.
 *
 * `exit` is the exit code of the CLI, `http` the status of the REST API, `retry` what a caller may
 * do: `never` (the same call fails again), `backoff` (wait and call again), `after-change` (call
 * again once the user has done what `action` says). docs/reference/errors.md is tested to be equal
 * to this table.
 */

/** What a caller may do after an error. */
export type RetryClass = "never" | "backoff" | "after-change";

/** One row of the registry. */
export interface ErrorEntry {
  readonly http: number;
  readonly exit: number;
  readonly retry: RetryClass;
  readonly title: string;
  readonly action: string;
}

/** Every operating error by code. Exit codes are grouped; see docs/reference/exit-codes.md. */
export const errorRegistry = {
  // Usage: exit 2.
  ArgumentInvalid: {
    http: 400,
    exit: 2,
    retry: "after-change",
    title: "An argument is not valid",
    action: "Correct the named argument; `kluis help COMMAND` shows what it takes.",
  },
  ConfigInvalid: {
    http: 400,
    exit: 2,
    retry: "after-change",
    title: "A description or configuration file is not valid",
    action: "Correct the named field of the file and run the command again.",
  },
  // Store: exit 10 to 14.
  StoreNotFound: {
    http: 404,
    exit: 10,
    retry: "after-change",
    title: "There is no vault at this place",
    action: "Check --store, or create a vault there with `kluis vault create`.",
  },
  StoreNotEmpty: {
    http: 409,
    exit: 10,
    retry: "after-change",
    title: "The place already holds something",
    action: "Name an empty folder for the new vault, or use the vault that is there.",
  },
  StoreForeign: {
    http: 409,
    exit: 10,
    retry: "after-change",
    title: "The place holds something that is not a Kluis vault",
    action: "Name a folder that is empty or holds a vault; nothing was changed.",
  },
  StoreIsSecondary: {
    http: 409,
    exit: 10,
    retry: "after-change",
    title: "The vault follows another store",
    action: "Use the primary, or make this vault one of its own with `kluis vault promote`.",
  },
  StoreSetBack: {
    http: 409,
    exit: 14,
    retry: "after-change",
    title: "The store is behind what this host has seen in it",
    action:
      "Find out who set it back or removed objects, and heal it from a copy; if it was meant, run `kluis vault accept`.",
  },
  StoreFormatNewer: {
    http: 409,
    exit: 11,
    retry: "after-change",
    title: "The vault was written by a newer version",
    action: "Install that version of Kluis or a later one; this one changed nothing.",
  },
  StoreUnsuitable: {
    http: 409,
    exit: 11,
    retry: "after-change",
    title: "The store cannot commit safely",
    action: "Use a file system with hard links and fsync, or a bucket that honours If-None-Match.",
  },
  StoreUnavailable: {
    http: 503,
    exit: 12,
    retry: "backoff",
    title: "The store did not answer",
    action: "Check that the store is mounted and reachable, then run the command again.",
  },
  StoreNoSpace: {
    http: 507,
    exit: 13,
    retry: "after-change",
    title: "The store is full",
    action: "Free space on the store; every committed recovery point is intact.",
  },
  StoreDenied: {
    http: 403,
    exit: 12,
    retry: "after-change",
    title: "The store refused access",
    action:
      "Give the user, or the credentials, that Kluis runs with read and write permission on the store.",
  },
  ObjectNotFound: {
    http: 500,
    exit: 14,
    retry: "never",
    title: "An object of the vault is missing",
    action: "Run `kluis image verify` to see which recovery points are affected.",
  },
  ObjectCorrupt: {
    http: 500,
    exit: 14,
    retry: "never",
    title: "An object of the vault is damaged",
    action: "Run `kluis image verify` to see which recovery points are affected.",
  },
  BlockMissing: {
    http: 500,
    exit: 14,
    retry: "never",
    title: "A block of a recovery point is not in the vault",
    action: "Restore another recovery point; the next backup stores the block again.",
  },
  // Keys: exit 15.
  KeyWrong: {
    http: 403,
    exit: 15,
    retry: "after-change",
    title: "The key does not open this vault",
    action: "Use the passphrase, recovery key or key file that belongs to this vault.",
  },
  KeyMissing: {
    http: 400,
    exit: 15,
    retry: "after-change",
    title: "No key was given",
    action: "Name one with --key-file, --passphrase-file, --recovery-key-file or KLUIS_PASSPHRASE.",
  },
  KeyUnavailable: {
    http: 503,
    exit: 15,
    retry: "backoff",
    title: "The key provider did not answer",
    action:
      "Check that it is reachable and run the command again, or use another key of the vault.",
  },
  KeyDenied: {
    http: 403,
    exit: 15,
    retry: "after-change",
    title: "The key provider refused the key",
    action:
      "Enable or recover the key, or grant wrap and unwrap; else use another key of the vault.",
  },
  KeyLast: {
    http: 409,
    exit: 15,
    retry: "after-change",
    title: "The vault would be left without a key that survives its host",
    action: "Add a recovery key first: `kluis vault key add --new-recovery-key`.",
  },
  // Recovery points: exit 16.
  RecoveryPointNotFound: {
    http: 404,
    exit: 16,
    retry: "after-change",
    title: "There is no such recovery point",
    action: "`kluis image list` shows the recovery points of the vault.",
  },
  RecoveryPointExists: {
    http: 409,
    exit: 16,
    retry: "never",
    title: "A recovery point of that id was committed already",
    action: "Nothing: another run committed it; list the points to see it.",
  },
  BackupFenced: {
    http: 409,
    exit: 16,
    retry: "backoff",
    title: "A clean-up of the vault has overtaken the backup",
    action: "Run the backup again; nothing was lost, and most of what it stored is used again.",
  },
  CollectionRefused: {
    http: 409,
    exit: 16,
    retry: "after-change",
    title: "The collection would free more of the vault than seems right",
    action: "Check what was deleted; say --allow-mass-deletion if it is meant.",
  },
  // Immutability: exit 17.
  ObjectLocked: {
    http: 423,
    exit: 17,
    retry: "after-change",
    title: "It is locked and cannot be removed yet",
    action: "Wait until the lock that the message names has ended; nobody can shorten it.",
  },
  // Images and disks: exit 20 to 24.
  ImageNotFound: {
    http: 404,
    exit: 20,
    retry: "after-change",
    title: "There is no such image",
    action: "Check the path or URI of the image.",
  },
  ImageInvalid: {
    http: 400,
    exit: 20,
    retry: "after-change",
    title: "The file is not a disk image that can be read",
    action: "Name a raw or qcow2 image, and its --format where it cannot be told.",
  },
  DiskKeyUnusable: {
    http: 409,
    exit: 20,
    retry: "after-change",
    title: "The secret of an encrypted disk cannot be used",
    action:
      "Define the secret that the message names, not private, and give it the passphrase (`virsh secret-set-value`); or leave the disk out.",
  },
  ImageInUse: {
    http: 409,
    exit: 21,
    retry: "after-change",
    title: "Another program has the image open for writing",
    action: "Stop that program or back the running VM up with `kluis vm backup`.",
  },
  ImageChangedDuringRead: {
    http: 409,
    exit: 21,
    retry: "after-change",
    title: "The image was written while it was read",
    action: "Nothing was committed. Stop the writer, or back the VM up with `kluis vm backup`.",
  },
  DiskReadFailed: {
    http: 500,
    exit: 22,
    retry: "backoff",
    title: "Reading the disk failed",
    action: "Check the disk and the NBD server; nothing was committed.",
  },
  TargetExists: {
    http: 409,
    exit: 23,
    retry: "after-change",
    title: "The target of the restore exists",
    action: "Name another target, or say --overwrite.",
  },
  TargetTooSmall: {
    http: 409,
    exit: 23,
    retry: "after-change",
    title: "The target of the restore is smaller than the disk",
    action: "Name a target at least as large as the disk.",
  },
  TargetNoSpace: {
    http: 507,
    exit: 23,
    retry: "after-change",
    title: "The target of the restore is full",
    action: "Free space there, or restore to another place.",
  },
  TargetWriteFailed: {
    http: 500,
    exit: 23,
    retry: "backoff",
    title: "Writing the target of the restore failed",
    action: "Check the target; the vault is intact.",
  },
  // NBD: exit 24.
  NbdUnavailable: {
    http: 503,
    exit: 24,
    retry: "backoff",
    title: "The NBD server did not answer",
    action: "Check that the server runs and that the URI is right.",
  },
  NbdProtocol: {
    http: 502,
    exit: 24,
    retry: "never",
    title: "The NBD server broke the protocol",
    action: "Use a server that follows the NBD specification (qemu-nbd, nbdkit, QEMU).",
  },
  NbdUnsupported: {
    http: 501,
    exit: 24,
    retry: "never",
    title: "The NBD server lacks something that is needed",
    action: "Use a server that offers what the message names.",
  },
  // Virtual machines: exit 30 to 34.
  VmNotFound: {
    http: 404,
    exit: 30,
    retry: "after-change",
    title: "There is no such VM",
    action: "`kluis vm list` shows the VMs that are known.",
  },
  VmStateWrong: {
    http: 409,
    exit: 30,
    retry: "after-change",
    title: "The VM is not in a state that allows this",
    action: "Start or stop the VM as the message says.",
  },
  VmStartFailed: {
    http: 500,
    exit: 31,
    retry: "after-change",
    title: "The VM did not start",
    action: "Read the log that the message names.",
  },
  QmpFailed: {
    http: 502,
    exit: 31,
    retry: "backoff",
    title: "QEMU refused or did not answer a command",
    action: "Check that the VM runs; run the command again.",
  },
  AgentUnavailable: {
    http: 503,
    exit: 32,
    retry: "backoff",
    title: "The guest agent does not answer",
    action: "Install and start qemu-guest-agent in the VM.",
  },
  AgentFailed: {
    http: 502,
    exit: 32,
    retry: "backoff",
    title: "The guest agent refused a command",
    action: "Read the agent's message; check its log in the VM.",
  },
  GuestScriptFailed: {
    http: 409,
    exit: 32,
    retry: "after-change",
    title: "A pre or post script of the guest forbids the backup",
    action:
      "Correct the script that the message names, or set continueBackupOnFailure in its configuration; the VM goes on.",
  },
  SnapshotFailed: {
    http: 500,
    exit: 33,
    retry: "backoff",
    title: "The snapshot could not be taken",
    action: "The VM goes on as it was. Check free space beside its disks and run the backup again.",
  },
  SnapshotNoSpace: {
    http: 507,
    exit: 33,
    retry: "after-change",
    title: "There is too little room for a snapshot",
    action:
      "Free space where the disks of the VM lie, or ask for less with --first-free or --reserve. The VM goes on.",
  },
  SnapshotBaseChanged: {
    http: 409,
    exit: 33,
    retry: "after-change",
    title: "A frozen layer was written behind its overlay",
    action:
      "Do what the message says; where it says nothing, do not start the VM and restore it from its newest recovery point.",
  },
  SnapshotInUse: {
    http: 409,
    exit: 33,
    retry: "backoff",
    title: "A snapshot is being read",
    action:
      "Wait until the backup or restore that reads it has ended; of another program's do what the message says.",
  },
  // General.
  Busy: {
    http: 409,
    exit: 34,
    retry: "backoff",
    title: "Another run works on this already",
    action: "Wait until it has ended and run the command again.",
  },
  Cancelled: {
    http: 409,
    exit: 130,
    retry: "after-change",
    title: "The work was cancelled",
    action: "Nothing was committed; run the command again when it suits.",
  },
  ToolMissing: {
    http: 500,
    exit: 3,
    retry: "after-change",
    title: "A program that Kluis needs is not installed",
    action: "Install the package that the message names.",
  },
  ToolFailed: {
    http: 500,
    exit: 3,
    retry: "backoff",
    title: "A program that Kluis runs did not do its work",
    action: "Read what the program said in the message; run the command again.",
  },
  Internal: {
    http: 500,
    exit: 70,
    retry: "never",
    title: "Kluis contradicted itself",
    action: "Report this with the log; nothing that was committed is affected.",
  },
} as const satisfies Record<string, ErrorEntry>;

/** A code of the registry. */
export type ErrorCode = keyof typeof errorRegistry;
