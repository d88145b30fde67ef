/** One image file of a disk's chain. */
export interface DiskLayer {
  /** 0 for the original image, then upwards; part of the names of nodes and files. */
  readonly number: number;
  readonly path: string;
  readonly format: "qcow2" | "raw";
}
