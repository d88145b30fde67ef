/** A disk image or NBD export as the source of a backup, and the targets of a restore. */
import type { ChangedExtents, DiskReader, DiskWriter } from "#ports/disk.ts";

/** Formats of image files. */
export type ImageFormat = "raw" | "qcow2";

/** What lies below an overlay, where the overlay tells exactly what differs from it. */
export interface SourceBacking {
  /** As {@link SourceImage.identity} of the image below. */
  readonly identity: string;
  /** Opens the content below; the caller disposes the reader. */
  open(signal?: AbortSignal): Promise<DiskReader>;
  /** Where the overlay may differ from what is below. */
  changes(signal?: AbortSignal): Promise<ChangedExtents>;
}

/** An open image. Disposing it closes the reader as well. */
export interface SourceImage extends AsyncDisposable {
  readonly reader: DiskReader;
  /**
   * Names this content on this host: path, inode, size and times of every file that it is read
   * from. Two equal identities mean the same content. At most 4,096 characters.
   */
  readonly identity: string;
  /** Absent where the image has nothing below it, or its format has no 4 KiB changes to tell. */
  readonly backing?: SourceBacking;
  /** What a dirty bitmap of the server recorded; present where one was asked for. */
  readonly bitmap?: {
    readonly name: string;
    changes(signal?: AbortSignal): Promise<ChangedExtents>;
  };
}

/** How to open an image. */
export interface SourceImageOptions {
  /** By default told from the content. */
  readonly format?: ImageFormat;
  /** Name of a dirty bitmap; only for NBD URIs. */
  readonly bitmap?: string;
}

/** What is at the place of a restore target. */
export interface TargetInfo {
  /** `device` and `export` are written in place; a file is replaced when it is complete. */
  readonly kind: "absent" | "file" | "device" | "export";
  /** Of a device or an export. */
  readonly sizeBytes?: number;
}

/** What a restore target shall be. */
export interface TargetRequest {
  /** Absolute path or NBD URI. */
  readonly place: string;
  readonly format: ImageFormat;
  readonly sizeBytes: number;
  /** Whether what is there may go. */
  readonly overwrite: boolean;
  /** Seals a new file by LUKS, as QEMU opens it. Without it the content lies in the clear. */
  readonly passphrase?: Uint8Array;
}

/**
 * Images of this host. Errors: ImageNotFound, ImageInvalid, ImageInUse, Target*, Nbd* (see the
 * registry).
 */
export interface ImageAccess {
  /** Whether the text names an NBD export; everything else is a path. */
  isUri(place: string): boolean;
  openSource(
    place: string,
    options: SourceImageOptions,
    signal?: AbortSignal,
  ): Promise<SourceImage>;
  inspectTarget(place: string, signal?: AbortSignal): Promise<TargetInfo>;
  /** A fresh target, all zeros; the caller commits or disposes it. */
  createTarget(request: TargetRequest, signal?: AbortSignal): Promise<DiskWriter>;
}
