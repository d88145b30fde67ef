/** Exit codes as commands name them. */

/** What any command may end with: done, wrong arguments, a bug, cancelled. */
export const usualExits: readonly number[] = [0, 2, 70, 130];
/** The store, the vault in it and its key. */
export const vaultExits: readonly number[] = [10, 11, 12, 13, 14, 15];
/** A recovery point that is to be read. */
export const pointExits: readonly number[] = [16];
/** A recovery point that is to go. */
export const lockExits: readonly number[] = [17];
/** An image that is to be read. */
export const sourceExits: readonly number[] = [3, 20, 21, 22, 24];
/** Targets of a restore. */
export const targetExits: readonly number[] = [3, 23, 24];
/** VMs of this host. */
export const vmExits: readonly number[] = [3, 20, 30, 31, 32, 33, 34];
