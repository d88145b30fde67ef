/** Options that several commands share. */
import type { ArgumentSpec, OptionSpec } from "#cli/command.ts";

/** Where the vault is. */
export const storeOption: OptionSpec = {
  flags: "--store <place>",
  text: "where the vault is: a folder, s3://BUCKET/PREFIX or azblob://ACCOUNT/CONTAINER/PREFIX",
  required: true,
};

/** The vault, for commands that can do without. */
export const optionalStoreOption: OptionSpec = { flags: storeOption.flags, text: storeOption.text };

/** Where keys of providers on this host are. */
export const keyFolderOption: OptionSpec = {
  flags: "--key-folder <dir>",
  text: "folder of local keys and of the platform key",
  otherwise: "keys in the state folder",
};

/** The key that opens the vault; one of them. */
export const keyOptions: readonly OptionSpec[] = [
  { flags: "--key-file <file>", text: "open the vault with this key file" },
  {
    flags: "--passphrase-file <file>",
    text: "open it with the passphrase on the first line of this file; - is standard input",
    otherwise: "KLUIS_PASSPHRASE, where it is set",
  },
  {
    flags: "--recovery-key-file <file>",
    text: "open it with the recovery key in this file; - is standard input",
  },
  {
    flags: "--customer-key <key>",
    text: "open it with this key of a provider: https://VAULT/keys/NAME or local:NAME",
  },
  { flags: "--platform-key", text: "open it with the key that this host holds for its vaults" },
  keyFolderOption,
];

/** For changes of keys that start a new data-key epoch unless told otherwise. */
export const keepDataKeyOption: OptionSpec = {
  flags: "--keep-data-key",
  text: "start no new data-key epoch",
};

/** How the result is printed. */
export const outputOption: OptionSpec = {
  flags: "--output <form>",
  text: "how to print the result",
  choices: ["table", "json"],
  otherwise: "table",
};

/** Where index files are kept. */
export const cacheOption: OptionSpec = {
  flags: "--cache <dir>",
  text: "folder for index files, which only save time",
  otherwise: "kluis in the user's cache folder",
};

/** How an open vault works. */
export const workOptions: readonly OptionSpec[] = [
  cacheOption,
  {
    flags: "--workers <count>",
    text: "threads that hash, compress and encrypt, 1 to 16",
    otherwise: "one for each processor",
  },
];

/** For commands that write recovery points. */
export const verifyBeforeCommitOption: OptionSpec = {
  flags: "--no-verify-before-commit",
  text: "do not decrypt, decompress and hash what was packed before it is stored",
};

/** Which recovery point. */
export const pointOption: OptionSpec = {
  flags: "--point <id>",
  text: "id of the recovery point",
  otherwise: "the newest",
};

/** VMs of a libvirt. */
export const connectOption: OptionSpec = {
  flags: "--connect <uri>",
  text: "the VMs of this libvirt, for example qemu:///system",
};

/** Which VMs there are. */
export const vmOptions: readonly OptionSpec[] = [
  { flags: "--vm <file>", text: "description file of a VM; may be repeated", repeated: true },
  { flags: "--vms <dir>", text: "folder of description files (*.json)" },
  connectOption,
  {
    flags: "--layer-pool <name>",
    text: "pool of that libvirt (type dir, fs or netfs) for what snapshots of block devices keep",
    otherwise: "where a snapshot of the disk has put it before",
  },
  {
    flags: "--state <dir>",
    text: "folder where Kluis keeps what it knows about VMs",
    otherwise: "/var/lib/kluis for root, else kluis in the user's state folder",
  },
];

/** Whether targets that exist may go. */
export const overwriteOption: OptionSpec = {
  flags: "--overwrite",
  text: "replace targets that exist; devices and NBD exports are written in place",
};

/** That a disk which was encrypted on its host is to lie in the clear. */
export const plaintextOption: OptionSpec = {
  flags: "--plaintext",
  text: "write a disk in the clear that was encrypted on its host",
};

/** Format of restored images. */
export const targetFormatOption: OptionSpec = {
  flags: "--target-format <format>",
  text: "format of the restored image",
  choices: ["raw", "qcow2"],
  otherwise: "qcow2 where the name ends in .qcow2, else raw",
};

/** Points of which item. */
export const itemOption: OptionSpec = {
  flags: "--item <id>",
  text: "only this protected item: its id, or the path of its image",
};

/** The only key of a rescue. */
export const recoveryKeyOption: OptionSpec = {
  flags: "--recovery-key-file <file>",
  text: "file with the recovery key; - is standard input",
  required: true,
};

/** Which disks of a point. */
export const diskOption: OptionSpec = {
  flags: "--disk <name>",
  text: "only this disk; may be repeated",
  repeated: true,
  otherwise: "all disks",
};

/** Which protected item a VM is. */
export const vmItemOption: OptionSpec = {
  flags: "--item <id>",
  text: "id of the protected item",
  otherwise: "vm: and the id of the VM",
};

/** Which VM, where several are described. */
export const vmArgument: ArgumentSpec = {
  name: "vm",
  text: "id of the VM; may be left out where one is described",
  required: false,
};

/** Only one point. */
export const pointToVerifyOption: OptionSpec = {
  flags: "--point <id>",
  text: "only this recovery point",
};

/** The store that follows the one of `--store`. */
export const secondaryOption: OptionSpec = {
  flags: "--secondary <place>",
  text: "store of the secondary, which follows that of --store",
};

/** Which of the two stores is read. */
export const fromOption: OptionSpec = {
  flags: "--from <copy>",
  text: "which of the two to read; the other one need not be there",
  choices: ["primary", "secondary"],
  otherwise: "primary",
};

/** Whether a check may write into the vault what it has proved. */
export const recordOption: OptionSpec = {
  flags: "--no-record",
  text: "do not note damage in the vault; without it the next backup heals what was found",
};
