/** Configurations of VMs: kept with recovery points, and written anew for restored VMs. */
import type { ImageFormat } from "#ports/source-image.ts";

/** A disk of a restored VM. */
export interface RestoredDisk {
  readonly name: string;
  /** Absolute. */
  readonly path: string;
  readonly format: ImageFormat;
}

/** A VM that is made from the configuration of a recovery point. */
export interface RestoredVm {
  /** Text of {@link VmConfigurations.read}. */
  readonly configuration: string;
  /** Folder for the new configuration; absolute. */
  readonly directory: string;
  /** By default the name in the configuration. */
  readonly name?: string;
  readonly disks: readonly RestoredDisk[];
}

/** The port. Errors: ConfigInvalid, VmNotFound (after-change), TargetExists (after-change). */
export interface VmConfigurations {
  /** The configuration of a VM as text of at most 1 MiB, without what is true on this run only. */
  read(vmId: string, signal?: AbortSignal): Promise<string>;
  /** Where {@link create} will write; throws what it would throw for the request, before any disk is made. */
  check(vm: Omit<RestoredVm, "disks">, signal?: AbortSignal): Promise<string>;
  /**
   * Passphrases of the disks that a configuration has as encrypted, by name, as this host keeps them.
   * Errors: DiskKeyUnusable (after-change).
   */
  readDiskKeys(
    configuration: string,
    diskNames: readonly string[],
    signal?: AbortSignal,
  ): Promise<ReadonlyMap<string, Uint8Array>>;
  /** Writes the configuration durably and returns its path. A VM starts from it. */
  create(vm: RestoredVm, signal?: AbortSignal): Promise<string>;
}
