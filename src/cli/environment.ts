/** Everything a command needs from outside: made by `src/bin`, faked by nobody. */
import type { Clock } from "#base/clock.ts";
import type { RandomSource } from "#base/random.ts";
import type { Hypervisor } from "#ports/hypervisor.ts";
import type { KeyProvider, ManagedKeys } from "#ports/key-provider.ts";
import type { ObjectStore } from "#ports/object-store.ts";
import type { ImageAccess } from "#ports/source-image.ts";
import type { VmConfigurations } from "#ports/vm-configurations.ts";

/** One of the process's output streams. */
export interface OutputStream {
  write(text: string): void;
  readonly isTerminal: boolean;
  /** Columns of the terminal now; 80 where there is none. */
  columns(): number;
}

/** The terminal, as far as there is one. */
export interface Terminal {
  readonly output: OutputStream;
  readonly errors: OutputStream;
  /** Whether lines and blocks may be drawn with more than ASCII. */
  readonly isUnicode: boolean;
}

/** What a secret file holds, as messages call it. */
export type SecretKind = "key file" | "passphrase file" | "recovery key file";

/** Files with keys and passphrases. Errors: ArgumentInvalid (after-change). */
export interface SecretFiles {
  /** Refuses a file that others than its owner may use. `-` is the standard input. */
  read(kind: SecretKind, path: string): Promise<Uint8Array>;
  /** Makes a file of mode 0600, durable on return; refuses a path that exists. */
  create(kind: SecretKind, path: string, content: Uint8Array): Promise<void>;
  /** Puts other content into a file that is there, at once; durable on return. */
  replace(kind: SecretKind, path: string, content: Uint8Array): Promise<void>;
}

/** A file in which the host remembers something of a vault. */
export interface RememberedFile {
  readonly name: string;
  readonly content: Uint8Array;
}

/** What this host remembers of vaults. Errors: ArgumentInvalid (after-change). */
export interface HostMemories {
  read(subject: string): Promise<readonly RememberedFile[]>;
  /** Remembers `content` in place of the files named by `old`; durable on return. */
  replace(subject: string, old: readonly string[], content: Uint8Array): Promise<void>;
}

/** Where descriptions of VMs are. */
export interface VmPlace {
  /** Absolute paths of description files. */
  readonly files: readonly string[];
  /** Absolute path of a folder of description files. */
  readonly folder?: string;
  /** Address of a libvirt, whose domains are the VMs instead. */
  readonly connect?: string;
  /** The pool of that libvirt where layers of block devices are made. */
  readonly layerPool?: string;
  /** Absolute path of the folder where the driver keeps its records. */
  readonly stateFolder: string;
}

/** The VMs of this host. */
export interface Vms extends AsyncDisposable {
  readonly hypervisor: Hypervisor;
  readonly configurations: VmConfigurations;
}

/** Where the keys of providers are that lie in folders of this host. */
export interface KeyFolders {
  /** Absolute; keys that are named `local:…`. */
  readonly local: string;
  /** Absolute; keys that are named `platform:…`: those that this host holds for its vaults. */
  readonly platform: string;
}

/** Opens drivers when a command asks for them, so that none is loaded in vain. */
export interface CliDrivers {
  /**
   * `place` as the user wrote it. With `create` the folder is made where it is missing; with
   * `immutabilityDays`, too, what is put is locked for so long; with `isCopy`, a vault is to be copied
   * there, which ArgumentInvalid (after-change) refuses where objects are locked.
   */
  openStore(
    place: string,
    options: {
      readonly create: boolean;
      readonly immutabilityDays?: number | undefined;
      readonly isCopy?: boolean | undefined;
    },
  ): Promise<ObjectStore>;
  /** The provider of `key`, by what its name starts with. ArgumentInvalid (after-change). */
  openKeyProvider(key: string, folders: KeyFolders): Promise<KeyProvider>;
  /** The same for keys that are managed through Kluis: `local:…` and `platform:…`. */
  openManagedKeys(key: string, folders: KeyFolders): Promise<ManagedKeys>;
  /** What the host remembers, in files below that folder. */
  openMemory(folder: string): Promise<HostMemories>;
  openImages(): Promise<ImageAccess>;
  openVms(place: VmPlace): Promise<Vms>;
  /** Writes configurations of restored VMs: for the libvirt at that address, or description files. */
  openConfigurations(connect?: string): Promise<VmConfigurations>;
}

/** See the file's head. */
export interface CliEnvironment {
  readonly version: string;
  readonly clock: Clock;
  readonly random: RandomSource;
  /** Fires with a KluisError Cancelled when the user wants to stop. */
  readonly signal: AbortSignal;
  readonly terminal: Terminal;
  readonly secrets: SecretFiles;
  readonly drivers: CliDrivers;
  /** Absolute; what relative paths are taken from. */
  readonly workingFolder: string;
  /** Absolute; where indexes are kept unless --cache says otherwise. */
  readonly cacheFolder: string;
  /** Absolute; where the state of VMs is kept unless --state says otherwise. */
  readonly stateFolder: string;
  /** From KLUIS_PASSPHRASE. */
  readonly passphrase?: string;
  /** Write stacks of errors to the error stream (KLUIS_DEBUG=1). */
  readonly isDebug: boolean;
}
