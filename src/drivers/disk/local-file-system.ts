/** File systems whose storage is this host's own: no server of theirs can leave a read hanging. */
import { statfs } from "node:fs/promises";

/** Magic numbers of statfs(2): ext2 to 4, XFS, Btrfs, ZFS, bcachefs, F2FS, tmpfs, overlay. */
const localTypes: ReadonlySet<number> = new Set([
  0xef53, 0x5846_5342, 0x9123_683e, 0x2fc1_2fc1, 0xca45_1a4e, 0xf2f5_2010, 0x0102_1994, 0x794c_7630,
]);

/** Whether a file system of that type, as statfs(2) gives it, is one of them; one that is not known is none. */
export function isLocalType(type: number): boolean {
  // The kernel gives it signed on some machines.
  return localTypes.has(type >>> 0);
}

/** Whether the file at `path` lies on one of them. Errors: those of statfs(2), untranslated. */
export async function isOnLocalFileSystem(path: string): Promise<boolean> {
  return isLocalType((await statfs(path)).type);
}
